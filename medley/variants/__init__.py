"""`medley variant`: build, verify and choose between the variants of a model."""

"""The rules of `medley check`, by what they read."""

"""How good a variant is beside its model's reference: what it answers, and what it takes.

One module a task, named after it, with an `EVALUATION`. Nothing here knows how variants are made.
"""

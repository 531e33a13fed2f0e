"""Compares a variant with its model's reference: its answers and its costs.

One module per task, with the task's name and an `EVALUATION`. Nothing here depends on how variants are made.
"""

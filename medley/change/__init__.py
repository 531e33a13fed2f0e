"""Changing what is deployed: the plan, carrying it out, and the history to go back by."""

"""Encoded media to arrays and back. Limits are checked before any work is done."""

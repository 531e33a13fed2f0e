"""Encoded media to arrays and back, with limits that hold before any work is done."""

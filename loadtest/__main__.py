"""`python -m loadtest`, and `medley loadtest`."""

from loadtest.commands import app

app()

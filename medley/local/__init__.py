"""The cluster on this machine: where it keeps things, what would stop its start, its processes."""

"""What `medley doctor` looks at, constraint by constraint."""

"""What both faces of a connection promise, tried on each."""

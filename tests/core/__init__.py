"""The pure core, tested without any stream."""

"""A look inside a running server: what it does now, and how it did, told at a Unix socket of its owner."""

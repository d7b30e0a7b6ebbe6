"""Drivers of connections: threads, and later whatever else has a clock and a poll."""

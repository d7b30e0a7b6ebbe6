"""The report about a capture."""

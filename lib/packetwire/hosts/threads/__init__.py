"""A connection driven by threads: who reads, who writes, and who runs handlers."""

"""The pure core: bytes in, events out; calls in, bytes out.

Nothing here reads, writes, waits, starts a thread or looks at a clock.
"""

"""The pure core: octets in, events out; calls in, octets out.

Nothing here reads, writes, waits, starts a thread or looks at a clock.
"""

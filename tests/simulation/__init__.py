"""A deterministic simulation of both faces: the clock, the streams and the order of events come from a seed.

Strategy: the hosts are the real ones. What they take from the system is replaced: `worlds` has the clock and
decides who goes on, `links` has streams in memory with their faults, `loops` event loops that share the clock,
`clocks` lets the modules of packetwire see it. `plans` draws a conversation and its faults, `conversations` holds
it, and `rounds` runs one seed and checks what must be true behind it. A seed that fails is repeated exactly by
`python -m tests.simulation --seed`.
"""

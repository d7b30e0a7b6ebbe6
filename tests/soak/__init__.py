"""A soak: random conversations over random links that are cut, stalled and damaged, round after round.

`python -m tests.soak --help` has its options; docs/reliability.md tells what it tries and what came out.
"""

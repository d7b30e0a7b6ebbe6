"""A pool of children and servers under load, of which something ends, stands still or leaves every second.

`python -m tests.poolload --help` has its options; docs/reliability.md tells what it tries and what came out.
"""

"""The modules that both faces have in common, for threads, made from `_async` by `tools/unasync.py`.

`accepting`, `host` and `sessions` are written by hand.
"""

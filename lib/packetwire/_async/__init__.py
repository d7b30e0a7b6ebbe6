"""The modules that both faces have in common, for asyncio. `_sync` is made from this, by `tools/unasync.py`."""

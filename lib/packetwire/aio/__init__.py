"""Connections for programs with asyncio: the engine and the streams of the threads, driven by an event loop."""

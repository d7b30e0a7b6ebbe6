"""ICCP for programs with asyncio: the cores and the processes of the threads, driven by an event loop."""

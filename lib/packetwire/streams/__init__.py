"""Byte streams that never block, for connections to run over."""

"""The threads that drive an engine over a byte stream."""

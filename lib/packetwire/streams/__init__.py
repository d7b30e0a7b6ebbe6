"""What octets travel on: byte streams that never block."""

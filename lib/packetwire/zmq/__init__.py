"""Common ground of all users of ZMQ sockets: ownership, links, receiving, warnings of exposed endpoints."""

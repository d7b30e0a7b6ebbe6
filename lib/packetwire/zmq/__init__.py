"""ZMQ sockets, as everything here that uses them shares it: who may reach them, and how to call them."""

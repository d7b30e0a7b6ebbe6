"""One suite of behaviours for every cell: a transport, the faces of its two ends, and who asks whom."""

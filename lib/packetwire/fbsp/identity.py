"""The identity of this process among the peers."""

from __future__ import annotations

import os
import socket
import uuid

from packetwire.messaging.descriptors import PeerDescriptor


def this_peer() -> PeerDescriptor:
    """This process, with a new identity."""
    return PeerDescriptor(uuid.uuid4(), os.getpid(), socket.gethostname() or "localhost")

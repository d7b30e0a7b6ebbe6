"""Tagged requests over any bidirectional byte stream: pipes, sockets, a child process, an SSH tunnel.

    from packetwire import PacketConnection, BaseRequest, HasPacketConnection, stdio

See `PacketConnection` for a connection, `HasPacketConnection` and `BaseRequest` for a protocol of request
classes, `PacketConnection.spawn` and `stdio` for a child over its pipes.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from packetwire.connection import DEFAULT_PACKET_GRACE, PacketConnection
from packetwire.core.events import PeerEndedRequests, RequestReceived, ResponseReceived, StreamEnded
from packetwire.core.packets import Packet, PacketDecoder
from packetwire.core.requests import BaseRequest, Responder
from packetwire.errors import (
    ChildExited,
    ConnectionEnded,
    LimitExceeded,
    LocalProtocolError,
    PacketwireError,
    PeerClosed,
    ProtocolError,
    RemoteProtocolError,
    RequestFailed,
    RequestTimeout,
    StreamTruncated,
)
from packetwire.service import HasPacketConnection
from packetwire.streams.bytestream import ByteStream
from packetwire.streams.files import ReadableFile, SendableFile
from packetwire.streams.open import PacketConnectionRecv, PacketConnectionRecvSend, PacketConnectionSend

if TYPE_CHECKING:
    from packetwire.result import RequestResult, RequestState
    from packetwire.streams.process import child
    from packetwire.streams.stdio import stdio

__version__ = "0.1.0"

__all__ = [
    "DEFAULT_PACKET_GRACE",
    "BaseRequest",
    "ByteStream",
    "ChildExited",
    "ConnectionEnded",
    "HasPacketConnection",
    "LimitExceeded",
    "LocalProtocolError",
    "Packet",
    "PacketConnection",
    "PacketConnectionRecv",
    "PacketConnectionRecvSend",
    "PacketConnectionSend",
    "PacketDecoder",
    "PacketwireError",
    "PeerClosed",
    "PeerEndedRequests",
    "ProtocolError",
    "ReadableFile",
    "RemoteProtocolError",
    "RequestFailed",
    "RequestReceived",
    "RequestResult",
    "RequestState",
    "RequestTimeout",
    "Responder",
    "ResponseReceived",
    "SendableFile",
    "StreamEnded",
    "StreamTruncated",
    "child",
    "stdio",
]

_LAZY = {
    "RequestResult": "packetwire.result",
    "RequestState": "packetwire.result",
    "child": "packetwire.streams.process",
    "stdio": "packetwire.streams.stdio",
}
"""Names whose modules take long to import, or are needed by few: imported when asked for."""


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

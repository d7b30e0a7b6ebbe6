"""FBSP, the Firebird Butler Service Protocol (4/FBSP): messages, sessions, services and clients.

`Service` and `ServiceClient` are how to use it: a service as a class, a client whose calls return. They
stand on `FBSPService` and `FBSPClient`, which do no input or output: they are given to a channel, which
carries their messages.
"""

from typing import TYPE_CHECKING, Any

from packetwire.fbsp.calling import Call, ServiceClient
from packetwire.fbsp.client import FBSPClient, FBSPEventClient
from packetwire.fbsp.constants import (
    ERROR_TYPE_MASK,
    FOURCC,
    HEADER_FMT,
    HEADER_FMT_FULL,
    PROTO_CANCEL_REQ,
    PROTO_ERROR,
    PROTO_HELLO,
    PROTO_STATE_INFO,
    PROTO_WELCOME,
    VERSION_MASK,
    ErrorCode,
    MsgFlag,
    MsgType,
    State,
    bb2h,
)
from packetwire.fbsp.messages import (
    APIMessage,
    CancelMessage,
    DataMessage,
    ErrorMessage,
    FBSPMessage,
    HandshakeMessage,
    HelloMessage,
    StateMessage,
    WelcomeMessage,
)
from packetwire.fbsp.operations import Stream, operation
from packetwire.fbsp.requests import FBSPPacketChannel
from packetwire.fbsp.service import FBSPService
from packetwire.fbsp.serving import Request, Service
from packetwire.fbsp.session import FBSPSession
from packetwire.messaging.descriptors import (
    PLATFORM_OID,
    PLATFORM_UID,
    PLATFORM_VERSION,
    VENDOR_OID,
    VENDOR_UID,
    AgentDescriptor,
    ButlerInterface,
    PeerDescriptor,
    ServiceDescriptor,
)
from packetwire.messaging.errors import ClientError, InvalidMessageError, ServiceError, StopError
from packetwire.messaging.message import msg_bytes
from packetwire.messaging.sentinels import ANY, INVALID, TIMEOUT

if TYPE_CHECKING:
    from packetwire.fbsp.aiocalling import AsyncCall, AsyncServiceClient
    from packetwire.fbsp.aioserving import AsyncRequest, AsyncService

__all__ = [
    "ANY",
    "ERROR_TYPE_MASK",
    "FOURCC",
    "HEADER_FMT",
    "HEADER_FMT_FULL",
    "INVALID",
    "PLATFORM_OID",
    "PLATFORM_UID",
    "PLATFORM_VERSION",
    "PROTO_CANCEL_REQ",
    "PROTO_ERROR",
    "PROTO_HELLO",
    "PROTO_STATE_INFO",
    "PROTO_WELCOME",
    "TIMEOUT",
    "VENDOR_OID",
    "VENDOR_UID",
    "VERSION_MASK",
    "APIMessage",
    "AgentDescriptor",
    "AsyncCall",
    "AsyncRequest",
    "AsyncService",
    "AsyncServiceClient",
    "ButlerInterface",
    "Call",
    "CancelMessage",
    "ClientError",
    "DataMessage",
    "ErrorCode",
    "ErrorMessage",
    "FBSPClient",
    "FBSPEventClient",
    "FBSPMessage",
    "FBSPPacketChannel",
    "FBSPService",
    "FBSPSession",
    "HandshakeMessage",
    "HelloMessage",
    "InvalidMessageError",
    "MsgFlag",
    "MsgType",
    "PeerDescriptor",
    "Request",
    "Service",
    "ServiceClient",
    "ServiceDescriptor",
    "ServiceError",
    "State",
    "StateMessage",
    "StopError",
    "Stream",
    "WelcomeMessage",
    "bb2h",
    "msg_bytes",
    "operation",
]

_ASYNC = {
    "AsyncCall": "aiocalling",
    "AsyncServiceClient": "aiocalling",
    "AsyncRequest": "aioserving",
    "AsyncService": "aioserving",
}
"""Names whose modules import asyncio: that takes long, and most programs have no use for them."""


def __getattr__(name: str) -> Any:
    if name not in _ASYNC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_ASYNC[name]}"), name)

"""The common base of FBSP and ICCP: messages of frames, protocols that handle them, channels that carry them.

Nothing here does input or output, and neither zmq nor protobuf is imported by this module: a channel over
a ZMQ socket or over a packet connection is a subclass of `Channel` elsewhere.
"""

from packetwire.messaging.channel import Channel
from packetwire.messaging.errors import (
    ChannelError,
    ClientError,
    InvalidMessageError,
    MessagingError,
    ServiceError,
    StopError,
)
from packetwire.messaging.events import eventsocket
from packetwire.messaging.message import Message, RoutingID, SimpleMessage, Token, TZMQMessage, msg_bytes
from packetwire.messaging.protocol import Protocol
from packetwire.messaging.sentinels import ANY, INVALID, TIMEOUT, Sentinel
from packetwire.messaging.session import Session

__all__ = [
    "ANY",
    "INVALID",
    "TIMEOUT",
    "Channel",
    "ChannelError",
    "ClientError",
    "InvalidMessageError",
    "Message",
    "MessagingError",
    "Protocol",
    "RoutingID",
    "Sentinel",
    "ServiceError",
    "Session",
    "SimpleMessage",
    "StopError",
    "TZMQMessage",
    "Token",
    "eventsocket",
    "msg_bytes",
]

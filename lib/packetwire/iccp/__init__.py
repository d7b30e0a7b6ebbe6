"""ICCP, the Internal Component Control Protocol: components, and the controllers that start and stop them.

Nothing here does input or output: a component or controller is given to a channel, which carries its
messages.
"""

from packetwire.iccp.component import ICCPComponent
from packetwire.iccp.config import PROTO_CONFIG, Config, Typed
from packetwire.iccp.controller import ICCPController
from packetwire.iccp.messages import ICCPMessage, MsgType, Outcome, Request
from packetwire.messaging.descriptors import PeerDescriptor
from packetwire.messaging.errors import InvalidMessageError, StopError
from packetwire.messaging.protobuf import CLASSES
from packetwire.messaging.sentinels import ANY, INVALID, TIMEOUT

ConfigProto = CLASSES["ConfigProto"]
"""The protobuf class of a configuration."""

__all__ = [
    "ANY",
    "INVALID",
    "PROTO_CONFIG",
    "TIMEOUT",
    "Config",
    "ConfigProto",
    "ICCPComponent",
    "ICCPController",
    "ICCPMessage",
    "InvalidMessageError",
    "MsgType",
    "Outcome",
    "PeerDescriptor",
    "Request",
    "StopError",
    "Typed",
]

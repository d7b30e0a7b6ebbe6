"""ICCP, the Internal Component Control Protocol: components, and the controllers that start and stop them.

`Controller`, `AsyncController` and `run_component` are how to use it. They stand on `ICCPController` and
`ICCPComponent`, which do no input or output: they are given to a channel, which carries their messages.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from packetwire.iccp.component import ICCPComponent
from packetwire.iccp.config import PROTO_CONFIG, Config, Typed
from packetwire.iccp.controller import ICCPController
from packetwire.iccp.errors import ComponentError, ConfigureRefused
from packetwire.iccp.messages import ICCPMessage, MsgType, Outcome, Request
from packetwire.messaging.descriptors import PeerDescriptor
from packetwire.messaging.errors import InvalidMessageError, StopError
from packetwire.messaging.protobuf import CLASSES
from packetwire.messaging.sentinels import ANY, INVALID, TIMEOUT

if TYPE_CHECKING:
    from packetwire.iccp.acontrolling import AsyncController, AsyncStartedComponent
    from packetwire.iccp.controlling import Controller, StartedComponent
    from packetwire.iccp.life import Finished, State, TimeLimits
    from packetwire.iccp.requests import ICCPPacketChannel
    from packetwire.iccp.running import Control, Terminated, run_component

ConfigProto = CLASSES["ConfigProto"]
"""The protobuf class of a configuration."""

__all__ = [
    "ANY",
    "INVALID",
    "PROTO_CONFIG",
    "TIMEOUT",
    "AsyncController",
    "AsyncStartedComponent",
    "ComponentError",
    "Config",
    "ConfigProto",
    "ConfigureRefused",
    "Control",
    "Controller",
    "Finished",
    "ICCPComponent",
    "ICCPController",
    "ICCPMessage",
    "ICCPPacketChannel",
    "InvalidMessageError",
    "MsgType",
    "Outcome",
    "PeerDescriptor",
    "Request",
    "StartedComponent",
    "State",
    "StopError",
    "Terminated",
    "TimeLimits",
    "Typed",
    "run_component",
]

_HOME_OF = {
    "AsyncController": "acontrolling",
    "AsyncStartedComponent": "acontrolling",
    "Control": "running",
    "Controller": "controlling",
    "Finished": "life",
    "ICCPPacketChannel": "requests",
    "StartedComponent": "controlling",
    "State": "life",
    "Terminated": "running",
    "TimeLimits": "life",
    "run_component": "running",
}
"""What needs processes, threads or event loops: imported when it is asked for."""


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""ICCP, the Internal Component Control Protocol: components, and the controllers that start and stop them.

`Controller` and `run_component` are how to use it with threads, `AsyncController` and `arun_component` in an event
loop. `ICCPController` and `ICCPComponent` are for channels, which carry their messages over ZMQ, or packets.
"""

from importlib import import_module
from typing import TYPE_CHECKING

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
    from packetwire._async.components import AsyncSupervisedComponent
    from packetwire._sync.components import SupervisedComponent
    from packetwire.iccp.aio.controlling import AsyncController, AsyncStartedComponent
    from packetwire.iccp.aio.running import arun_component
    from packetwire.iccp.control import Control, Terminated
    from packetwire.iccp.controlling import Controller, StartedComponent
    from packetwire.iccp.lifecore import TimeLimits
    from packetwire.iccp.lifeevents import Finished, State
    from packetwire.iccp.requests import ICCPPacketChannel
    from packetwire.iccp.running import run_component

ConfigProto = CLASSES["ConfigProto"]
"""The protobuf class of a configuration."""

__all__ = [
    "ANY",
    "INVALID",
    "PROTO_CONFIG",
    "TIMEOUT",
    "AsyncController",
    "AsyncStartedComponent",
    "AsyncSupervisedComponent",
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
    "SupervisedComponent",
    "Terminated",
    "TimeLimits",
    "Typed",
    "arun_component",
    "run_component",
]

_HOME_OF = {
    "AsyncController": "aio.controlling",
    "AsyncStartedComponent": "aio.controlling",
    "AsyncSupervisedComponent": "_async.components",
    "Control": "control",
    "Controller": "controlling",
    "Finished": "lifeevents",
    "ICCPPacketChannel": "requests",
    "StartedComponent": "controlling",
    "State": "lifeevents",
    "SupervisedComponent": "_sync.components",
    "Terminated": "control",
    "TimeLimits": "lifecore",
    "arun_component": "aio.running",
    "run_component": "running",
}
"""Name -> the module that has it, which is imported on demand: these need processes, threads or event loops."""


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_home(_HOME_OF[name])), name)
    return value


def _home(module: str) -> str:
    return f"packetwire.{module}" if module.startswith("_") else f"{__name__}.{module}"


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

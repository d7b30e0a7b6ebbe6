"""RIAPS group ports: publish and subscribe among the members of a group, query and answer with its leader.

Programs use a `Group`. The four ports have the names and meanings of `riaps.run.dcPorts`, and talk to those; the
RIAPS framework is not needed. `packetwire.riaps.aio` has the same for asyncio.
"""

from packetwire.errors import extra_missing

try:
    import zmq  # noqa: F401
except ModuleNotFoundError as error:
    raise extra_missing("zmq", error) from error

from packetwire.riaps.errors import OperationError, PortError
from packetwire.riaps.group import Group
from packetwire.riaps.info import GroupSpec, PortInfo, PortScope
from packetwire.riaps.keys import GroupKeys
from packetwire.riaps.messages import (
    ANN,
    LDR,
    MFL,
    MLT,
    MSG,
    MTL,
    RCM,
    REQ,
    RFV,
    RTC,
    TIC,
    VOT,
    Authority,
    Control,
    GroupMessage,
    Heartbeat,
    MemberLeft,
    Vote,
    VoteRequest,
    parse_control,
)
from packetwire.riaps.ports import GroupAnsPort, GroupPubPort, GroupQryPort, GroupSubPort

__all__ = [
    "ANN",
    "LDR",
    "MFL",
    "MLT",
    "MSG",
    "MTL",
    "RCM",
    "REQ",
    "RFV",
    "RTC",
    "TIC",
    "VOT",
    "Authority",
    "Control",
    "Group",
    "GroupAnsPort",
    "GroupKeys",
    "GroupMessage",
    "GroupPubPort",
    "GroupQryPort",
    "GroupSpec",
    "GroupSubPort",
    "Heartbeat",
    "MemberLeft",
    "OperationError",
    "PortError",
    "PortInfo",
    "PortScope",
    "Vote",
    "VoteRequest",
    "parse_control",
]

"""The participants: agents, their running instances (peers), services and their interfaces."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any, Final, Self

from packetwire.messaging.protobuf import (
    ProtoMessage,
    add_supplement,
    create_message,
    read_supplement,
)

PLATFORM_OID: Final = "1.3.6.1.4.1.53446.1.1.0"
"""The object identifier of that platform, which is Saturnin's."""
PLATFORM_UID: Final = uuid.uuid5(uuid.NAMESPACE_OID, PLATFORM_OID)
"""The same as a UUID: the platform of an `AgentDescriptor`, unless it says otherwise."""
PLATFORM_VERSION: Final = "0.8.0"
"""The Butler platform whose agents ours are interchangeable with: Saturnin, as it calls itself on the wire."""
VENDOR_OID: Final = "1.3.6.1.4.1.53446.1.2.0"
"""The object identifier of the vendor of that platform."""
VENDOR_UID: Final = uuid.uuid5(uuid.NAMESPACE_OID, VENDOR_OID)
"""The same as a UUID."""

PROTO_PEER: Final = "firebird.butler.PeerIdentification"
UID_SIZE: Final = 16


class ButlerInterface(IntEnum):
    """The operations of one interface of a service: members with the values 1 to 255.

    A subclass says with `get_uid` which interface it is.
    """

    @classmethod
    def get_uid(cls) -> uuid.UUID:
        """The identity of the interface."""
        raise NotImplementedError(f"{cls.__name__} needs a class method get_uid that returns its UUID")


@dataclass(frozen=True)
class AgentDescriptor:
    """An agent: the program that is a service or a client, whoever runs it."""

    uid: uuid.UUID
    """The same for all its versions."""
    name: str
    version: str
    vendor_uid: uuid.UUID
    """The identity of its maker."""
    classification: str
    """The kind of program that it is: a text of your own, such as "database/backup"."""
    platform_uid: uuid.UUID = PLATFORM_UID
    """The Butler platform that it is for."""
    platform_version: str = PLATFORM_VERSION
    supplement: dict[str, Any] | None = None

    def __hash__(self) -> int:
        return hash(self.uid)

    def get_key(self) -> uuid.UUID:
        """The UUID that identifies it."""
        return self.uid

    def copy(self) -> Self:
        """An equal descriptor."""
        return replace(self)

    def replace(self, **changes: Any) -> Self:
        """A descriptor with some fields changed."""
        return replace(self, **changes)

    def write_to(self, proto: ProtoMessage) -> None:
        """Write the fields into an AgentIdentification."""
        proto.uid = self.uid.bytes
        proto.name = self.name
        proto.version = self.version
        proto.classification = self.classification
        proto.vendor.uid = self.vendor_uid.bytes
        proto.platform.uid = self.platform_uid.bytes
        proto.platform.version = self.platform_version
        add_supplement(proto.supplement, self.supplement)

    @classmethod
    def from_proto(cls, proto: ProtoMessage) -> Self:
        """The descriptor of an AgentIdentification; raises ValueError for what is no UUID."""
        return cls(
            uid=uid_of("uid", proto.uid),
            name=proto.name,
            version=proto.version,
            vendor_uid=uid_of("vendor.uid", proto.vendor.uid),
            classification=proto.classification,
            platform_uid=uid_of("platform.uid", proto.platform.uid),
            platform_version=proto.platform.version,
            supplement=read_supplement(proto.supplement),
        )


@dataclass(frozen=True)
class PeerDescriptor:
    """A peer: a running instance of an agent."""

    uid: uuid.UUID
    """New for each instance."""
    pid: int
    """Its process, from 1."""
    host: str
    """The name of the machine that it runs on."""
    supplement: dict[str, Any] | None = None

    def __hash__(self) -> int:
        return hash(self.uid)

    def get_key(self) -> uuid.UUID:
        """The UUID that identifies it."""
        return self.uid

    def copy(self) -> Self:
        """An equal descriptor."""
        return replace(self)

    def replace(self, **changes: Any) -> Self:
        """A descriptor with some fields changed."""
        return replace(self, **changes)

    def write_to(self, proto: ProtoMessage) -> None:
        """Write the fields into a PeerIdentification."""
        proto.uid = self.uid.bytes
        proto.pid = self.pid
        proto.host = self.host
        add_supplement(proto.supplement, self.supplement)

    def as_proto(self) -> ProtoMessage:
        """A PeerIdentification."""
        proto = create_message(PROTO_PEER)
        self.write_to(proto)
        return proto

    @classmethod
    def from_proto(cls, proto: ProtoMessage) -> Self:
        """The descriptor of a PeerIdentification, of our package or of the reference's.

        Raises ValueError for another message, and for what is no UUID.
        """
        if proto.DESCRIPTOR.name != "PeerIdentification":
            raise ValueError(f"a PeerIdentification is needed, not a {proto.DESCRIPTOR.full_name}")
        return cls(uid_of("uid", proto.uid), proto.pid, proto.host, read_supplement(proto.supplement))


@dataclass(frozen=True)
class ServiceDescriptor:
    """A service: its agent, and the interfaces that it offers.

    Only these two are sent to clients; the other fields are for whoever writes descriptors for Saturnin, too.
    """

    agent: AgentDescriptor
    api: Sequence[type[ButlerInterface]]
    """In the order in which they are numbered, from 1."""
    description: str = ""
    facilities: Sequence[str] = ()
    factory: str = ""
    config: Callable[[], Any] | None = None

    def __hash__(self) -> int:
        return hash(self.agent)

    def get_key(self) -> uuid.UUID:
        """The UUID that identifies it."""
        return self.agent.uid


def uid_of(field: str, data: bytes) -> uuid.UUID:
    """The UUID in a field; raises ValueError unless `data` has 16 bytes."""
    if len(data) != UID_SIZE:
        raise ValueError(f"{field} has {len(data)} bytes, not {UID_SIZE}" if data else f"{field} is missing")
    return uuid.UUID(bytes=data)

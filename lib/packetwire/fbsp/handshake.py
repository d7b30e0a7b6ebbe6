"""The contents of HELLO and WELCOME: written for our side, and checked for the other."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Final

from packetwire.fbsp.messages import HandshakeMessage, HelloMessage, WelcomeMessage
from packetwire.fbsp.refusals import violation
from packetwire.messaging.descriptors import (
    UID_SIZE,
    AgentDescriptor,
    ButlerInterface,
    PeerDescriptor,
    ServiceDescriptor,
)
from packetwire.messaging.protobuf import ProtoMessage

MAX_NUMBER: Final = 255
"""Of interfaces, and of the operations of one."""


def fill_hello(msg: HelloMessage, agent: AgentDescriptor, peer: PeerDescriptor) -> None:
    """Write who the client is."""
    peer.write_to(msg.data.instance)
    agent.write_to(msg.data.client)


def fill_welcome(data: ProtoMessage, service: ServiceDescriptor, peer: PeerDescriptor) -> None:
    """Write who the service is, and the numbers of its interfaces, which begin with 1."""
    peer.write_to(data.instance)
    service.agent.write_to(data.service)
    for number, interface in enumerate(service.api, 1):
        data.api.add(number=number, uid=interface.get_uid().bytes)


def check_interfaces(service: ServiceDescriptor) -> None:
    """Raise ValueError for a service that could not announce its interfaces."""
    if not service.api:
        raise ValueError("a service has at least one interface")
    if len(service.api) > MAX_NUMBER:
        raise ValueError(f"a service has at most {MAX_NUMBER} interfaces, not {len(service.api)}")
    if len({interface.get_uid() for interface in service.api}) < len(service.api):
        raise ValueError("two interfaces of the service have the same uid")
    for interface in service.api:
        check_operations(interface)


def check_operations(interface: type[ButlerInterface]) -> None:
    """Raise ValueError for an operation whose number does not go into a request code."""
    for operation in interface:
        if not 1 <= operation <= MAX_NUMBER:
            name = f"{interface.__name__}.{operation.name}"
            raise ValueError(f"{name} is {operation.value}, operations are numbered from 1 to {MAX_NUMBER}")


def check_hello(msg: HelloMessage) -> uuid.UUID:
    """The identity of the client's peer; raises `StopError` if HELLO does not say all that it must."""
    _check(msg, [*_missing_of_peer(msg.data.instance), *_missing_of_agent("client", msg.data.client)])
    return uuid.UUID(bytes=msg.data.instance.uid)


def check_welcome(msg: WelcomeMessage) -> tuple[uuid.UUID, dict[uuid.UUID, int]]:
    """The identity of the service's agent, and its interfaces; raises `StopError` as `check_hello` does."""
    data = msg.data
    faults = [*_missing_of_peer(data.instance), *_missing_of_agent("service", data.service)]
    if not data.api:
        faults.append("api is missing")
    for interface in data.api:
        faults += _uid_fault("api.uid", interface.uid)
        if interface.number > MAX_NUMBER:
            faults.append(f"api.number is {interface.number}")
    if len({interface.number for interface in data.api}) < len(data.api):
        faults.append("two interfaces have the same number")
    _check(msg, faults)
    return uuid.UUID(bytes=data.service.uid), {uuid.UUID(bytes=each.uid): each.number for each in data.api}


def _check(msg: HandshakeMessage, faults: list[str]) -> None:
    if faults:
        raise violation("incomplete", name=msg.msg_type.name, missing=", ".join(faults[:10]))


def _missing_of_peer(peer: ProtoMessage) -> Iterator[str]:
    yield from _uid_fault("instance.uid", peer.uid)
    for field in ("pid", "host"):
        if not getattr(peer, field):
            yield f"instance.{field} is missing"


def _missing_of_agent(where: str, agent: ProtoMessage) -> Iterator[str]:
    yield from _uid_fault(f"{where}.uid", agent.uid)
    yield from _uid_fault(f"{where}.vendor.uid", agent.vendor.uid)
    yield from _uid_fault(f"{where}.platform.uid", agent.platform.uid)
    for field in ("name", "version"):
        if not getattr(agent, field):
            yield f"{where}.{field} is missing"
    if not agent.platform.version:
        yield f"{where}.platform.version is missing"


def _uid_fault(field: str, uid: bytes) -> list[str]:
    if len(uid) == UID_SIZE:
        return []
    return [f"{field} has {len(uid)} bytes, not {UID_SIZE}" if uid else f"{field} is missing"]

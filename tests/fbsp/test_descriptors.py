"""Descriptors, and the protobuf definitions behind them."""

from __future__ import annotations

import re
import subprocess
import sys
import uuid
from importlib.resources import files
from typing import Any

import pytest
from google.protobuf import any_pb2, descriptor_pb2, json_format

import packetwire.messaging
from packetwire.fbsp import (
    PLATFORM_UID,
    PLATFORM_VERSION,
    VENDOR_UID,
    AgentDescriptor,
    ButlerInterface,
    FBSPService,
    PeerDescriptor,
    ServiceDescriptor,
)
from packetwire.messaging.protobuf import (
    PACKAGE,
    REGISTERED,
    create_message,
    dict2struct,
    load_messages,
    read_supplement,
    struct2dict,
)

from .fake import CLIENT, CLIENT_PEER, SERVICE, SERVICE_PEER, EchoAPI, agent

SOURCE = files(packetwire.messaging).joinpath("butler.proto").read_text()
COMPILED = files(packetwire.messaging).joinpath("butler.binpb").read_bytes()

FIELD = descriptor_pb2.FieldDescriptorProto


def type_name(field: Any, message: Any) -> str:
    """The type of a field as the source writes it."""
    if not field.type_name:
        return FIELD.Type.Name(field.type).removeprefix("TYPE_").lower()
    name: str = field.type_name.removeprefix(f".{PACKAGE}.").removeprefix(".")
    for entry in message.nested_type:
        if name == f"{message.name}.{entry.name}":
            key, value = entry.field
            return f"map<{type_name(key, entry)}, {type_name(value, entry)}>"
    return f"repeated {name}" if field.label == FIELD.LABEL_REPEATED else name


def declared_in_the_set() -> set[tuple[str, str, str, int]]:
    (file,) = descriptor_pb2.FileDescriptorSet.FromString(COMPILED).file
    assert (file.name, file.package, file.syntax) == ("packetwire/messaging/butler.proto", PACKAGE, "proto3")
    fields = {
        (message.name, type_name(field, message), field.name, field.number)
        for message in file.message_type
        for field in message.field
    }
    values = {(enum.name, "", value.name, value.number) for enum in file.enum_type for value in enum.value}
    return fields | values


def declared_in_the_source() -> set[tuple[str, str, str, int]]:
    found = set()
    for name, body in re.findall(r"^(?:message|enum) (\w+) \{\n(.*?)^\}", SOURCE, re.DOTALL | re.MULTILINE):
        for kind, field, number in re.findall(r"^ *((?:[\w.<>]+,? )*)(\w+) = (\d+);$", body, re.MULTILINE):
            found.add((name, kind.strip(), field, int(number)))
    return found


ANOTHER = """
import sys
from google.protobuf import descriptor_pb2, descriptor_pool

def register(path, package):
    file = descriptor_pb2.FileDescriptorProto(name=path, package=package, syntax="proto3")
    message = file.message_type.add(name="PeerIdentification")
    message.field.add(name="other", number=1, type=9, label=1)
    descriptor_pool.Default().AddSerializedFile(file.SerializeToString())

def use_ours():
    from packetwire.messaging.protobuf import create_message
    peer = create_message("firebird.butler.PeerIdentification")
    peer.host = "here"
    assert create_message("firebird.butler.PeerIdentification", peer.SerializeToString()).host == "here"

if sys.argv[1] == "behind":
    use_ours()
for path in "butler.proto", "messaging/butler.proto", "firebird/butler/butler.proto":
    register(path, "somebody." + path.replace("/", "_").replace(".", "_"))
use_ours()
print("both work")
"""


@pytest.mark.timeout(60)
@pytest.mark.parametrize("order", ["before", "behind"])
def test_another_file_of_that_name_in_the_process(order: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ANOTHER, order], check=False, capture_output=True, text=True, timeout=50
    )
    assert (done.stdout, done.stderr) == ("both work\n", "")


def test_the_compiled_set_is_that_of_the_source() -> None:
    declared = declared_in_the_source()
    assert len(declared) > 40
    assert len(declared) == len(re.findall(r" = \d+;", SOURCE))
    assert declared_in_the_set() == declared


def test_it_can_be_loaded_again() -> None:
    again = load_messages(COMPILED)
    assert again["PeerIdentification"].DESCRIPTOR is REGISTERED["firebird.butler.PeerIdentification"].DESCRIPTOR


def test_messages_by_the_names_of_the_protocols() -> None:
    peer = create_message("firebird.butler.PeerIdentification")
    peer.host = "h"
    again = create_message("firebird.butler.PeerIdentification", peer.SerializeToString())
    assert again == peer
    assert create_message("firebird.base.ConfigProto").options == {}
    with pytest.raises(ValueError, match=r"."):
        create_message("google.protobuf.Struct", b"\x0a\x7f")
    with pytest.raises(KeyError):
        create_message("firebird.butler.Nothing")


def test_an_any_finds_our_messages() -> None:
    packed = any_pb2.Any()
    packed.Pack(CLIENT_PEER.as_proto())
    assert "cli-host" in json_format.MessageToJson(packed)


def test_structs() -> None:
    content = {"a": None, "b": True, "c": 1.5, "d": "x", "e": [1, [2], {"f": "g"}], "h": {}, "i": []}
    assert struct2dict(dict2struct(content)) == content
    assert type(struct2dict(dict2struct({"n": 1}))["n"]) is float
    assert struct2dict(create_message("google.protobuf.Struct", b"\x0a\x05\x0a\x01k\x12\x00")) == {"k": None}


def test_a_peer_and_its_protobuf() -> None:
    peer = PeerDescriptor(uuid.UUID(int=0x55), 5150, "comp-host")
    assert peer.as_proto().SerializeToString().hex() == (
        "0a1000000000000000000000000000000055109e281a09636f6d702d686f7374"
    )
    told = peer.replace(supplement={"a": [1.0, "x"]})
    for each in (peer, told):
        assert PeerDescriptor.from_proto(each.as_proto()) == each
        assert each.copy() == each
    assert hash(told) == hash(peer)
    assert told.get_key() == peer.uid
    with pytest.raises(ValueError, match="PeerIdentification is needed, not a packetwire.butler.VendorId"):
        PeerDescriptor.from_proto(create_message("firebird.butler.VendorId"))
    with pytest.raises(ValueError, match="uid is missing"):
        PeerDescriptor.from_proto(create_message("firebird.butler.PeerIdentification"))
    proto = peer.as_proto()
    proto.uid = b"x" * 15
    with pytest.raises(ValueError, match="uid has 15 bytes, not 16"):
        PeerDescriptor.from_proto(proto)


def test_a_supplement_is_the_first_struct() -> None:
    proto = CLIENT_PEER.as_proto()
    proto.supplement.add().Pack(CLIENT_PEER.as_proto())
    assert read_supplement(proto.supplement) is None
    proto.supplement.add().Pack(dict2struct({"x": "y"}))
    assert read_supplement(proto.supplement) == {"x": "y"}
    proto.supplement[1].value = b"\x0a\x7f"
    with pytest.raises(ValueError, match=r"."):
        PeerDescriptor.from_proto(proto)


def test_an_agent_and_its_protobuf() -> None:
    assert (CLIENT.platform_uid, CLIENT.platform_version) == (PLATFORM_UID, PLATFORM_VERSION)
    assert (PLATFORM_UID.hex, VENDOR_UID.hex) == (
        "46cd9e8ac6975cb5abb5bceac5a17075",
        "c26a6600d5795ec7a9d65b0a8b214d3f",
    )
    for each in (CLIENT, CLIENT.replace(supplement={"k": "v"}, name="other")):
        proto = create_message("firebird.butler.AgentIdentification")
        each.write_to(proto)
        assert AgentDescriptor.from_proto(proto) == each
        assert each.copy() == each
        assert hash(each) == hash(CLIENT)
        assert each.get_key() == CLIENT.uid


def test_descriptors_are_frozen() -> None:
    for each in (CLIENT, CLIENT_PEER):
        with pytest.raises(AttributeError):
            each.uid = uuid.UUID(int=9)  # type: ignore[misc]
    assert SERVICE.get_key() == SERVICE.agent.uid
    assert hash(SERVICE) == hash(SERVICE.agent)


def interface(*numbers: int, uid: int = 7) -> type[ButlerInterface]:
    made = ButlerInterface("Made", {f"N{number}": number for number in numbers})
    made.get_uid = classmethod(lambda cls: uuid.UUID(int=uid))  # type: ignore[method-assign, assignment]
    return made  # type: ignore[return-value]


def test_an_interface_needs_an_identity() -> None:
    with pytest.raises(NotImplementedError, match="ButlerInterface needs a class method get_uid"):
        ButlerInterface.get_uid()


@pytest.mark.parametrize(
    ("api", "text"),
    [
        ([], "at least one interface"),
        ([interface(1, uid=number) for number in range(256)], "at most 255 interfaces, not 256"),
        ([EchoAPI, EchoAPI], "the same uid"),
        ([interface(0)], "Made.N0 is 0, operations are numbered from 1 to 255"),
        ([interface(1, 256)], "Made.N256 is 256"),
    ],
)
def test_a_service_that_cannot_be_announced(api: list[type[ButlerInterface]], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        FBSPService(service=ServiceDescriptor(agent("s", 1), api), peer=SERVICE_PEER)


def test_a_service_with_all_numbers() -> None:
    api = [interface(1, 255, uid=number) for number in range(255)]
    service = FBSPService(service=ServiceDescriptor(agent("s", 1), api), peer=SERVICE_PEER)
    assert [each.number for each in service.welcome_df.api] == [*range(1, 256)]
    with pytest.raises(ValueError, match="error_detail is"):
        FBSPService(service=SERVICE, peer=SERVICE_PEER, error_detail="all")

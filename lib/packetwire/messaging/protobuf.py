"""Protobuf: the messages of `butler.proto`, out of its compiled descriptor set. Only this module imports protobuf.

Strategy: the set is loaded into the default pool, because what an `Any` holds is only found there. No
generated code is involved, so no version of protobuf is asked for beyond what it itself can read. The pool knows a
file by its path, of which a process can have only one: so that has our package in front. Compile in `lib` with

    protoc --descriptor_set_out=packetwire/messaging/butler.binpb packetwire/messaging/butler.proto
"""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from packetwire.errors import extra_missing

try:
    from google.protobuf import (  # type: ignore[import-untyped]
        descriptor_pb2,
        descriptor_pool,
        message_factory,
        struct_pb2,
    )
    from google.protobuf.any_pb2 import Any as AnyMessage  # type: ignore[import-untyped]
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
except ModuleNotFoundError as error:
    raise extra_missing("butler", error) from error

ProtoMessage = Any
"""An instance of a class that protobuf makes; the field names are those of `butler.proto`."""

PROTO_STRUCT = "google.protobuf.Struct"
PROTO_ANY = "google.protobuf.Any"
PACKAGE = "packetwire.butler"


def load_messages(data: bytes) -> dict[str, Any]:
    """Name -> class, for all messages of a compiled descriptor set."""
    pool = descriptor_pool.Default()
    found = {}
    for file in descriptor_pb2.FileDescriptorSet.FromString(data).file:
        pool.AddSerializedFile(file.SerializeToString())
        for declared in file.message_type:
            descriptor = pool.FindMessageTypeByName(f"{file.package}.{declared.name}")
            found[declared.name] = message_factory.GetMessageClass(descriptor)
    return found


CLASSES = load_messages(files("packetwire.messaging").joinpath("butler.binpb").read_bytes())
REGISTERED = {
    PROTO_STRUCT: struct_pb2.Struct,
    PROTO_ANY: AnyMessage,
    "firebird.base.ConfigProto": CLASSES["ConfigProto"],
    "firebird.base.Value": CLASSES["Value"],
    **{f"firebird.butler.{name}": each for name, each in CLASSES.items() if name not in ("ConfigProto", "Value")},
}
"""The classes by the names that the protocols' specifications use."""


def create_message(name: str, data: bytes = b"") -> ProtoMessage:
    """A new message, of the type with this name in the protocols, filled from `data`.

    Raises ValueError if that is no such message.
    """
    message = REGISTERED[name]()
    if data:
        fill_message(message, data)
    return message


def fill_message(message: ProtoMessage, data: bytes) -> None:
    """Replace the content of a message by what `data` holds; raises ValueError if it holds no such message."""
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise ValueError(str(error) or "broken protobuf") from error


def dict2struct(content: dict[str, Any]) -> ProtoMessage:
    """A Struct of what JSON knows: None, bool, numbers, str, lists and dicts with str keys."""
    struct = struct_pb2.Struct()
    struct.update(content)
    return struct


def struct2dict(struct: ProtoMessage) -> dict[str, Any]:
    """The content of a Struct; its numbers are floats."""
    return {name: _plain(value) for name, value in struct.fields.items()}


def _plain(value: ProtoMessage) -> object:
    kind = value.WhichOneof("kind")
    if kind == "struct_value":
        return struct2dict(value.struct_value)
    if kind == "list_value":
        return [_plain(item) for item in value.list_value.values]
    return None if kind in (None, "null_value") else getattr(value, kind)


def add_supplement(supplements: Any, content: dict[str, Any] | None) -> None:
    """Append a dict to a repeated field of Any, as a Struct; None adds nothing."""
    if content is not None:
        supplements.add().Pack(dict2struct(content))


def read_supplement(supplements: Any) -> dict[str, Any] | None:
    """The first Struct in a repeated field of Any; raises ValueError if it is broken."""
    for packed in supplements:
        if packed.TypeName() == PROTO_STRUCT:
            return struct2dict(create_message(PROTO_STRUCT, packed.value))
    return None

"""Configurations, as a controller sends them: named options, and named configurations inside.

    Config.of({"port": 80, "name": "x", "log": {"level": "info"}})

Anything else with a method `save_proto(proto)` can be sent as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, Self

from packetwire.messaging.protobuf import PROTO_ANY, ProtoMessage, create_message

PROTO_CONFIG = "firebird.base.ConfigProto"
"""The name of the protobuf message that a configuration is on the wire."""

UINT64_END = 1 << 64
SINT64_START = -1 << 63


class SavesProto(Protocol):
    """An object that writes itself into a protobuf message."""

    def save_proto(self, proto: ProtoMessage) -> object: ...


Configuration = Mapping[str, Any] | SavesProto | ProtoMessage | None
"""All that can be sent as a configuration: the protobuf message is a ConfigProto."""


class Typed(NamedTuple):
    """An option with the type that it has on the wire: `Typed("as_float", 0.5)`."""

    kind: str
    """The name of the field of the protobuf message Value."""
    value: Any


@dataclass
class Config:
    """Options and configurations by their names."""

    options: dict[str, Any] = field(default_factory=dict)
    """Values: strings, bytes, numbers, `Typed`, or protobuf messages."""
    configs: dict[str, Config] = field(default_factory=dict)
    """The configurations inside, as the sections of a file."""

    @classmethod
    def of(cls, values: Mapping[str, object]) -> Self:
        """The configuration in a mapping: mappings in it are configurations inside."""
        inside = {name: cls.of(value) for name, value in values.items() if isinstance(value, Mapping)}
        return cls({name: value for name, value in values.items() if name not in inside}, dict(inside))

    def as_dict(self) -> dict[str, Any]:
        """The same as nested dicts; raises ValueError if an option and a configuration have one name."""
        both = self.options.keys() & self.configs.keys()
        if both:
            raise ValueError(f"{min(both)!r} is an option and a configuration")
        return self.options | {name: config.as_dict() for name, config in self.configs.items()}

    @classmethod
    def from_proto(cls, proto: ProtoMessage) -> Self:
        """The configuration in a ConfigProto. Options that are messages are `Any`."""
        return cls(
            {name: value_of(value) for name, value in proto.options.items()},
            {name: cls.from_proto(config) for name, config in proto.configs.items()},
        )

    def load_proto(self, proto: ProtoMessage) -> None:
        """Replace the content by that of a ConfigProto."""
        other = self.from_proto(proto)
        self.options, self.configs = other.options, other.configs

    def save_proto(self, proto: ProtoMessage) -> None:
        """Write the content into a ConfigProto; raises ValueError for a value that cannot be sent."""
        for name, value in self.options.items():
            write_value(proto.options[name], name, value)
        for name, config in self.configs.items():
            config.save_proto(proto.configs[name])


def value_of(proto: ProtoMessage) -> Any:
    """The value of an option; None if it has none."""
    kind = proto.WhichOneof("kind")
    return None if kind is None else getattr(proto, kind)


def write_value(proto: ProtoMessage, name: str, value: object) -> None:
    """Write an option as the type that suits its value, or as `Typed` says."""
    kind, plain = value if isinstance(value, Typed) else Typed(kind_of(name, value), value)
    try:
        if kind != "as_msg":
            setattr(proto, kind, plain)
        elif plain.DESCRIPTOR.full_name == PROTO_ANY:
            proto.as_msg.CopyFrom(plain)
        else:
            proto.as_msg.Pack(plain)
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"option {name!r} cannot be sent as {kind}: {error}") from None


def kind_of(name: str, value: object) -> str:
    """The field for a value: the same that the reference chooses."""
    if isinstance(value, bool):
        return "as_bool"
    if isinstance(value, int):
        if not SINT64_START <= value < UINT64_END:
            raise ValueError(f"option {name!r} does not fit into 64 bits")
        return "as_uint64" if value >= 0 else "as_sint64"
    for types, kind in ((str, "as_string"), (bytes, "as_bytes"), (float, "as_double")):
        if isinstance(value, types):
            return kind
    if hasattr(value, "SerializeToString"):
        return "as_msg"
    raise ValueError(f"option {name!r} is a {type(value).__name__}, which cannot be sent")


def config_proto(config: Configuration = None) -> ProtoMessage:
    """A ConfigProto of None, a mapping, a ConfigProto, or an object with `save_proto`."""
    proto = create_message(PROTO_CONFIG)
    if config is None:
        return proto
    if isinstance(config, Mapping):
        config = Config.of(config)
    if hasattr(config, "save_proto"):
        config.save_proto(proto)
    elif callable(serialize := getattr(config, "SerializeToString", None)):
        proto.ParseFromString(serialize())
    else:
        raise TypeError(f"a configuration is a mapping or has save_proto, not {type(config).__name__}")
    return proto

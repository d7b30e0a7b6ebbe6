"""Configurations: every type of value, from mappings, from other objects, and back."""

from __future__ import annotations

import math
from typing import Any

import pytest
from google.protobuf import any_pb2
from hypothesis import given
from hypothesis import strategies as st

from packetwire.iccp import Config, ConfigProto, Typed
from packetwire.iccp.config import config_proto

from .fake import PEER

NAMES = st.text(max_size=10)
SCALARS = st.one_of(
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False),
    st.text(max_size=10),
    st.binary(max_size=10),
)
NESTED = st.recursive(
    st.dictionaries(NAMES, SCALARS, max_size=4), lambda inner: st.dictionaries(NAMES, SCALARS | inner, max_size=4)
)


def there_and_back(config: Any) -> Config:
    proto = ConfigProto.FromString(config_proto(config).SerializeToString())
    return Config.from_proto(proto)


@given(NESTED)
def test_a_mapping_comes_back(values: dict[str, Any]) -> None:
    assert Config.of(values).as_dict() == values
    again = there_and_back(values).as_dict()
    assert again == values
    assert repr(again).count("True") == repr(values).count("True"), "booleans are no numbers"


PACKED = any_pb2.Any()
PACKED.Pack(PEER.as_proto())


@pytest.mark.parametrize(
    ("value", "kind", "back"),
    [
        ("text", "as_string", "text"),
        (b"octets", "as_bytes", b"octets"),
        (True, "as_bool", True),
        (0.5, "as_double", 0.5),
        (7, "as_uint64", 7),
        (2**64 - 1, "as_uint64", 2**64 - 1),
        (-7, "as_sint64", -7),
        (PEER.as_proto(), "as_msg", PACKED),
        (PACKED, "as_msg", PACKED),
        (Typed("as_float", 0.5), "as_float", 0.5),
        (Typed("as_sint32", -5), "as_sint32", -5),
        (Typed("as_sint64", 5), "as_sint64", 5),
        (Typed("as_uint32", 5), "as_uint32", 5),
        (Typed("as_msg", PEER.as_proto()), "as_msg", PACKED),
    ],
)
def test_every_type_of_the_wire(value: Any, kind: str, back: Any) -> None:
    proto = config_proto({"o": value, "in": {"o": value}})
    assert proto.options["o"].WhichOneof("kind") == kind
    assert there_and_back({"o": value, "in": {"o": value}}).as_dict() == {"o": back, "in": {"o": back}}


def test_the_types_are_all_there() -> None:
    kinds = {field.name for field in config_proto({"x": 1}).options["x"].DESCRIPTOR.oneofs_by_name["kind"].fields}
    assert len(kinds) == 10


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "option 'o' is a NoneType"),
        ([1], "option 'o' is a list"),
        (2**64, "does not fit into 64 bits"),
        (-(2**63) - 1, "does not fit into 64 bits"),
        (Typed("as_uint32", -1), "cannot be sent as as_uint32"),
        (Typed("as_string", 1), "cannot be sent as as_string"),
        (Typed("as_nothing", 1), "cannot be sent as as_nothing"),
        (Typed("as_msg", 1), "cannot be sent as as_msg"),
        ("a\udc80", "cannot be sent as as_string"),
    ],
)
def test_what_cannot_be_sent(value: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        config_proto({"o": value})


def test_special_floats() -> None:
    back = there_and_back({"nan": math.nan, "inf": math.inf}).as_dict()
    assert math.isnan(back["nan"])
    assert back["inf"] == math.inf


class Foreign:
    """What a firebird.base Config looks like: it writes itself into a ConfigProto."""

    def save_proto(self, proto: Any) -> None:
        proto.options["num"].as_uint64 = 42
        proto.options["ready"].as_bool = False
        proto.configs["inner"].options["name"].as_string = "x"


def test_other_objects() -> None:
    expected = {"num": 42, "ready": False, "inner": {"name": "x"}}
    assert there_and_back(Foreign()).as_dict() == expected
    assert there_and_back(Config.of(expected)).as_dict() == expected
    proto = config_proto(expected)
    assert config_proto(proto) == proto
    assert config_proto(proto) is not proto
    assert config_proto() == ConfigProto()
    with pytest.raises(TypeError, match="a mapping or has save_proto, not int"):
        config_proto(3)


def test_a_configuration_can_be_loaded() -> None:
    config = Config.of({"old": 1})
    config.load_proto(config_proto({"new": {"x": 1}}))
    assert config == Config({}, {"new": Config({"x": 1})})


def test_one_name_for_two_things() -> None:
    proto = config_proto({"x": 1})
    proto.configs["x"].options["y"].as_bool = True
    config = Config.from_proto(proto)
    assert (config.options, config.configs) == ({"x": 1}, {"x": Config({"y": True})})
    with pytest.raises(ValueError, match="'x' is an option and a configuration"):
        config.as_dict()


def test_an_option_without_a_value() -> None:
    proto = ConfigProto()
    proto.options["x"].SetInParent()
    assert Config.from_proto(proto).as_dict() == {"x": None}

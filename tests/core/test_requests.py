"""`BaseRequest` over everything that can make and read its payload."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from cs.binary import BinaryMultiValue, BinarySingleValue, BSData, BSUInt, SimpleBinary
from cs.buffer import CornuCopyBuffer

from packetwire import BaseRequest


@dataclass
class Plain(BaseRequest[bytes]):
    data: bytes

    def __bytes__(self) -> bytes:
        return self.data

    @classmethod
    def from_bytes(cls, bs: bytes) -> Plain:
        return cls(bs)


@dataclass(frozen=True)
class Frozen(BaseRequest[bytes]):
    data: bytes

    def __bytes__(self) -> bytes:
        return self.data

    @classmethod
    def from_bytes(cls, bs: bytes) -> Frozen:
        return cls(bs)


@dataclass(slots=True)
class Slotted(BaseRequest[bytes]):
    data: bytes

    def __bytes__(self) -> bytes:
        return self.data

    @classmethod
    def from_bytes(cls, bs: bytes) -> Slotted:
        return cls(bs)


class MultiValue(BaseRequest, BinaryMultiValue("MultiValue", {"hashenum": BSUInt, "data": BSData})):  # type: ignore[misc]
    pass


class Empty(BaseRequest, BinaryMultiValue("Empty", {})):  # type: ignore[misc]
    pass


class SingleValue(BaseRequest, BinarySingleValue, value_type=int):  # type: ignore[call-arg, misc]
    parse_value = staticmethod(BSUInt.parse_value)
    transcribe_value = staticmethod(BSUInt.transcribe_value)


class SingleValueWithInit(BaseRequest, BinarySingleValue, value_type=int):  # type: ignore[call-arg, misc]
    """As an application does it that was written for the reference."""

    def __init__(self, number: int) -> None:
        super().__init__(value=number)

    parse_value = staticmethod(BSUInt.parse_value)
    transcribe_value = staticmethod(BSUInt.transcribe_value)


class Simple(BaseRequest, SimpleBinary):  # type: ignore[misc]
    number: int

    @classmethod
    def parse(cls, bfr: CornuCopyBuffer) -> Any:
        return cls(number=BSUInt.parse_value(bfr))

    def transcribe(self) -> Any:
        yield BSUInt.transcribe_value(self.number)


class ParseAndTranscribe(BaseRequest[int]):
    """No class of cs.binary behind it, and `BaseRequest.__init__` is never called."""

    def __init__(self, number: int) -> None:
        self.number = number

    @classmethod
    def parse(cls, bfr: CornuCopyBuffer) -> ParseAndTranscribe:
        return cls(BSUInt.parse_value(bfr))

    def transcribe(self) -> Any:
        return [None, [BSUInt.transcribe_value(self.number)], ""]


class TranscribeInPieces(ParseAndTranscribe):
    def transcribe(self) -> Any:
        yield b"\x80"
        yield super().transcribe()


class ParseAndTranscribeInherited(ParseAndTranscribe):
    pass


REQUESTS = [
    pytest.param(Plain(b"abc"), b"abc", id="dataclass"),
    pytest.param(Frozen(b"abc"), b"abc", id="frozen dataclass"),
    pytest.param(Slotted(b"abc"), b"abc", id="dataclass with slots"),
    pytest.param(MultiValue(hashenum=300, data=b"abc"), b"\x82\x2c\x03abc", id="BinaryMultiValue"),
    pytest.param(Empty(), b"", id="empty BinaryMultiValue"),
    pytest.param(SingleValue(value=300), b"\x82\x2c", id="BinarySingleValue"),
    pytest.param(SingleValue(300), b"\x82\x2c", id="BinarySingleValue by position"),
    pytest.param(SingleValueWithInit(300), b"\x82\x2c", id="BinarySingleValue with __init__"),
    pytest.param(Simple(number=300), b"\x82\x2c", id="SimpleBinary"),
    pytest.param(ParseAndTranscribe(300), b"\x82\x2c", id="parse and transcribe"),
    pytest.param(TranscribeInPieces(300), b"\x80\x82\x2c", id="parse and transcribe in pieces"),
    pytest.param(ParseAndTranscribeInherited(300), b"\x82\x2c", id="parse and transcribe, inherited"),
]


def fields(rq: Any) -> dict[str, Any]:
    if isinstance(rq, Slotted):
        return {"data": rq.data}
    return {name: value for name, value in vars(rq).items() if name != "flags"}


@pytest.mark.parametrize("flags", [0, 5, 1 << 40])
@pytest.mark.parametrize(("rq", "octets"), REQUESTS)
def test_a_request_survives(rq: BaseRequest[Any], octets: bytes, flags: int) -> None:
    assert bytes(rq) == octets
    assert rq.flags == 0
    again = type(rq).from_request_payload(flags, octets)
    assert type(again) is type(rq)
    assert fields(again) == fields(rq)
    assert again.flags == flags
    assert rq.flags == type(rq).flags == 0, "another request's flags are its own"


@pytest.mark.parametrize(("rq", "octets"), [case for case in REQUESTS if hasattr(case.values[0], "parse")])
def test_octets_that_are_left_over_are_refused(rq: BaseRequest[Any], octets: bytes) -> None:
    with pytest.raises(ValueError, match="unparsed data"):
        type(rq).from_request_payload(0, octets + b"\x01")


@pytest.mark.parametrize(("rq", "octets"), [case for case in REQUESTS if case.values[1].startswith(b"\x82")])
def test_octets_that_are_missing_are_refused(rq: BaseRequest[Any], octets: bytes) -> None:
    with pytest.raises(EOFError):
        type(rq).from_request_payload(0, octets[:1])


# flags


class FlagsFromFields(BaseRequest, SimpleBinary):  # type: ignore[misc]
    """Its flags follow from its fields, and are read back into them."""

    def __init__(self, after: bool, start: bytes | None) -> None:
        super().__init__(after=after, start=start)

    @classmethod
    def from_request_payload(cls, flags: int, payload: bytes) -> Any:
        return cls(bool(flags & 1), payload if flags & 2 else None)

    @property
    def flags(self) -> int:  # type: ignore[override]
        return self.after | (self.start is not None) << 1

    @classmethod
    def parse(cls, bfr: CornuCopyBuffer) -> Any:
        raise NotImplementedError

    def transcribe(self) -> Any:
        return self.start


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("start", [None, b"", b"abc"])
def test_flags_that_follow_from_the_fields(after: bool, start: bytes | None) -> None:
    rq = FlagsFromFields(after, start)
    assert rq.flags == after + 2 * (start is not None)
    again = FlagsFromFields.from_request_payload(rq.flags, bytes(rq))
    assert (again.after, again.start) == (after, start)


@dataclass
class OddOrEven(BaseRequest[None]):
    """`flags` is a property without a setter, and `from_request_payload` is not its own."""

    data: bytes

    @property
    def flags(self) -> int:  # type: ignore[override]
        return len(self.data) & 1

    def __bytes__(self) -> bytes:
        return self.data

    @classmethod
    def from_bytes(cls, bs: bytes) -> OddOrEven:
        return cls(bs)


def test_flags_as_a_property_without_a_setter() -> None:
    assert OddOrEven.from_request_payload(1, b"abc").flags == 1
    with pytest.raises(ValueError, match=r"OddOrEven: flags=0x02 came with a payload that means 0x01"):
        OddOrEven.from_request_payload(2, b"abc")


@dataclass
class FlagsAsField(BaseRequest[None]):
    flags: int = 3

    def __bytes__(self) -> bytes:
        return b""

    @classmethod
    def from_bytes(cls, bs: bytes) -> FlagsAsField:
        return cls()


@pytest.mark.parametrize("flags", [0, 3, 7])
def test_flags_as_a_field(flags: int) -> None:
    assert FlagsAsField.from_request_payload(flags, b"").flags == flags
    assert FlagsAsField(flags).flags == flags


# construction


class Recorder:
    """The class behind, which keeps what it was given."""

    def __init__(self, **given: Any) -> None:
        self.given = given


class Cooperative(BaseRequest[None], Recorder):
    pass


def test_init_is_cooperative() -> None:
    rq = Cooperative(flags=5, a=1, b=2)
    assert (rq.flags, rq.given) == (5, {"a": 1, "b": 2})
    assert Cooperative(5, a=1).flags == 5
    assert Cooperative(a=1).flags == 0
    assert "flags" not in vars(Cooperative(a=1))


class Bare(BaseRequest[None]):
    pass


class WithInit(BaseRequest[None]):
    def __init__(self, number: int, flags: int = 0) -> None:
        super().__init__(flags)
        self.number = number


def test_init_with_nothing_behind() -> None:
    assert Bare().flags == 0
    assert Bare(3).flags == Bare(flags=3).flags == 3
    assert WithInit(1, 4).flags == 4
    with pytest.raises(TypeError):
        Bare(data=b"")
    with pytest.raises(TypeError):
        Bare(3, 4)


FLAGGED = {
    "BinaryMultiValue": lambda: MultiValue(flags=9, hashenum=1, data=b""),
    "BinaryMultiValue, flags first": lambda: MultiValue(9, hashenum=1, data=b""),
    "BinarySingleValue": lambda: SingleValue(value=1, flags=9),
    "BinarySingleValue, value first": lambda: SingleValue(1, flags=9),
    "SimpleBinary": lambda: Simple(flags=9, number=1),
    "empty": lambda: Empty(flags=9),
}


@pytest.mark.parametrize("kind", FLAGGED)
def test_init_with_a_binary_class_behind(kind: str) -> None:
    rq = FLAGGED[kind]()
    assert rq.flags == 9
    assert bytes(rq) == bytes(type(rq).from_request_payload(9, bytes(rq)))


# what is not shadowed


def test_methods_of_the_binary_class_behind_are_not_shadowed() -> None:
    class Odd(SimpleBinary):  # type: ignore[misc]
        @classmethod
        def from_bytes(cls, bs: bytes) -> Any:
            return cls(octets=bs)

        @classmethod
        def parse(cls, bfr: CornuCopyBuffer) -> Any:
            raise AssertionError("from_bytes is its own")

        def transcribe(self) -> Any:
            raise AssertionError("__bytes__ is its own")

        def __bytes__(self) -> bytes:
            return b"own"

    class OddRequest(BaseRequest, Odd):  # type: ignore[misc]
        pass

    rq = OddRequest.from_request_payload(1, b"octets")
    assert rq.octets == b"octets"
    assert bytes(rq) == b"own"
    for name in ("parse", "transcribe", "from_bytes", "__bytes__"):
        assert name not in vars(BaseRequest)
        assert name not in vars(OddRequest)


def test_a_class_with_parse_and_transcribe_is_given_what_it_lacks() -> None:
    class Request(BaseRequest[None]):
        @classmethod
        def parse(cls, bfr: CornuCopyBuffer) -> Any:
            bfr.take(3)
            return cls()

        def transcribe(self) -> Any:
            return b"abc"

    assert bytes(Request()) == b"abc"
    assert type(Request.from_bytes(b"abc")) is Request

    class OnlyTranscribe(BaseRequest[None]):
        def transcribe(self) -> Any:
            return b"abc"

    assert bytes(OnlyTranscribe()) == b"abc"
    assert not hasattr(OnlyTranscribe, "from_bytes")


def test_class_keywords_reach_the_class_behind() -> None:
    class Behind:
        kind: str

        def __init_subclass__(cls, kind: str = "none", **kwargs: Any) -> None:
            super().__init_subclass__(**kwargs)
            cls.kind = kind

    class Request(BaseRequest[None], Behind, kind="some"):
        pass

    assert Request.kind == "some"


# the rest of its face


def test_the_defaults() -> None:
    rq = Plain(b"")
    assert rq.decode_response_payload(3, b"abc") == (3, b"abc")
    assert rq.inline is False
    with pytest.raises(NotImplementedError, match="Plain has no fulfil method"):
        rq.fulfil(None)


def test_a_dataclass_keeps_its_own_face() -> None:
    assert Plain(b"abc") == Plain(b"abc")
    assert repr(Plain(b"abc")) == "Plain(data=b'abc')"
    assert hash(Frozen(b"abc")) == hash(Frozen(b"abc"))

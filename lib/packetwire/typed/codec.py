"""`Codec`: values of one annotation as MessagePack, and back."""

from __future__ import annotations

from typing import Any, Generic, TypeVar, overload

from packetwire.typed.annotations import Reader
from packetwire.typed.badvalue import Refusal
from packetwire.typed.decoding import Decode, Decoders
from packetwire.typed.encoding import Encode, Encoders
from packetwire.typed.kinds import Kind
from packetwire.typed.msgpack import CUT_OFF, MAX_ITEMS, check_items
from packetwire.typed.withmsgspec import Fast

ValueT = TypeVar("ValueT")


class Codec(Generic[ValueT]):
    """Encodes the values that an annotation allows, such as `list[Item]`, and decodes them.

    Raises TypeError for an annotation that cannot be in a request, saying what is wrong with it, and NameError if
    it has a name that is not known. `pure` is for comparisons: then msgspec is not used, even if it is installed;
    the bytes are the same.
    """

    @overload
    def __init__(self, annotation: type[ValueT], *, pure: bool = False) -> None: ...

    @overload
    def __init__(self: Codec[Any], annotation: object, *, pure: bool = False) -> None: ...

    def __init__(self, annotation: object, *, pure: bool = False) -> None:
        self._prepare(annotation, Reader().kind_of(annotation, "this annotation"), pure)

    @classmethod
    def of_kind(cls, annotation: Any, kind: Kind, *, pure: bool = False) -> Codec[Any]:
        """The codec of a kind that was made of this annotation before."""
        self: Codec[Any] = cls.__new__(cls)
        self._prepare(annotation, kind, pure)
        return self

    def _prepare(self, annotation: object, kind: Kind, pure: bool) -> None:
        self.kind = kind
        self._encode: Encode = Encoders().of(kind)
        self._decode: Decode = Decoders().of(kind)
        self._fast: Fast | None = None
        if not pure:
            try:
                self._fast = Fast(annotation, kind)
            except Exception:  # msgspec is not installed, or has something against the annotation
                self._fast = None

    @property
    def uses_msgspec(self) -> bool:
        """True if msgspec does the usual work."""
        return self._fast is not None

    def encode(self, value: ValueT) -> bytes:
        """The bytes of a value. Raises `BadValue` if it is not of the kind."""
        fast = self._fast
        if fast is not None:
            try:
                if fast.is_exact(value):
                    data = fast.encode(value)
                    if len(data) > MAX_ITEMS:
                        check_items(data)
                    return data
            except Exception:  # the pure encoder knows what is wrong
                pass
        out = bytearray()
        try:
            self._encode(value, out, 0)
            data = bytes(out)
            check_items(data)
        except Refusal as refusal:
            raise refusal.as_bad_value() from refusal.__cause__
        return data

    def decode(self, data: bytes) -> ValueT:
        """The value of the bytes. Raises `BadValue` if they are none of the kind."""
        try:
            if len(data) > MAX_ITEMS:
                check_items(data)
            fast = self._fast
            if fast is not None:
                try:
                    fast_value: ValueT = fast.decode(data)
                    return fast_value
                except Exception:  # the pure decoder knows what is wrong
                    pass
            value: ValueT
            value, end = self._decode(data, 0, 0)
            if end != len(data):
                raise Refusal(f"{len(data) - end} bytes are left behind the value")
        except IndexError:
            raise Refusal(CUT_OFF).as_bad_value() from None
        except Refusal as refusal:
            raise refusal.as_bad_value() from refusal.__cause__
        return value

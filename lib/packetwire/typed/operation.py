"""`Operation`: a typed request as the wire has it: its number, the codecs of request and result, its errors.

Request classes and the methods of services have one each. Strategy: it is made with the class, so that a mistake is
found there. Only if an annotation has a name that does not exist yet, the codecs are made at the first use.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from packetwire.core.engine import MAX_RQ_TYPE
from packetwire.error_text import ERROR_TEXT_LIMIT, RequestRefused
from packetwire.errors import RequestError, RequestFailed
from packetwire.typed.badvalue import BadValue
from packetwire.typed.codec import Codec
from packetwire.typed.errors import encoded_error, error_from, is_typed_error
from packetwire.typed.items import ItemCodec
from packetwire.typed.kinds import Kind, Record, Scalar, Stream

MAX_NUMBER = (1 << 24) - 1
"""The largest number that can be given; those above are made of names."""
TYPED_ERRORS = 1
"""The flag of a request whose caller understands typed errors."""
NO_FIELDS = b"\x80"


class Made(NamedTuple):
    """The annotations and kinds of which a request is made; `streamed` is the parameter that is a stream."""

    request: Any
    request_kind: Record
    result: Any
    result_kind: Kind
    streamed: tuple[str, Stream] | None = None


def number_of(name: str, given: int | None) -> int:
    """The request type: the number that was given, or one that is made of the name. Raises TypeError."""
    if given is None:
        return (1 << 24) + int.from_bytes(hashlib.sha256(name.encode()).digest()[:3])
    if not isinstance(given, int) or isinstance(given, bool) or not 0 <= given <= min(MAX_NUMBER, MAX_RQ_TYPE):
        raise TypeError(f"{name}: a number must be an int from 0 to 2**24 - 1, got {given!r:.60}")
    return given


class Operation:
    """One sort of request. `make` returns what its codecs are made of; it raises NameError if that is too early."""

    request: Codec[Any]
    """The codec of its fields."""
    result: Codec[Any]
    """The codec of its result; of None, if that is a stream."""
    items_in: ItemCodec | None
    """The codec of the parameter that is a stream."""
    items_out: ItemCodec | None
    """The codec of the result, if that is a stream."""

    def __init__(
        self, name: str, number: int | None, errors: Sequence[type[RequestError]], make: Callable[[], Made]
    ) -> None:
        self.name = name
        self.number = number_of(name, number)
        self.is_numbered = number is not None
        self.errors = _by_name(name, errors)
        self._make = make
        try:
            self.prepare()
        except NameError:
            pass  # a class that comes later; see `prepare`

    def prepare(self) -> None:
        """Make the codecs. Raises NameError if a name is not known, still."""
        request, request_kind, result, result_kind, streamed = self._make()
        self.items_in = None if streamed is None else ItemCodec(*streamed)
        self.items_out = None
        if isinstance(result_kind, Stream):
            self.items_out = ItemCodec("", result_kind)
            result, result_kind = None, Scalar(type(None))
        self.result = Codec.of_kind(result, result_kind)
        self.request = Codec.of_kind(request, request_kind)

    if not TYPE_CHECKING:  # it would hide wrong names from type checkers

        def __getattr__(self, name: str) -> Any:
            """The codecs, where it was too early for them; they are attributes, as each request looks there."""
            if name not in ("request", "result", "items_in", "items_out"):
                raise AttributeError(name)
            try:
                self.prepare()
            except NameError as error:
                raise TypeError(
                    f"{self.name}: {error}; what an annotation names must stand in the module of its class"
                ) from error
            return vars(self)[name]

    @property
    def flags(self) -> int:
        """The flags of a request."""
        return TYPED_ERRORS if self.errors else 0

    def fields_from(self, payload: bytes) -> Any:
        """The fields of a request that came in. Raises `BadValue`."""
        return self.request.decode(payload or NO_FIELDS)

    def result_bytes(self, result: object) -> bytes:
        """The payload of an "ok" response; that of None is empty. Raises TypeError for a result of another kind."""
        if result is None and "None" in self.result.kind.wire:
            return b""
        try:
            return self.result.encode(result)
        except BadValue as error:
            raise TypeError(f"the result of {self.name} is not what its annotation says: {error}") from error

    def result_from(self, payload: bytes) -> Any:
        """The result of an "ok" response. Raises `BadValue`."""
        if not payload and "None" in self.result.kind.wire:
            return None
        try:
            return self.result.decode(payload)
        except BadValue as error:
            raise BadValue(error.path, f"{error.problem} (in the response to {self.name})") from error

    def item_bytes(self, number: int, item: object) -> bytes:
        """The bytes of an item of the result. Raises TypeError for one of another kind."""
        assert self.items_out is not None
        try:
            return self.items_out.encode(number, item)
        except BadValue as error:
            raise TypeError(f"the result of {self.name} is not what its annotation says: {error}") from error

    # errors

    def refusal(self, error: RequestError, flags: int) -> RequestError:
        """The answer for an error that a handler has raised, to a caller whose request had these flags.

        This is the place that says how a typed error goes over the wire: as the payload of a response that is not
        ok, for callers that say in their request that they understand it; others get the text.
        """
        if not (flags & TYPED_ERRORS and is_typed_error(error) and type(error) in self.errors.values()):
            return error
        try:
            payload = encoded_error(error)
        except BadValue:
            return error  # its fields are not what they say; the text is there all the same
        return RequestRefused(error.text, payload) if len(payload) <= ERROR_TEXT_LIMIT else error

    def failure_from(self, failure: RequestFailed) -> Exception:
        """The exception for the caller of a request whose response is not ok."""
        if self.errors:
            error = error_from(self.name, self.errors, failure)
            if error is not None:
                return error
        return failure


def _by_name(name: str, errors: Sequence[type[RequestError]]) -> Mapping[str, type[RequestError]]:
    found: dict[str, type[RequestError]] = {}
    for each in errors:
        if not (isinstance(each, type) and issubclass(each, RequestError) and is_typed_error(each)):
            raise TypeError(f"{name}: {each!r:.100} in its errors is no class that was made by @error")
        code = each.error_name  # type: ignore[attr-defined]
        if found.setdefault(code, each) is not each:
            raise TypeError(f"{name}: two of its errors have the name {code!r}")
    return found

"""`error`: errors with fields, which cross the wire as data: a name, a text and the fields, nothing to import.

On the wire it is the payload of a response that is not ok: a map with the name under `$`, the text, and the fields.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Self, TypeVar, dataclass_transform

from packetwire.errors import RequestError, RequestFailed
from packetwire.typed.annotations import Reader, namespace_of_caller
from packetwire.typed.badvalue import BadValue
from packetwire.typed.codec import Codec
from packetwire.typed.kinds import TAG
from packetwire.typed.msgpack import map_head, str_bytes, unpacked

ErrorT = TypeVar("ErrorT", bound=RequestError)

TEXT = "text"
_RESERVED = frozenset({"args", "code", "fields", "request", "text", TAG})
_MAP_BYTES = frozenset({*range(0x80, 0x90), 0xDE, 0xDF})


class UnknownError(RequestFailed):
    """The peer has answered by a typed error that the caller's method does not list.

    `name` is that of the error, `fields` are its fields as they came.
    """

    def __init__(
        self, failure: RequestFailed, what: str, name: str, text: str, fields: Mapping[str, object]
    ) -> None:
        super().__init__(failure.flags, failure.payload, what, failure.code, failure.begun)
        self.name = name
        self.text = text
        self.fields = dict(fields)
        self.args = (f"the peer answered {what} by the error {name!r}: {text!r:.2000}",)

    def __reduce__(self) -> Any:
        failure = RequestFailed(self.flags, self.payload, self._what, self.code, self.begun)
        return type(self), (failure, self._what, self.name, self.text, self.fields)


@dataclass_transform(field_specifiers=(dataclasses.field,))
def error(name: str, *, text: str | None = None) -> Callable[[type[ErrorT]], type[ErrorT]]:
    """Make a subclass of `RequestError` an error with the fields that it is annotated with.

        @error("out-of-stock", text="{title}: only {left} left")
        class OutOfStock(RequestError):
            title: str
            left: int

    A handler raises it, and the caller catches it, if the method or its service lists it in its `errors`. `name` is
    what crosses the wire. The text is the format with the fields filled in; without one it is the name with the
    fields. Raises TypeError for a class whose fields cannot be sent.
    """
    names = namespace_of_caller(2)

    def make(cls: type[ErrorT]) -> type[ErrorT]:
        if not issubclass(cls, RequestError):
            raise TypeError(f"{cls.__name__}: an error must be a subclass of RequestError")
        if not isinstance(name, str) or not name:
            raise TypeError(f"{cls.__name__}: the name of an error must be a string, got {name!r:.60}")
        for reserved in _RESERVED & inspect.get_annotations(cls).keys():
            raise TypeError(f"{cls.__name__}.{reserved}: each error has one of its own: rename the field")
        made = dataclasses.dataclass(eq=False, repr=False)(cls)
        kind = Reader(names).record_of(made, cls.__name__)
        init, fields = made.__init__, [each.name for each in kind.fields]

        def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
            init(self, *args, **kwargs)
            values = {each: getattr(self, each) for each in fields}
            RequestError.__init__(self, _text_of(name, text, values), name, values)

        def __reduce__(self: Any) -> Any:  # noqa: N807
            return _again, (cls, self.fields)

        __init__.__wrapped__ = init  # type: ignore[attr-defined]  # its signature
        _check_text(cls.__name__, text, fields)
        made.__init__ = __init__  # type: ignore[method-assign]
        made.__reduce__ = __reduce__  # type: ignore[method-assign]
        made.error_name = name  # type: ignore[attr-defined]
        made.error_codec = Codec.of_kind(made, kind, pure=True)  # type: ignore[attr-defined]
        return made

    return make


def _again(cls: Any, values: Mapping[str, object]) -> object:
    return cls(**values)


def _check_text(cls: str, text: str | None, fields: list[str]) -> None:
    try:
        if text is not None:
            text.format_map(dict.fromkeys(fields, _Anything()))
    except KeyError as missing:
        raise TypeError(f"{cls}: its text names {missing}, which is no field of it") from None
    except Exception as problem:
        raise TypeError(f"{cls}: its text is no format: {problem}") from problem


class _Anything:
    """Stands for any value in a format."""

    def __format__(self, spec: str) -> str:
        return ""

    def __getattr__(self, name: str) -> Self:
        return self

    def __getitem__(self, key: object) -> Self:
        return self


def _text_of(name: str, text: str | None, values: Mapping[str, object]) -> str:
    if text is not None:
        return text.format_map(values)
    return f"{name}: {', '.join(f'{key}={value!r:.200}' for key, value in values.items())}" if values else name


def is_typed_error(error: object) -> bool:
    """True for an error, or a class of them, that `error` has made."""
    return "error_codec" in vars(error if isinstance(error, type) else type(error))


def encoded_error(error: Any) -> bytes:
    """The payload that stands for it: its fields, with the name and the text before them."""
    fields: bytes = error.error_codec.encode(error)
    size = len(error.fields)
    text = error.text.encode(errors="replace").decode()
    head = map_head(size + 2) + str_bytes(TAG) + str_bytes(error.error_name) + str_bytes(TEXT) + str_bytes(text)
    return head + fields[len(map_head(size)) :]


def error_from(
    what: str, known: Mapping[str, type[RequestError]], failure: RequestFailed
) -> RequestError | UnknownError | None:
    """The error that a payload stands for, or None if it is a text.

    A text is UTF-8, and no character begins with the byte with which a map of up to 15 entries does.
    """
    payload = failure.payload
    if not payload or payload[0] not in _MAP_BYTES:
        return None
    try:
        values = unpacked(payload)
    except BadValue:
        return None
    if not isinstance(values, dict) or not isinstance(values.get(TAG), str):
        return None
    name, text = values.pop(TAG), values.pop(TEXT, "")
    if not isinstance(text, str) or not all(isinstance(key, str) for key in values):
        return None
    cls: Any = known.get(name)
    if cls is not None:
        try:
            error: RequestError = cls.error_codec.decode(payload)
        except BadValue:
            pass  # of another version: its fields are told all the same
        else:
            error.text, error.args = text, (text,)
            return error
    return UnknownError(failure, what, name, text, values)

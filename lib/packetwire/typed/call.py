"""`Call`: a call of a method that has not been made yet."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, Self, TypeVar

from packetwire.typed.request import TypedRequest

ResultT_co = TypeVar("ResultT_co", covariant=True)


class Call(TypedRequest[ResultT_co]):
    """A call of a method that has not been made yet: `Shop.put("Emma")`. A `Client` makes it."""

    method_name: ClassVar[str]
    fields_class: ClassVar[type]
    arguments_class: ClassVar[type]
    """As `fields_class`, with the parameter that is a stream."""
    streamed: ClassVar[str | None] = None
    """The name of that parameter."""
    items: Any = None
    """The items that it has."""
    has_streams: ClassVar[bool] = False
    """True if a parameter or the result is a stream of items."""
    is_async: ClassVar[bool] = False
    """True if it runs in an event loop."""
    is_coroutine: ClassVar[bool] = False
    """True for an `async def` that yields nothing."""
    is_idempotent: ClassVar[bool] = False
    has_doc: ClassVar[bool] = False
    keywords: ClassVar[Sequence[str]] = ()
    """The parameters that can be given by name only."""

    def __init__(self, fields: Any) -> None:
        # not through BaseRequest, whose first argument may be flags
        self.fields = fields

    @classmethod
    def of(cls, *args: Any, **kwargs: Any) -> Self:
        """The call with these arguments. Raises TypeError if they do not fit the parameters."""
        if cls.streamed is None:
            return cls(cls.fields_class(*args, **kwargs))
        values = vars(cls.arguments_class(*args, **kwargs))
        items = values.pop(cls.streamed)
        self = cls(cls.fields_class(**values))
        self.items = items
        return self

    def __bytes__(self) -> bytes:
        """Its payload. Raises `BadValue` if an argument is not of its kind."""
        return self.operation.request.encode(self.fields)

    @classmethod
    def from_bytes(cls, bs: bytes) -> Self:
        """The call that a payload is; an empty one has no arguments. Raises `BadValue`."""
        return cls(cls.operation.fields_from(bs))

    @classmethod
    def from_request_payload(cls, flags: int, payload: bytes) -> Self:
        """The call that came in. Raises `BadValue`."""
        self = cls(cls.operation.fields_from(payload))
        if flags != self.flags:
            self.flags = flags
        return self

    def __repr__(self) -> str:
        shown = [f"{each.name}={getattr(self.fields, each.name)!r}" for each in dataclasses.fields(self.fields)]
        shown += [] if self.streamed is None else [f"{self.streamed}=…"]
        return f"{self.operation.name}({', '.join(shown)})"

    def __eq__(self, other: object) -> bool:
        return (
            type(self) is type(other)
            and isinstance(other, Call)
            and self.fields == other.fields
            and self.items is other.items
        )

    __hash__ = None  # type: ignore[assignment]  # as a dataclass whose fields can change

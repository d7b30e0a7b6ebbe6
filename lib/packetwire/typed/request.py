"""`Request`: a request class that is its fields; and what calls of methods share with it."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from types import CoroutineType
from typing import Any, ClassVar, Protocol, Self, TypeVar, dataclass_transform

from packetwire.core.requests import BaseRequest, HandlerResult
from packetwire.errors import RequestError, RequestFailed
from packetwire.typed.annotations import Reader, default_of, hints_of, namespace_of_caller
from packetwire.typed.operation import Made, Operation

ResultT_co = TypeVar("ResultT_co", covariant=True)
ItemT = TypeVar("ItemT")
Yielding = Iterator[ItemT]
"""The result of a method that yields, as its annotations say it; a client gets a stream of these items."""
YieldingLater = AsyncIterator[ItemT]
"""The same of a method that runs in an event loop."""


class TypedRequest(BaseRequest[ResultT_co]):
    """A request whose codecs are known from annotations: a `Request` or a `Call`."""

    operation: ClassVar[Operation]
    """Its number, codecs and errors."""

    def decode_response_payload(self, flags: int, payload: bytes) -> ResultT_co:
        """The result. Raises `BadValue` if the payload is none."""
        result: ResultT_co = self.operation.result_from(payload)
        return result

    def decode_failed_response(self, failure: RequestFailed) -> Exception:
        """The exception: one of its errors, an `UnknownError`, or else the `failure`."""
        return self.operation.failure_from(failure)

    def _answer(self, context: object) -> HandlerResult:
        result = self.fulfilled(context)
        if type(result) is CoroutineType:
            return self._answer_later(result)
        return self.operation.result_bytes(result)

    def fulfilled(self, context: object) -> Any:
        """The result of `fulfil`. Raises an error of the operation as it is sent."""
        try:
            return self.fulfil(context)
        except RequestError as error:
            raise self.operation.refusal(error, self.flags) from error

    async def _answer_later(self, coroutine: Coroutine[object, object, object]) -> bytes:
        try:
            result = await coroutine
        except RequestError as error:
            raise self.operation.refusal(error, self.flags) from error
        return self.operation.result_bytes(result)


class HasRequests(Protocol):
    """A service: an object whose requests are known."""

    def request_map(self) -> dict[int, type[BaseRequest[Any]]]:
        """Its requests by their types."""
        ...


RESERVED = frozenset(
    [
        *("decode_failed_response", "decode_response_payload", "errors", "flags", "from_bytes"),
        *("from_request_payload", "fulfil", "inline", "number", "operation"),
    ]
)
"""Names that a field of a `Request` cannot have."""


@dataclass_transform(field_specifiers=(dataclasses.field,))
class Request(TypedRequest[ResultT_co]):
    """A request class by its annotations; its caller gets what stands in the brackets.

        class Put(Request[int], number=1):
            title: str
            tags: list[str] = []

            def fulfil(self, shop):
                return shop.add(self.title, self.tags)

    It is a dataclass, and a `BaseRequest` for an `rq_type_map`, or for a `Client`. Its payload is a MessagePack map
    by the names of the fields. A list, dict or set as a default is copied for each request. `errors` are classes
    made by `@error` that its `fulfil` may raise. Without a `number` it is made of the name of the class.

    Raises TypeError when the class is made, if its fields or its result cannot be sent.
    """

    number: ClassVar[int]
    """The request type."""

    def __init_subclass__(
        cls, *, number: int | None = None, errors: Sequence[type[RequestError]] = (), **kwargs: Any
    ) -> None:
        super().__init_subclass__(**kwargs)
        names = {**namespace_of_caller(2), cls.__name__: cls}
        _make_dataclass(cls)
        result = _result_of(cls)

        def make() -> Made:
            hints = hints_of(cls, names)
            reader = Reader(names)
            kind = reader.record_of(cls, cls.__name__)
            for each in kind.fields:
                if each.name in cls.__annotations__:
                    cls.__annotations__[each.name] = hints[each.name]  # for msgspec
            evaluated = _evaluated(result, cls, names)
            return Made(cls, kind, evaluated, reader.kind_of(evaluated, f"the result of {cls.__name__}"))

        cls.operation = Operation(cls.__name__, number, errors, make)
        cls.number = cls.operation.number
        cls.flags = cls.operation.flags

    def __bytes__(self) -> bytes:
        """Its payload. Raises `BadValue` if a field is not of its kind."""
        return self.operation.request.encode(self)

    @classmethod
    def from_bytes(cls, bs: bytes) -> Self:
        """The request that a payload is; an empty one has no fields. Raises `BadValue`."""
        request: Self = cls.operation.fields_from(bs)
        return request

    def fulfil(self, context: Any) -> ResultT_co | Coroutine[Any, Any, ResultT_co]:
        """Perform the request, at its receiving end; `context` is the object that has the connection."""
        raise NotImplementedError(f"{type(self).__name__} has no fulfil method: it cannot be served here")


def _make_dataclass(cls: type) -> None:
    for name in inspect.get_annotations(cls):
        if name in RESERVED:
            raise TypeError(f"{cls.__name__}.{name}: a request has a {name!r} of its own: rename the field")
        default = cls.__dict__.get(name)
        if type(default).__hash__ is None:
            setattr(cls, name, dataclasses.field(**default_of(default)))
    if "__init__" in cls.__dict__:
        raise TypeError(
            f"{cls.__name__}: a request is made of its fields: instead of __init__ use defaults or __post_init__"
        )
    dataclasses.dataclass(cls)


def _result_of(cls: type) -> object:
    """The annotation in the brackets behind `Request`. Raises TypeError if there is none."""
    for base in cls.__mro__[: cls.__mro__.index(Request)]:
        for original in base.__dict__.get("__orig_bases__", ()):
            origin = typing.get_origin(original)
            if isinstance(origin, type) and issubclass(origin, BaseRequest):
                return typing.get_args(original)[0]
    raise TypeError(f"{cls.__name__}: say what its result is: class {cls.__name__}(Request[int]), or Request[None]")


def _evaluated(annotation: object, cls: type, names: dict[str, object]) -> object:
    """The annotation of a result, which may be a string, or have one in it."""
    holder = type("Result", (), {"__annotations__": {"result": annotation}, "__module__": cls.__module__})
    return hints_of(holder, names)["result"]

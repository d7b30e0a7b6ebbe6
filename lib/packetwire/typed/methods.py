"""`method` and `Call`: a method of a service, which at the class makes calls and at an object runs.

Strategy. `method` keeps the function and its options. Each `Service` class has a `Call` class per method, made with
it: the number depends on the name of the service, and an inherited method belongs to each of its heirs.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from operator import attrgetter
from types import MethodType
from typing import Any, ClassVar, Concatenate, Generic, ParamSpec, Protocol, Self, TypeVar, overload

from packetwire.errors import RequestError
from packetwire.typed.annotations import Reader, default_of, field_of, hints_of, namespace_of_caller
from packetwire.typed.kinds import Record
from packetwire.typed.operation import Made, Operation
from packetwire.typed.request import TypedRequest

ServiceT = TypeVar("ServiceT")
ParametersT = ParamSpec("ParametersT")
ResultT = TypeVar("ResultT")
ResultT_co = TypeVar("ResultT_co", covariant=True)

CLIENT = "_packetwire_client"
"""The attribute that the clients which `Service.at` returns have, and services do not."""
CALLS = "_packetwire_calls"
"""The attribute of a service class with its `Call` classes by the names of methods."""


class Call(TypedRequest[ResultT_co]):
    """A call of a method that has not been made yet: `Shop.put("Emma")`. A `Client` makes it."""

    method_name: ClassVar[str]
    fields_class: ClassVar[type]
    is_async: ClassVar[bool] = False
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
        return cls(cls.fields_class(*args, **kwargs))

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
        names = [each.name for each in dataclasses.fields(self.fields)]
        return f"{self.operation.name}({', '.join(f'{name}={getattr(self.fields, name)!r}' for name in names)})"

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and isinstance(other, Call) and self.fields == other.fields

    __hash__ = None  # type: ignore[assignment]  # as a dataclass whose fields can change


class Method(Generic[ServiceT, ParametersT, ResultT]):
    """A function that `method` was given, with its options."""

    def __init__(
        self,
        function: Callable[Concatenate[ServiceT, ParametersT], ResultT],
        number: int | None,
        idempotent: bool,
        inline: bool,
        errors: Sequence[type[RequestError]],
        names: Mapping[str, Any],
    ) -> None:
        self.function = function
        self.number = number
        self.idempotent = idempotent
        self.inline = inline
        self.errors = tuple(errors)
        self.names = names
        self.__doc__ = function.__doc__
        self.__name__ = getattr(function, "__name__", "")

    def __set_name__(self, owner: type, name: str) -> None:
        self.__name__ = name

    @overload
    def __get__(self, instance: None, owner: type[Any]) -> Callable[ParametersT, Call[ResultT]]: ...

    @overload
    def __get__(self, instance: Any, owner: type[Any]) -> Callable[ParametersT, ResultT]: ...

    def __get__(self, instance: Any, owner: type[Any]) -> Any:
        if instance is None:
            call = getattr(owner, CALLS, {}).get(self.__name__)
            if call is None:
                raise TypeError(f"{owner.__name__} is no Service, so its method {self.__name__!r} cannot be called")
            return call.of
        client = vars(instance).get(CLIENT)
        if client is None:
            return MethodType(self.function, instance)
        return partial(_ask, client, getattr(owner, CALLS)[self.__name__])


def _ask(client: Any, call: type[Call[Any]], /, *args: Any, **kwargs: Any) -> Any:
    if call.is_async:
        raise TypeError(
            f"{call.operation.name} is an async def, which here would have to be awaited: "
            f"use do({call.operation.name}(...)) of a Client or an AsyncClient"
        )
    return client.do(call.of(*args, **kwargs))


class _Decorator(Protocol):
    def __call__(
        self, function: Callable[Concatenate[ServiceT, ParametersT], ResultT], /
    ) -> Method[ServiceT, ParametersT, ResultT]: ...


@overload
def method(
    function: Callable[Concatenate[ServiceT, ParametersT], ResultT], /
) -> Method[ServiceT, ParametersT, ResultT]: ...


@overload
def method(
    number: int | None = None,
    /,
    *,
    idempotent: bool = False,
    inline: bool = False,
    errors: Sequence[type[RequestError]] = (),
) -> _Decorator: ...


def method(
    number: Any = None,
    /,
    *,
    idempotent: bool = False,
    inline: bool = False,
    errors: Sequence[type[RequestError]] = (),
) -> Any:
    """Make a function in a `Service` class a method that clients can call; `@method` or `@method(3)`.

    The parameters and the result must have annotations. `number` is the request type, from 0 to 2**24 - 1; without
    one it is made of the names of the service and the method. An `idempotent` method may be called twice. One that
    is `inline` runs in the thread that reads. `errors` are the classes made by `@error` that it may raise, besides
    those of the service.
    """
    names = namespace_of_caller(2)
    if inspect.isfunction(number):
        return Method(number, None, False, False, (), names)

    def decorate(function: Any) -> Any:
        if not inspect.isfunction(function):
            raise TypeError(f"@method is for functions in the body of a Service class, got {function!r:.100}")
        return Method(function, number, idempotent, inline, errors, names)

    return decorate


# the Call class of a method


def call_class(
    service: type, service_name: str, name: str, found: Method[Any, Any, Any], errors: Sequence[type[RequestError]]
) -> type[Call[Any]]:
    """The `Call` class of a method of a service. Raises TypeError for parameters or results that cannot be sent."""
    place = f"{service_name}.{name}"
    parameters = _parameters(found.function, place)
    positional = [each.name for each in parameters if each.kind is not each.KEYWORD_ONLY]
    keywords = [each.name for each in parameters if each.kind is each.KEYWORD_ONLY]
    is_async = inspect.iscoroutinefunction(found.function)

    function, arguments_of = found.function, _getter(positional)

    def run(self: Call[Any], context: Any) -> Any:
        fields = self.fields
        if keywords:
            given = {each: getattr(fields, each) for each in keywords}
            return function(context, *arguments_of(fields), **given)
        return function(context, *arguments_of(fields))

    async def run_later(self: Call[Any], context: Any) -> Any:
        return await run(self, context)

    body: dict[str, Any] = {
        "__module__": service.__module__,
        "__doc__": found.__doc__ or f"A call of {place}.",
        "method_name": name,
        "inline": found.inline,
        "is_async": is_async,
        "is_idempotent": found.idempotent,
        "has_doc": bool(found.__doc__),
        "keywords": keywords,
        "fulfil": run_later if is_async else run,
    }
    made: type[Call[Any]] = type(place, (Call,), body)
    made.fields_class = fields_class = _fields_class(place, service.__module__, parameters)

    def make() -> Made:
        hints = hints_of(found.function, found.names)
        reader = Reader(found.names)
        fields = []
        for each in dataclasses.fields(fields_class):
            fields_class.__annotations__[each.name] = hints[each.name]  # for msgspec
            kind = reader.kind_of(hints[each.name], f"{place}, {each.name}")
            fields.append(field_of(each, kind))
        result = hints["return"]
        return fields_class, Record(fields_class, fields), result, reader.kind_of(result, f"the result of {place}")

    made.operation = Operation(place, found.number, [*found.errors, *errors], make)
    made.flags = made.operation.flags
    return made


def _getter(names: Sequence[str]) -> Callable[[Any], tuple[Any, ...]]:
    """Gets the values of these attributes."""
    if not names:
        return lambda fields: ()
    found: Callable[[Any], Any] = attrgetter(*names)
    return found if len(names) > 1 else lambda fields: (found(fields),)


_MAY_BE_SELF = inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD


def _parameters(function: Callable[..., Any], place: str) -> list[inspect.Parameter]:
    """The parameters behind `self`. Raises TypeError if something is wrong with the function's signature."""
    signature = inspect.signature(function)
    parameters = list(signature.parameters.values())
    if not parameters or parameters[0].kind not in _MAY_BE_SELF:
        raise TypeError(f"{place}: has no self as its first parameter")
    del parameters[0]
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(f"{place}: yields a body of items, which typed requests do not have yet: return a list")
    for each in parameters:
        if each.kind in (each.VAR_POSITIONAL, each.VAR_KEYWORD):
            stars = "*" if each.kind is each.VAR_POSITIONAL else "**"
            raise TypeError(f"{place}: {stars}{each.name} has no fixed names; make it a list or a dict")
        if each.annotation is each.empty:
            raise TypeError(f"{place}, {each.name}: has no annotation, so its kind is not known")
    if signature.return_annotation is signature.empty:
        raise TypeError(f"{place}: has no annotation of its result; write -> None if it has none")
    return parameters


def _fields_class(place: str, module: str, parameters: Sequence[inspect.Parameter]) -> type:
    """A dataclass of the parameters: its `__init__` takes arguments as the method does."""
    fields: list[Any] = []
    for each in parameters:
        options: dict[str, Any] = {"kw_only": each.kind is each.KEYWORD_ONLY}
        if each.default is not each.empty:
            options |= default_of(each.default)
        fields.append((each.name, Any, dataclasses.field(**options)))
    made = dataclasses.make_dataclass("Arguments", fields)
    made.__module__, made.__qualname__ = module, place
    made.__init__.__qualname__ = place  # type: ignore[misc]  # which errors of Python's name
    return made

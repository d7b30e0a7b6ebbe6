"""`method`: a method of a service, which at the class makes calls and at an object runs.

Strategy. `method` keeps the function and its options. Each `Service` class has a `Call` class per method, made with
it: the number depends on the name of the service, which heirs have from the class that has the methods.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from operator import attrgetter
from types import MethodType
from typing import Any, Concatenate, Generic, NamedTuple, ParamSpec, Protocol, TypeVar, overload

from packetwire.core.requests import HandlerResult
from packetwire.errors import RequestError
from packetwire.typed.annotations import (
    Reader,
    default_of,
    field_of,
    hints_of,
    is_async_stream,
    namespace_of_caller,
)
from packetwire.typed.call import Call
from packetwire.typed.kinds import Record
from packetwire.typed.operation import Made, Operation

ServiceT = TypeVar("ServiceT")
ParametersT = ParamSpec("ParametersT")
ResultT = TypeVar("ResultT")

CLIENT = "_packetwire_client"
"""The attribute that the clients which `Service.at` returns have, and services do not."""
CALLS = "_packetwire_calls"
"""The attribute of a service class with its `Call` classes by the names of methods."""


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
        self.replaces = False
        """True for a function that takes the place of a base's method."""
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
    if call.is_coroutine or (call.is_async and call.operation.items_out is not None):
        raise TypeError(
            f"{call.operation.name} is asynchronous, so here it would have to be awaited: "
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

    def decorate(function: object) -> object:
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
    parameters = _parameters(found, place)
    keywords = [each.name for each in parameters if each.kind is each.KEYWORD_ONLY]
    is_coroutine = inspect.iscoroutinefunction(found.function)
    streams = _streams_of(found, parameters, place)
    run = _runner(found.function, parameters, streams.parameter)

    async def run_later(self: Call[object], context: object) -> object:
        return await run(self, context)

    body: dict[str, object] = {
        "__module__": service.__module__,
        "__doc__": found.__doc__ or f"A call of {place}.",
        "method_name": name,
        "inline": found.inline,
        "is_async": is_coroutine or streams.is_async,
        "is_coroutine": is_coroutine,
        "has_streams": streams.parameter is not None or streams.has_result,
        "streamed": streams.parameter,
        "is_idempotent": found.idempotent,
        "has_doc": bool(found.__doc__),
        "keywords": keywords,
        "fulfil": run_later if is_coroutine else run,
    }
    if streams.parameter is not None or streams.has_result:
        body["_answer"] = _answer_with_streams
    made: type[Call[object]] = type(place, (Call,), body)
    plain = [each for each in parameters if each.name != streams.parameter]
    made.fields_class = fields_class = _fields_class(place, service.__module__, plain)
    made.arguments_class = (
        fields_class if streams.parameter is None else _fields_class(place, service.__module__, parameters)
    )

    def make() -> Made:
        hints = hints_of(found.function, found.names)
        reader = Reader(found.names)
        fields = []
        for each in dataclasses.fields(fields_class):
            fields_class.__annotations__[each.name] = hints[each.name]  # for msgspec
            kind = reader.kind_of(hints[each.name], f"{place}, {each.name}")
            fields.append(field_of(each, kind))
        result, of_result = hints["return"], f"the result of {place}"
        read = partial(reader.stream_of, is_result=True) if streams.has_result else reader.kind_of
        name, streamed = streams.parameter, None
        if name is not None:
            streamed = name, reader.stream_of(hints[name], f"{place}, {name}", is_result=False)
        return Made(fields_class, Record(fields_class, fields), result, read(result, of_result), streamed)

    made.operation = Operation(place, found.number, [*found.errors, *errors], make)
    made.flags = made.operation.flags
    return made


def _answer_with_streams(self: Call[object], context: object) -> HandlerResult:
    from packetwire.typed.answering import answer  # only who has streams needs it

    return answer(self, context)


def _getter(names: Sequence[str]) -> Callable[[object], tuple[object, ...]]:
    """Gets the values of these attributes."""
    if not names:
        return lambda fields: ()
    found: Callable[[Any], Any] = attrgetter(*names)
    return found if len(names) > 1 else lambda fields: (found(fields),)


def _runner(
    function: Callable[..., object], parameters: Sequence[inspect.Parameter], streamed: str | None
) -> Callable[[Call[Any], Any], Any]:
    """Calls the function with the fields of a call, and its items."""
    positional = [each.name for each in parameters if each.kind is not each.KEYWORD_ONLY]
    keywords = [each.name for each in parameters if each.kind is each.KEYWORD_ONLY]
    arguments_of = _getter(positional)

    def run(self: Call[object], context: object) -> object:
        fields = self.fields
        if keywords:
            given = {each: getattr(fields, each) for each in keywords}
            return function(context, *arguments_of(fields), **given)
        return function(context, *arguments_of(fields))

    def run_with_items(self: Call[object], context: object) -> object:
        def value(name: str) -> object:  # a default may be the class's
            return self.items if name == streamed else getattr(self.fields, name)

        return function(context, *map(value, positional), **{each: value(each) for each in keywords})

    return run if streamed is None else run_with_items


class _Streams(NamedTuple):
    """The streams of a method: the name of the parameter, and whether the result is one."""

    parameter: str | None
    has_result: bool
    is_async: bool


def _streams_of(found: Method[Any, Any, Any], parameters: Sequence[inspect.Parameter], place: str) -> _Streams:
    """Raises TypeError if a method cannot have these streams."""
    function = found.function
    streamed = [(each, is_async_stream(each.annotation)) for each in parameters]
    names = [each.name for each, kind in streamed if kind is not None]
    if len(names) > 1:
        raise TypeError(f"{place}: {' and '.join(names)} are streams of items, of which a method can take one")
    result = is_async_stream(inspect.signature(function).return_annotation)
    if result is None and (inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)):
        raise TypeError(f"{place}: yields items, so its result is an Iterator[…] or AsyncIterator[…] of them")
    is_coroutine = inspect.iscoroutinefunction(function)
    if is_coroutine and result is not None:
        raise TypeError(f"{place}: is an async def that yields nothing, so its result is no iterator")
    is_async = is_coroutine or bool(result)
    for each, kind in streamed:
        if kind is None:
            continue
        if kind is not is_async:
            better, where = ("AsyncIterator", "an event loop") if is_async else ("Iterator", "a thread")
            raise TypeError(f"{place}, {each.name}: the method runs in {where}: write {better}[…]")
        if each.default is not each.empty:
            raise TypeError(f"{place}, {each.name}: a stream of items has no default")
    if found.inline and (names or result is not None):
        raise TypeError(f"{place}: is inline, so it cannot wait for items")
    return _Streams(names[0] if names else None, result is not None, is_async)


_MAY_BE_SELF = inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD


def _parameters(found: Method[Any, Any, Any], place: str) -> list[inspect.Parameter]:
    """The parameters behind `self`. Raises TypeError if something is wrong with the function's signature."""
    signature = inspect.signature(found.function)
    repeat = f"; it replaces a base's {found.__name__}, whose annotations it repeats" if found.replaces else ""
    parameters = list(signature.parameters.values())
    if not parameters or parameters[0].kind not in _MAY_BE_SELF:
        raise TypeError(f"{place}: has no self as its first parameter")
    del parameters[0]
    for each in parameters:
        if each.kind in (each.VAR_POSITIONAL, each.VAR_KEYWORD):
            stars = "*" if each.kind is each.VAR_POSITIONAL else "**"
            raise TypeError(f"{place}: {stars}{each.name} has no fixed names; make it a list or a dict")
        if each.annotation is each.empty:
            raise TypeError(f"{place}, {each.name}: has no annotation, so its kind is not known{repeat}")
    if signature.return_annotation is signature.empty:
        raise TypeError(f"{place}: has no annotation of its result; write -> None if it has none{repeat}")
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

"""Mistakes in handlers and request maps: found where these are given, and it is said what to do."""

from __future__ import annotations

from enum import IntEnum
from functools import partial
from typing import Any

import pytest

from packetwire import BaseRequest, LocalProtocolError, Responder
from packetwire.core.mistakes import check_handler, check_request_map
from packetwire.core.requests import HasRequestMap, response_parts


class Get(BaseRequest[None]):
    @classmethod
    def from_bytes(cls, bs: bytes) -> Get:
        return cls()

    def fulfil(self, context: Any) -> Any:
        return None


class Sub(Get):
    pass


class Generates(Get):
    def fulfil(self, context: Any) -> Any:
        yield b""


class Empty(BaseRequest[None]):
    pass


class Whole(BaseRequest[None]):
    """It decodes flags and payload by itself."""

    @classmethod
    def from_request_payload(cls, flags: int, payload: bytes) -> Whole:
        return cls()


class Numbers(IntEnum):
    GET = 5


class Store(HasRequestMap):
    def __init__(self, requests: Any) -> None:
        self._keep_request_map(requests)


@pytest.mark.parametrize(
    "requests", [{}, {0: Get, 1: Sub}, {Numbers.GET: Whole}, {(1 << 63) - 2: Get}, {1: Generates}]
)
def test_maps_that_are_right(requests: Any) -> None:
    check_request_map(requests, BaseRequest)


@pytest.mark.parametrize(
    ("requests", "text"),
    [
        (None, "rq_type_map must be a mapping of numbers to request classes, such as {0: Put}, got NoneType: None"),
        ([Get], "rq_type_map must be a mapping of numbers to request classes, such as {0: Put}, got list: ["),
        ({"1": Get}, "rq_type_map: a request type must be an int, got str: '1'"),
        ({True: Get}, "rq_type_map: a request type must be an int, got bool: True"),
        ({-1: Get}, f"rq_type_map: a request type must be from 0 to {(1 << 63) - 2}, got -1"),
        ({1 << 63: Get}, f"rq_type_map: a request type must be from 0 to {(1 << 63) - 2}, got {1 << 63}"),
        ({1: Get, 2: Get}, "rq_type_map has Get as 1 and as 2: a request can be sent as one only"),
        ({1: Get()}, "rq_type_map: 1 must be a subclass of BaseRequest, give it the class Get, not <"),
        ({1: 5}, "rq_type_map: 1 must be a subclass of BaseRequest, got 5"),
        ({1: int}, "rq_type_map: 1 must be a subclass of BaseRequest, got int"),
    ],
)
def test_maps_that_are_wrong(requests: Any, text: str) -> None:
    with pytest.raises((TypeError, LocalProtocolError)) as caught:
        Store(requests)
    assert str(caught.value).startswith(text)


def test_a_class_that_has_no_payload() -> None:
    if not hasattr(BaseRequest, "from_bytes"):
        with pytest.raises(TypeError, match="Empty has neither from_bytes nor __bytes__, for its payload"):
            Store({1: Empty})


def test_a_class_instead_of_a_request() -> None:
    with pytest.raises(TypeError, match=r"^Get is a class: make a request of it, Get\(…\)$"):
        Store({1: Get})._rq_type_of(Get)  # type: ignore[arg-type]


def test_a_forgotten_call_of_the_base() -> None:
    class Forgets(Store):
        def __init__(self) -> None:
            pass

    with pytest.raises(AttributeError, match="Forgets has no 'conn': its __init__ must call super"):
        Forgets().conn  # type: ignore[attr-defined]  # noqa: B018
    with pytest.raises(AttributeError, match="'Forgets' object has no attribute 'other'"):
        Forgets().other  # type: ignore[attr-defined]  # noqa: B018

    class Asks:
        def __getattr__(self, name: str) -> str:
            return f"the other base has {name}"

    class Both(Forgets, Asks):
        pass

    assert Both().other == "the other base has other"
    assert not hasattr(Both(), "conn")


def handle(rq_type: int, flags: int, payload: bytes) -> bytes:
    return payload


async def generate_later(rq_type: int, flags: int, payload: bytes) -> Any:
    yield payload


async def handle_later(rq_type: int, flags: int, payload: bytes) -> bytes:
    return payload


def generate(rq_type: int, flags: int, payload: bytes) -> Any:
    yield payload


class Handler:
    def __call__(self, rq_type: int, flags: int, payload: bytes) -> bytes:
        return payload

    async def later(self, rq_type: int, flags: int, payload: bytes) -> bytes:
        return payload


class LaterHandler:
    async def __call__(self, rq_type: int, flags: int, payload: bytes) -> bytes:
        return payload


class Reply(bytes):
    """A class whose objects are results."""


@pytest.mark.parametrize(
    "handler", [None, handle, generate, partial(handle, 1), Handler(), Handler().__call__, Reply, print]
)
def test_handlers_that_are_right(handler: Any) -> None:
    check_handler(handler, runs_coroutines=False)


@pytest.mark.parametrize(
    ("handler", "text"),
    [
        (5, "request_handler must be a function of (rq_type, flags, payload), got int: 5"),
        (Handler, "request_handler is the class Handler: give it an object, or a method of one"),
        (Responder, "request_handler is the class Responder: give it an object, or a method of one"),
    ],
)
def test_handlers_that_are_wrong(handler: Any, text: str) -> None:
    for runs_coroutines in (False, True):
        with pytest.raises(TypeError) as caught:
            check_handler(handler, runs_coroutines=runs_coroutines)
        assert str(caught.value) == text


@pytest.mark.parametrize(
    "handler", [handle_later, generate_later, partial(handle_later), Handler().later, LaterHandler()]
)
def test_coroutine_functions_are_for_event_loops(handler: Any) -> None:
    check_handler(handler, runs_coroutines=True)
    with pytest.raises(TypeError, match="is an async def, which threads do not run: use AsyncPacketConnection"):
        check_handler(handler, runs_coroutines=False)


def test_a_coroutine_as_a_result() -> None:
    with pytest.raises(
        TypeError, match=r"^handle_later is an async def, which a connection with threads does not run"
    ):
        response_parts(handle_later(0, 0, b""))

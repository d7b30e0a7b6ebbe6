"""The table of a service's request classes: from the number on the wire to the class, and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from packetwire import BaseRequest, LocalProtocolError
from packetwire.core.requests import HasRequestMap


@dataclass
class Add(BaseRequest[None]):
    data: bytes

    @classmethod
    def from_bytes(cls, bs: bytes) -> Add:
        return cls(bs)

    def fulfil(self, context: Any) -> Any:
        return context, self.flags, self.data


class Get(Add):
    pass


class Stranger(Add):
    """In no table."""


class Store(HasRequestMap):
    def __init__(self, rq_type_map: dict[int, type[BaseRequest[Any]]]) -> None:
        self._keep_request_map(rq_type_map)


def test_a_request_that_came_in_is_decoded_and_fulfilled_with_the_service_as_its_context() -> None:
    store = Store({0: Add, 9: Get})
    assert store.conn_handle_request(9, 5, b"abc") == (store, 5, b"abc")


def test_a_type_that_is_not_in_the_table() -> None:
    with pytest.raises(LocalProtocolError, match=r"^unknown request type 1; known are 0: Add, 9: Get$"):
        Store({0: Add, 9: Get}).conn_handle_request(1, 0, b"")


def test_the_number_of_a_request() -> None:
    store = Store({0: Add, 9: Get})
    assert store._rq_type_of(Add(b"")) == 0
    assert store._rq_type_of(Get(b"")) == 9


def test_a_request_whose_class_is_not_in_the_table() -> None:
    """Not even a subclass of one that is: the far end would decode another class."""
    with pytest.raises(
        LocalProtocolError, match=r"^Stranger is not in the rq_type_map of Store; registered are Add, Get$"
    ) as caught:
        Store({0: Add, 9: Get})._rq_type_of(Stranger(b""))
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_the_table_is_a_copy() -> None:
    given: dict[int, type[BaseRequest[Any]]] = {0: Add}
    store = Store(given)
    given[1] = Get
    assert store.conn_rq_class_by_type == {0: Add}
    assert store.conn_type_by_rq_class == {Add: 0}

"""Typed requests to and from the reference, for which they are requests with some bytes."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from exchange import ECHO
from reference_process import ReferencePeer

from packetwire import RequestError
from packetwire.typed import Client, Request, Service, error, method

pytestmark = pytest.mark.timeout(60, func_only=True)


@dataclass
class Item:
    title: str
    tags: list[str]


@error("refused")
class Refused(RequestError):
    pass


class Echo(Request[Item], number=ECHO):
    """The reference sends back what it got, and a map of these fields is an `Item`, too."""

    title: str
    tags: list[str]


class Shop(Service):
    @method(7, errors=[Refused])
    def find(self, title: str = "any") -> Item:
        if title == "none":
            raise Refused()
        return Item(title, [])


def test_the_far_end_is_the_reference(reference: ReferencePeer) -> None:
    with reference.serving(), Client(reference.recv_send) as client:
        assert client.do(Echo("Emma", ["ü"] * 300)) == Item("Emma", ["ü"] * 300)
        assert [item.title for item in client.map(Echo(str(n), []) for n in range(200))] == list(
            map(str, range(200))
        )


def test_the_reference_asks(reference: ReferencePeer) -> None:
    with Shop().session(reference.recv_send):
        reference.ask("open", False)
        assert reference.ask("call", 7, 0, b"") == (True, 0, b"\x82\xa5title\xa3any\xa4tags\x90")
        assert reference.ask("call", 7, 0, b"\x81\xa5title\xa4none") == (False, 0, b"refused")
        ok, _, text = reference.ask("call", 7, 0, b"\x81\xa5title\x05")
        assert (ok, text) == (False, b"packetwire.typed.badvalue.BadValue: $.title: expected str, got int")
        reference.ask("close")

"""Methods that take and yield items: both faces of the service, both faces of its client."""

from __future__ import annotations

import gc
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from packetwire import CapabilityMissing, DeadlineExceeded, PacketConnection, RequestFailed, RequestTimeout
from packetwire.core.varint import encode_varint
from packetwire.typed import BadValue, Client, ItemStream, Service, method
from packetwire.typed.items import NOTHING, ItemCodec, ItemDecoder
from packetwire.typed.msgpack import packed

from .streaming import WATCHDOG, AskingLater, Gone, Item, Listener, Streams, User, served, used

pytestmark = pytest.mark.timeout(90)

FACES = [(service, client) for service in ("threads", "loop") for client in ("threads", "loop")]
LATER = ["", "_later"]


class Ends:
    """A service, and a client of it."""

    def __init__(self, service: Streams, user: User) -> None:
        self.service = service
        self.client: Any = user.client
        self.do, self.read, self.begin = user.do, user.read, user.begin


@contextmanager
def connected(faces: tuple[str, str], near_options: Any = None, far_options: Any = None) -> Iterator[Ends]:
    near, far = socket.socketpair()
    service = Streams()
    with near, far, served(service, faces[0], far, far_options or {}):
        with used(faces[1], near, **(near_options or {})) as user:
            yield Ends(service, user)


@pytest.fixture(params=FACES, ids="-".join)
def ends(request: pytest.FixtureRequest) -> Iterator[Ends]:
    with connected(request.param) as found:
        yield found


@pytest.fixture(params=LATER, ids=["plain", "later"])
def later(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def call(name: str, later: str, *args: Any, **kwargs: Any) -> Any:
    return getattr(Streams, name + later)(*args, **kwargs)


def test_items_of_a_method(ends: Ends, later: str) -> None:
    assert ends.read(call("items", later, 300), []) == [Item("x" * size, size) for size in range(300)]
    assert ends.read(call("items", later, 0), []) == []


def test_items_for_a_method(ends: Ends, later: str) -> None:
    items = [Item("a", size) for size in range(300)]
    assert ends.do(call("total", later, "Emma", items)) == ("Emma", sum(range(300)))
    assert ends.do(call("total", later, "Emma", items=iter(())), deadline=30) == ("Emma", 0)

    async def coming() -> AsyncIterator[Item]:
        for item in items:
            yield item

    assert ends.do(call("total", later, "Emma", coming())) == ("Emma", sum(range(300)))


def test_both_at_a_time(ends: Ends, later: str) -> None:
    items = (Item("y" * 1000) for _ in range(2000))  # more than the windows of both
    assert ends.read(call("titles", later, items, prefix="z"), []) == ["z" + "y" * 1000] * 2000


def test_each_item_is_sent_as_it_comes(ends: Ends, later: str) -> None:
    """The next one depends on what came back."""
    found: list[str] = []
    come = threading.Semaphore(1)

    def questions() -> Iterator[Item]:
        for number in range(5):
            assert come.acquire(timeout=WATCHDOG)
            yield Item(str(number))

    class Found(list[str]):
        def append(self, each: str) -> None:
            found.append(each)
            come.release()

    async def asked() -> AsyncIterator[Item]:
        for number in range(5):
            yield Item(str(number))

    # an iterable that waits would stop an event loop, and what comes back in it
    source: Any = questions() if isinstance(ends.client, Client) else asked()
    ends.read(call("titles", later, source), Found())
    assert found == list("01234")


def test_an_error_comes_behind_the_items_before_it(ends: Ends, later: str) -> None:
    found: list[Item] = []
    with pytest.raises(Gone, match="^Emma is gone$"):
        ends.read(call("items", later, 500, fail=True), found)
    assert len(found) == 500
    with pytest.raises(Gone, match="^at once is gone$"):
        ends.read(call("refused", later), found)


def test_a_result_of_another_kind(ends: Ends, later: str) -> None:
    found: list[Item] = []
    with pytest.raises(RequestFailed, match=r"what its annotation says: \$\[2\]\.title: expected str, got int"):
        ends.read(call("lie", later), found)
    assert found == [Item("a"), Item("b")]


def test_an_item_of_another_kind(ends: Ends, later: str) -> None:
    wrong: Any = [Item("a"), Item("b", "big")]  # type: ignore[arg-type]
    with pytest.raises(BadValue, match=r"^\$\.items\[1\]\.size: expected int, got str$"):
        ends.do(call("total", later, "Emma", wrong))
    with pytest.raises(BadValue, match=r"^\$\.items\[1\]\.size: expected int, got str$"):
        ends.read(call("titles", later, wrong), [])
    with pytest.raises(BadValue, match=r"^\$\.data\[0\]: expected bytes, got str$"):
        ends.read(call("upper", later, ["a"]), [])
    assert ends.do(call("total", later, "goes on", [])) == ("goes on", 0)


def test_a_source_that_fails(ends: Ends, later: str) -> None:
    def items() -> Iterator[Item]:
        yield Item("a")
        raise KeyError("lost")

    for name, *args in ("total", "Emma"), ("titles",):
        with pytest.raises(KeyError, match="lost"):
            ends.do(call(name, later, *args, items())) if args else ends.read(call(name, later, items()), [])


def test_bytes_are_sent_as_they_are(ends: Ends, later: str) -> None:
    found = ends.read(call("upper", later, [b"ab", bytearray(b"c"), memoryview(b"d")]), [])
    assert b"".join(found) == b"ABCD"


def test_closing_early_stops_the_far_generator(ends: Ends, later: str) -> None:
    assert len(ends.read(call("endless", later), [], most=3)) == 3
    assert ends.service.closed.wait(WATCHDOG)


def test_closing_early_wakes_a_method_that_waits(ends: Ends, later: str) -> None:
    items = ends.begin(call("stuck", later))
    assert ends.service.waits.wait(WATCHDOG) or items
    del items
    gc.collect()
    assert ends.service.closed.wait(WATCHDOG)


def test_a_reader_that_is_slow_holds_the_writer(ends: Ends, later: str) -> None:
    """It is ahead by a window of a quarter of a MiB here, and as much there."""
    ends.read(call("endless", later), [], most=1)
    assert ends.service.closed.wait(WATCHDOG)
    assert ends.service.yielded < 200


def test_a_method_that_wants_no_more(ends: Ends, later: str) -> None:
    def numbers() -> Iterator[int]:
        while True:
            yield 7

    assert ends.do(call("first", later, numbers())) == 7


def test_long_items(ends: Ends, later: str) -> None:
    sizes = [0, 3_000_000, 1, 127, 128, 1_000_000]
    assert list(map(len, ends.read(call("big", later, sizes), []))) == sizes


def test_an_item_is_bounded() -> None:
    with connected(("threads", "threads"), {"max_packet_size": 100_000}) as ends:
        found: list[str] = []
        with pytest.raises(BadValue, match=r"^\$\[1\]: has 200005 bytes, more than 100000$"):
            ends.read(Streams.big([50_000, 200_000]), found)
        assert len(found[0]) == 50_000


def test_both_ends_can_ask() -> None:
    near, far = socket.socketpair()
    with near, far, Streams().serve(far), Client(near, serves=Listener()) as client:
        assert list(client.do(Streams.asking())) == [0, 2, 4]
    near, far = socket.socketpair()
    with near, far, served(AskingLater(), "loop", far, {}), used("loop", near, serves=Listener()) as user:
        assert user.read(AskingLater.asking(), []) == [0, 2, 4]


@pytest.mark.parametrize("faces", FACES, ids="-".join)
def test_time_limits(faces: tuple[str, str]) -> None:
    with connected(faces) as ends:
        for later in LATER:
            with pytest.raises(DeadlineExceeded):
                ends.read(call("endless", later), [], deadline=0.1)
            with pytest.raises(RequestTimeout, match=r"the peer has sent nothing for 0\.1 s"):
                ends.read(call("stuck", later), [], body_timeout=0.1)


@pytest.mark.parametrize("faces", FACES, ids="-".join)
def test_a_peer_without_bodies(faces: tuple[str, str]) -> None:
    with connected(faces, far_options={"capabilities": "off"}) as ends:
        with pytest.raises(CapabilityMissing, match="a request with a body: the peer has no capabilities"):
            ends.read(Streams.items(3), [])
        with pytest.raises(CapabilityMissing, match="a request with a body: the peer has no capabilities"):
            ends.do(Streams.total("Emma", []))


def test_a_stream_that_nobody_holds_is_given_up(ends: Ends, later: str) -> None:
    ends.begin(call("endless", later))
    gc.collect()
    assert ends.service.closed.wait(WATCHDOG)


def test_the_client_of_a_service() -> None:
    near, far = socket.socketpair()
    with near, far, Streams().serve(far), Streams.at(near) as shop:
        assert list(shop.items(2)) == [Item("", 0), Item("x", 1)]
        assert shop.total("Emma", [Item("a", 5)]) == ("Emma", 5)
        items = shop.titles(iter([Item("a"), Item("b")]))
        assert isinstance(items, ItemStream)
        assert next(items) == "a"
        items.close()
        items.close()
        assert list(items) == []
        with pytest.raises(TypeError, match="Streams.items_later is asynchronous"):
            shop.items_later(2)


def test_calls_with_streams_are_values() -> None:
    items = [Item("a")]
    made = Streams.titles(iter(items), prefix="x")
    assert repr(made) == "Streams.titles(prefix='x', items=…)"
    assert bytes(made) == packed({"prefix": "x"})
    assert Streams.total("a", items) == Streams.total("a", items) != Streams.total("a", [])
    with pytest.raises(TypeError, match="items"):
        Streams.total("a")  # type: ignore[call-arg]


def test_they_are_called_by_do_only(ends: Ends) -> None:
    client = ends.client
    for ask in client.submit, client.conn_stream:
        with pytest.raises(TypeError, match="has a stream of items, so it is called by do"):
            ask(Streams.items(1))


# what comes, byte by byte


@pytest.fixture
def conn() -> Iterator[PacketConnection]:
    near, far = socket.socketpair()
    with near, far, Streams().serve(far), PacketConnection(near) as found:
        yield found


EMPTY = packed({})
A = packed({"title": "a", "size": 1})


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"\x05" + A[:4], "$.items[0]: the body ends within it"),
        (bytes((len(A),)) + A + b"\x80", "$.items[1]: the body ends within it"),
        (bytes((len(A),)) + A + b"\x00", "$.items[1]: the payload ends within a value"),
        (b"\x03" + packed({"a": 1}), "$.items[0]: the payload ends within a value"),
        (b"\x01\x80", "$.items[0]: the field 'title' of Item is missing"),
        (b"\xff" * 8, "$.items[0]: the length before it does not end"),
        (encode_varint(1 << 40), "$.items[0]: has 1099511627776 bytes, more than"),
    ],
)
@pytest.mark.parametrize("rq_type", [2, 22])
def test_items_that_are_none(conn: PacketConnection, rq_type: int, body: bytes, text: str) -> None:
    ok, _, payload = conn(rq_type, packed({"name": "Emma"}), body=body)
    assert not ok
    assert text in payload.decode()


def test_the_bytes_on_the_wire(conn: PacketConnection) -> None:
    item = bytes((len(A),)) + A
    with conn.stream(3, EMPTY) as stream:
        for n in range(len(item)):
            stream.write(item[n : n + 1])
        stream.write(item)
        stream.finish()
        assert stream.read() == b"\x02\xa1a\x02\xa1a"
        assert stream.result() == (True, 0, b"")
    assert conn(2, packed({"name": "Emma"}), body=item * 2) == (True, 0, packed(["Emma", 2]))


def test_a_caller_without_bodies(conn: PacketConnection) -> None:
    item = packed({"title": "", "size": 0})
    assert conn(1, packed({"count": 1})) == (True, 0, bytes((len(item),)) + item)
    ok, _, payload = conn(2, packed({"name": "Emma"}))
    assert (ok, payload) == (False, b"Streams.total: items comes as a body, but this request has none")


def test_a_handler_where_the_connection_is_read() -> None:
    with connected(("loop", "threads"), far_options={"handlers": "inline"}) as ends:
        with pytest.raises(RequestFailed, match="Streams.total cannot wait for items where the connection is read"):
            ends.do(Streams.total("Emma", []))


class Numbers(Service):
    @method
    def count(self, numbers: Iterator[int | None]) -> None: ...

    @method
    def late(self, items: Iterator[Late]) -> Iterator[Late]:
        yield from items


class Late(Item):
    """A class that comes behind the service."""


def test_a_class_that_comes_later() -> None:
    near, far = socket.socketpair()
    with near, far, Numbers().serve(far), Client(near) as client:
        assert list(client.do(Numbers.late(iter([Late("a")])))) == [Late("a")]


def test_a_body_that_is_cut_anywhere() -> None:
    codec = Numbers.count(iter(())).operation.items_in
    assert isinstance(codec, ItemCodec)
    values = [0, None, 1 << 40, 5]
    body = b"".join(codec.encode(n, value) for n, value in enumerate(values))
    for size in range(1, len(body) + 1):
        decoder, found = ItemDecoder(codec, 100), []
        for begin in range(0, len(body), size):
            decoder.feed(body[begin : begin + size])
            while (item := decoder.next()) is not NOTHING:
                found.append(item)
        decoder.finish()
        assert found == values

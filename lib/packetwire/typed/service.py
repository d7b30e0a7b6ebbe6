"""`Service`: a class whose methods can be called over a connection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Self

from packetwire.addresses import Address
from packetwire.core.requests import BaseRequest
from packetwire.errors import RequestError
from packetwire.listeners import Listener, is_for_strangers
from packetwire.streams.open import PacketConnectionRecvSend
from packetwire.typed.call import Call
from packetwire.typed.methods import CALLS, CLIENT, Method, call_class

if TYPE_CHECKING:
    from packetwire._async.typedcalls import AsyncServiceSession
    from packetwire._sync.typedcalls import Client, ServiceSession
    from packetwire.aio.opening import AsyncRecvSend
    from packetwire.aio.server import AsyncServer
    from packetwire.server import Server
    from packetwire.typed.serving import AsyncServedStream, ServedStream

_DESCRIPTION = "_packetwire_description"
"""The attribute of a class that keeps what it is described as."""


class Service:
    """A class whose methods with `@method` can be called over a connection.

        class Shop(Service, version="1.4"):
            @method(1)
            def put(self, title: str, tags: list[str] = []) -> int: ...

    At the class a method makes a `Call`: `Shop.put("Emma")`, for a `Client`. At an object it is the method itself.
    `name` is that of the class unless it is given, `version` is for people. `errors` are the classes made by
    `@error` that each method may raise. A class raises TypeError when it is made, if two of its methods have the
    same number, or if something cannot be sent.

    A class that inherits methods is the same service: it has the name, and so the numbers, and the errors of the
    class that they come from. So clients can have a module in which methods are declared, and heirs implement them.
    """

    service_name: ClassVar[str] = ""
    service_version: ClassVar[str] = ""
    service_errors: ClassVar[tuple[type[RequestError], ...]] = ()

    def __init_subclass__(
        cls, *, version: str = "", name: str | None = None, errors: Sequence[type[RequestError]] = (), **kwargs: Any
    ) -> None:
        super().__init_subclass__(**kwargs)
        if CLIENT in cls.__dict__:
            return  # the class of its clients, see `_client_class`
        base = _base_of(cls)
        cls.service_name = name if name is not None else cls.__name__ if base is None else base.service_name
        cls.service_version = version
        if not (isinstance(cls.service_name, str) and cls.service_name and isinstance(version, str)):
            raise TypeError(f"{cls.__name__}: the name and the version of a service are strings")
        if cls.__dict__.get("__slots__") is not None:
            raise TypeError(f"{cls.__name__}: a service cannot have __slots__")
        cls.service_errors = (*errors, *(() if base is None else base.service_errors))
        calls: dict[str, type[Call[object]]] = {}
        setattr(cls, CALLS, calls)
        for found_name, found in _methods_of(cls).items():
            calls[found_name] = call_class(cls, cls.service_name, found_name, found, cls.service_errors)
        _check_numbers(cls, calls)

    @classmethod
    def request_map(cls) -> dict[int, type[BaseRequest[Any]]]:
        """Its requests by their types, as an `rq_type_map`."""
        return {call.operation.number: call for call in calls_of(cls).values()}

    @classmethod
    def schema(cls) -> dict[str, Any]:
        """Its methods and types as values that JSON can hold: `packetwire describe` shows and compares them."""
        from packetwire.typed.schema import schema_of

        return schema_of(cls.service_name, cls.service_version, cls.__doc__ or "", calls_of(cls))

    @classmethod
    def schema_hash(cls) -> str:
        """The SHA-256 of its schema in hexadecimal, without documentation and versions."""
        from packetwire.typed.schema import hash_of

        return hash_of(cls.schema())

    @classmethod
    def description(cls) -> bytes:
        """Its schema as JSON, as a connection tells it to whoever asks by `describe`."""
        known: bytes | None = cls.__dict__.get(_DESCRIPTION)
        if known is None:
            import json

            known = json.dumps(cls.schema(), separators=(",", ":"), ensure_ascii=False).encode()
            setattr(cls, _DESCRIPTION, known)
        return known

    # its clients

    @classmethod
    def at(cls, where: str | Address | PacketConnectionRecvSend, **connection: Any) -> Self:
        """A client with the methods of this class, for `with`: they run where the service is.

            with Shop.at("ssh:host python3 -m shop") as shop:
                shop.put("Emma")

        `where` is an address, as for `connect_to`, or a stream, as for `PacketConnection`; further arguments go to
        that. For time limits and many calls at a time, see `Client`; `client_of(shop)` is the one behind it.
        """
        from packetwire._sync.typedcalls import Client

        made: Self = object.__new__(_client_class(cls))
        vars(made)[CLIENT] = Client(where, **connection)
        return made

    def __enter__(self) -> Self:
        client_of(self).__enter__()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        client_of(self).__exit__(exc_type, exc, traceback)

    # serving

    def session(self, recv_send: PacketConnectionRecvSend, **connection: Any) -> ServiceSession:
        """The service on one stream: a `HasPacketConnection`. It is a factory for `packetwire.serve`."""
        from packetwire._sync.typedcalls import ServiceSession

        return ServiceSession(recv_send, self, **connection)

    def async_session(self, recv_send: AsyncRecvSend, **connection: Any) -> AsyncServiceSession:
        """The same in an event loop: a factory for `packetwire.aserve`."""
        from packetwire._async.typedcalls import AsyncServiceSession

        return AsyncServiceSession(recv_send, self, **connection)

    def serve(
        self,
        where: str | Address | Listener | PacketConnectionRecvSend,
        *,
        connection: Mapping[str, Any] | None = None,
        describe: bool | None = None,
        **options: Any,
    ) -> Server | ServedStream:
        """Serve this object at an address, or on one stream; returns as soon as clients can connect.

            Shop().serve(stdio()).wait()

            with Shop().serve("unix:/run/shop.sock") as server:
                server.wait()

        All clients share this object, and up to four methods of each run at a time: whatever it keeps needs a lock.
        The returned object has `wait` and `stop`, and is a context manager, as the `Server` that it is for an
        address. `connection` has options of `PacketConnection`; further arguments go to `packetwire.serve`.

        A client that asks is told the schema, unless `describe` is False, as it is by itself at `tcp:` and ZMQ
        addresses, where anybody may ask.
        """
        from packetwire.typed.serving import serve_at

        return serve_at(self, where, self._connection_at(where, connection, describe), options)

    async def aserve(
        self,
        where: str | Address | Listener | AsyncRecvSend,
        *,
        connection: Mapping[str, Any] | None = None,
        describe: bool | None = None,
        **options: Any,
    ) -> AsyncServer | AsyncServedStream:
        """The same in the running event loop: methods that are `async def` run in it, others in threads."""
        from packetwire.typed.serving import aserve_at

        return await aserve_at(self, where, self._connection_at(where, connection, describe), options)

    def _connection_at(
        self, where: object, connection: Mapping[str, object] | None, describe: bool | None
    ) -> dict[str, object]:
        """The options of its connections."""
        if describe is None:
            describe = not is_for_strangers(where)
        return {**({"description": self.description()} if describe else {}), **(connection or {})}


def calls_of(service: type[Service]) -> Mapping[str, type[Call[Any]]]:
    """The `Call` classes of a service by the names of its methods."""
    calls: Mapping[str, type[Call[object]]] = getattr(service, CALLS, {})
    return calls


def _base_of(cls: type) -> type[Service] | None:
    """The class that a service has its methods from; None if it inherits none."""
    for base in cls.__mro__[1:]:
        if issubclass(base, Service) and calls_of(base):
            return base
    return None


def _methods_of(cls: type) -> dict[str, Method[Any, Any, Any]]:
    """The methods of a service, those of its bases first; a function without `@method` takes the place of one."""
    found: dict[str, Method[Any, Any, Any]] = {}
    for base in reversed(cls.__mro__):
        for name, value in list(vars(base).items()):
            if isinstance(value, Method):
                found[name] = value
            elif name in found and callable(value):
                former = found[name]
                replacing: Method[Any, Any, Any] = Method(
                    value, former.number, former.idempotent, former.inline, former.errors, former.names
                )
                replacing.__name__ = name
                replacing.replaces = True
                found[name] = replacing
                setattr(base, name, replacing)
            elif name in found:
                raise TypeError(f"{cls.__name__}.{name}: is a method in a base and {value!r:.60} here")
    for name in found:
        if name in _OF_THE_SERVICE:
            raise TypeError(f"{cls.__name__}.{name}: each service has a {name!r} of its own: rename the method")
    return found


_OF_THE_SERVICE = frozenset(name for name in vars(Service) if not name.startswith("__"))


def _check_numbers(cls: type, calls: Mapping[str, type[Call[object]]]) -> None:
    by_number: dict[int, str] = {}
    for name, call in calls.items():
        number = call.operation.number
        other = by_number.setdefault(number, name)
        if other != name:
            which = "have the number" if call.operation.is_numbered else "have names that make the number"
            raise TypeError(f"{cls.__name__}: {other} and {name} {which} {number}: give one of them another number")


def _client_class(cls: type[Any]) -> type[Any]:
    """A class for the clients of a service: an object of it has no state of the service's."""

    def __getattr__(self: object, name: str) -> object:  # noqa: N807
        raise AttributeError(
            f"this is a client of {cls.__name__}, which has its methods only: {name!r} is none of them",
            name=name,
            obj=self,
        )

    def __repr__(self: object) -> str:  # noqa: N807
        return f"<{cls.__name__} at {vars(self)[CLIENT].conn.name}>"

    body = {
        "__getattr__": __getattr__,
        "__repr__": __repr__,
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
        "__enter__": Service.__enter__,
        "__exit__": Service.__exit__,
        CLIENT: None,
    }
    return type(cls.__name__, (cls,), body)


def client_of(shop: Service) -> Client:
    """The `Client` behind what `Service.at` returned. Raises TypeError for a service itself."""
    client: Client | None = vars(shop).get(CLIENT)
    if client is None:
        raise TypeError(f"this is the service {type(shop).__name__} itself: its clients are made by .at(...)")
    return client

"""The messages of hololinked 0.3: five frames, the third of which is a header in JSON.

    message = RequestMessage(frames)            # raises InvalidMessage, with the reason
    message.operation, message.payload.deserialize()
    ResponseMessage.craft_reply_from_request(message, SerializableData(5)).byte_array

A message is parsed once, when it is made, and encoded from its fields, so unknown keys are lost. Nothing here does
any input or output.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Final, Generic, Literal, Self, TypeVar

import msgspec
from msgspec import UNSET

from packetwire.errors import LocalProtocolError
from packetwire.hololinked.constants import (
    ERROR,
    EVENT,
    EXIT,
    HANDSHAKE,
    HEADER_LIMIT,
    INVALID_MESSAGE,
    JSON_TYPE,
    OPERATION,
    REPLY,
    TEXT_TYPE,
    TIMED_OUT,
)
from packetwire.hololinked.errors import InvalidMessage, OperationFailed, OperationTimeout
from packetwire.hololinked.serializers import (
    PreserializedData,
    PreserializedEmptyByte,
    SerializableData,
    SerializableNone,
)

FRAMES: Final = 5
MAX_ID_SIZE: Final = 255
"""Bytes of a socket's identity, at most."""

RequestType = Literal["HANDSHAKE", "OPERATION", "EXIT"]
ResponseType = Literal["HANDSHAKE", "REPLY", "TIMEOUT", "EXCEPTION", "INVALID_MESSAGE"]
REQUEST_TYPES: Final = frozenset((HANDSHAKE, OPERATION, EXIT))
RESPONSE_TYPES: Final = frozenset((HANDSHAKE, REPLY, TIMED_OUT, ERROR, INVALID_MESSAGE))

MAX_SECONDS: Final = 1 << 53
"""Larger integers are refused as times: JSON has some that exceed any float."""
Seconds = Annotated[int, msgspec.Meta(ge=0, le=MAX_SECONDS)] | Annotated[float, msgspec.Meta(ge=0)] | None


class Fields(msgspec.Struct):
    """Fields that can also be looked up by name, as in a dict."""

    def __getitem__(self, key: str) -> Any:
        if key not in self.__struct_fields__ or getattr(self, key) is UNSET:
            raise KeyError(f"{type(self).__name__} has no {key!r}")
        return getattr(self, key)

    def get(self, key: str, default: object = None) -> Any:
        """The field with that name, or `default`."""
        try:
            return self[key]
        except KeyError:
            return default

    def json(self) -> dict[str, object]:
        """All fields."""
        return {name: self[name] for name in self.__struct_fields__ if getattr(self, name) is not UNSET}


class ServerExecutionContext(Fields):
    """Time limits of the server in seconds, None for none; and if it is to answer.

    The names with underscores are those that clients of the reference write for the same: `invocation_timeout`
    when they read a property, `invokation_timeout` otherwise, which counts if both are there.
    """

    invokationTimeout: Seconds = 5  # noqa: N815
    """Seconds for the operation to begin."""
    executionTimeout: Seconds = 5  # noqa: N815
    """Seconds for the operation to be done, once it has begun."""
    oneway: bool = False
    """True if no answer is wanted."""
    invokation_timeout: Seconds | msgspec.UnsetType = UNSET
    execution_timeout: Seconds | msgspec.UnsetType = UNSET
    invocationTimeout: Seconds | msgspec.UnsetType = UNSET  # noqa: N815
    invocation_timeout: Seconds | msgspec.UnsetType = UNSET

    def __post_init__(self) -> None:
        if self.invocationTimeout is not UNSET:
            self.invokationTimeout, self.invocationTimeout = self.invocationTimeout, UNSET
        if self.invocation_timeout is not UNSET:
            self.invokationTimeout, self.invocation_timeout = self.invocation_timeout, UNSET
        if self.invokation_timeout is not UNSET:
            self.invokationTimeout, self.invokation_timeout = self.invokation_timeout, UNSET
        if self.execution_timeout is not UNSET:
            self.executionTimeout, self.execution_timeout = self.execution_timeout, UNSET


class ThingExecutionContext(Fields):
    """Options for the thing. `fetch_execution_logs` is another name of the same."""

    fetchExecutionLogs: bool = False  # noqa: N815
    """True if the client wants the thing's log records of the operation."""
    fetch_execution_logs: bool | msgspec.UnsetType = UNSET

    def __post_init__(self) -> None:
        if self.fetch_execution_logs is not UNSET:
            self.fetchExecutionLogs, self.fetch_execution_logs = self.fetch_execution_logs, UNSET


class RequestHeader(Fields):
    """The header of a request, in the order of the wire."""

    messageType: RequestType  # noqa: N815
    messageID: str  # noqa: N815
    senderID: str  # noqa: N815
    receiverID: str  # noqa: N815
    serverExecutionContext: ServerExecutionContext = msgspec.field(default_factory=ServerExecutionContext)  # noqa: N815
    thingExecutionContext: ThingExecutionContext = msgspec.field(default_factory=ThingExecutionContext)  # noqa: N815
    thingID: str | None = ""  # noqa: N815
    objekt: str | None = ""
    operation: str | None = ""
    payloadContentType: str | None = JSON_TYPE  # noqa: N815
    preencodedPayloadContentType: str | None = TEXT_TYPE  # noqa: N815


class ResponseHeader(Fields):
    """The header of a response, in the order of the wire."""

    messageType: ResponseType  # noqa: N815
    messageID: str  # noqa: N815
    receiverID: str  # noqa: N815
    senderID: str  # noqa: N815
    payloadContentType: str | None = JSON_TYPE  # noqa: N815
    preencodedPayloadContentType: str | None = ""  # noqa: N815


class EventHeader(Fields):
    """The header of an event, in the order of the wire."""

    messageType: Literal["EVENT"]  # noqa: N815
    messageID: str  # noqa: N815
    senderID: str  # noqa: N815
    eventID: str  # noqa: N815
    payloadContentType: str | None = JSON_TYPE  # noqa: N815
    preencodedPayloadContentType: str | None = ""  # noqa: N815


class _Glance(msgspec.Struct):
    """The fields of an invalid header that are still wanted."""

    messageID: str = ""  # noqa: N815
    messageType: str = ""  # noqa: N815


_DECODE_GLANCE: Final = msgspec.json.Decoder(_Glance).decode
_ENCODE: Final = msgspec.json.Encoder().encode

HeaderType = TypeVar("HeaderType", RequestHeader, ResponseHeader, EventHeader)


class Message(Generic[HeaderType]):
    """The base of requests, responses and events."""

    length: ClassVar[int] = FRAMES
    _decode: ClassVar[Callable[..., Any]]
    __slots__ = ("address", "header", "payload", "preserialized_payload")

    header: HeaderType
    address: bytes
    """The first frame: the recipient of a message to send, the sender of one that was received; or the topic."""

    def __init__(self, msg: Sequence[bytes]) -> None:
        self.header = header = self._parse_header(msg)
        self.address = msg[0]
        self.payload = SerializableData(msg[3], content_type=header.payloadContentType)
        self.preserialized_payload = PreserializedData(msg[4], content_type=header.preencodedPayloadContentType)

    @classmethod
    def _parse_header(cls, frames: Sequence[bytes]) -> HeaderType:
        if len(frames) != FRAMES:
            raise InvalidMessage(f"a message has {FRAMES} frames, this one {len(frames)}", glance(frames)[0])
        if frames[1]:
            raise InvalidMessage(
                f"the second frame must be empty, it has {len(frames[1])} bytes", glance(frames)[0]
            )
        if len(frames[2]) > HEADER_LIMIT:
            raise InvalidMessage(f"a header has at most {HEADER_LIMIT} bytes, this one {len(frames[2])}")
        try:
            header: HeaderType = cls._decode(frames[2])
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise InvalidMessage(f"the header is refused: {error}", glance(frames)[0]) from None
        return header

    @classmethod
    def _craft(
        cls, address: bytes, header: HeaderType, payload: SerializableData, preserialized: PreserializedData
    ) -> Self:
        message = cls.__new__(cls)
        message.address = address
        message.header = header
        message.payload = payload
        message.preserialized_payload = preserialized
        return message

    @property
    def byte_array(self) -> list[bytes]:
        """The frames."""
        return frames_of(self.address, self.header, self.payload, self.preserialized_payload)

    @property
    def body(self) -> list[SerializableData | PreserializedData]:
        """The payload and the preserialized payload."""
        return [self.payload, self.preserialized_payload]

    @property
    def id(self) -> str:
        """The id of the message; that of a response is that of its request."""
        return self.header.messageID

    @property
    def type(self) -> str:
        """The type of the message."""
        return self.header.messageType

    @property
    def sender_id(self) -> str:
        """The id of the sender, as the message has it."""
        return self.header.senderID

    def value(self) -> Any:
        """The payload, the preserialized bytes, or a pair of both if there are both."""
        value, data = self.payload.deserialize(), self.preserialized_payload.as_bytes()
        if not data:
            return value
        return data if value is None else (value, data)

    def __str__(self) -> str:
        return f"{type(self).__name__}(id={self.id}, type={self.type}, header={self.header})"

    __repr__ = __str__


class RequestMessage(Message[RequestHeader]):
    """A message from a client to a server."""

    _decode = msgspec.json.Decoder(RequestHeader).decode
    __slots__ = ("route",)

    route: bytes | None
    """The identity of the sender's socket, to which responses go, if a server received it."""

    def __init__(self, msg: Sequence[bytes], route: bytes | None = None) -> None:
        super().__init__(msg)
        self.route = route

    @property
    def receiver_id(self) -> str:
        """The id of the recipient."""
        return self.header.receiverID

    @property
    def thing_id(self) -> str | None:
        """The id of the thing to operate on."""
        return self.header.thingID

    @property
    def objekt(self) -> str | None:
        """The property, action or event of the thing."""
        return self.header.objekt

    @property
    def operation(self) -> str | None:
        """The operation, such as `readProperty`."""
        return self.header.operation

    @property
    def server_execution_context(self) -> ServerExecutionContext:
        """Time limits of the server, and if it is to answer."""
        return self.header.serverExecutionContext

    @property
    def thing_execution_context(self) -> ThingExecutionContext:
        """Options for the thing."""
        return self.header.thingExecutionContext

    @property
    def qualified_operation(self) -> str:
        """Thing, object and operation in one string."""
        return f"{self.thing_id}.{self.objekt}.{self.operation}"

    @classmethod
    def craft_from_arguments(
        cls,
        receiver_id: str,
        sender_id: str,
        thing_id: str,
        objekt: str,
        operation: str,
        payload: SerializableData = SerializableNone,
        preserialized_payload: PreserializedData = PreserializedEmptyByte,
        server_execution_context: ServerExecutionContext | dict[str, object] | None = None,
        thing_execution_context: ThingExecutionContext | dict[str, object] | None = None,
    ) -> RequestMessage:
        """Make an OPERATION."""
        header = RequestHeader(
            OPERATION,
            new_message_id(),
            sender_id,
            receiver_id,
            _context(ServerExecutionContext, server_execution_context),
            _context(ThingExecutionContext, thing_execution_context),
            thing_id,
            objekt,
            operation,
            payload.content_type,
            preserialized_payload.content_type,
        )
        return cls._request(header, payload, preserialized_payload)

    @classmethod
    def craft_with_message_type(
        cls, sender_id: str, receiver_id: str, message_type: str = HANDSHAKE
    ) -> RequestMessage:
        """Make a HANDSHAKE, or an EXIT."""
        if message_type not in REQUEST_TYPES:
            raise LocalProtocolError(f"{message_type!r} is no type of a request")
        header = RequestHeader(message_type, new_message_id(), sender_id, receiver_id)  # type: ignore[arg-type]
        return cls._request(header, SerializableNone, PreserializedEmptyByte)

    @classmethod
    def _request(
        cls, header: RequestHeader, payload: SerializableData, preserialized: PreserializedData
    ) -> RequestMessage:
        message = cls._craft(identity_bytes(header.receiverID), header, payload, preserialized)
        message.route = None
        return message


class ResponseMessage(Message[ResponseHeader]):
    """A message from a server to a client."""

    _decode = msgspec.json.Decoder(ResponseHeader).decode
    __slots__ = ()

    @property
    def receiver_id(self) -> str:
        """The id of the recipient."""
        return self.header.receiverID

    def result(self) -> Any:
        """The value of a REPLY; otherwise raises `OperationFailed` or `OperationTimeout`."""
        if self.type in (REPLY, HANDSHAKE):
            return self.value()
        told = self.payload.deserialize()
        if self.type == TIMED_OUT:
            raise OperationTimeout(_text_of(told))
        if isinstance(told, dict) and isinstance(told.get("exception"), dict):
            told = told["exception"]
        if not isinstance(told, dict):
            raise OperationFailed(self.type, _text_of(told))
        lines = told.get("traceback")
        raise OperationFailed(
            _text_of(told.get("type") or self.type),
            _text_of(told.get("message") or ""),
            [_text_of(line) for line in lines] if isinstance(lines, list) else None,
            told.get("notes"),
        )

    @classmethod
    def craft_from_arguments(
        cls,
        receiver_id: str,
        sender_id: str,
        message_type: str,
        message_id: str = "",
        payload: SerializableData = SerializableNone,
        preserialized_payload: PreserializedData = PreserializedEmptyByte,
    ) -> ResponseMessage:
        """Make a response of any type."""
        route = identity_bytes(receiver_id)
        return cls.craft_for_route(
            route, receiver_id, sender_id, message_type, message_id, payload, preserialized_payload
        )

    @classmethod
    def craft_for_route(
        cls,
        route: bytes,
        receiver_id: str,
        sender_id: str,
        message_type: str,
        message_id: str,
        payload: SerializableData = SerializableNone,
        preserialized_payload: PreserializedData = PreserializedEmptyByte,
    ) -> ResponseMessage:
        """Make a response of any type, for the socket with the identity `route`."""
        header = response_header(message_type, message_id, receiver_id, sender_id, payload, preserialized_payload)
        return cls._craft(route, header, payload, preserialized_payload)

    @classmethod
    def craft_reply_from_request(
        cls,
        request_message: RequestMessage,
        payload: SerializableData = SerializableNone,
        preserialized_payload: PreserializedData = PreserializedEmptyByte,
    ) -> ResponseMessage:
        """Make the REPLY to a request."""
        return cls.craft_with_message_type(request_message, REPLY, payload, preserialized_payload)

    @classmethod
    def craft_with_message_type(
        cls,
        request_message: RequestMessage,
        message_type: str,
        payload: SerializableData = SerializableNone,
        preserialized_payload: PreserializedData = PreserializedEmptyByte,
    ) -> ResponseMessage:
        """Make a response of any type to a request."""
        return cls.craft_for_route(
            request_message.route or identity_bytes(request_message.sender_id),
            request_message.sender_id,
            request_message.receiver_id,
            message_type,
            request_message.id,
            payload,
            preserialized_payload,
        )


class EventMessage(Message[EventHeader]):
    """A message from a publisher to consumers."""

    _decode = msgspec.json.Decoder(EventHeader).decode
    __slots__ = ()

    @property
    def event_id(self) -> str:
        """The id of the event, which is the topic."""
        return self.header.eventID

    @classmethod
    def craft_from_arguments(
        cls,
        event_id: str,
        sender_id: str,
        message_type: str = EVENT,
        payload: SerializableData = SerializableNone,
        preserialized_payload: PreserializedData = PreserializedEmptyByte,
    ) -> EventMessage:
        """Make an event."""
        if message_type != EVENT:
            raise LocalProtocolError(f"{message_type!r} is no type of an event")
        header = EventHeader(
            EVENT, new_message_id(), sender_id, event_id, payload.content_type, preserialized_payload.content_type
        )
        return cls._craft(event_id.encode(), header, payload, preserialized_payload)


def frames_of(
    address: bytes, header: msgspec.Struct, payload: SerializableData, preserialized: PreserializedData
) -> list[bytes]:
    """The frames of a message."""
    return [address, b"", _ENCODE(header), payload.serialize(), preserialized.as_bytes()]


def response_header(
    message_type: str,
    message_id: str,
    receiver_id: str,
    sender_id: str,
    payload: SerializableData,
    preserialized: PreserializedData,
) -> ResponseHeader:
    """The header of a response. Raises `LocalProtocolError` if there is no such type."""
    if message_type not in RESPONSE_TYPES:
        raise LocalProtocolError(f"{message_type!r} is no type of a response")
    return ResponseHeader(
        message_type,  # type: ignore[arg-type]
        message_id,
        receiver_id,
        sender_id,
        payload.content_type,
        preserialized.content_type,
    )


def new_message_id() -> str:
    """A random UUID: version 4 of RFC 9562."""
    digits = os.urandom(16).hex()  # the class of the standard library takes four times as long
    variant = "89ab"[int(digits[16], 16) & 3]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"


@lru_cache(maxsize=256)
def identity_bytes(name: str) -> bytes:
    """A broker's id as the identity of its socket. Raises `LocalProtocolError` if it is invalid as such."""
    try:
        data = name.encode()
    except UnicodeEncodeError as error:
        raise LocalProtocolError(f"an id must be text that UTF-8 can write: {error}") from None
    if not 0 < len(data) <= MAX_ID_SIZE or data[0] == 0:
        raise LocalProtocolError(f"an id has 1 to {MAX_ID_SIZE} bytes and does not begin with 0: {name[:300]!r}")
    return data


def _text_of(value: object) -> str:
    """A received value, as a string."""
    try:
        return str(value)
    except RecursionError:  # the stack was less deep when it was decoded
        return f"a {type(value).__name__} that is nested too deep to be shown"


def glance(frames: Sequence[bytes]) -> tuple[str, str]:
    """The id and type of an invalid message, as far as they can be read."""
    if len(frames) <= 2 or len(frames[2]) > HEADER_LIMIT:
        return "", ""
    try:
        seen = _DECODE_GLANCE(frames[2])
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return "", ""
    return seen.messageID, seen.messageType


Context = TypeVar("Context", ServerExecutionContext, ThingExecutionContext)


def _context(kind: type[Context], given: Context | dict[str, object] | None) -> Context:
    if given is None:
        return kind()
    if isinstance(given, kind):
        if isinstance(given, ServerExecutionContext):
            _check_times(given)
        return given
    try:
        return msgspec.convert(given or {}, kind)
    except msgspec.ValidationError as error:
        raise LocalProtocolError(f"{kind.__name__}: {error}") from None


def _check_times(context: ServerExecutionContext) -> None:
    """Check the times of a context that was made here, not parsed."""
    for name in ("invokationTimeout", "executionTimeout"):
        seconds = getattr(context, name)
        if seconds is not None and not (isinstance(seconds, (int, float)) and seconds >= 0):
            raise LocalProtocolError(
                f"{name} is a number of seconds that is not negative, or None, not {seconds!r}"
            )

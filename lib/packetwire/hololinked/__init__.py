"""Brokers that speak the protocol of hololinked 0.3: requests and responses by ROUTER, events by PUB and SUB.

`AsyncZMQServer` answers `SyncZMQClient` and `AsyncZMQClient`; `EventConsumer` and `AsyncEventConsumer` receive the
events of an `EventPublisher`. Each also talks to its counterpart of hololinked.
"""

from packetwire.errors import extra_missing

try:
    import msgspec  # noqa: F401
    import zmq  # noqa: F401
except ModuleNotFoundError as error:
    raise extra_missing("hololinked", error) from error

from packetwire.hololinked.brokers import (
    ZMQ_TRANSPORTS,
    AsyncEventConsumer,
    AsyncZMQClient,
    AsyncZMQServer,
    BaseAsyncZMQ,
    BaseEventConsumer,
    BaseSyncZMQ,
    BaseZMQ,
    BaseZMQClient,
    BaseZMQServer,
    EventConsumer,
    EventPublisher,
    SyncZMQClient,
)
from packetwire.hololinked.errors import (
    BreakLoop,
    HandshakeFailed,
    InvalidMessage,
    OperationFailed,
    OperationTimeout,
    PayloadError,
)
from packetwire.hololinked.messages import (
    EventHeader,
    EventMessage,
    RequestHeader,
    RequestMessage,
    ResponseHeader,
    ResponseMessage,
    ServerExecutionContext,
    ThingExecutionContext,
)
from packetwire.hololinked.serializers import (
    BaseSerializer,
    JSONSerializer,
    PreserializedData,
    PreserializedEmptyByte,
    SerializableData,
    SerializableNone,
    Serializers,
    TextSerializer,
)

__all__ = [
    "ZMQ_TRANSPORTS",
    "AsyncEventConsumer",
    "AsyncZMQClient",
    "AsyncZMQServer",
    "BaseAsyncZMQ",
    "BaseEventConsumer",
    "BaseSerializer",
    "BaseSyncZMQ",
    "BaseZMQ",
    "BaseZMQClient",
    "BaseZMQServer",
    "BreakLoop",
    "EventConsumer",
    "EventHeader",
    "EventMessage",
    "EventPublisher",
    "HandshakeFailed",
    "InvalidMessage",
    "JSONSerializer",
    "OperationFailed",
    "OperationTimeout",
    "PayloadError",
    "PreserializedData",
    "PreserializedEmptyByte",
    "RequestHeader",
    "RequestMessage",
    "ResponseHeader",
    "ResponseMessage",
    "SerializableData",
    "SerializableNone",
    "Serializers",
    "ServerExecutionContext",
    "SyncZMQClient",
    "TextSerializer",
    "ThingExecutionContext",
]

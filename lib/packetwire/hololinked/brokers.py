"""The brokers, under the names of hololinked 0.3."""

from packetwire.hololinked.bases import BaseAsyncZMQ, BaseSyncZMQ, BaseZMQ, BaseZMQClient, BaseZMQServer
from packetwire.hololinked.clients import AsyncZMQClient, SyncZMQClient
from packetwire.hololinked.constants import ZMQ_TRANSPORTS
from packetwire.hololinked.events import AsyncEventConsumer, BaseEventConsumer, EventConsumer, EventPublisher
from packetwire.hololinked.server import AsyncZMQServer

__all__ = [
    "ZMQ_TRANSPORTS",
    "AsyncEventConsumer",
    "AsyncZMQClient",
    "AsyncZMQServer",
    "BaseAsyncZMQ",
    "BaseEventConsumer",
    "BaseSyncZMQ",
    "BaseZMQ",
    "BaseZMQClient",
    "BaseZMQServer",
    "EventConsumer",
    "EventPublisher",
    "SyncZMQClient",
]

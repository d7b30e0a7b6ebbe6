"""A process of a chain, each of which asks the next: `python -m tests.faces.traced_process ROLE DIRECTORY`.

The spans that it has seen are in the file DIRECTORY/ROLE when it has ended.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from packetwire import AsyncPacketConnection, BaseRequest, HasPacketConnection, PacketConnection, stdio
from packetwire.otel import Telemetry

MIDDLE, FAR = "middle", "far"


class Recorded:
    """Telemetry that keeps its spans in memory."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.hooks = Telemetry(tracer_provider=self.provider)
        self.tracer = self.provider.get_tracer("test")

    def spans(self) -> list[dict[str, Any]]:
        """Those that have ended: their names, kinds, ids and those of their parents."""
        return [
            {
                "name": span.name,
                "kind": span.kind.name,
                "trace": span.context.trace_id,
                "id": span.context.span_id,
                "parent": None if span.parent is None else span.parent.span_id,
            }
            for span in self.exporter.get_finished_spans()
        ]


def argv(role: str, directory: Path) -> list[str]:
    """The command of such a process."""
    return [sys.executable, "-m", "tests.faces.traced_process", role, str(directory)]


class Reverse(BaseRequest[bytes]):
    """The request that the last one answers."""

    def __init__(self, text: bytes) -> None:
        self.text = text

    @classmethod
    def from_request_payload(cls, flags: int, payload: bytes) -> Reverse:
        return cls(payload)

    def __bytes__(self) -> bytes:
        return self.text

    def fulfil(self, context: Any) -> bytes:
        with context.recorded.tracer.start_as_current_span("work"):
            return self.text[::-1]


class Far(HasPacketConnection):
    """Serves it in threads."""

    def __init__(self, recorded: Recorded) -> None:
        self.recorded = recorded
        super().__init__(stdio(), rq_type_map={5: Reverse}, hooks=recorded.hooks)


async def middle(recorded: Recorded, directory: Path) -> None:
    """Ask the last one for whoever asks, in an event loop."""
    below = AsyncPacketConnection.spawn(argv(FAR, directory), hooks=recorded.hooks, capabilities="require")

    async def handler(rq_type: int, flags: int, payload: bytes) -> bytes:
        assert trace.get_current_span().get_span_context().is_valid
        _, _, answer = await below(5, payload, label="Reverse")
        return answer

    async with below, AsyncPacketConnection(stdio(), request_handler=handler, hooks=recorded.hooks) as above:
        await above.join_recv()


def far(recorded: Recorded) -> None:
    with Far(recorded) as service:
        service.conn.join_recv()


def chain(recorded: Recorded, directory: Path) -> PacketConnection:
    """The connection of the first process."""
    return PacketConnection.spawn(argv(MIDDLE, directory), hooks=recorded.hooks, capabilities="require")


def main(role: str, directory: Path) -> None:
    recorded = Recorded()
    if role == MIDDLE:
        asyncio.run(middle(recorded, directory))
    else:
        far(recorded)
    (directory / role).write_text(json.dumps(recorded.spans()))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))

"""Saturnin's component or controller, in a process of its own: `component` or `controller`, the socket, an address.

Runs on the interpreter of Saturnin's environment. Each line of its input is a command, a JSON list; each is
answered by one line: what it came to.
"""

import inspect
import json
import sys
import traceback
import uuid

import zmq
from firebird.base.config import BoolOption, Config, IntOption, StrOption
from firebird.base.types import ZMQAddress
from saturnin.base import (
    INVALID,
    TIMEOUT,
    ChannelManager,
    DealerChannel,
    Direction,
    Outcome,
    PairChannel,
    PeerDescriptor,
    RouterChannel,
)
from saturnin.protocol import iccp

SOCKETS = {"pair": PairChannel, "dealer": DealerChannel, "router": RouterChannel}

KEPT = []
"""Saturnin's event sockets only refer weakly to their handlers."""


def fitted(owner, name, function):
    """A handler with the signature that Saturnin compares, annotations included."""
    declared = inspect.getattr_static(owner, name)._callable
    signature = inspect.Signature.from_callable(declared, eval_str=True)
    parameters = [each for key, each in signature.parameters.items() if key != "self"]

    def handler(*args, **kwargs):
        return function(*args, **kwargs)

    handler.__signature__ = signature.replace(parameters=parameters)
    KEPT.append(handler)
    return handler


def described(msg):
    """A message, or what `receive` returns instead, for JSON."""
    if msg is TIMEOUT or msg is INVALID:
        return str(msg)
    if not isinstance(msg, iccp.ICCPMessage):
        return None
    told = {"type": msg.msg_type.name}
    if msg.msg_type is iccp.MsgType.READY:
        told |= {"pid": msg.peer.pid, "host": msg.peer.host, "endpoints": msg.endpoints}
    elif msg.msg_type is iccp.MsgType.ERROR:
        told["error"] = msg.error
    elif msg.msg_type is iccp.MsgType.FINISHED:
        told |= {"outcome": msg.outcome.value, "details": msg.details}
    return told


class Options(Config):
    """A configuration of Saturnin's own kind."""

    def __init__(self):
        super().__init__("options")
        self.label = StrOption("label", "a label", default="value")
        self.number = IntOption("number", "a number", default=42)
        self.flag = BoolOption("flag", "a flag", default=True)


class End:
    """What both have in common: a channel, and the events that were seen."""

    def __init__(self, socket):
        self.events = []
        self.channels = ChannelManager(zmq.Context.instance())
        self.channel = self.channels.create_channel(
            SOCKETS[socket], "control", self.protocol, routing_id=uuid.uuid4().bytes, wait_for=Direction.IN
        )
        self.channels.warm_up()

    def note(self, exc=None):
        self.events.append(None if exc is None else [type(exc).__name__, str(exc)])

    def session(self):
        return next(iter(self.channel.sessions.values()))

    def send(self, msg):
        return self.channel.send(msg, self.session())

    def do_receive(self, timeout):
        return described(self.channel.receive(timeout))

    def do_events(self):
        events, self.events[:] = list(self.events), []
        return events


class Component(End):
    """Says what it is told to say."""

    def __init__(self, socket, address):
        self.protocol = iccp.ICCPComponent()
        super().__init__(socket)
        for name, function in (("on_stop_component", self.note), ("on_config_request", self.configure)):
            setattr(self.protocol, name, fitted(iccp.ICCPComponent, name, function))
        self.channel.connect(ZMQAddress(address))
        assert self.channel.can_send(10000)
        self.address = address

    def configure(self, config):
        self.events.append(["configured", ""])

    def do_ready(self):
        peer = PeerDescriptor(uuid.UUID(int=0x77), 4242, "component-host")
        return self.send(self.protocol.ready_msg(peer, {"service": [ZMQAddress("tcp://127.0.0.1:9999")]}))

    def do_ok(self):
        return self.send(self.protocol.ok_msg())

    def do_error(self, text):
        return self.send(self.protocol.error_msg(ValueError(text)))

    def do_finished(self, outcome, kind, lines):
        self.protocol.with_traceback = kind == "traceback"
        details = {"none": None, "list": lines}.get(kind)
        if kind in ("exception", "traceback"):
            try:
                raise ValueError(lines[0])
            except ValueError as error:
                details = error
        return self.send(self.protocol.finished_msg(Outcome(outcome), details))


class Controller(End):
    """Receives, and says what it is told to say."""

    def __init__(self, socket, address):
        self.protocol = iccp.ICCPController()
        super().__init__(socket)
        self.protocol.on_stop_controller = fitted(iccp.ICCPController, "on_stop_controller", self.note)
        self.address = str(self.channel.bind(ZMQAddress(address)))

    def do_stop(self):
        return self.send(self.protocol.stop_msg())

    def do_configure(self, full):
        return self.send(self.protocol.request_config_msg(Options() if full else None))


def main(kind, socket, address):
    peer = (Component if kind == "component" else Controller)(socket, address)
    print(json.dumps(peer.address), flush=True)
    for line in sys.stdin:
        try:
            name, *arguments = json.loads(line)
            result = getattr(peer, "do_" + name)(*arguments)
        except Exception:
            result = {"failed": traceback.format_exc()}
        print(json.dumps(result), flush=True)


main(*sys.argv[1:])

"""Saturnin's end of a conversation, in a process of its own: `service`, `raw` or `event` client, and an address.

Runs on the interpreter of Saturnin's environment. Each line of its input is a command, a JSON list; each is
answered by one line: what it came to.
"""

import inspect
import json
import sys
import traceback
import uuid

import zmq
from firebird.base.types import ZMQAddress
from saturnin.base import (
    INVALID,
    TIMEOUT,
    VENDOR_UID,
    AgentDescriptor,
    ButlerInterface,
    ChannelManager,
    DealerChannel,
    Direction,
    PeerDescriptor,
    RouterChannel,
    ServiceDescriptor,
    StopError,
)
from saturnin.protocol import fbsp
from saturnin.protocol.fbsp import ErrorCode, MsgFlag, MsgType

State = fbsp.State


class Calls(ButlerInterface):
    ECHO = 1
    STREAM = 2
    STATES = 3
    SUM = 4
    FAIL = 5
    SLOW = 6
    ACKNOWLEDGED = 7

    @classmethod
    def get_uid(cls):
        return uuid.UUID(int=0x5A7)


def agent(name, number):
    return AgentDescriptor(
        uid=uuid.UUID(int=number), name=name, version="1.0", vendor_uid=VENDOR_UID, classification="test/peer"
    )


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
    if not isinstance(msg, fbsp.FBSPMessage):
        return msg
    told = {"type": msg.msg_type.name, "flags": int(msg.flags), "token": bytes(msg.token).hex()}
    if isinstance(msg, fbsp.ErrorMessage):
        told["code"] = int(msg.error_code)
        told["relates_to"] = msg.relates_to.name
        told["errors"] = [each.description for each in msg.errors]
    elif isinstance(msg, fbsp.StateMessage):
        told["state"] = int(msg.state)
    elif isinstance(msg, fbsp.DataMessage | fbsp.APIMessage):
        told["data"] = [bytes(frame).decode("latin-1") for frame in msg.data]
    elif isinstance(msg, fbsp.WelcomeMessage):
        told["name"] = msg.data.service.name
    return told


class Service:
    """Echo, a stream, states, an upload, a failure, a request that is only cancelled, an acknowledgement."""

    def __init__(self, channels, address):
        descriptor = ServiceDescriptor(
            agent=agent("saturnin-service", 0x11),
            api=[Calls],
            description="",
            facilities=[],
            factory="",
            config=None,
        )
        self.events = []
        self.sums = {}
        self.protocol = fbsp.FBSPService(service=descriptor, peer=PeerDescriptor(uuid.uuid4(), 4242, "svc-host"))
        for call in Calls:
            handler = fitted(fbsp._APIHandlerChecker, "service_handler", getattr(self, call.name.lower()))
            self.protocol.register_api_handler(call, handler)
        for name in ("on_cancel", "on_data", "on_session_closed", "on_ack_received"):
            setattr(self.protocol, name, fitted(fbsp.FBSPService, name, getattr(self, name)))
        self.channel = channels.create_channel(
            RouterChannel, "service", self.protocol, routing_id=b"svc", wait_for=Direction.IN
        )
        channels.warm_up()
        self.address = str(self.channel.bind(ZMQAddress(address)))

    def reply(self, channel, session, msg, data, flags=MsgFlag.NONE):
        reply = self.protocol.create_reply_for(msg)
        reply.data = data
        reply.flags = flags
        channel.send(reply, session)

    def acknowledge(self, channel, session, msg):
        if msg.has_ack_req():
            channel.send(self.protocol.create_ack_reply(msg), session)

    def echo(self, channel, session, msg, protocol):
        self.acknowledge(channel, session, msg)
        self.reply(channel, session, msg, list(msg.data))

    def acknowledged(self, channel, session, msg, protocol):
        self.reply(channel, session, msg, list(msg.data), MsgFlag.ACK_REQ)

    def stream(self, channel, session, msg, protocol):
        self.reply(channel, session, msg, [], MsgFlag.MORE)
        for number in range(3):
            data = self.protocol.create_data_for(msg)
            data.data = [b"%d" % number]
            data.flags = MsgFlag.ACK_REQ | (MsgFlag.MORE if number < 2 else MsgFlag.NONE)
            channel.send(data, session)

    def states(self, channel, session, msg, protocol):
        for value in (State.READY, State.RUNNING, State.FINISHED):
            state = self.protocol.create_state_for(msg, value)
            state.set_flag(MsgFlag.ACK_REQ)
            channel.send(state, session)
        self.reply(channel, session, msg, [])

    def sum(self, channel, session, msg, protocol):
        self.sums[bytes(msg.token)] = (msg.token, msg.type_data, 0)

    def fail(self, channel, session, msg, protocol):
        try:
            raise KeyError("root")
        except KeyError as error:
            raise StopError("refused", code=ErrorCode.CONFLICT) from error

    def slow(self, channel, session, msg, protocol):
        self.acknowledge(channel, session, msg)

    def on_data(self, channel, session, msg):
        token, type_data, total = self.sums[bytes(msg.token)]
        total += sum(int(bytes(frame)) for frame in msg.data)
        self.sums[bytes(msg.token)] = (token, type_data, total)
        self.acknowledge(channel, session, msg)
        if not msg.has_more():
            reply = self.protocol.create_message_for(MsgType.REPLY, token, type_data)
            reply.data = [str(total).encode()]
            channel.send(reply, session)

    def on_cancel(self, channel, session, msg):
        raise StopError("cancelled", code=ErrorCode.REQUEST_CANCELLED)

    def on_session_closed(self, channel, session, msg, exc=None):
        self.events.append(["closed", msg.msg_type.name])

    def on_ack_received(self, channel, session, msg):
        self.events.append(["acknowledged", msg.msg_type.name])

    def command(self, name, *arguments):
        if name == "close":
            self.protocol.close(self.channel)
        elif name == "noop":
            for session in self.channel.sessions.values():
                msg = self.protocol.create_message_for(MsgType.NOOP, session.greeting.token, 77, MsgFlag.ACK_REQ)
                self.channel.send(msg, session)
        return self.events

    def receive(self):
        self.channel.receive(10)


class Client:
    """Sends what it is told to, and tells what it receives; as an event client by its events."""

    def __init__(self, channels, address, kind):
        self.events = []
        if kind == "event":
            self.protocol = fbsp.FBSPEventClient()
            handler = fitted(fbsp.FBSPEventClient, "on_service_connected", self.on_service_connected)
            self.protocol.on_service_connected = handler
            self.protocol.on_data = fitted(fbsp.FBSPEventClient, "on_data", self.on_data)
            for name in ("on_noop", "on_error", "on_state", "on_session_closed"):
                handler = fitted(fbsp.FBSPEventClient, name, self.noting(name))
                setattr(self.protocol, name, handler)
            self.protocol.on_ack_received = fitted(
                fbsp.FBSPEventClient, "on_ack_received", self.noting("on_ack_received")
            )
        else:
            self.protocol = fbsp.FBSPClient()
        self.channel = channels.create_channel(
            DealerChannel, "client", self.protocol, routing_id=uuid.uuid4().bytes, wait_for=Direction.IN
        )
        channels.warm_up()
        self.session = self.channel.connect(ZMQAddress(address))
        assert self.channel.can_send(10000)
        self.address = address

    def noting(self, name):
        return lambda channel, session, *args, **kwargs: self.events.append(
            [name, *[described(each) for each in args if isinstance(each, fbsp.FBSPMessage)]]
        )

    def on_service_connected(self, channel, session, msg, protocol):
        self.events.append(["on_service_connected", described(msg)])
        for call in Calls:
            handler = fitted(fbsp._APIHandlerChecker, "client_handler", self.on_reply)
            protocol.register_api_handler(call, handler)

    def on_data(self, channel, session, msg):
        self.events.append(["on_data", described(msg)])
        if msg.has_ack_req():
            channel.send(self.protocol.create_ack_reply(msg), session)

    def on_reply(self, channel, session, msg, protocol):
        self.events.append(["reply", described(msg)])
        if msg.has_ack_req():
            channel.send(protocol.create_ack_reply(msg), session)

    def command(self, name, *arguments):
        return getattr(self, "do_" + name)(*arguments)

    def do_hello(self):
        self.protocol.send_hello(
            self.channel,
            self.session,
            agent("saturnin-client", 0x22),
            PeerDescriptor(uuid.uuid4(), 4343, "cli-host"),
        )

    def do_request(self, call, token, data, flags):
        msg = self.protocol.create_request_for(self.session, Calls[call], bytes.fromhex(token))
        msg.data = [each.encode("latin-1") for each in data]
        msg.flags = MsgFlag(flags)
        return self.channel.send(msg, self.session)

    def do_data(self, token, data, flags):
        msg = self.protocol.create_message_for(MsgType.DATA, bytes.fromhex(token), 0, MsgFlag(flags))
        msg.data = [each.encode("latin-1") for each in data]
        return self.channel.send(msg, self.session)

    def do_noop(self, type_data, flags):
        msg = self.protocol.create_message_for(MsgType.NOOP, bytes(8), type_data, MsgFlag(flags))
        return self.channel.send(msg, self.session)

    def do_cancel(self, token, target):
        msg = self.protocol.create_message_for(MsgType.CANCEL, bytes.fromhex(token))
        msg.request.token = bytes.fromhex(target)
        return self.channel.send(msg, self.session)

    def do_acknowledge(self):
        return self.channel.send(self.protocol.create_ack_reply(self.last), self.session)

    def do_close(self):
        self.protocol.send_close(self.channel, self.session)

    def do_receive(self, timeout):
        self.last = self.channel.receive(timeout)
        return described(self.last)

    def do_events(self, count):
        """Wait until there are this many events."""
        for _ in range(500):
            if len(self.events) >= count:
                break
            self.channel.receive(20)
        events, self.events[:] = list(self.events), []
        return events

    def receive(self):
        """A client receives when it is told to."""
        zmq.Poller().poll(0)


def main(kind, address):
    channels = ChannelManager(zmq.Context.instance())
    peer = Service(channels, address) if kind == "service" else Client(channels, address, kind)
    print(json.dumps(peer.address), flush=True)
    commands = zmq.Poller()
    commands.register(sys.stdin, zmq.POLLIN)
    if kind == "service":
        commands.register(peer.channel.socket, zmq.POLLIN)
    while True:
        ready = dict(commands.poll())
        if kind == "service" and peer.channel.socket in ready:
            peer.receive()
        if sys.stdin.fileno() in ready:
            line = sys.stdin.readline()
            if not line:
                return
            try:
                result = peer.command(*json.loads(line))
            except Exception:
                result = {"failed": traceback.format_exc()}
            print(json.dumps(result), flush=True)


main(*sys.argv[1:])

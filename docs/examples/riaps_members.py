"""Three members of a RIAPS group as three processes: one leads, two ask.

    python riaps_members.py                            starts the three of them on this machine
    python riaps_members.py NAME PORT lead|follow HOST:PORT HOST:PORT HOST:PORT

is one of them: its name, the number it publishes at, whether it leads, and where all of them publish.
It needs pip install 'packetwire[zmq]'.
"""

import argparse
import socket
import subprocess
import sys
import time
from contextlib import ExitStack

from packetwire.riaps import MSG, MTL, Group, PortError

NAMES = ("pump", "valve", "tank")
SPEC = {"message": "State", "timed": True}
WAIT = 60  # seconds for the others


def lead(group, others):
    answered = set()
    deadline = time.monotonic() + WAIT
    while len(answered) < others:
        group.lead()
        try:
            question = group.receive(timeout=100)
        except PortError:
            if time.monotonic() > deadline:
                raise
            continue  # nobody has heard it yet
        if question.command == MTL:
            group.answer(question, b"welcome, " + question.payload)
            answered.add(question.identity)
    group.publish(b"all are here")


def find_leader(group):
    deadline = time.monotonic() + WAIT
    while True:
        group.heartbeat()  # others, RIAPS members too, count whom they hear of each second
        try:
            return group.wait_leader(timeout=1000)
        except PortError:
            if time.monotonic() > deadline:
                raise


def follow(group):
    find_leader(group)
    answer = group.ask(group.name.encode(), timeout=WAIT * 1000)
    print(f"{group.name}: {answer.payload.decode()}")
    while (message := group.receive(timeout=WAIT * 1000)).command != MSG:
        pass
    print(f"{group.name}: {message.payload.decode()}")


def be_a_member(name, port, role, addresses):
    with Group(name, SPEC, members=addresses, port=port) as group:
        if role == "lead":
            lead(group, len(addresses) - 1)
        else:
            follow(group)


def start_three():
    """Start them, print what they print; the exit status."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in NAMES]
    ports = [str(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    addresses = [f"127.0.0.1:{port}" for port in ports]
    roles = ("lead", "follow", "follow")
    with ExitStack() as stack:
        started = []
        for name, port, role in zip(NAMES, ports, roles, strict=True):
            command = [sys.executable, __file__, name, port, role, *addresses]
            started.append(stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True)))
            stack.callback(started[-1].terminate)
        for process in started:
            print(process.stdout.read(), end="")
            if process.wait():
                return process.returncode
    return 0


def address(text):
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal():
        raise argparse.ArgumentTypeError(f"expected HOST:PORT, got {text!r}")
    return host, int(port)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?", metavar="NAME", help="without arguments three members are started")
    parser.add_argument("port", nargs="?", type=int, metavar="PORT", help="where it publishes")
    parser.add_argument("role", nargs="?", choices=("lead", "follow"), help="what it does")
    parser.add_argument("members", nargs="*", type=address, metavar="HOST:PORT", help="where all of them publish")
    args = parser.parse_args()
    if args.name and not args.members:
        parser.error("a member needs a name, a port, a role, and the addresses of all")
    try:
        if not args.name:
            return start_three()
        be_a_member(args.name, args.port, args.role, args.members)
        return 0
    except KeyboardInterrupt:
        return 130
    except (PortError, OSError) as error:
        print(f"riaps_members: {args.name}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())

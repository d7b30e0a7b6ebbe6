"""Three members of a group as three processes: one leads, two ask.

    python riaps_members.py                            starts the three of them on this machine
    python riaps_members.py NAME PORT lead|follow HOST:PORT HOST:PORT HOST:PORT

is one of them: its name, the number it publishes at, whether it leads, and where all of them publish.
"""

import socket
import subprocess
import sys

from packetwire.riaps import MSG, MTL, Group, PortError

NAMES = ("pump", "valve", "tank")
SPEC = {"message": "State", "timed": True}
WAIT = 60_000


def lead(group, others):
    answered = set()
    while len(answered) < others:
        group.lead()
        try:
            question = group.receive(timeout=100)
        except PortError:
            continue  # nobody has heard it yet
        if question.command == MTL:
            group.answer(question, b"welcome, " + question.payload)
            answered.add(question.identity)
    group.publish(b"all are here")


def follow(group):
    group.wait_leader(timeout=WAIT)
    answer = group.ask(group.name.encode(), timeout=WAIT)
    print(f"{group.name}: {answer.payload.decode()}")
    while (message := group.receive(timeout=WAIT)).command != MSG:
        pass
    print(f"{group.name}: {message.payload.decode()}")


def be_a_member(name, port, role, *members):
    addresses = [(host, int(number)) for host, number in (member.split(":") for member in members)]
    with Group(name, SPEC, members=addresses, port=int(port)) as group:
        if role == "lead":
            lead(group, len(addresses) - 1)
        else:
            follow(group)


def start_three():
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in NAMES]
    ports = [str(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    addresses = [f"127.0.0.1:{port}" for port in ports]
    roles = ("lead", "follow", "follow")
    started = [
        subprocess.Popen(
            [sys.executable, __file__, name, port, role, *addresses], stdout=subprocess.PIPE, text=True
        )
        for name, port, role in zip(NAMES, ports, roles, strict=True)
    ]
    for process in started:
        print(process.communicate()[0], end="")
    return max(process.returncode for process in started)


if __name__ == "__main__":
    sys.exit(be_a_member(*sys.argv[1:]) if len(sys.argv) > 1 else start_three())

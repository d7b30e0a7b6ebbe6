"""Addresses: what is one, what is none, and what is opened for it."""

from __future__ import annotations

import asyncio
import errno
import os
import queue
import shutil
import socket
import sys
import textwrap
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packetwire import (
    AsyncPacketConnection,
    ChildExited,
    ConnectionEnded,
    LocalProtocolError,
    PacketConnection,
    Ship,
    aserve,
    bridge,
    bridging,
    connect_to,
    serve,
)
from packetwire.addresses import (
    KINDS,
    Address,
    ExecAddress,
    SshAddress,
    StdioAddress,
    TcpAddress,
    TlsAddress,
    UnixAddress,
    ZmqDealerAddress,
    ZmqPairAddress,
    ZmqRouterAddress,
    parse_address,
)
from packetwire.sshaddresses import SSH_FLAGS, SSH_OPTIONS_WITH_VALUE, ShipAddress, alive_options, ssh_argv

pytestmark = pytest.mark.timeout(60)

PARSED = [
    ("exec:store", ExecAddress(("store",))),
    ("exec:store --name 'a b' \"c d\"", ExecAddress(("store", "--name", "a b", "c d"))),
    ("exec:echo $HOME ; true", ExecAddress(("echo", "$HOME", ";", "true"))),
    ("ssh:host store", SshAddress("host", "store")),
    (
        "ssh:user@host  cd 'a b' && ./store --x \"$Y\" # z ",
        SshAddress("user@host", "cd 'a b' && ./store --x \"$Y\" # z"),
    ),
    ("ssh:-p 2222 -4C -o User=a host store", SshAddress("host", "store", ("-p", "2222", "-4C", "-o", "User=a"))),
    ("ssh:-i 'my key' -- host store", SshAddress("host", "store", ("-i", "my key"))),
    ("ssh:-o -p host store", SshAddress("host", "store", ("-o", "-p"))),
    ("ship:host:shop:Shop", ShipAddress("host", Ship("shop:Shop"))),
    ("ship:me@host:a.b:C.d", ShipAddress("me@host", Ship("a.b:C.d"))),
    ("ship:::1:shop:Shop", ShipAddress("::1", Ship("shop:Shop"))),
    ("ship:-p 2222 host:shop:Shop", ShipAddress("host", Ship("shop:Shop"), ("-p", "2222"))),
    ("ship:host:shop:Shop /opt/python3", ShipAddress("host", Ship("shop:Shop"), (), "/opt/python3")),
    ("unix:/run/store.sock", UnixAddress("/run/store.sock")),
    ("unix:a:b c", UnixAddress("a:b c")),
    ("tcp:localhost:7000", TcpAddress("localhost", 7000)),
    ("tcp:127.0.0.1:0", TcpAddress("127.0.0.1", 0)),
    ("tcp:[::1]:65535", TcpAddress("::1", 65535)),
    ("tcp:[fe80::1%eth0]:1", TcpAddress("fe80::1%eth0", 1)),
    ("tls:localhost:7000", TlsAddress("localhost", 7000)),
    ("tls:[::1]:0", TlsAddress("::1", 0)),
    ("stdio:", StdioAddress()),
    ("zmq+pair:inproc://pair", ZmqPairAddress("inproc://pair")),
    ("zmq+dealer:tcp://127.0.0.1:7000", ZmqDealerAddress("tcp://127.0.0.1:7000")),
    ("zmq+router:ipc:///run/store.zmq", ZmqRouterAddress("ipc:///run/store.zmq")),
]

ALL_FORMS = (
    "expected exec:CMD, ssh:[OPTIONS] HOST CMD, ship:[OPTIONS] HOST:MODULE:NAME, unix:PATH, "
    "tcp:HOST:PORT, tls:HOST:PORT, stdio:, "
    "zmq+pair:ENDPOINT, zmq+dealer:ENDPOINT or zmq+router:ENDPOINT"
)

REFUSED = [
    ("", ALL_FORMS),
    ("store.sock", ALL_FORMS),
    ("localhost:7000", ALL_FORMS),
    ("TCP:localhost:7000", ALL_FORMS),
    (":7000", ALL_FORMS),
    ("exec:", "expected exec:CMD; there is no command"),
    ("exec:  ", "expected exec:CMD; there is no command"),
    ("exec:store 'a", "expected exec:CMD; No closing quotation"),
    ("exec:sto\0re", "expected exec:CMD; there is a null byte in it"),
    ("ssh:", "expected ssh:[OPTIONS] HOST CMD; invalid host ''"),
    ("ssh:host", "expected ssh:[OPTIONS] HOST CMD; there is no command"),
    ("ssh:host  ", "there is no command"),
    ("ssh:-4 -C", "invalid host ''"),
    ("ssh:-p", "the ssh option -p needs a value"),
    ("ssh:-p 22 host", "there is no command"),
    ("ssh:-t host store", "'-t' is not an option of ssh that can be used here"),
    ("ssh:-4t host store", "'-4t' is not an option of ssh that can be used here"),
    ("ssh:- host store", "'-' is not an option of ssh"),
    ("ssh:--help host store", "'--help' is not an option of ssh"),
    ("ssh:-p22 host store", "write '-p22' as two words, -p 22"),
    ("ssh:-oProxyCommand=evil store x", "write '-oProxyCommand=evil' as two words"),
    ("ssh:-- -oProxyCommand=evil store", "invalid host '-oProxyCommand=evil'"),
    ("ssh:-4 -- -p store", "invalid host '-p'"),
    ("ssh:'host store", "No closing quotation"),
    ("unix:", "expected unix:PATH; there is no path"),
    ("unix:/run/\0", "expected unix:PATH; there is a null byte in it"),
    ("tcp:", "expected tcp:HOST:PORT; invalid port ''"),
    ("tcp:localhost", "invalid port 'localhost'"),
    ("tcp:localhost:", "invalid port ''"),
    ("tcp:localhost:http", "invalid port 'http'"),
    ("tcp:localhost:-1", "invalid port '-1'"),
    ("tcp:localhost:٣", "invalid port '٣'"),
    ("tcp:localhost:65536", "a port is a number from 0 to 65535, not 65536"),
    ("tcp::7000", "there is no host"),
    ("tcp:[]:7000", "there is no host"),
    ("tcp:::1:7000", "an IPv6 address goes in brackets: tcp:[::1]:7000"),
    ("tcp:[::1:7000", "an IPv6 address goes in brackets"),
    ("tcp:[a:7000", "invalid host '[a'"),
    ("tls:", "expected tls:HOST:PORT; invalid port ''"),
    ("tls:::1:7000", "an IPv6 address goes in brackets: tls:[::1]:7000"),
    ("stdio:x", "expected stdio:; 'x' stands behind it"),
]


@pytest.mark.parametrize(("text", "address"), PARSED)
def test_what_a_text_means(text: str, address: Address) -> None:
    assert parse_address(text) == address
    assert parse_address(str(address)) == address


@pytest.mark.parametrize(("text", "expected"), REFUSED)
def test_a_text_that_is_no_address_is_named_with_what_was_expected(text: str, expected: str) -> None:
    with pytest.raises(LocalProtocolError) as caught:
        parse_address(text)
    assert str(caught.value).startswith(f"invalid address {text!r}: expected ")
    assert expected in str(caught.value)


def test_every_kind_is_tried_and_all_are_known() -> None:
    assert {type(address) for _, address in PARSED} == set(KINDS.values())
    for scheme, kind in KINDS.items():
        assert kind.form.startswith(f"{scheme}:")


words = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1)
commands = words.map(str.strip).filter(bool)


def hosts(text: str) -> bool:
    return not text.startswith("-")


options = st.lists(
    st.one_of(
        st.sets(st.sampled_from(sorted(SSH_FLAGS)), min_size=1).map(lambda flags: ("-" + "".join(flags),)),
        st.tuples(st.sampled_from(sorted(SSH_OPTIONS_WITH_VALUE)).map(lambda letter: f"-{letter}"), words),
    )
).map(lambda found: tuple(word for option in found for word in option))

label = r"[a-z0-9-]{1,63}"
names = st.from_regex(rf"{label}(\.{label})*|[0-9a-f:]{{0,20}}:[0-9a-f]{{0,20}}", fullmatch=True)

addresses = st.one_of(
    st.builds(ExecAddress, st.lists(words, min_size=1).map(tuple)),
    st.builds(SshAddress, words.filter(hosts), commands, options),
    st.builds(UnixAddress, words),
    st.builds(TcpAddress, names, st.integers(0, 65535)),
    st.builds(TlsAddress, names, st.integers(0, 65535)),
)


@given(addresses)
def test_an_address_written_out_is_the_same_address(address: Address) -> None:
    assert parse_address(str(address)) == address


@given(st.text())
def test_any_text_is_an_address_or_refused(text: str) -> None:
    for prefix in ("", *(f"{scheme}:" for scheme in KINDS)):
        try:
            parsed = parse_address(prefix + text)
        except LocalProtocolError:
            continue
        assert parse_address(str(parsed)) == parsed


# ssh


@given(words.filter(hosts), commands, options)
def test_no_word_but_the_options_is_an_option_of_ssh(
    host: str, command: str, given_options: tuple[str, ...]
) -> None:
    argv = SshAddress(host, command, given_options).argv
    assert argv == ["ssh", *given_options, "-T", "-o", "BatchMode=yes", "--", host, command]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (("-oProxyCommand=evil", "store"), "invalid host '-oProxyCommand=evil'"),
        (("", "store"), "invalid host ''"),
        (("host", ""), "there is no command"),
        (("host", "store", ("-p",)), "-p needs a value"),
        (("host", "store", ("host",)), "'host' is not an option"),
        (("host", "store", ("-o", "A=b", "x")), "'x' is not an option"),
        (("host", "store", ("",)), "'' is not an option"),
    ],
)
def test_an_address_of_ssh_made_by_a_program_is_checked_too(fields: Any, expected: str) -> None:
    with pytest.raises(LocalProtocolError, match=expected):
        SshAddress(*fields)


@pytest.mark.parametrize("make", [lambda: ExecAddress(()), lambda: UnixAddress(""), lambda: TcpAddress("a", 65536)])
def test_other_addresses_made_by_a_program_are_checked_too(make: Callable[[], Address]) -> None:
    with pytest.raises(LocalProtocolError):
        make()


# connecting

SERVER = """
import sys
from packetwire import PacketConnection, stdio

with PacketConnection(stdio(), request_handler=lambda rq_type, flags, payload: repr(sys.argv[1:])) as conn:
    conn.join_recv()
"""


@pytest.fixture
def server(tmp_path: Path) -> str:
    """A command that answers every request with its arguments."""
    file = tmp_path / "server.py"
    file.write_text(SERVER)
    return f"{sys.executable} {file}"


def ask(address: str | Address) -> str:
    with PacketConnection(connect_to(address), close_timeout=2) as conn:
        ok, _, payload = conn(0, timeout=30)
        assert ok
        return payload.decode()


def test_exec_starts_a_child_and_no_shell(server: str) -> None:
    assert ask(f"exec:{server} 'a b' $HOME ; true") == "['a b', '$HOME', ';', 'true']"


def test_ssh_runs_the_ssh_program(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for it notes its arguments, and hands the command to a shell, as the far side does."""
    program = tmp_path / "bin" / "ssh"
    program.parent.mkdir()
    program.write_text(
        textwrap.dedent(f"""\
            #!/bin/sh
            for word in "$@"; do echo "$word"; command=$word; done >{tmp_path}/noted
            exec sh -c "$command"
            """)
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    assert ask(f"ssh:-p 2222 me@host A='b c' && {server} \"$A\" d") == "['b c', 'd']"
    noted = (tmp_path / "noted").read_text().splitlines()
    assert noted[:-1] == ["-p", "2222", "-T", "-o", "BatchMode=yes", "--", "me@host"]


def test_ssh_gets_an_interval_from_us_if_it_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "ssh"
    program.write_text(
        textwrap.dedent(f"""\
            #!/bin/sh
            if [ "$1" = -G ]; then echo serveraliveinterval 0; exit; fi
            echo "$*" >{tmp_path}/noted
            """)
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with PacketConnection(connect_to("ssh:-p 2222 me@host store")) as conn, pytest.raises(ConnectionEnded):
        conn(0, timeout=30)
    noted = (tmp_path / "noted").read_text()
    assert noted == "-p 2222 -T -o BatchMode=yes -o ServerAliveInterval=30 -- me@host store\n"


def open_fds() -> list[str]:
    return os.listdir("/proc/self/fd")


@pytest.mark.parametrize("kind", ["unix", "tcp", "tcp6"])
def test_a_socket_is_opened_each_time_and_closed(kind: str, tmp_path: Path) -> None:
    before = len(open_fds())
    with ExitStack() as stack:
        if kind == "unix":
            address = f"unix:{tmp_path}/socket"
            listening = socket.socket(socket.AF_UNIX)
            listening.bind(f"{tmp_path}/socket")
            listening.listen()
        else:
            host, family = ("127.0.0.1", socket.AF_INET) if kind == "tcp" else ("::1", socket.AF_INET6)
            listening = socket.create_server((host, 0), family=family)
            address = str(TcpAddress(host, listening.getsockname()[1]))
        stack.enter_context(listening)
        conn = PacketConnection(connect_to(address))
        for number in range(3):
            with conn:
                peer, _ = listening.accept()
                with peer, PacketConnection(peer, request_handler=lambda *_, number=number: number):
                    assert conn(0, timeout=30) == (True, number, b"")
    assert len(open_fds()) == before


def test_nobody_is_there(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    missing, file, long = tmp_path / "missing", tmp_path / "file", "x" * 300
    file.touch()
    for address, kind, code, text in [
        (f"unix:{missing}", FileNotFoundError, errno.ENOENT, f"unix:{missing}: No such file or directory"),
        (f"unix:{file}", ConnectionRefusedError, errno.ECONNREFUSED, f"unix:{file}: Connection refused"),
        (f"unix:{long}", OSError, None, f"unix:{long}: AF_UNIX path too long"),
        (
            f"tcp:127.0.0.1:{port}",
            ConnectionRefusedError,
            errno.ECONNREFUSED,
            f"tcp:127.0.0.1:{port}: Connection refused",
        ),
        ("tcp:no.such.invalid:1", socket.gaierror, None, "tcp:no.such.invalid:1: "),
        (f"exec:{missing} a", FileNotFoundError, errno.ENOENT, f"exec:{missing} a: No such file or directory"),
    ]:
        with pytest.raises(kind) as caught, PacketConnection(connect_to(address)):
            pass
        assert str(caught.value).startswith(text)
        assert caught.value.__cause__ is not None
        if code is not None:
            assert caught.value.errno == code


def test_a_socket_on_which_too_many_wait_is_an_error_and_no_hang(tmp_path: Path) -> None:
    path = f"{tmp_path}/socket"
    with socket.socket(socket.AF_UNIX) as listening, ExitStack() as waiting:
        listening.bind(path)
        listening.listen(0)
        with pytest.raises(BlockingIOError, match=f"unix:{path}: too many clients wait there to be accepted"):
            fill_up(f"unix:{path}", waiting)


def fill_up(address: str, waiting: ExitStack) -> None:
    for _ in range(10):
        waiting.enter_context(PacketConnection(connect_to(address), close_timeout=0))


def test_a_machine_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def connect(sock: socket.socket, address: tuple[str, int]) -> None:
        asked.append((address, sock.gettimeout()))
        raise TimeoutError("timed out")

    monkeypatch.setattr(socket.socket, "connect", connect)
    with pytest.raises(TimeoutError, match=r"tcp:192\.0\.2\.1:7: timed out"):
        connect_to("tcp:192.0.2.1:7", timeout=0.25)()
    assert asked == [(("192.0.2.1", 7), 0.25)]


def test_a_child_that_fails_is_named(tmp_path: Path) -> None:
    with PacketConnection(connect_to("exec:false")) as conn, pytest.raises(ChildExited, match="child false"):
        conn(0, timeout=30)


def test_port_0_cannot_be_connected_to() -> None:
    with pytest.raises(LocalProtocolError, match=r"tcp:127\.0\.0\.1:0: port 0 is for listening"):
        connect_to("tcp:127.0.0.1:0")()


def test_a_text_that_is_no_address_is_refused_before_any_opening() -> None:
    with pytest.raises(LocalProtocolError, match="invalid address 'nonsense'"):
        connect_to("nonsense")


def user_timeout(sock: socket.socket) -> float:
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) / 1000


def keepalive(sock: socket.socket) -> tuple[int, ...]:
    return tuple(
        sock.getsockopt(socket.IPPROTO_TCP, option)
        for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
    )


TIMEOUTS = {120.0: (60, 15, 4), None: (60, 15, 4), 8.0: (4, 1, 4), 1.0: (1, 1, 4), 3600.0: (60, 15, 4)}
"""Of the address -> when the system asks whether the other machine is there."""


@pytest.mark.parametrize("seconds", TIMEOUTS)
def test_a_host_that_vanishes_is_noticed(seconds: float | None) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = TcpAddress("127.0.0.1", listening.getsockname()[1], seconds)
        sock, _, close = connect_to(address)()
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert user_timeout(sock) == (seconds or 0.0)
        assert keepalive(sock) == TIMEOUTS[seconds]
        close()


def test_without_another_value_it_is_two_minutes() -> None:
    for kind in TcpAddress, TlsAddress:
        assert kind("host", 1).user_timeout == 120.0
    assert parse_address("tcp:host:1") == TcpAddress("host", 1, 120.0)
    assert str(TcpAddress("host", 1, 5.0)) == "tcp:host:1"


def test_infinity_is_no_user_timeout() -> None:
    for kind in TcpAddress, TlsAddress:
        assert kind("host", 1, float("inf")) == kind("host", 1, None)


@pytest.mark.parametrize("seconds", [0, 0.5, -1, float("nan"), Decimal("NaN"), float("-inf"), 1e7])
def test_a_user_timeout_that_makes_no_sense(seconds: Any) -> None:
    with pytest.raises(LocalProtocolError, match="user_timeout must be from 1 to 1000000 seconds, or None"):
        TcpAddress("host", 1, seconds)


@pytest.mark.parametrize("value", ["5", b"5", [], 1j])
def test_a_user_timeout_that_is_no_number(value: Any) -> None:
    with pytest.raises(TypeError, match="user_timeout must be a number of seconds, got "):
        TcpAddress("host", 1, value)


@pytest.mark.parametrize("face", ["threads", "asyncio"])
def test_a_server_notices_it_too(face: str) -> None:
    found: queue.Queue[float] = queue.Queue()
    address = TcpAddress("127.0.0.1", 0, 20.0)

    def service(kind: Any, stream: Any) -> Any:
        found.put(user_timeout(stream))
        return kind(stream)

    def ask(address: Any) -> None:
        with PacketConnection(connect_to(address)):
            assert found.get(timeout=30) == 20.0

    async def in_a_loop() -> None:
        async with await aserve(address, partial(service, AsyncPacketConnection)) as server:
            await asyncio.to_thread(ask, server.address)

    if face == "asyncio":
        asyncio.run(in_a_loop())
    else:
        with serve(address, partial(service, PacketConnection)) as server:
            ask(server.address)


def test_a_bridge_notices_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    found: queue.Queue[float] = queue.Queue()
    opened = bridging._socket_stream
    monkeypatch.setattr(bridging, "_socket_stream", lambda sock: found.put(user_timeout(sock)) or opened(sock))
    with (
        serve("tcp:127.0.0.1:0", PacketConnection) as server,
        bridge.Bridge(TcpAddress("127.0.0.1", 0, 20.0), replace(server.address, user_timeout=30.0)) as joined,
    ):
        thread = threading.Thread(target=joined.run)
        thread.start()
        with PacketConnection(connect_to(joined.address)):
            assert {found.get(timeout=30), found.get(timeout=30)} == {20.0, 30.0}
        joined.stop()
        thread.join()


@pytest.mark.parametrize("face", ["threads", "asyncio"])
def test_a_socket_that_was_supplied_keeps_its_settings(face: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        ours = socket.create_connection(listening.getsockname())
        theirs, _ = listening.accept()
    before = keepalive(ours)

    async def in_a_loop() -> None:
        async with AsyncPacketConnection(ours, close_timeout=0):
            check()

    def check() -> None:
        assert not ours.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert user_timeout(ours) == 0
        assert keepalive(ours) == before

    with ours, theirs:
        if face == "asyncio":
            asyncio.run(in_a_loop())
        else:
            with PacketConnection(ours, close_timeout=0):
                check()


INTERVALS = [
    ((), "", ["-o", "ServerAliveInterval=30"]),
    ((), "ServerAliveInterval 7", []),
    ((), "Host *\n  ServerAliveInterval 7", []),
    ((), "ServerAliveCountMax 5", ["-o", "ServerAliveInterval=30"]),
    (("-o", "ServerAliveInterval=0"), "", []),
    (("-o", "serveraliveinterval 5"), "", []),
]


@pytest.mark.parametrize(("options", "config", "added"), INTERVALS)
def test_ssh_is_asked_to_notice_it_unless_the_user_has_said_something(
    tmp_path: Path, options: tuple[str, ...], config: str, added: list[str]
) -> None:
    if shutil.which("ssh") is None:
        pytest.skip("there is no ssh")
    (tmp_path / "config").write_text(config + "\n")
    address = SshAddress("host", "store", ("-F", str(tmp_path / "config"), *options))
    assert alive_options(address.options, address.host, 30) == added
    assert ssh_argv(address.options, "host", "store", added)[-3 - len(added) :] == [*added, "--", "host", "store"]


@pytest.mark.parametrize("script", [None, "exit 255", "echo nothing of the kind"])
def test_ssh_that_does_not_tell_its_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str | None
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    if script is not None:
        (tmp_path / "ssh").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "ssh").chmod(0o755)
    assert alive_options((), "host", 30) == []

"""Four servers behind HAProxy: one is killed, one added and one drained while clients call.

    python behind_balancer.py                    prints a table: what became of the calls
    python behind_balancer.py --config           prints the configuration of HAProxy, and does nothing else

TLS goes through the balancer unopened: it deals connections, and a pool of clients has many of them. Each call is
made with once=True: a call that was lost on its way is made again only where that is known to do no harm, else it
raises ConnectionEnded. At the end the program looks up in the logs of the servers that none was done twice.
It needs haproxy and openssl: apt-get install haproxy openssl
"""

import argparse
import itertools
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

from packetwire import ConnectionEnded, Dedup, PacketConnection, Pool, RequestTimeout, connect_to, serve
from packetwire.streams.tls import client_context, server_context

CALLERS = CONNECTIONS = 8
CONFIG = """\
global
    stats socket {directory}/admin mode 600 level admin

defaults
    mode tcp
    timeout connect 2s
    timeout check 10s
    timeout client 1h
    timeout server 1h
    option redispatch
    retries 3

frontend front
    bind 127.0.0.1:{port}
    default_backend servers

backend servers
    balance leastconn
    option tcp-check
    tcp-check connect ssl linger
    default-server check inter 500ms fall 2 rise 1 ca-file {directory}/cert.pem verify required verifyhost localhost
{servers}
    server spare 127.0.0.1:1 disabled
"""


# a server


def work(directory: Path, name: str) -> None:
    """The program of a server: prints its address, and ends by SIGTERM, in order."""
    log = os.open(directory / f"{name}.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    dedup = Dedup()

    def handle(rq_type: int, flags: int, payload: bytes) -> bytes:
        os.write(log, payload + b"\n")
        time.sleep(0.002)
        return payload

    def session(recv_send) -> PacketConnection:
        return PacketConnection(recv_send, request_handler=handle, dedup=dedup)

    context = server_context(directory / "cert.pem", directory / "key.pem")
    # all clients come from the address of the balancer
    with serve("tls:127.0.0.1:0", session, ssl_context=context, max_per_address=None) as server:
        signal.signal(signal.SIGTERM, lambda *_: server.stop())
        print(str(server.address).rpartition(":")[2], flush=True)
        server.wait()


class Server:
    def __init__(self, directory: Path, name: str) -> None:
        # in a process group of its own: Ctrl-C is for this process, which then ends its servers
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--server", str(directory), name],
            stdout=subprocess.PIPE, text=True, process_group=0,
        )  # fmt: skip
        self.name = name

    def port(self) -> int:
        """Its port, as soon as it serves."""
        line = self.process.stdout.readline()
        if not line:
            raise OSError(f"the server {self.name} does not start")
        return int(line)

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


# the balancer


class Balancer:
    def __init__(self, directory: Path, ports: dict[str, int]) -> None:
        self.admin = directory / "admin"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        config = directory / "haproxy.cfg"
        config.write_text(config_text(directory, self.port, ports))
        command = ["haproxy", "-db", "-f", str(config)]
        with (directory / "haproxy.log").open("w") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, process_group=0)
        while not self._is_there():
            if self.process.poll() is not None:
                raise OSError(f"haproxy does not start: {(directory / 'haproxy.log').read_text()}")
            time.sleep(0.01)

    def _is_there(self) -> bool:
        try:
            self.tell("show info")
        except OSError:
            return False
        return True

    def tell(self, command: str) -> str:
        """Give it a command of its runtime API."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(self.admin))
            sock.sendall(command.encode() + b"\n")
            return sock.makefile().read().strip()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


def config_text(directory: object, port: int, ports: dict[str, int]) -> str:
    servers = "\n".join(f"    server {name} 127.0.0.1:{number}" for name, number in ports.items())
    return CONFIG.format(directory=directory, port=port, servers=servers)


# the clients


class Calls:
    """What became of the calls, and how long each took."""

    def __init__(self) -> None:
        self.outcomes: dict[bytes, str] = {}
        self.seconds: list[float] = []
        self.numbers = itertools.count()
        self.over = threading.Event()

    def make(self, pool: Pool) -> None:
        while not self.over.is_set():
            payload = b"%d" % next(self.numbers)
            begun = time.monotonic()
            try:
                ok, _, _ = pool(0, payload, timeout=10, once=True)
                outcome = "answered" if ok else "refused"
            except (ConnectionEnded, RequestTimeout) as error:
                outcome = type(error).__name__
            self.outcomes[payload] = outcome
            self.seconds.append(time.monotonic() - begun)

    def phase(self, seconds: float, what: str) -> None:
        """Let so many seconds pass, and tell about the calls that ended meanwhile."""
        first, before = len(self.seconds), Counter(self.outcomes.copy().values())
        time.sleep(seconds)
        took, kinds = sorted(self.seconds[first:]), Counter(self.outcomes.copy().values()) - before
        others = sum(kinds.values()) - kinds["answered"]
        if not took:
            raise OSError(f"{what}: no call ended within {seconds:g} s")
        p50, p99 = (took[int(len(took) * part)] * 1000 for part in (0.5, 0.99))
        print(
            f"| {what} | {kinds['answered']:,} | {others} | {p50:.1f} | {p99:.0f} | {took[-1] * 1000:.0f} |",
            flush=True,
        )


def run(seconds: float) -> int:
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        make_certificate(directory)
        servers = [Server(directory, name) for name in ("one", "two", "three", "four")]
        for server in servers:
            stack.callback(server.end)
        balancer = Balancer(directory, {server.name: server.port() for server in servers})
        stack.callback(balancer.end)

        trusted = client_context(cafile=directory / "cert.pem")
        front = connect_to(f"tls:127.0.0.1:{balancer.port}", ssl_context=trusted, server_name="localhost")
        pool = stack.enter_context(Pool(front, size=CONNECTIONS))
        calls = Calls()
        callers = [threading.Thread(target=calls.make, args=(pool,)) for _ in range(CALLERS)]
        for caller in callers:
            caller.start()
        try:
            print("| | answered | not known | p50, ms | p99, ms | longest, ms |\n|---|---:|---:|---:|---:|---:|")
            calls.phase(seconds / 4, "four servers")
            servers[0].process.kill()
            calls.phase(seconds / 4, "one is killed")
            fifth = Server(directory, "five")
            stack.callback(fifth.end)
            balancer.tell(f"set server servers/spare addr 127.0.0.1 port {fifth.port()}")
            balancer.tell("set server servers/spare state ready")
            calls.phase(seconds / 4, "one is added")
            balancer.tell("set server servers/two state drain")  # no new connections
            servers[1].process.terminate()  # which asks its clients to go, and serves what they have asked
            calls.phase(seconds / 4, "one is drained")
        finally:
            calls.over.set()
            for caller in callers:
                caller.join()
        return judge(calls, directory)


def judge(calls: Calls, directory: Path) -> int:
    """Compare what the callers know with what the servers have done; the exit status."""
    logs = {path.stem: path.read_bytes().split() for path in directory.glob("*.log") if path.stem != "haproxy"}
    done = Counter(itertools.chain.from_iterable(logs.values()))
    twice = sum(count > 1 for count in done.values())
    lost = sum(outcome == "answered" and not done[payload] for payload, outcome in calls.outcomes.items())
    print(f"\n{len(calls.outcomes):,} calls: {dict(Counter(calls.outcomes.values()))}")
    print("done by:", {name: len(log) for name, log in sorted(logs.items())})
    print(f"done twice: {twice}; answered and not done: {lost}")
    return 1 if twice or lost else 0


def make_certificate(directory: Path) -> None:
    """A certificate that is its own CA: for trying only."""
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 30 -subj /CN=localhost"
        " -addext subjectAltName=DNS:localhost -addext keyUsage=digitalSignature,keyCertSign"
    )
    subprocess.run(command.split(), cwd=directory, check=True, capture_output=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=8, help="for all of it (default: %(default)s)")
    parser.add_argument("--config", action="store_true", help="print the configuration of HAProxy")
    parser.add_argument("--server", nargs=2, metavar=("DIRECTORY", "NAME"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    try:
        if args.server:
            work(Path(args.server[0]), args.server[1])
            return 0
        if args.config:
            print(config_text("/etc/haproxy", 7000, {"one": 7001, "two": 7002}), end="")
            return 0
        return run(args.seconds)
    except KeyboardInterrupt:
        return 130
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"behind_balancer: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())

"""The reference's end of a connection, in a process of its own, and the stream that leads to it."""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

PEER_PROGRAM = Path(__file__).with_name("reference_peer.py")
ANSWER_SECONDS = 20
EXIT_SECONDS = 15


class ReferenceFailedError(AssertionError):
    """The reference's end failed, or did not answer; the text holds what it wrote to standard error."""


def peer_argv(python: Path, address: str, control: str) -> list[str]:
    """The command of the peer program, with no say for the environment variables of the tests."""
    return [str(python), "-E", "-s", str(PEER_PROGRAM), address, control]


class ReferencePeer:
    """A peer that does what it is asked for. `recv_send` is our end of the stream to it."""

    def __init__(self, python: Path, transport: str) -> None:
        self.recv_send: Any = None
        self._asked = 0
        with ExitStack() as opened:
            self._log = opened.enter_context(tempfile.TemporaryFile())
            self._control, self._start = self._open_control(opened, python)
            self.process: subprocess.Popen[bytes]
            TRANSPORTS[transport](self, opened)
            self._opened = opened.pop_all()

    def _open_control(
        self, opened: ExitStack, python: Path
    ) -> tuple[Connection, Callable[..., subprocess.Popen[bytes]]]:
        ours, theirs = Pipe()
        opened.enter_context(ours)

        def start(address: str, stdin: int = subprocess.DEVNULL, stdout: int = subprocess.DEVNULL) -> Any:
            with theirs:
                process = subprocess.Popen(
                    peer_argv(python, address, str(theirs.fileno())),
                    stdin=stdin,
                    stdout=stdout,
                    stderr=self._log,
                    pass_fds=[theirs.fileno()],
                )
            opened.callback(_kill, process)
            return process

        return ours, start

    def tell(self, command: str, *arguments: Any) -> None:
        """Ask for something without waiting; `answer` waits."""
        self._asked += 1
        self._control.send((command, *arguments))

    def answer(self) -> Any:
        """What the oldest command without an answer came to."""
        self._asked -= 1
        if not self._control.poll(ANSWER_SECONDS):
            raise ReferenceFailedError(f"the reference does not answer\n{self.log()}")
        try:
            done, value = self._control.recv()
        except EOFError:
            raise ReferenceFailedError(f"the reference is gone\n{self.log()}") from None
        if not done:
            raise ReferenceFailedError(f"{value}\n{self.log()}")
        return value

    def ask(self, command: str, *arguments: Any) -> Any:
        """Ask for something and wait until it is done."""
        self.tell(command, *arguments)
        return self.answer()

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Be a server within the block; on leaving it the reference must have seen the end, and be closed."""
        self.tell("serve")
        yield
        self.answer()

    def exit_status(self) -> int:
        """End the peer, if it has not ended yet; the answers not taken so far are taken first."""
        while self._asked:
            self.answer()
        try:
            self._control.send(None)
        except BrokenPipeError:
            pass  # it has gone by itself
        try:
            return self.process.wait(EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            raise ReferenceFailedError(f"the reference does not exit\n{self.log()}") from None

    def log(self) -> str:
        """What the reference wrote to standard error."""
        self._log.seek(0)
        return self._log.read().decode("utf-8", errors="replace")

    def close(self) -> None:
        """Close our end of the stream, and see that no process is left."""
        self._opened.close()

    # transports

    def over_pipes(self, opened: ExitStack) -> None:
        from_us, send = os.pipe()
        recv, to_us = os.pipe()
        for fd in recv, send:
            opened.callback(os.close, fd)
        self.process = self._start("pipes", from_us, to_us)
        for fd in from_us, to_us:
            os.close(fd)
        self.recv_send = recv, send

    def over_unix_socket(self, opened: ExitStack) -> None:
        with tempfile.TemporaryDirectory() as directory, socket.socket(socket.AF_UNIX) as listener:
            path = f"{directory}/socket"
            listener.bind(path)
            listener.listen(1)
            self.process = self._start(f"unix:{path}")
            self.recv_send = opened.enter_context(self._accept(listener))

    def over_tcp(self, opened: ExitStack) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.process = self._start(f"tcp:{listener.getsockname()[1]}")
            sock = opened.enter_context(self._accept(listener))
        self.recv_send = sock.fileno(), sock.fileno()

    def _accept(self, listener: socket.socket) -> socket.socket:
        listener.settimeout(EXIT_SECONDS)
        try:
            sock, _ = listener.accept()
        except TimeoutError:
            raise ReferenceFailedError(f"the reference does not connect\n{self.log()}") from None
        sock.settimeout(None)
        return sock


TRANSPORTS: dict[str, Callable[[ReferencePeer, ExitStack], None]] = {
    "pipes": ReferencePeer.over_pipes,
    "unix socket": ReferencePeer.over_unix_socket,
    "TCP": ReferencePeer.over_tcp,
}


def _kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()

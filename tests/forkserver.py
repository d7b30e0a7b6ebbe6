"""Programs in processes of their own that need no new interpreter: forks of one that has imported what they need.

An interpreter takes longer to start than most commands to run. A fork has its own descriptors, directory,
environment, signals and exit status; what depends on how Python was started, such as its options, needs a real
start.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

SERVER = """
import atexit, gc, json, os, socket, sys, threading, traceback

def next_program():
    "In a fork: what it is to run, and on which descriptors."
    channel = socket.socket(fileno=int(sys.argv[1]))
    while True:
        message, fds, _, _ = socket.recv_fds(channel, 65536, 3)
        while message and not message.endswith(b"\\n"):
            message += channel.recv(65536)
        if not message:
            os._exit(0)
        pid = os.fork()
        if not pid:
            channel.close()
            return json.loads(message), fds
        for fd in fds:
            os.close(fd)
        channel.sendall(b"%d\\n" % pid)
        _, status = os.waitpid(pid, 0)
        channel.sendall(b"%d\\n" % os.waitstatus_to_exitcode(status))

def begin():
    "In a fork: the code to run, when all is as it was asked for."
    program, fds = next_program()
    for number, fd in enumerate(fds):
        os.dup2(fd, number)
        os.close(fd)
    # anew, as the former ones may have looked what kind of files they are
    sys.stdin = open(0, encoding=sys.stdin.encoding, errors=sys.stdin.errors, closefd=False)
    sys.stdout = open(1, "w", encoding=sys.stdout.encoding, errors=sys.stdout.errors, closefd=False)
    sys.stderr = open(2, "w", buffering=1, encoding=sys.stderr.encoding, errors=sys.stderr.errors, closefd=False)
    os.chdir(program["cwd"])
    os.environ.clear()
    os.environ.update(program["env"])
    sys.argv[1:] = program["arguments"]
    if sys.path[0] == "":
        sys.path[0] = program["cwd"]
    return program["code"]

def end(status):
    "As at the end of a program, but for what would only free memory: that takes most of the time of a short one."
    threading._shutdown()
    atexit._run_exitfuncs()
    for file in (sys.stdout, sys.stderr):
        if file is not None:
            file.flush()
    os._exit(status)

exec(sys.argv[2])
gc.freeze()
try:
    exec(begin(), {"__name__": "__main__"})
except SystemExit as error:
    if isinstance(error.code, str):
        print(error.code, file=sys.stderr)
    end(error.code if isinstance(error.code, int) else int(error.code is not None))
except BaseException:
    traceback.print_exc()
    end(1)
end(0)
"""


class ForkServer:
    """An interpreter that has run `setup` once, of which each program is a fork; `options` are those of Python."""

    def __init__(self, setup: str, *options: str, env: Mapping[str, str] | None = None) -> None:
        self._channel, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, *options, "-c", SERVER, str(theirs.fileno()), setup],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=env,
            )
        self._answers = self._channel.makefile("rb")

    def run(
        self,
        code: str,
        arguments: Sequence[str] = (),
        *,
        stdin: bytes = b"",
        cwd: str | Path = ".",
        env: Mapping[str, str] | None = None,
        timeout: float = 60.0,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run `code` with these arguments behind the name of the program; after `timeout` seconds it is killed."""
        program = {
            "code": code,
            "arguments": list(arguments),
            "cwd": str(Path(cwd).absolute()),
            "env": dict(os.environ if env is None else env),
        }
        (in_read, in_write), (out_read, out_write), (err_read, err_write) = os.pipe(), os.pipe(), os.pipe()
        socket.send_fds(self._channel, [json.dumps(program).encode() + b"\n"], [in_read, out_write, err_write])
        for fd in (in_read, out_write, err_write):
            os.close(fd)
        pid = int(self._answers.readline())
        killer = threading.Timer(timeout, os.kill, (pid, signal.SIGKILL))
        said: dict[int, bytes] = {}
        others = [
            threading.Thread(target=_write, args=(in_write, stdin)),
            threading.Thread(target=lambda: said.update({2: _read(err_read)})),
        ]
        for each in (killer, *others):
            each.start()
        said[1] = _read(out_read)
        for each in others:
            each.join()
        status = int(self._answers.readline())
        killer.cancel()
        killer.join()
        return subprocess.CompletedProcess(list(arguments), status, said[1], said[2])

    def close(self) -> None:
        """End the interpreter."""
        self._answers.close()
        self._channel.close()
        self._process.wait()


def _read(fd: int) -> bytes:
    with open(fd, "rb") as file:
        return file.read()


def _write(fd: int, octets: bytes) -> None:
    with suppress(BrokenPipeError), open(fd, "wb", buffering=0) as file:
        while octets:
            octets = octets[file.write(octets) :]

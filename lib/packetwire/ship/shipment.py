"""A service for a far end that has only Python: all that is sent there, and the stream to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from packetwire.errors import LocalProtocolError
from packetwire.ship.command import packed, python_options, shell_command
from packetwire.ship.modules import UserModules, check_name, own_modules, path_of
from packetwire.streams.bytestream import ByteStream
from packetwire.streams.preamble import fresh_digits

LOADER = "packetwire.ship.loader"
LOADER_PATH = path_of(LOADER, False)
FAR_END = "packetwire.ship.farend"


@dataclass(frozen=True)
class Ship:
    """A service to be sent to a far end that has only Python, of 3.11 or newer: the `ship` of `connect_to`.

    `service` is MODULE:NAME, where NAME is what `packetwire serve` serves: a `HasPacketConnection` class, a
    function that makes such a service, or a request map; or a function of (rq_type, flags, payload), for plain
    requests. MODULE is found as by `import`, and not imported here. Modules that it imports are sent too, if you
    have written them: no package that is installed, and nothing of the standard library. `modules` are further
    modules to send. With `site` the packages that are installed at the far end can be imported there.

    Raises `LocalProtocolError` if the service is not of that form, or a module would hide one of the standard
    library.
    """

    service: str
    modules: Sequence[str] = ()
    site: bool = False

    def __post_init__(self) -> None:
        module, colon, path = self.service.partition(":")
        if not colon or not all(part.isidentifier() for part in path.split(".")):
            raise LocalProtocolError(f"expected MODULE:NAME, such as shop:Shop, got {self.service!r}")
        if isinstance(self.modules, str):
            raise TypeError(f"modules must be a sequence of names, got {self.modules!r}")
        for name in module, *self.modules:
            if name.partition(".")[0] != "packetwire":
                check_name(name)

    def find(self) -> UserModules:
        """The sources of the user's modules, as they are now. Raises `LocalProtocolError`."""
        return UserModules([self.service.partition(":")[0], *self.modules])

    def packed(self, found: UserModules, digits: str) -> bytes:
        """All that is sent, for a far end that says these digits when it is ready."""
        files = {**own_modules([FAR_END, *found.own]), **found.files}
        loader = own_modules([LOADER])[LOADER_PATH]
        return packed(loader, self.service, digits, files, found.absent)

    def open(self, argv: Sequence[str], timeout: float, shown: str) -> ByteStream:
        """The stream to the far end that `argv`, with the program of one line, starts; it is `shown` in messages.

        Raises OSError if it cannot be started, `LocalProtocolError` if a module cannot be sent, and
        `PreambleMissing` if it does not serve within `timeout` seconds.
        """
        from packetwire.streams.process import ProcessStream, child

        found = self.find()
        stream = child(argv)()
        assert isinstance(stream, ProcessStream)
        stream.shown = shown
        try:
            digits = fresh_digits()
            first = self.packed(found, digits)  # while the other end starts
        except BaseException:
            stream.hurry()
            stream.close()
            raise
        stream.synchronize(digits, timeout, first)
        return stream

    def python_argv(self, python: Sequence[str]) -> list[str]:
        """The command that runs a Python here."""
        return [*python, *python_options(self.site)]

    def shell_command(self, python: str) -> str:
        """The command for a shell there; `python` is the one to run, "" for any that is new enough."""
        return shell_command(python, self.site)

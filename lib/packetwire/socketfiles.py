"""The files of Unix sockets: made, kept apart from those of others, and removed.

A Unix socket is a file that outlives its server. One that nobody answers on is replaced, one that is in use is left
alone, or, if that is asked for, another one is renamed over it: those who wait at the old one stay there, whoever
comes finds the new one, and at no time there is none. At the end a file is removed only if it is still ours.

Servers that start or end at the same moment on the same path keep out of each other's way by a lock on a file
beside it, which exists for that moment only and which nobody else can open. Nobody but its owner can connect: the
file gets mode 0600 before the socket listens, and until then it refuses everyone.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import secrets
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from packetwire.streams import forking

logger = logging.getLogger("packetwire")

BACKLOG = 1024
"""Clients that the system lets wait to be accepted; it may have a lower bound of its own."""
SOCKET_MODE = 0o600
LOCK_SECONDS = 5.0
DIRECTORY_LOCK_SECONDS = 0.25
LOCK_MODE = 0o600
LOCK_SUFFIX = ".lock"
LOCK_INTERVAL = 0.01


@contextmanager
def socket_with_file(path: str, mode: int = SOCKET_MODE, *, replaces: bool = False) -> Iterator[socket.socket]:
    """A socket that listens at `path`, in place of one that nobody answers on. After an error it is gone again.

    With `replaces` it takes the place of any other socket, by renaming.
    """
    sock = forking.guarded_socket(lambda: socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
    try:
        with _others_kept_out(path):
            bound = path
            if replaces:
                _check_is_socket(path)
                bound = os.path.join(os.path.dirname(path), f".{secrets.token_hex(4)}")
            else:
                _remove_stale(path)
            sock.bind(bound)
            try:
                os.chmod(bound, mode)
                sock.listen(BACKLOG)
                if replaces:
                    os.rename(bound, path)
                    bound = path
                yield sock
            except BaseException:
                os.unlink(bound)
                raise
    except BaseException:
        sock.close()
        raise


def remove_own(path: str, own: tuple[int, int]) -> None:
    """Remove the file with that identity, unless another takes its place at this moment; `path` is absolute."""
    if not _is(path, own) or not os.access(os.path.dirname(path), os.W_OK):
        return
    try:
        lock = _take_lock_file(path + LOCK_SUFFIX, 0.0)
    except OSError:
        return  # another server starts there: it finds that nobody answers any more, or renames its own over it
    try:
        with suppress(OSError):
            if _is(path, own):
                os.unlink(path)
    finally:
        _release_lock_file(lock, path + LOCK_SUFFIX)


def identity(path: str) -> tuple[int, int]:
    """The device and the inode of a file. Raises OSError."""
    found = os.lstat(path)
    return found.st_dev, found.st_ino


def _is(path: str, own: tuple[int, int]) -> bool:
    with suppress(OSError):
        return identity(path) == own
    return False


def _check_is_socket(path: str) -> bool:
    """False if there is nothing; raises OSError for a file that is no socket."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return False
    if not stat.S_ISSOCK(mode):
        raise FileExistsError(errno.EEXIST, "there is a file that is no socket")
    return True


def _remove_stale(path: str) -> None:
    """Remove a socket that nobody answers on; raises OSError for anything else that is there."""
    if not _check_is_socket(path):
        return
    with forking.guarded_socket(lambda: socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except FileNotFoundError:
            return
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except BlockingIOError:
            pass  # somebody does answer, only not at once
    raise OSError(errno.EADDRINUSE, "another server is serving there")


# locks


@contextmanager
def _others_kept_out(path: str) -> Iterator[None]:
    """Keep other servers from starting at `path` meanwhile.

    The lock is on a file of our own beside it, which only our user can open. Servers of 0.1.0 lock the directory,
    and so do we for their sake; but whoever can read it can hold that lock, so it is not waited for much.
    """
    with _directory_locked(os.path.dirname(path) or "."):
        lock_path = path + LOCK_SUFFIX
        lock = _take_lock_file(lock_path, LOCK_SECONDS)
        try:
            yield
        finally:
            _release_lock_file(lock, lock_path)


@contextmanager
def _directory_locked(path: str) -> Iterator[None]:
    try:
        directory = forking.Descriptor(lambda: os.open(path, os.O_RDONLY | os.O_DIRECTORY))
    except PermissionError:
        yield
        return
    try:
        with suppress(OSError):
            _lock(directory.fd, DIRECTORY_LOCK_SECONDS)
        yield
    finally:
        directory.close()


def _take_lock_file(path: str, seconds: float) -> forking.Descriptor | None:
    """The descriptor of the lock file, locked; None where there can be none. Raises OSError if it stays locked."""
    while True:
        lock = _open_lock_file(path)
        if lock is None:
            return None
        try:
            _lock(lock.fd, seconds)
            found = os.fstat(lock.fd)
            with suppress(FileNotFoundError):
                if identity(path) == (found.st_dev, found.st_ino):
                    return lock
        except BlockingIOError as error:
            lock.close()
            raise OSError(error.errno, f"another program has locked {path}") from error
        except BaseException:
            lock.close()
            raise
        lock.close()  # its former owner is done and has removed it


def _release_lock_file(lock: forking.Descriptor | None, path: str) -> None:
    if lock is not None:
        with suppress(OSError):
            os.unlink(path)  # before it is given up: who waits for it notices, and makes a new one
        lock.close()


def _open_lock_file(path: str) -> forking.Descriptor | None:
    """Open a regular file of our user and nobody else's, which is made if there is none."""
    try:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
        lock = forking.Descriptor(lambda: os.open(path, flags, LOCK_MODE))
    except FileNotFoundError:
        return None  # there is no directory, as binding is about to say
    except OSError as error:
        logger.warning("%s is not used as a lock: %s", path, error.strerror)
        return None
    found = os.fstat(lock.fd)
    if stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid():
        os.fchmod(lock.fd, LOCK_MODE)  # whatever the umask is
        return lock
    lock.close()
    logger.warning("%s is not used as a lock: it belongs to someone else, or is no regular file", path)
    return None


def _lock(fd: int, seconds: float) -> None:
    """Raises BlockingIOError if it stays locked for so long."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(LOCK_INTERVAL)
        except OSError:
            return  # not on this file system

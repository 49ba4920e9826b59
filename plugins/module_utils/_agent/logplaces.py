# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""The places of a log. Each takes whole messages as lines without control characters, and raises OSError where it cannot."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import re
import time
from typing import TYPE_CHECKING, Protocol, TextIO

if TYPE_CHECKING:
    import socket

CONSOLE = "/dev/console"
SYSLOG_SOCKETS = ("/dev/log", "/var/run/log", "/var/run/syslog")
"""Linux and OpenBSD, FreeBSD and NetBSD, macOS."""
FACILITIES = {"USER": 1, **{f"LOCAL{number}": 16 + number for number in range(8)}}
"""RFC 5424 section 6.2.1."""
MODE = 0o640
KEPT = 20
"""Older files of a log with rotation: the newest so many stay, so that nothing fills a disk."""
LONGEST_LINE = 8192
PATIENCE = 0.1
"""Seconds."""


class Place(Protocol):
    """Where lines go. name: for people."""

    name: str

    def write(self, level: int, when: float, lines: list[str]) -> None:
        """One message. level: as in logging; when: seconds since 1970. Raises OSError, ValueError."""

    def close(self) -> None:
        """Give it back."""


def qualifier(level: int) -> str:
    """What the old clients put before each line: E, W or I."""
    return "E" if level >= logging.ERROR else "W" if level >= logging.WARNING else "I"


def priority(level: int) -> int:
    """The severity of syslog and sd-daemon(3)."""
    for least, number in ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (25, 5), (logging.INFO, 6)):
        if level >= least:
            return number
    return 7


class Stream:
    """stderr. journal: JOURNAL_STREAM; where it names this very stream, journald reads it and wants the priority of each line."""

    name = "stderr"

    def __init__(self, stream: TextIO, journal: str = "") -> None:
        self._stream = stream
        self._journal = False
        with contextlib.suppress(OSError, ValueError, AttributeError):
            found = os.fstat(stream.fileno())
            self._journal = journal == f"{found.st_dev}:{found.st_ino}"

    def write(self, level: int, when: float, lines: list[str]) -> None:
        before = f"<{priority(level)}>" if self._journal else f"{qualifier(level)}: "
        self._stream.write("".join(f"{before}{line}\n" for line in lines))
        self._stream.flush()

    def close(self) -> None:
        """It is not ours."""


class Console:
    """The computer's own screen. It is root's: made before rights are given up, it can be written to afterwards."""

    def __init__(self, path: str = CONSOLE) -> None:
        self.name = path
        self._kept = -1
        with contextlib.suppress(OSError):
            self._kept = self._open()

    def _open(self) -> int:
        return os.open(self.name, os.O_WRONLY | os.O_APPEND | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)

    def write(self, level: int, when: float, lines: list[str]) -> None:
        data = "".join(f"tsp-agent: {qualifier(level)}: {line}\r\n" for line in lines).encode()
        try:
            handle = self._open()  # each time where we may: it may have hung up
        except PermissionError:
            if self._kept < 0:
                raise
            os.write(self._kept, data)
            return
        try:
            os.write(handle, data)
        finally:
            os.close(handle)

    def close(self) -> None:
        if self._kept >= 0:
            os.close(self._kept)
            self._kept = -1


class Syslog:
    """The local syslog daemon, over its socket; never over the network.

    It gets PATIENCE seconds to take a line, since some kernels queue ten for it; one that let them pass gets none until it takes one.
    """

    def __init__(self, facility: str, paths: tuple[str, ...] = SYSLOG_SOCKETS) -> None:
        self.name = "syslog"
        self._facility = FACILITIES[facility]
        self._paths = paths
        self._socket: socket.socket | None = None
        self._stuck = False

    def write(self, level: int, when: float, lines: list[str]) -> None:
        number = self._facility * 8 + priority(level)
        for line in lines:
            # Without time and host: the daemon puts its own.
            data = f"<{number}>tsp-agent[{os.getpid()}]: {qualifier(level)}: {line[:LONGEST_LINE]}".encode()
            try:
                self._send(data)
            except (BlockingIOError, TimeoutError):
                raise
            except OSError:
                self.close()  # the daemon was started anew: its socket is another one
                self._send(data)

    def _send(self, data: bytes) -> None:
        connected = self._connected()
        connected.settimeout(0 if self._stuck else PATIENCE)
        self._stuck = True
        try:
            connected.send(data)
        except OSError as exc:
            # Python 3.9 has a class of its own for it, without a number.
            raise TimeoutError(errno.ETIMEDOUT, "it takes no lines") if exc.errno in (None, errno.EAGAIN) else exc from None
        self._stuck = False

    def _connected(self) -> socket.socket:
        if self._socket is not None:
            return self._socket
        import socket

        made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        last: OSError = FileNotFoundError(errno.ENOENT, "there is no syslog daemon")
        for path in self._paths:
            try:
                made.connect(path)
            except OSError as exc:
                last = last if exc.errno == errno.ENOENT else exc
            else:
                self._socket = made
                return made
        made.close()
        raise last

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class LogFile:
    """A file, which is moved away before it passes `size` KiB (0: never), to a name with the time; `delete`: it goes instead.

    In a folder where we may make no files it is emptied. older: the one name for the file before this one, in place of names with a
    time. A file that somebody moved or removed is made again. It must not be a link that somebody else put there.
    """

    def __init__(self, path: str, size: int, delete: bool = False, older: str = "") -> None:
        self.name = path
        self._size = size * 1024
        self._delete = delete
        self._older = older
        self._handle: int | None = None
        self._broken = False

    def write(self, level: int, when: float, lines: list[str]) -> None:
        date = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(when))
        data = "".join(f"{date} {qualifier(level)}: {line}\n" for line in lines).encode("utf-8", "backslashreplace")
        handle = self._opened()
        written = os.fstat(handle).st_size
        if self._size and written and written + len(data) > self._size:
            self._turn(when)
            handle = self._opened()
        if self._broken:
            data = b"\n" + data  # behind the half of a line for which there was no room
        done = os.write(handle, data)
        self._broken = done < len(data)
        if self._broken:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _opened(self) -> int:
        """The file of this name; another one than before where somebody moved that away."""
        if self._handle is not None:
            mine = os.fstat(self._handle)
            try:
                there = os.stat(self.name)
            except OSError:
                there = None
            if there is not None and (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino):
                return self._handle
            self.close()
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        self._handle = os.open(self.name, flags, MODE)
        return self._handle

    def _turn(self, when: float) -> None:
        handle = self._handle
        if handle is None:
            return
        # Two processes may write here: one of them turns the page, and the other follows.
        fcntl.flock(handle, fcntl.LOCK_EX)
        try:
            mine, there = os.fstat(handle), os.stat(self.name)
            if (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino):
                if not os.access(os.path.dirname(self.name), os.W_OK):
                    os.ftruncate(handle, 0)  # the file is ours, its folder is not: there is no other way to begin anew
                elif self._delete:
                    os.unlink(self.name)
                elif self._older:
                    os.replace(self.name, self._older)
                else:
                    os.rename(self.name, self._backup(when))
                    self._thin()
        finally:
            self.close()

    def _backup(self, when: float) -> str:
        name = f"{self.name}.{time.strftime('%Y%m%d-%H%M%S', time.localtime(when))}"
        number = 0
        while os.path.lexists(f"{name}.{number:03d}" if number else name):
            number += 1
        return f"{name}.{number:03d}" if number else name

    def _thin(self) -> None:
        folder, base = os.path.split(self.name)
        form = re.compile(re.escape(base) + r"\.[0-9]{8}-[0-9]{6}(\.[0-9]{3})?\Z")
        with contextlib.suppress(OSError):
            for name in sorted(name for name in os.listdir(folder or ".") if form.match(name))[:-KEPT]:
                os.unlink(os.path.join(folder, name))

    def close(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

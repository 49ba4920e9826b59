# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""What makes a program a service: one instance for each name, the background, and word to who started it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import sys
from collections.abc import Sequence
from types import TracebackType

from .._tsp.errors import LocalError
from .settings import AgentConfig


class Lock:
    """The pid file, held locked as long as we live: two agents of one name cannot fight for one tunnel. Raises LocalError
    `already_running`, `runtime_dir_unusable`."""

    def __init__(self, path: str, owner: int = 0) -> None:
        """owner: the user (uid) whose the folder may be, beside root and us."""
        self._path = path
        directory = os.path.dirname(path)
        try:
            os.makedirs(directory, mode=0o755, exist_ok=True)
            found = os.stat(directory)
            if found.st_mode & 0o022 or found.st_uid not in (0, owner, os.geteuid()):
                raise LocalError("runtime_dir_unusable", f"{directory} cannot be used: others than its owner can write into it.",
                                 "Set another runtime_dir, one that does not exist yet is made as it should be.")
            while True:
                self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
                try:
                    fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    holder = os.read(self._fd, 20).decode("ascii", "replace").strip() or "unknown"
                    os.close(self._fd)
                    raise LocalError("already_running", f"An agent holds {path} already (process {holder}).",
                                     "Stop it first, or give this one another name.") from None
                if self._same():
                    break
                os.close(self._fd)  # the one before us removed it between the two calls
            if os.fstat(self._fd).st_nlink != 1:  # a second name for somebody else's file
                raise LocalError("runtime_dir_unusable", f"{path} has a second name.", "Remove it.")
            os.ftruncate(self._fd, 0)
            os.write(self._fd, f"{os.getpid()}\n".encode())
        except OSError as exc:
            raise LocalError("runtime_dir_unusable", f"{directory} cannot be used: {exc.strerror}.",
                             "Run the agent as root, or set another runtime_dir.") from None

    def _same(self) -> bool:
        held = os.fstat(self._fd)
        try:
            named = os.stat(self._path)
        except FileNotFoundError:
            return False
        return (held.st_dev, held.st_ino) == (named.st_dev, named.st_ino)

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        with contextlib.suppress(OSError):
            os.unlink(self._path)
        os.close(self._fd)


def held(path: str) -> bool:
    """Whether an agent lives that has this pid file. One that we may not look at counts as an agent's."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except OSError:
        return True
    finally:
        os.close(handle)


class Starter:
    """Who started us and waits to hear that we run: a parent process, systemd, or nobody."""

    def __init__(self, pipe: int | None = None) -> None:
        self._pipe = pipe
        self.heard = False
        """Whether somebody heard why we end."""

    def ready(self) -> None:
        """Configuration, lock and device are fine: from now on we look after ourselves."""
        self._say(b"ok")
        _notify("READY=1")

    def failed(self, message: str) -> bool:
        """We end, and why. Returns whether somebody was there to hear it."""
        self.heard = self._say(message.encode("utf-8", "replace")[:4000])
        return self.heard

    def leave_it(self) -> None:
        """Another process of ours tells: whoever waits is not to wait for this one as well."""
        if self._pipe is not None:
            os.close(self._pipe)
            self._pipe = None

    def _say(self, words: bytes) -> bool:
        if self._pipe is None:
            return False
        pipe, self._pipe = self._pipe, None
        try:
            return os.write(pipe, words) > 0
        except OSError:
            return False
        finally:
            os.close(pipe)


def into_background() -> Starter:
    """Fork: the child goes on, in a session of its own, without a terminal. The parent waits for its word and ends: with 0 when the
    child is ready, with 1 and the child's words on stderr when it is not."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        said = b""
        while True:
            part = os.read(reading, 4096)
            if not part:
                break
            said += part
        if said == b"ok":
            os._exit(0)
        os.write(2, (said or b"the agent died while it started") + b"\n")
        os._exit(1)
    os.close(reading)
    os.set_inheritable(writing, False)
    os.setsid()
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    sys.stdout.flush()
    for number in (0, 1, 2):
        os.dup2(null, number)
    if null > 2:
        os.close(null)
    return Starter(writing)


def _notify(state: str) -> None:
    """sd_notify(3): tell systemd, when it started us as Type=notify."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as handle:
            handle.connect(address)
            handle.send(state.encode())
    except OSError:
        pass


def forget_log(configs: Sequence[AgentConfig]) -> None:
    """The log of an agent in the background that ended as it should, or whose end was told to who started it."""
    for config in configs:
        remove(config, "log", "log.1")


def remove(config: AgentConfig, *suffixes: str) -> None:
    """Take files of the runtime directory away; no error when there are none."""
    for suffix in suffixes:
        with contextlib.suppress(OSError):
            os.unlink(config.runtime_file(suffix))

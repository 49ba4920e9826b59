# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""The one port through which a host is touched: files, directories, processes, commands. `HostRunner` is the real one.

The tests have a stateful fake; both pass the same contract test (tests/unit/plugins/module_utils/_apply/test_runner.py).
"""

from __future__ import annotations

import errno
import fcntl
import grp
import os
import pwd
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol

from .._tsp.errors import ApplyError

NEW_SUFFIX = ".tsp-new"
"""What a file is called, with a leading dot, while it is being written beside its final name. Fixed, so that the next run finds it."""
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", "HOME": "/"}
NOT_FOUND = 127
TIMED_OUT = 124


@dataclass(frozen=True)
class FileState:
    """A regular file as it is. mode: permission bits."""

    content: bytes
    mode: int
    uid: int
    gid: int


@dataclass(frozen=True)
class Completed:
    """A command that ended. rc: exit code; 127 when there is no such program, 124 when it did not end in time."""

    argv: tuple[str, ...]
    rc: int
    stdout: str = ""
    stderr: str = ""

    @property
    def words(self) -> str:
        """What the command said, on one line and without a full stop, for an error message."""
        said = (self.stderr.strip() or self.stdout.strip()).splitlines()
        return " / ".join(line.strip() for line in said[-3:])[:400].rstrip(".") or f"exit code {self.rc}"


class Runner(Protocol):
    """What a transaction needs of a host. All paths are absolute. Anything that fails raises ApplyError `host_refused`."""

    def read(self, path: str) -> FileState | None:
        """The file, None when there is nothing. A link, a directory or a device in its place is refused (`not_a_file`)."""

    def write(self, path: str, content: bytes, mode: int, uid: int | None = None, gid: int | None = None) -> None:
        """Put a whole file in place atomically and durably. Its directory must exist."""

    def remove(self, path: str) -> None:
        """Remove the file, and what an interrupted write left beside it. Nothing there is fine."""

    def directory_mode(self, path: str) -> int | None:
        """Permission bits of a directory, None when there is none."""

    def names(self, path: str) -> list[str]:
        """What is in a directory, sorted; nothing where there is none."""

    def make_directory(self, path: str, mode: int) -> None:
        """Make a directory below an existing one, or give an existing one this mode."""

    def remove_directory(self, path: str) -> bool:
        """Remove an empty directory; False when it is not empty. None there is fine."""

    def run(self, argv: Sequence[str], timeout: float = 60.0) -> Completed:
        """Run a command without a shell, without input, in a fixed small environment. Never raises for its failure."""

    def get_sysctl(self, name: str) -> str | None:
        """A variable of the kernel (its name with slashes), None when there is none, or none that can be read."""

    def set_sysctl(self, name: str, value: str) -> None:
        """Set it."""

    def lock(self, directory: str) -> AbstractContextManager[None]:
        """Hold this directory (made 0700 when missing) alone; taken away at the end when empty. ApplyError `busy`."""

    def process(self, pid: int) -> tuple[str, ...] | None:
        """The argv of a living process, None when there is none."""

    def signal(self, pid: int, number: int) -> None:
        """Send a signal; a process that is gone is fine."""

    def pause(self, seconds: float) -> None:
        """Wait a little, while polling."""

    def clock(self) -> float:
        """Monotonic seconds."""

    def user_id(self, name: str) -> int:
        """uid of a user name or number."""

    def group_id(self, name: str) -> int:
        """gid of a group name or number."""


def being_written(path: str) -> str:
    """Name of the file that a write of `path` makes first."""
    return os.path.join(os.path.dirname(path), f".{os.path.basename(path)}{NEW_SUFFIX}")


class HostRunner:
    """This host."""

    def read(self, path: str) -> FileState | None:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as exc:
            if exc.errno in (errno.ELOOP, errno.ENXIO):
                raise _not_a_file(path) from None
            raise _refused("read", path, exc) from None
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            os.close(fd)
            raise _not_a_file(path)
        with os.fdopen(fd, "rb") as file:
            return FileState(file.read(), stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid)

    def write(self, path: str, content: bytes, mode: int, uid: int | None = None, gid: int | None = None) -> None:
        temporary = being_written(path)
        try:
            if os.path.islink(path) or os.path.isdir(path):
                raise _not_a_file(path)
            if os.path.lexists(temporary):
                os.unlink(temporary)
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                with os.fdopen(fd, "wb") as file:
                    file.write(content)
                    file.flush()
                    if uid is not None or gid is not None:
                        os.fchown(fd, -1 if uid is None else uid, -1 if gid is None else gid)
                    os.fchmod(fd, mode)
                    os.fsync(fd)
                os.replace(temporary, path)
            except BaseException:
                if os.path.lexists(temporary):
                    os.unlink(temporary)
                raise
            _sync_directory(os.path.dirname(path))
        except OSError as exc:
            raise _refused("write", path, exc) from None

    def remove(self, path: str) -> None:
        try:
            for name in (being_written(path), path):
                try:
                    os.unlink(name)
                except FileNotFoundError:
                    continue
                _sync_directory(os.path.dirname(path))
        except OSError as exc:
            if exc.errno in (errno.EISDIR, errno.EPERM) and os.path.isdir(path):
                raise _not_a_file(path) from None
            if exc.errno != errno.ENOTDIR:
                raise _refused("remove", path, exc) from None

    def directory_mode(self, path: str) -> int | None:
        try:
            found = os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as exc:
            raise _refused("read", path, exc) from None
        if stat.S_ISLNK(found.st_mode) and os.path.isdir(path):  # /var/run -> /run and the like
            found = os.stat(path)
        if not stat.S_ISDIR(found.st_mode):
            raise ApplyError("not_a_directory", f"{path} is not a directory.", "Move it away, or name another path.")
        return stat.S_IMODE(found.st_mode)

    def names(self, path: str) -> list[str]:
        try:
            return sorted(os.listdir(path))
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as exc:
            raise _refused("read", path, exc) from None

    def make_directory(self, path: str, mode: int) -> None:
        try:
            if not os.path.isdir(path):
                os.mkdir(path, 0o700)
            os.chmod(path, mode)
        except OSError as exc:
            raise _refused("make the directory", path, exc) from None

    def remove_directory(self, path: str) -> bool:
        try:
            os.rmdir(path)
        except FileNotFoundError:
            pass
        except OSError as exc:
            if exc.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.EBUSY):
                return False
            raise _refused("remove", path, exc) from None
        return True

    def run(self, argv: Sequence[str], timeout: float = 60.0) -> Completed:
        command = tuple(argv)
        try:
            # The agent runs this too, where there is no AnsibleModule.
            done = subprocess.run(  # pylint: disable=ansible-bad-function
                command, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout, env=ENVIRONMENT, cwd="/",
                check=False)
        except subprocess.TimeoutExpired:
            return Completed(command, TIMED_OUT, "", f"did not end within {timeout:g} seconds")
        except OSError as exc:
            return Completed(command, NOT_FOUND, "", f"{command[0]}: {exc.strerror}")
        return Completed(command, done.returncode, done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace"))

    def get_sysctl(self, name: str) -> str | None:
        try:
            with open(f"/proc/sys/{name}", encoding="ascii") as file:
                return file.read().strip()
        except OSError:
            return None

    def set_sysctl(self, name: str, value: str) -> None:
        try:
            with open(f"/proc/sys/{name}", "w", encoding="ascii") as file:
                file.write(value)
        except OSError as exc:
            raise _refused(f"set it to {value}:", f"/proc/sys/{name}", exc) from None

    @contextmanager
    def lock(self, directory: str) -> Iterator[None]:
        fd = _lock_directory(directory)
        try:
            yield
        finally:
            self.remove_directory(directory)
            os.close(fd)

    def process(self, pid: int) -> tuple[str, ...] | None:
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                state = file.read().rpartition(b")")[2].split()[:1]
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                line = file.read()
        except OSError:
            return None if sys.platform.startswith("linux") else self._process_by_ps(pid)
        if state in ([b"Z"], [b"X"]):
            return None
        return tuple(part.decode("utf-8", "replace") for part in line.rstrip(b"\0").split(b"\0"))

    def _process_by_ps(self, pid: int) -> tuple[str, ...] | None:
        """Where there is no /proc. ps(1) joins the words by spaces, so a word with spaces comes as several."""
        words = self.run(["ps", "-ww", "-o", "stat=", "-o", "command=", "-p", str(pid)]).stdout.split()
        return None if len(words) < 2 or words[0].startswith("Z") else tuple(words[1:])

    def signal(self, pid: int, number: int) -> None:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass
        except OSError as exc:
            raise _refused(f"send {signal.Signals(number).name} to", f"process {pid}", exc) from None

    def pause(self, seconds: float) -> None:
        time.sleep(seconds)

    def clock(self) -> float:
        return time.monotonic()

    def user_id(self, name: str) -> int:
        try:
            return int(name) if name.isdigit() else pwd.getpwnam(name).pw_uid
        except KeyError:
            raise ApplyError("no_such_user", f"There is no user {name} on this host.", "Create it first, or name another owner.") from None

    def group_id(self, name: str) -> int:
        try:
            return int(name) if name.isdigit() else grp.getgrnam(name).gr_gid
        except KeyError:
            raise ApplyError("no_such_group", f"There is no group {name} on this host.", "Create it first, or name another.") from None


def _lock_directory(path: str) -> int:
    while True:
        try:
            os.makedirs(path, mode=0o700, exist_ok=True)
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            continue  # taken away by the one who held it, between the two calls
        except OSError as exc:
            raise _refused("lock", path, exc) from None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held, named = os.fstat(fd), os.stat(path)
        except BlockingIOError:
            os.close(fd)
            raise ApplyError("busy", f"Another run is at work on this host (it holds {path}).", "Wait for it to end.") from None
        except FileNotFoundError:
            os.close(fd)
            continue
        if (held.st_dev, held.st_ino) == (named.st_dev, named.st_ino):
            return fd
        os.close(fd)


def _sync_directory(path: str) -> None:
    fd = os.open(path or "/", os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as exc:
        if exc.errno != errno.EINVAL:  # a few file systems cannot, and need not
            raise
    finally:
        os.close(fd)


def _not_a_file(path: str) -> ApplyError:
    return ApplyError("not_a_file", f"{path} is a link, a directory or a device, not a plain file.", "Move it away, or name another path.")


def _refused(verb: str, path: str, exc: OSError) -> ApplyError:
    hints = {errno.ENOSPC: "Free some space.", errno.EROFS: "The file system is read-only.", errno.EACCES: "Run with become: true.",
             errno.EPERM: "Run with become: true."}
    return ApplyError("host_refused", f"The host refused to {verb} {path}: {exc.strerror}.", hints.get(exc.errno or 0, ""))

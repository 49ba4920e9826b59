# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""Where leases live: one file each, replaced whole or not at all.

A file is written in two steps. `Reservation` makes a temporary file beside it and fills it, so that a full disk, a missing folder
or a missing right shows before the broker is asked; `commit` puts the text there, syncs it and renames it over the old file. Killed
at any moment, the old file or the new one is there, whole. What a kill leaves behind is removed by a later reservation.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import time
from types import TracebackType
from typing import Any

from .._exchange.files import temporary_file
from .._tsp.errors import LocalError
from .._tsp.lease import Lease

FILE_MODE = 0o600
FOLDER_MODE = 0o755
ROOM = 16384
"""Bytes reserved; a lease has some 1,500."""
LARGEST = 1 << 20
LEFTOVER_AGE = 3600.0
"""Seconds after which a temporary file beside ours belongs to nobody any more."""


def lease_text(lease: Lease) -> str:
    """The content of a lease file: JSON, keys in the order of the schema, two spaces, one newline at the end."""
    return json.dumps(lease.to_dict(), indent=2) + "\n"


def same_tunnel(text: str | None, lease: Lease) -> bool:
    """Whether `text` is a lease that differs from `lease` in nothing but in when and over what it was asked for."""
    try:
        old = json.loads(text or "")
        return _lasting(Lease.from_dict(old).to_dict()) == _lasting(lease.to_dict())
    except (ValueError, RecursionError, LocalError):
        return False


def _lasting(data: dict[str, Any]) -> dict[str, Any]:
    passing = ("obtained_at", "expires_at", "transport", "quirks", "warnings", "local_address", "path_mtu")
    return {**{name: value for name, value in data.items() if name not in passing}, "client": {**data["client"], "udp_port": None}}


def read(path: str) -> str | None:
    """The text of a file, None when there is no file. Raises LocalError `lease_unreadable`, also for what is no plain file."""
    try:
        # Not to block: opening a pipe would wait for somebody to write into it.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as stream:
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                raise OSError(None, "it is not a plain file")
            data = stream.read(LARGEST + 1)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as exc:
        raise LocalError("lease_unreadable", f"{path} cannot be read: {_reason(exc)}.",
                         "Check the path and the rights, or run the task with become: true.") from None
    return data.decode("utf-8", "replace")


def load(path: str) -> Lease | None:
    """The lease in `path`, None when there is no file. Raises LocalError `lease_unreadable` or `lease_invalid`."""
    text = read(path)
    if text is None:
        return None
    if len(text) > LARGEST:
        raise LocalError("lease_invalid", f"{path} is far too large to be a lease.", "Check the path.")
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        raise LocalError("lease_invalid", f"{path} holds no lease: it is not JSON.",
                         "Check the path; delete the file or set renew: true to ask the broker again.") from None
    try:
        return Lease.from_dict(data)
    except LocalError as exc:
        raise LocalError(exc.code, f"{path}: {exc.message}", exc.hint) from None


def save(path: str, lease: Lease) -> None:
    """Replace the lease in `path`. Raises LocalError `lease_not_stored`; then the old file is as it was."""
    with Reservation(path) as place:
        place.commit(lease_text(lease))


def remove(path: str) -> bool:
    """Forget `path`; whether there was one. Raises LocalError `lease_not_removed`."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    except OSError as exc:
        raise LocalError("lease_not_removed", f"{path} cannot be removed: {_reason(exc)}.",
                         "Check the rights, or run the task with become: true.") from None
    _sync_folder(os.path.dirname(os.path.abspath(path)))
    return True


class Reservation:
    """A place for the next content of `path`, held until `commit` or the end of the with block.

    mode: of the file; None keeps the mode of the file that is there (a new one gets 0600). Making one raises LocalError
    `lease_not_stored`: nothing was changed. The folder is made when missing (0755); with a mode, where the place is one host's alone,
    it goes again with a place that was given up.
    """

    def __init__(self, path: str, mode: int | None = FILE_MODE) -> None:
        self.path = path
        self._temporary: str | None = None
        self._handle = -1
        self._made: list[str] = []
        try:
            if os.path.isdir(path):
                raise IsADirectoryError(None, "it is a folder")
            if os.path.exists(path) and not os.path.isfile(path):
                raise OSError(None, "it is not a plain file")  # nobody wants a lease in the place of /dev/null
            folder, base = os.path.split(os.path.abspath(path))
            if not os.path.isdir(folder):
                self._made = _missing(folder) if mode is not None else []
                os.makedirs(folder, exist_ok=True)
                os.chmod(folder, FOLDER_MODE)  # whatever the umask: facts.d is read by everybody who gathers facts
            _remove_leftovers(folder, base)
            self._handle, self._temporary = temporary_file(folder, f".{base}.")
            os.fchmod(self._handle, _mode_of(path) if mode is None else mode)
            _write_all(self._handle, b" " * ROOM)
            os.fsync(self._handle)
        except (OSError, ValueError) as exc:
            self.abandon()
            raise _not_stored(path, exc) from None
        except BaseException:
            self.abandon()
            raise

    def commit(self, text: str) -> None:
        """Make `text` the content. Raises LocalError `lease_not_stored`; then the old file is as it was."""
        if self._temporary is None:
            raise LocalError("lease_not_stored", f"{self.path} was written or given up before.", "Reserve it anew.")
        try:
            data = text.encode("utf-8")
            os.lseek(self._handle, 0, os.SEEK_SET)
            _write_all(self._handle, data)
            os.ftruncate(self._handle, len(data))
            os.fsync(self._handle)
            os.replace(self._temporary, self.path)
        except (OSError, ValueError) as exc:
            self.abandon()
            raise _not_stored(self.path, exc) from None
        self._temporary = None
        self._made = []
        self.abandon()
        _sync_folder(os.path.dirname(os.path.abspath(self.path)))

    def abandon(self) -> None:
        """Give the place up; the old file stays. Harmless after commit."""
        if self._handle >= 0:
            with contextlib.suppress(OSError):
                os.close(self._handle)
            self._handle = -1
        if self._temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(self._temporary)
            self._temporary = None
        for folder in self._made:
            with contextlib.suppress(OSError):  # somebody has put something there
                os.rmdir(folder)
        self._made = []

    def __enter__(self) -> Reservation:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.abandon()


def _missing(folder: str) -> list[str]:
    """The folder and those above it that are not there, the innermost first."""
    out = []
    while not os.path.isdir(folder) and os.path.dirname(folder) != folder:
        out.append(folder)
        folder = os.path.dirname(folder)
    return out


def _write_all(handle: int, data: bytes) -> None:
    while data:
        data = data[os.write(handle, data):]


def _mode_of(path: str) -> int:
    """The mode that we, or root, gave the file that is there. A link or a file that somebody else put there says nothing."""
    try:
        found = os.lstat(path)
    except OSError:
        return FILE_MODE
    ours = stat.S_ISREG(found.st_mode) and found.st_uid in (0, os.geteuid())
    return found.st_mode & 0o777 if ours else FILE_MODE


def _sync_folder(folder: str) -> None:
    """Make a rename last. Some file systems cannot sync a folder; the rename is done all the same."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _remove_leftovers(folder: str, base: str) -> None:
    oldest = time.time() - LEFTOVER_AGE
    for name in os.listdir(folder):
        if name.startswith(f".{base}.") and name.endswith(".tmp"):
            path = os.path.join(folder, name)
            with contextlib.suppress(OSError):
                if os.stat(path).st_mtime < oldest:
                    os.unlink(path)


def _reason(exc: Any) -> str:
    return str(getattr(exc, "strerror", None) or exc).rstrip(".")


def _not_stored(path: str, exc: Exception) -> LocalError:
    return LocalError("lease_not_stored", f"{path} cannot be written: {_reason(exc)}. What was there before is untouched.",
                      "Make room on the disk or correct the path or the rights (become: true), then run the task again.")

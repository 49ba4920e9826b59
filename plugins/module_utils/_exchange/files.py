# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""Small private files: written whole or not at all, readable by their owner only."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Iterator
from typing import Callable

LARGEST = 1 << 20
"""Bytes; our own state files are a few hundred."""
LOCK_WAIT = 5.0
"""Seconds to wait for others who change a file of the same folder: each needs some milliseconds."""


def temporary_file(folder: str, prefix: str = ".") -> tuple[int, str]:
    """(descriptor, path) of a new file (mode 0600) in `folder`, `prefix`…`.tmp`: as tempfile.mkstemp, which brings four modules for
    archives along. Raises OSError."""
    while True:
        path = os.path.join(folder, f"{prefix}{os.urandom(6).hex()}.tmp")
        with contextlib.suppress(FileExistsError):
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600), path


def write_private(path: str, text: str) -> None:
    """Replace `path` (mode 0600) atomically and durably; makes its folder (0700) when missing. Raises OSError, old file intact.

    A file of ours in a folder that is not is written over instead, as the old clients did with theirs.
    """
    folder = os.path.dirname(os.path.abspath(path))
    os.makedirs(folder, mode=0o700, exist_ok=True)
    if not os.access(folder, os.W_OK) and os.access(path, os.W_OK):
        _write_over(path, text)
        return
    handle, temporary = temporary_file(folder)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", errors="surrogateescape") as stream:
            stream.write(text)
            stream.flush()
            if os.geteuid() == 0:  # the folder may be that of an agent without rights, who has to read this
                found = os.stat(folder)
                os.fchown(stream.fileno(), found.st_uid, found.st_gid)
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    with contextlib.suppress(OSError):  # some file systems cannot sync a folder; the rename itself is done
        folder_handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(folder_handle)
        finally:
            os.close(folder_handle)


def _write_over(path: str, text: str) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(handle, "w", encoding="utf-8", errors="surrogateescape") as stream:
        stream.truncate(0)
        stream.write(text)


def change_private(path: str, change: Callable[[str], str]) -> None:
    """Replace `path` by what `change` makes of its text (an absent file is empty), as write_private does, one process after the other:
    of two that change it at the same moment, neither loses what the other added. Raises OSError, old file intact."""
    folder = os.path.dirname(os.path.abspath(path))
    os.makedirs(folder, mode=0o700, exist_ok=True)
    with _locked(folder):
        try:
            before = read_text(path)
        except FileNotFoundError:
            before = ""
        after = change(before)
        if after != before:
            write_private(path, after)


@contextlib.contextmanager
def _locked(folder: str) -> Iterator[None]:
    """Hold the folder itself, so that no lock file is left behind. A file system that knows no locks does without."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        end = time.monotonic() + LOCK_WAIT
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as exc:
                if exc.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                    break
                if time.monotonic() >= end:
                    raise OSError(exc.errno, f"another process has held {folder} for {LOCK_WAIT:g} s") from None
            time.sleep(0.01)
        yield
    finally:
        os.close(handle)


def read_text(path: str) -> str:
    """The whole file; undecodable bytes are kept (surrogateescape), write_private takes them back.

    Raises OSError, also when it is too large to be ours, or when somebody else's folder leads root elsewhere by it.
    """
    with open(_opened(path), encoding="utf-8", errors="surrogateescape") as stream:
        text = stream.read(LARGEST + 1)
    if len(text) > LARGEST:
        raise OSError(f"{path} is larger than {LARGEST} bytes")
    return text


def _opened(path: str) -> int:
    """A descriptor to read from. What root reads is written again for the owner of the folder (an agent without rights): in such a folder
    a link, of either kind, could have us hand over what its owner may not read."""
    foreign = os.geteuid() == 0 and os.stat(os.path.dirname(os.path.abspath(path))).st_uid != 0
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (os.O_NOFOLLOW if foreign else 0))
    if foreign and os.fstat(handle).st_nlink > 1:
        os.close(handle)
        raise OSError(errno.EMLINK, os.strerror(errno.EMLINK), path)
    return handle

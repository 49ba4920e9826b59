# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""Small private files: written whole or not at all, readable by their owner only."""

from __future__ import annotations

import contextlib
import os
import tempfile

LARGEST = 1 << 20
"""Bytes; our own state files are a few hundred."""


def write_private(path: str, text: str) -> None:
    """Replace `path` (mode 0600) atomically and durably; makes its folder (0700) when missing. Raises OSError, old file intact."""
    folder = os.path.dirname(os.path.abspath(path))
    os.makedirs(folder, mode=0o700, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=".", suffix=".tmp", dir=folder)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", errors="surrogateescape") as stream:
            stream.write(text)
            stream.flush()
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


def read_text(path: str) -> str:
    """The whole file; undecodable bytes are kept (surrogateescape), write_private takes them back.

    Raises OSError, also when it is too large to be ours.
    """
    with open(path, encoding="utf-8", errors="surrogateescape") as stream:
        text = stream.read(LARGEST + 1)
    if len(text) > LARGEST:
        raise OSError(f"{path} is larger than {LARGEST} bytes")
    return text

# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""The port through which a host is looked at, and nothing but looked at. `HostLook` is the real one; tests have recorded hosts."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Sequence
from typing import Protocol

from .._apply.runner import ENVIRONMENT, Completed, HostRunner

LARGEST = 1 << 20


class Look(Protocol):
    """What `info` needs of a host. Nothing raises: what cannot be seen is None, empty or false."""

    def text(self, path: str) -> str | None:
        """A file's content, its first megabyte; None when there is none or it may not be read."""

    def names(self, path: str) -> list[str]:
        """What is in a directory, sorted."""

    def exists(self, path: str) -> bool:
        """Whether there is anything of that name."""

    def real(self, path: str) -> str:
        """The path with all links followed."""

    def writable(self, path: str) -> bool:
        """Whether the file system below an existing directory can be written, by whoever has the right to; true where nothing is."""

    def tool(self, name: str) -> str | None:
        """Where a program is, in the places where a transaction finds it."""

    def run(self, argv: Sequence[str]) -> Completed:
        """A command that only looks."""

    def identity(self) -> dict[str, str | int]:
        """{system, release, python, uid, pid}: the kernel, the Python and the process that looks."""


class HostLook:
    """This host."""

    def __init__(self) -> None:
        self._runner = HostRunner()

    def text(self, path: str) -> str | None:
        try:
            with open(path, "rb") as file:
                return file.read(LARGEST).decode("utf-8", "replace")
        except OSError:
            return None

    def names(self, path: str) -> list[str]:
        try:
            return sorted(os.listdir(path))
        except OSError:
            return []

    def exists(self, path: str) -> bool:
        return os.path.exists(path)

    def real(self, path: str) -> str:
        return os.path.realpath(path)

    def writable(self, path: str) -> bool:
        if not os.path.isdir(path):
            return True
        try:
            # access(2) sees more (a user's rights, a bind mount), but without root it would call everything read-only.
            return not os.statvfs(path).f_flag & os.ST_RDONLY and (os.geteuid() != 0 or os.access(path, os.W_OK))
        except OSError:
            return True

    def tool(self, name: str) -> str | None:
        return shutil.which(name, path=ENVIRONMENT["PATH"])

    def run(self, argv: Sequence[str]) -> Completed:
        return self._runner.run(argv, timeout=20.0)

    def identity(self) -> dict[str, str | int]:
        return {"system": platform.system(), "release": platform.release(), "python": platform.python_version(),
                "uid": os.geteuid(), "pid": os.getpid()}

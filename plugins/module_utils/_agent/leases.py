# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""The lease on disk, as the agent sees it: shared with the module `tunnel`, which may change it at any time."""

from __future__ import annotations

import os
from typing import Protocol

from .._module import leasestore
from .._tsp.lease import Lease


class Leases(Protocol):
    """The port to the lease file; `LeaseFile` is the real one."""

    async def load(self) -> Lease | None:
        """The lease, None when there is none; from now on this is the one that we know. Raises LocalError."""

    async def save(self, lease: Lease) -> None:
        """Replace it. Raises LocalError; then the old one stays."""

    def changed(self) -> bool:
        """Whether somebody else has changed it since `load` or `save`. Cheap: asked every few seconds."""


class LeaseFile:
    """The file itself."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._known: tuple[int, ...] | None = None

    async def load(self) -> Lease | None:
        self.note()
        return leasestore.load(self._path)

    async def save(self, lease: Lease) -> None:
        try:
            leasestore.save(self._path, lease)
        finally:
            self.note()

    def note(self) -> None:
        """The file as it is now is the one that we know."""
        self._known = self._seen()

    def changed(self) -> bool:
        return self._seen() not in (None, self._known)

    def _seen(self) -> tuple[int, ...] | None:
        """What tells whether the file is still the one that we know; None without a file."""
        try:
            found = os.stat(self._path)
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size

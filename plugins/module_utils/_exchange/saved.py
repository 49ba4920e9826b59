# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""The two files that the old client kept as well (tsp-protocol.md section 6): the last server, and the last broker list."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from typing import Callable

from .._tsp.errors import LocalError
from .files import read_text, write_private
from .options import Broker, parse_broker

LAST_SERVER = "tsp-last-server.txt"
"""One line, written after each tunnel; read only with always_use_same_server."""
BROKER_LIST = "tsp-broker-list.txt"
"""One broker a line, nearest first, written after a redirect to several; read when no configured broker can be reached."""


class SavedBrokers:
    """Both files in one folder; folder None: nothing is kept. Files that cannot be read or written are warnings."""

    def __init__(self, folder: str | None, warn: Callable[[str], None]) -> None:
        self._folder = folder
        self._warn = warn

    def last_server(self) -> Broker | None:
        """The first line that is not empty or a comment."""
        found = self._read(LAST_SERVER)
        return found[0] if found else None

    def broker_list(self) -> list[Broker]:
        """The saved list, in order."""
        return self._read(BROKER_LIST)

    def save_last_server(self, broker: Broker) -> None:
        """After a tunnel was granted."""
        self._write(LAST_SERVER, [broker])

    def save_broker_list(self, brokers: Sequence[Broker]) -> None:
        """After a redirect to more than one broker."""
        self._write(BROKER_LIST, brokers)

    def forget(self, broker: Broker) -> None:
        """Remove the last server if it is this one: the tunnel that it gave is not wanted any more."""
        if self._folder is not None and self.last_server() == broker:
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(self._folder, LAST_SERVER))

    def _read(self, name: str) -> list[Broker]:
        if self._folder is None:
            return []
        path = os.path.join(self._folder, name)
        try:
            lines = read_text(path).splitlines()
        except FileNotFoundError:
            return []
        except OSError as exc:
            self._warn(f"{path} cannot be read: {exc.strerror or exc}.")
            return []
        found = []
        for line in lines:
            text = line.strip()
            if not text or text.startswith("#"):
                continue
            try:
                found.append(parse_broker(text))
            except LocalError:
                self._warn(f"{path} has a line that names no broker; it was passed over.")
        return list(dict.fromkeys(found))

    def _write(self, name: str, brokers: Sequence[Broker]) -> None:
        if self._folder is None:
            return
        path = os.path.join(self._folder, name)
        text = "".join(f"{broker.server}\n" for broker in brokers)
        try:
            if read_text(path) == text:
                return
        except OSError:
            pass
        try:
            write_private(path, text)
        except OSError as exc:
            self._warn(f"{path} cannot be written: {exc.strerror or exc}.")

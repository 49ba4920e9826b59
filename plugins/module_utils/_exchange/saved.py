# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""The two files that the old client kept as well (tsp-protocol.md section 6): the last server, and the last broker list.

The old client had one broker to ask and one tunnel to keep. Here many share a folder, so a list is kept under the broker that gave it,
and used in its place only: whoever asks another broker does not show a password to these. The last server is kept for each tunnel.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Sequence
from typing import Callable

from .._tsp.errors import LocalError
from .files import change_private, read_text, write_private
from .options import Broker, ExchangeOptions, parse_broker

LAST_SERVER = "tsp-last-server.txt"
"""One line, written after each tunnel; read only with always_use_same_server."""
BROKER_LIST = "tsp-broker-list.txt"
"""One broker a line, nearest first, written after a redirect to several; read when no configured broker can be reached."""
FROM = "# from "
"""Begins what one broker gave. What stands before the first such line (the old client's file has none) is for everybody."""


class SavedBrokers:
    """Both files in one folder; folder None: nothing is kept. Files that cannot be read or written are warnings.

    identity: for whom the tunnel is (ExchangeOptions.identity); each has a last server of its own. last_server_file,
    broker_list_file: an old client's files, in its place and its form: a list of one broker's, without its name.
    """

    def __init__(self, folder: str | None, warn: Callable[[str], None], identity: str = "", last_server_file: str | None = None,
                 broker_list_file: str | None = None) -> None:
        self._warn = warn
        last = LAST_SERVER
        if identity:
            name, end = os.path.splitext(LAST_SERVER)
            last = f"{name}-{hashlib.sha256(identity.encode()).hexdigest()[:24]}{end}"
        self._last = last_server_file or (None if folder is None else os.path.join(folder, last))
        self._list = broker_list_file or (None if folder is None else os.path.join(folder, BROKER_LIST))
        self._old_form = broker_list_file is not None

    @classmethod
    def of(cls, options: ExchangeOptions, warn: Callable[[str], None]) -> SavedBrokers:
        """Where these options have them."""
        return cls(options.state_dir, warn, options.identity, options.last_server_file, options.broker_list_file)

    def last_server(self) -> Broker | None:
        """The first line that is not empty or a comment."""
        return next(iter(self._parse(self._last, self._read(self._last).splitlines())), None)

    def broker_list(self, asked: Sequence[Broker]) -> list[Broker]:
        """What was saved for these brokers, in order."""
        parts = _parts(self._read(self._list))
        lines = [line for origin, part in parts.items() if origin is None or origin in map(str, asked) for line in part]
        return self._parse(self._list, lines)

    def save_last_server(self, broker: Broker) -> None:
        """After a tunnel was granted."""
        text = f"{broker.server}\n"

        def write(path: str) -> None:
            with contextlib.suppress(OSError):
                if read_text(path) == text:
                    return
            write_private(path, text)

        self._write(self._last, write)

    def save_broker_list(self, brokers: Sequence[Broker], origin: Broker) -> None:
        """After a redirect from `origin` to more than one broker."""

        def change(text: str) -> str:
            if self._old_form:
                return "".join(f"{broker.server}\n" for broker in brokers)
            parts = {name: part for name, part in _parts(text).items() if name is not None}
            parts[str(origin)] = [broker.server for broker in brokers]
            return "".join(f"{line}\n" for name, part in parts.items() for line in (FROM + name, *part))

        self._write(self._list, lambda path: change_private(path, change))

    def forget(self, broker: Broker) -> None:
        """Remove the last server if it is this one: the tunnel that it gave is not wanted any more."""
        if self._last is not None and self.last_server() == broker:
            with contextlib.suppress(OSError):
                os.unlink(self._last)

    def _read(self, path: str | None) -> str:
        if path is None:
            return ""
        try:
            return read_text(path)
        except FileNotFoundError:
            return ""
        except OSError as exc:
            self._warn(f"{path} cannot be read: {exc.strerror or exc}.")
            return ""

    def _parse(self, path: str | None, lines: Sequence[str]) -> list[Broker]:
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

    def _write(self, path: str | None, write: Callable[[str], None]) -> None:
        if path is None:
            return
        try:
            write(path)
        except OSError as exc:
            self._warn(f"{path} cannot be written: {exc.strerror or exc}.")


def _parts(text: str) -> dict[str | None, list[str]]:
    """The lines of a broker list by the broker that gave them; None: nobody is named."""
    parts: dict[str | None, list[str]] = {}
    origin: str | None = None
    for line in text.splitlines():
        if line.startswith(FROM):
            origin = line[len(FROM):].strip()
        else:
            parts.setdefault(origin, []).append(line)
    return parts

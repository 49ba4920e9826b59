# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The port to a router: what a transaction needs of it, and nothing else. One session from the first call to `close`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Refused(Exception):
    """The device refused a line. index: its place among those sent; line: as sent, without indentation; words: the device's own."""

    def __init__(self, index: int, line: str, words: str) -> None:
        super().__init__(line)
        self.index, self.line, self.words = index, line, words


class Lost(Exception):
    """The session broke. sent: configuration lines that the device acknowledged before; pending: the one without an answer."""

    def __init__(self, reason: str, sent: Sequence[str] = (), pending: str = "") -> None:
        super().__init__(reason)
        self.reason, self.sent, self.pending = reason, tuple(sent), pending


class Device(Protocol):
    """Every method may raise Lost."""

    def running(self) -> str:
        """The text of the running configuration."""

    def startup(self) -> str:
        """The text of the startup configuration, "" when there is none."""

    def ask(self, command: str, timeout: float) -> str:
        """The answer to a command that changes nothing (show, ping). timeout: seconds."""

    def configure(self, lines: Sequence[str]) -> None:
        """Enter lines in configuration mode and leave it again. Raises Refused at the first line that is refused; those
        before it stay entered, those after it are not sent."""

    def save(self) -> None:
        """Write the running configuration to where it survives a restart. Raises Refused."""

    def close(self) -> None:
        """Leave. Never raises."""

# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A router without SSH: the port of `_router.device` straight onto the emulator's device. Stateful; passes the same contract as the
real adapter (`_contract.py`)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from ansible_collections.tunnelbroker.tsp.plugins.plugin_utils._router.device import Lost, Refused
from ansible_collections.tunnelbroker.tsp.plugins.plugin_utils._router.netmiko_device import complaint
from ansible_collections.tunnelbroker.tsp.tests.lab.ios_emulator import show
from ansible_collections.tunnelbroker.tsp.tests.lab.ios_emulator.device import Device
from ansible_collections.tunnelbroker.tsp.tests.lab.ios_emulator.session import Session


class FakeRouter:
    """lose_at: the n-th configuration line (from 1) gets no answer any more. reads: how often the running configuration was read."""

    def __init__(self, device: Device | None = None, *, interfaces: tuple[str, ...] = ("GigabitEthernet0/0", "GigabitEthernet0/1")) -> None:
        self.emulated = device or Device("R1", physical=interfaces)
        self.lose_at = 0
        self.reads = 0
        self.asked: list[str] = []
        self._said: list[str] = []
        self._session = Session(self.emulated, "lab", self._no_line, self._no_key, self._said.append)
        self._session.length = 0

    @staticmethod
    async def _no_line(_echo: bool) -> str:
        return ""

    @staticmethod
    async def _no_key() -> str:
        return "\r"

    def _talk(self, line: str) -> str:
        self._said.clear()
        self.emulated.commands.append(line)
        asyncio.run(self._session.command(line))
        return "".join(self._said)

    def running(self) -> str:
        self.reads += 1
        return show.running(self.emulated).replace(f"at {self.emulated.changed}", "at some time")

    def startup(self) -> str:
        return self.emulated.startup or ""

    def ask(self, command: str, timeout: float) -> str:
        self.asked.append(command)
        return self._talk(command)

    def configure(self, lines: Sequence[str]) -> None:
        self._talk("configure terminal")
        for index, line in enumerate(lines):
            if self.lose_at and index + 1 == self.lose_at:
                self.lose_at = 0
                self._talk("end")
                raise Lost("the device closed it", lines[:index], line)
            words = complaint(self._talk(line.strip()))
            if words:
                self._talk("end")
                raise Refused(index, line.strip(), words)
        self._talk("end")

    def save(self) -> None:
        self._talk("write memory")

    def close(self) -> None:
        return

# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""Tells the keepalive whether user traffic passed since the last look."""

from __future__ import annotations

from .counters import of_device
from .keepalive import Keepalive
from .tunnel import Tunnel


class Traffic:
    """The agent's own data plane counts user packets alone. The kernel's devices count our pings as well, so their numbers only tell that
    a silence was broken, which is asked where somebody measures silences."""

    def __init__(self, tunnel: Tunnel) -> None:
        self._tunnel = tunnel
        self._seen = (0, 0)
        self._measuring = False
        self._kernel_seen: tuple[int, int] | None = None

    def begin(self, measuring: bool) -> None:
        """A silence begins now. measuring: whether its length matters."""
        self._seen = self._tunnel.traffic()
        self._measuring = measuring and self._tunnel.data_plane not in (None, "tun")
        self._kernel_seen = None

    def count(self, keepalive: Keepalive) -> None:
        """Tell `keepalive` what passed since the last call."""
        seen = self._tunnel.traffic()
        if seen[0] != self._seen[0]:
            keepalive.sent()
        if seen[1] != self._seen[1]:
            keepalive.received()
        self._seen = seen
        if self._measuring:
            counted = of_device(self._tunnel.name)
            now = None if counted is None else (counted.packets_out, counted.packets_in)
            if now is None or self._kernel_seen is not None and now != self._kernel_seen:
                keepalive.sent()
            self._kernel_seen = now

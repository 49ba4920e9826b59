# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""The control plane alone: every mode can be granted, nothing leaves this process. Needs no privilege.

What comes over UDP costs nothing to serve, so keepalives of v6udpv4 clients are answered and they reach each other.
"""

from __future__ import annotations

from .port import Address, EndTable, Network, SendUdp, TunnelEnd
from .switch import Switch


class NoDataPlane:
    """DataPlane without a device."""

    name = "none"
    modes = frozenset(("v6v4", "v6udpv4", "v4v6"))

    watched = frozenset(("v6udpv4",))

    def __init__(self, table: EndTable, own: tuple[Address, ...], routed: tuple[Network, ...], send_udp: SendUdp) -> None:
        self._table = table
        self._send_udp = send_udp
        self.switch = Switch(table, own, routed, self._send)
        self.counters = self.switch.counters

    def start(self) -> None:
        """Nothing to make."""

    def stop(self) -> None:
        """Nothing to remove."""

    def open(self, end: TunnelEnd) -> None:
        """Nothing to make."""

    def close(self, end: TunnelEnd) -> None:
        """Nothing to remove."""

    def poll(self, now: float) -> None:
        """Every packet that is seen at all passes here."""

    def from_udp(self, peer: tuple[str, int], packet: bytes) -> bool:
        """See DataPlane."""
        end = self._table.by_outer.get(peer)
        if end is None or end.mode != "v6udpv4":
            self.switch.counters["dropped_unknown_peer"] += 1
            return False
        self.switch.from_client(end, packet)
        return True

    def _send(self, end: TunnelEnd, packet: bytes) -> bool:
        if end.mode != "v6udpv4":
            return False
        return self._send_udp(packet, (end.remote, end.port), end.local)

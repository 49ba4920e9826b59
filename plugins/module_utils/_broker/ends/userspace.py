# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""Every mode carried in this process, over one TUN device: works on any Linux kernel, whatever tunnels it knows."""

from __future__ import annotations

import contextlib
from typing import Callable

from ..._tsp.errors import LocalError
from .. import icmp
from .netlink import Address, Netlink, Network
from .port import EndTable, SendUdp, TunnelEnd
from .raw import RawSocket
from .switch import Switch
from .tun import Uplink

OUTER_OF_MODE = {"v6v4": 4, "v4v6": 6}


class UserspaceDataPlane:
    """DataPlane with a TUN device. wanted: modes to carry; raw: those of them that go through raw sockets here."""

    name = "userspace"

    def __init__(self, table: EndTable, own: tuple[Address, ...], routed: tuple[Network, ...], send_udp: SendUdp, device: str, mtu: int,
                 wanted: frozenset[str], raw: frozenset[str] = frozenset(OUTER_OF_MODE)) -> None:
        self.modes = wanted
        self.watched = wanted
        self.table = table
        self.own = own
        self.routed = routed
        self.switch = Switch(table, own, routed, self._send)
        self.counters = self.switch.counters
        self.netlink: Netlink | None = None
        self.wake: Callable[[str, str, bytes], TunnelEnd | None] | None = None
        self._send_udp = send_udp
        self._device = device
        self._mtu = mtu
        self._raw_modes = raw & wanted
        self._raw: dict[str, RawSocket] = {}
        self._uplink: Uplink | None = None

    def start(self) -> None:
        """See DataPlane."""
        try:
            self.netlink = Netlink()
            self._uplink = Uplink(self.netlink, self._device, self._mtu, self.own, self.routed)
            for mode in sorted(self._raw_modes):
                self._raw[mode] = RawSocket(OUTER_OF_MODE[mode], self._from_raw)
            for raw in self._raw.values():
                raw.start()
            self._uplink.start(self.switch.from_uplink)
            self.switch.uplink = self._uplink.write
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """See DataPlane."""
        self.switch.uplink = None
        for raw in self._raw.values():
            raw.close()
        self._raw.clear()
        if self._uplink is not None:
            self._uplink.close()
            self._uplink = None
        if self.netlink is not None:
            with contextlib.suppress(LocalError):
                self.netlink.close()
            self.netlink = None

    def open(self, end: TunnelEnd) -> None:
        """The table is all that is needed."""

    def close(self, end: TunnelEnd) -> None:
        """The table is all that is needed."""

    def poll(self, now: float) -> None:
        """Every packet passes here, so last_seen is right already."""

    def from_udp(self, peer: tuple[str, int], packet: bytes) -> bool:
        """See DataPlane."""
        end = self.table.by_outer.get(peer)
        if end is None or end.mode != "v6udpv4":
            self.counters["dropped_unknown_peer"] += 1
            return False
        self.switch.from_client(end, packet)
        return True

    def _from_raw(self, remote: str, packet: bytes) -> None:
        end = self.table.by_outer.get((remote, 0))
        if end is None and self.wake is not None and icmp.whole(packet):
            mode, source = ("v6v4", packet[8:24]) if packet[0] >> 4 == 6 else ("v4v6", packet[12:16])
            end = self.wake(mode, remote, source)
        if end is None:
            self.counters["dropped_unknown_peer"] += 1
            return
        self.switch.from_client(end, packet)

    def _send(self, end: TunnelEnd, packet: bytes) -> bool:
        if end.mode == "v6udpv4":
            return self._send_udp(packet, (end.remote, end.port), end.local)
        raw = self._raw.get(end.mode)
        return raw is not None and raw.send(packet, end.remote, end.local)

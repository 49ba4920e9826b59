# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""v6v4 and v4v6 as kernel tunnels, one sit or ip6tnl device per client; v6udpv4 stays on the TUN device.

The kernel forwards without this process, so tunnels of this kind last through a restart of the broker only if it is killed: their
devices are found by name at the next start, removed, and made again for the leases that were up.
"""

from __future__ import annotations

import contextlib
import time
from ipaddress import ip_address, ip_network

from ..._tsp.errors import LocalError
from .netlink import Address, Netlink, Network
from .port import EndTable, SendUdp, TunnelEnd
from .userspace import UserspaceDataPlane

KIND_OF_MODE = {"v6v4": "sit", "v4v6": "ip6tnl"}
DEVICE_PREFIX = "tspb"
PROBE = ("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")
MTU = {"v6v4": 1280, "v4v6": 1280}


class KernelDataPlane(UserspaceDataPlane):
    """DataPlane that makes a network device per v6v4 and v4v6 client."""

    name = "kernel"

    def __init__(self, table: EndTable, own: tuple[Address, ...], routed: tuple[Network, ...], send_udp: SendUdp, device: str, mtu: int,
                 wanted: frozenset[str]) -> None:
        super().__init__(table, own, routed, send_udp, device, mtu, wanted, raw=frozenset())
        self._index: dict[int, int] = {}
        self._received: dict[str, int] = {}

    def start(self) -> None:
        """See DataPlane. Removes the devices that an earlier broker left when it was killed."""
        super().start()
        try:
            if self.netlink is None:
                raise AssertionError
            for index in self.netlink.devices(DEVICE_PREFIX).values():
                self.netlink.remove(index)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """See DataPlane."""
        if self.netlink is not None:
            for index in self._index.values():
                with contextlib.suppress(LocalError):
                    self.netlink.remove(index)
        self._index.clear()
        super().stop()

    def open(self, end: TunnelEnd) -> None:
        """See DataPlane."""
        kind = KIND_OF_MODE.get(end.mode)
        if kind is None:
            return
        if self.netlink is None or end.local is None:
            raise LocalError("tunnel_failed", f"The {kind} tunnel to {end.remote} has no local address.",
                             "Set addresses.outer_ipv4 or addresses.outer_ipv6.")
        index = None
        try:
            index = self.netlink.add_tunnel(device_name(end), kind, ip_address(end.local), ip_address(end.remote))
            self.netlink.up(index, MTU[end.mode])
            for network in (ip_network(end.inner), end.inner_prefix):
                if network is not None:
                    self.netlink.add_route(index, network)
        except LocalError as exc:
            if index is not None:
                with contextlib.suppress(LocalError):
                    self.netlink.remove(index)
            raise LocalError("tunnel_failed", exc.message, exc.hint) from None
        self._index[end.lease] = index

    def close(self, end: TunnelEnd) -> None:
        """See DataPlane."""
        index = self._index.pop(end.lease, None)
        self._received.pop(device_name(end), None)
        if index is not None and self.netlink is not None:
            with contextlib.suppress(LocalError):
                self.netlink.remove(index)

    def poll(self, now: float) -> None:
        """The kernel counts what it received: a counter that moved is a client that is there."""
        if not self._index or self.netlink is None:
            return
        try:
            received = self.netlink.received(DEVICE_PREFIX)
        except LocalError:
            return
        for number in self._index:
            end = self.table.by_lease.get(number)
            if end is None:
                continue
            name = device_name(end)
            count = received.get(name, 0)
            if count != self._received.get(name, 0):
                self._received[name] = count
                end.last_seen = now
                end.received = count


def device_name(end: TunnelEnd) -> str:
    """tspb<lease in base 36>: at most 15 characters for any lease."""
    number, digits = end.lease, ""
    while number:
        number, digit = divmod(number, 36)
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[digit] + digits
    return DEVICE_PREFIX + (digits or "0")


def kernel_lacks(modes: frozenset[str]) -> str | None:
    """None where the kernel can make the devices that these modes need; else what it lacks. Tries, and removes what it made.

    Raises LocalError `pyroute2_missing` | `not_permitted`.
    """
    netlink = Netlink()
    try:
        for mode, kind in KIND_OF_MODE.items():
            if mode not in modes:
                continue
            local, remote = PROBE[0] if kind == "sit" else PROBE[1]
            name = f"{DEVICE_PREFIX}-{time.monotonic_ns() % 1000000}"
            try:
                netlink.remove(netlink.add_tunnel(name, kind, ip_address(local), ip_address(remote)))
            except LocalError as exc:
                if exc.code == "not_permitted":
                    raise
                if exc.code == "tunnel_exists":  # between these very ends: then it can make such devices
                    continue
                return f"no {kind} device"
    finally:
        netlink.close()
    return None

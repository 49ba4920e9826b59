# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Packets that really travel: echo requests through configured tunnels, over raw sockets.

A tunnel in mode ipv6ip is an IPv4 raw socket for protocol 41; one in mode ipv6, carrying IPv4, is an IPv6 raw socket for next
header 4. What comes in is taken as a router takes it: from the tunnel's destination to the tunnel's source, checksums right. An
echo request for one of the router's addresses is answered; an echo reply goes to the ping that waits for it. Addresses out of
an interface that is not a tunnel are pinged through the kernel. All this needs root (CAP_NET_RAW); without it, no packet leaves, and
`ping` says so by its dots.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING

from . import packets, routes
from .packets import Address, Echo

if TYPE_CHECKING:
    from .device import Device

PROTOCOL = {4: 41, 6: 4}
"""Outer IP version -> protocol number of what is inside (IPv6 in IPv4, IPv4 in IPv6)."""
_IPV6_PKTINFO = 50


class Dataplane:
    """The raw sockets of one device. `why_not` says why there are none."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._sockets: dict[int, socket.socket] = {}
        self._waiting: dict[tuple[Address, int, int], asyncio.Future[float]] = {}
        self._next = os.getpid() & 0xFFFF
        self.why_not = "not started"
        self.answered = 0

    def open(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            for version, family in ((4, socket.AF_INET), (6, socket.AF_INET6)):
                raw = socket.socket(family, socket.SOCK_RAW, PROTOCOL[version])
                raw.setblocking(False)
                self._sockets[version] = raw
                loop.add_reader(raw, self._readable, version)
        except OSError as exc:
            self.close()
            self.why_not = f"raw sockets: {exc.strerror}"
        else:
            self.why_not = ""

    def close(self) -> None:
        for raw in self._sockets.values():
            asyncio.get_running_loop().remove_reader(raw)
            raw.close()
        self._sockets.clear()

    async def ping(self, source: Address, target: Address, out: str, sequence: int, size: int, timeout: float) -> float | None:
        """One echo request leaving by interface `out`. Returns the round trip in seconds, None when nothing came back."""
        if self.why_not:
            return None
        self._next = (self._next + 1) & 0xFFFF
        head = 48 if target.version == 6 else 28
        echo = Echo("request", source, target, self._next, sequence & 0xFFFF, bytes(i & 0xFF for i in range(max(0, size - head))))
        ends = routes.tunnel_ends(self._device.config, out)
        loop = asyncio.get_running_loop()
        if ends is None:
            return await self._ping_plain(echo, timeout)
        future: asyncio.Future[float] = loop.create_future()
        key = (target, echo.identifier, echo.sequence)
        self._waiting[key] = future
        sent = loop.time()
        try:
            self._send(ends, packets.packet(echo))
            return await asyncio.wait_for(future, timeout) - sent
        except (OSError, asyncio.TimeoutError):
            return None
        finally:
            self._waiting.pop(key, None)

    def _send(self, ends: routes.TunnelEnds, inner: bytes) -> None:
        version = ends.destination.version
        raw = self._sockets[version]
        if version == 4:
            with socket.socket(socket.AF_INET, socket.SOCK_RAW, PROTOCOL[4]) as outgoing:
                outgoing.bind((str(ends.source), 0))
                outgoing.sendto(inner, (str(ends.destination), 0))
            return
        info = ends.source.packed + struct.pack("@I", 0)
        raw.sendmsg([inner], [(socket.IPPROTO_IPV6, _IPV6_PKTINFO, info)], 0, (str(ends.destination), 0))

    def _readable(self, version: int) -> None:
        raw = self._sockets[version]
        for _packet in range(64):
            try:
                data, peer = raw.recvfrom(65535)
            except OSError:
                return
            source: Address = ip_address(peer[0].partition("%")[0])
            # An IPv4 raw socket sees the outer header, an IPv6 one does not.
            local = IPv4Address(data[16:20]) if version == 4 else None
            self._arrived(source, local, data[(data[0] & 15) * 4:] if version == 4 else data)

    def _arrived(self, source: Address, local: Address | None, inner: bytes) -> None:
        config = self._device.config
        ends = next((t for t in routes.tunnels(config) if t.destination == source and local in (None, t.source)), None)
        echo = packets.parse(inner)
        if ends is None or echo is None or not routes.own(config, echo.destination):
            return
        if echo.kind == "request":
            self.answered += 1
            try:
                self._send(ends, packets.packet(echo._replace(kind="reply", source=echo.destination, destination=echo.source)))
            except OSError:
                return  # a packet that cannot be sent is a packet lost
        else:
            self._reply(echo)

    def _reply(self, echo: Echo) -> None:
        future = self._waiting.get((echo.source, echo.identifier, echo.sequence))
        if future and not future.done():
            future.set_result(asyncio.get_running_loop().time())

    async def _ping_plain(self, echo: Echo, timeout: float) -> float | None:
        """Through the kernel's own routing, out of a real interface."""
        loop = asyncio.get_running_loop()
        six = echo.destination.version == 6
        family, protocol = (socket.AF_INET6, socket.IPPROTO_ICMPV6) if six else (socket.AF_INET, socket.IPPROTO_ICMP)
        deadline = loop.time() + timeout
        try:
            with socket.socket(family, socket.SOCK_RAW, protocol) as raw:
                raw.setblocking(False)
                raw.bind((str(echo.source), 0))
                sent = loop.time()
                await loop.sock_sendto(raw, packets.icmp(echo), (str(echo.destination), 0))
                while True:
                    data, peer = await asyncio.wait_for(loop.sock_recvfrom(raw, 65535), deadline - loop.time())
                    source = ip_address(peer[0].partition("%")[0])
                    got = packets.parse_icmp(data, IPv6Address(source), IPv6Address(echo.source)) if six else packets.parse(data)
                    if got and got.kind == "reply" and (got.source, got.identifier, got.sequence) == (
                            echo.destination, echo.identifier, echo.sequence):
                        return loop.time() - sent
        except (OSError, asyncio.TimeoutError):
            return None

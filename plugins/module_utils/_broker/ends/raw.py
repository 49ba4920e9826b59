# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""v6v4 and v4v6 without kernel tunnels: raw sockets for IP protocol 41 over IPv4 and protocol 4 over IPv6.

A raw socket for a protocol also keeps the kernel from answering "protocol unreachable" where it has no tunnel of that kind.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import struct
from collections.abc import Callable

from ..._tsp.errors import LocalError

BATCH = 64
ROOM = 65536
IPPROTO_6IN4 = 41
IPPROTO_4IN6 = 4
IP_PKTINFO = getattr(socket, "IP_PKTINFO", 8)
IP_MTU_DISCOVER = 10
IP_PMTUDISC_DONT = 0


class RawSocket:
    """One protocol, every address of this host. deliver(remote address, packet) gets what is inside."""

    def __init__(self, version: int, deliver: Callable[[str, bytes], None]) -> None:
        """version: of the outer packets, 4 carries v6v4 and 6 carries v4v6. Raises LocalError `not_permitted` | `no_raw_socket`."""
        self.version = version
        self._deliver = deliver
        family, protocol = (socket.AF_INET, IPPROTO_6IN4) if version == 4 else (socket.AF_INET6, IPPROTO_4IN6)
        try:
            self._socket = socket.socket(family, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, protocol)
        except OSError as exc:
            if exc.errno in (errno.EPERM, errno.EACCES):
                raise LocalError("not_permitted", f"A raw socket for IP protocol {protocol} is not permitted.",
                                 "Run the broker as root or with CAP_NET_RAW, or leave this mode out of modes.") from None
            raise LocalError("no_raw_socket", f"No raw socket for IP protocol {protocol}: {exc.strerror}.",
                             "Leave this mode out of modes.") from None
        with contextlib.suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        if version == 4:
            # A tunnel of 1280 octets has a fixed MTU, so the outer packet may be fragmented (RFC 4213 section 3.2.1).
            self._socket.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DONT)

    def start(self) -> None:
        """Read from now on."""
        asyncio.get_running_loop().add_reader(self._socket.fileno(), self._readable)

    def close(self) -> None:
        """End it."""
        if self._socket.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
            self._socket.close()

    def send(self, packet: bytes, remote: str, local: str | None) -> bool:
        """Put a packet into the tunnel to `remote`, from our address `local`."""
        try:
            self._socket.sendmsg([packet], source_control(local) if local else [], 0, (remote, 0))
        except OSError:
            return False
        return True

    def _readable(self) -> None:
        for _turn in range(BATCH):
            try:
                data, address = self._socket.recvfrom(ROOM)
            except OSError:
                return
            if self.version == 4:
                data = data[(data[0] & 0x0F) * 4:]  # IPv4 raw sockets show the outer header, IPv6 ones do not
            if data:
                self._deliver(address[0].partition("%")[0], data)


def source_control(local: str) -> list[tuple[int, int, bytes]]:
    """Ancillary data for sendmsg that sets the source address."""
    if ":" in local:
        return [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, socket.inet_pton(socket.AF_INET6, local) + bytes(4))]
    return [(socket.IPPROTO_IP, IP_PKTINFO, struct.pack("=i4s4x", 0, socket.inet_aton(local)))]

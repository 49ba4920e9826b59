# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Router advertisements as they are on the wire (RFC 4861, 8106), read by a raw socket in a namespace of the laboratory."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv6Address

from ansible_collections.tunnelbroker.tsp.tests.lab import Namespace

SOLICITATION, ADVERTISEMENT = 133, 134


@dataclass
class Advertisement:
    """prefixes: text -> (valid, preferred). rdnss, dnssl: text -> lifetime. All in seconds."""

    router_lifetime: int
    mtu: int | None = None
    prefixes: dict[str, tuple[int, int]] = field(default_factory=dict)
    rdnss: dict[str, int] = field(default_factory=dict)
    dnssl: dict[str, int] = field(default_factory=dict)


def parse(packet: bytes) -> Advertisement:
    """An ICMPv6 message of type 134."""
    assert packet[0] == ADVERTISEMENT
    made = Advertisement(struct.unpack_from("!H", packet, 6)[0])
    place = 16
    while place < len(packet):
        kind, length = packet[place], packet[place + 1] * 8
        option = packet[place:place + length]
        place += length
        if kind == 3:
            valid, preferred = struct.unpack_from("!II", option, 4)
            made.prefixes[f"{IPv6Address(option[16:32])}/{option[2]}"] = (valid, preferred)
        elif kind == 5:
            made.mtu = struct.unpack_from("!I", option, 4)[0]
        elif kind == 25:
            lifetime = struct.unpack_from("!I", option, 4)[0]
            for at in range(8, length, 16):
                made.rdnss[str(IPv6Address(option[at:at + 16]))] = lifetime
        elif kind == 31:
            made.dnssl.update(dict.fromkeys(_domains(option[8:]), struct.unpack_from("!I", option, 4)[0]))
    return made


def _domains(data: bytes) -> list[str]:
    out, labels, place = [], [], 0
    while place < len(data):
        size = data[place]
        if size:
            labels.append(data[place + 1:place + 1 + size].decode("ascii"))
        elif labels:
            out.append(".".join(labels))
            labels = []
        place += 1 + size
    return out


class Listener:
    """Hears what is advertised on an interface of a namespace, from its making on."""

    def __init__(self, namespace: Namespace, interface: str) -> None:
        with namespace.network():
            self._socket = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
            index = socket.if_nametoindex(interface)
        # Advertisements alone: struct icmp6_filter has a bit set for each type that does not pass.
        self._socket.setsockopt(socket.IPPROTO_ICMPV6, 1, struct.pack("=8I", *(
            0xFFFFFFFF & ~(1 << ADVERTISEMENT % 32 if word == ADVERTISEMENT // 32 else 0) for word in range(8))))
        self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
        self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
        self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, IPv6Address("ff02::1").packed + struct.pack("@I", index))
        self._all_routers = ("ff02::2", 0, 0, index)

    def hear(self, wanted: Callable[[Advertisement], bool] = lambda said: True, seconds: float = 30) -> Advertisement:
        """The next advertisement that is as wanted; asks for one now and then. Fails with the last one heard."""
        until, last, ask_at = time.monotonic() + seconds, None, 0.0
        while time.monotonic() < until:
            if time.monotonic() >= ask_at:
                self._socket.sendto(struct.pack("!BBHI", SOLICITATION, 0, 0, 0), self._all_routers)
                ask_at = time.monotonic() + 3.1  # radvd keeps three seconds between two
            self._socket.settimeout(0.5)
            try:
                last = parse(self._socket.recv(65535))
            except TimeoutError:
                continue
            if wanted(last):
                return last
        raise AssertionError(f"no such advertisement within {seconds:g} seconds; the last one was {last}")

    def forget(self) -> None:
        """What came in and was not looked at."""
        self._socket.settimeout(0)
        try:
            while True:
                self._socket.recv(65535)
        except BlockingIOError:
            return

    def close(self) -> None:
        self._socket.close()

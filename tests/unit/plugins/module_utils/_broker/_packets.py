# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Packets for tests, built by plain arithmetic (not by the code under test), and a checksum that says whether one is right."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address


def ones(data: bytes) -> int:
    """The Internet checksum the slow way."""
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def pseudo6(source: str, destination: str, length: int) -> bytes:
    return IPv6Address(source).packed + IPv6Address(destination).packed + struct.pack("!II", length, 58)


def ping6(source: str, destination: str, *, ident: int = 0x1234, seq: int = 1, payload: bytes = b"payload!", hops: int = 64,
          kind: int = 128, good: bool = True) -> bytes:
    """An ICMPv6 echo packet."""
    body = struct.pack("!BBHHH", kind, 0, 0, ident, seq) + payload
    total = ones(pseudo6(source, destination, len(body)) + body) ^ (0 if good else 0x5555)
    body = body[:2] + struct.pack("!H", total) + body[4:]
    return (struct.pack("!IHBB", 6 << 28, len(body), 58, hops) + IPv6Address(source).packed + IPv6Address(destination).packed + body)


def checksum6_is_right(packet: bytes) -> bool:
    source, destination = str(IPv6Address(packet[8:24])), str(IPv6Address(packet[24:40]))
    return ones(pseudo6(source, destination, len(packet) - 40) + packet[40:]) == 0


def udp6(source: str, destination: str, payload: bytes = b"data", hops: int = 64) -> bytes:
    """A UDP packet without a right checksum: nobody looks at it on the way."""
    body = struct.pack("!HHHH", 1000, 2000, 8 + len(payload), 0) + payload
    return struct.pack("!IHBB", 6 << 28, len(body), 17, hops) + IPv6Address(source).packed + IPv6Address(destination).packed + body


def ping4(source: str, destination: str, *, payload: bytes = b"payload!", ttl: int = 64) -> bytes:
    """An ICMP echo request in IPv4."""
    body = struct.pack("!BBHHH", 8, 0, 0, 7, 9) + payload
    body = body[:2] + struct.pack("!H", ones(body)) + body[4:]
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 1, 0, ttl, 1, 0) + IPv4Address(source).packed + IPv4Address(destination).packed
    return head[:10] + struct.pack("!H", ones(head)) + head[12:] + body


def header4_is_right(packet: bytes) -> bool:
    return ones(packet[:20]) == 0

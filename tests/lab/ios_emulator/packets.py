# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""ICMP echo packets, as bytes: built, taken apart and checked. Sources: RFC 791, RFC 792, RFC 4443, RFC 8200."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple, Union

Address = Union[IPv4Address, IPv6Address]
HOP_LIMIT = 64
_TYPES = {4: {"request": 8, "reply": 0}, 6: {"request": 128, "reply": 129}}
_ICMP = {4: 1, 6: 58}


class Echo(NamedTuple):
    """kind: request | reply."""

    kind: str
    source: Address
    destination: Address
    identifier: int
    sequence: int
    data: bytes


def checksum(data: bytes) -> int:
    """The Internet checksum; 0 over data that carries a right one."""
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def icmp(echo: Echo) -> bytes:
    """The ICMP message alone."""
    version = echo.source.version
    body = struct.pack("!BBHHH", _TYPES[version][echo.kind], 0, 0, echo.identifier, echo.sequence) + echo.data
    total = checksum(_pseudo(echo.source, echo.destination, len(body)) + body)
    return body[:2] + struct.pack("!H", total) + body[4:]


def packet(echo: Echo) -> bytes:
    """The whole IP packet."""
    message = icmp(echo)
    if echo.source.version == 6:
        head = struct.pack("!IHBB", 6 << 28, len(message), _ICMP[6], HOP_LIMIT)
        return head + echo.source.packed + echo.destination.packed + message
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(message), echo.sequence, 0, HOP_LIMIT, _ICMP[4], 0)
    head += echo.source.packed + echo.destination.packed
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + message


def parse(data: bytes) -> Echo | None:
    """An echo request or reply out of an IP packet; None for anything else, and for anything whose checksum is wrong."""
    if not data:
        return None
    if data[0] >> 4 == 6:
        if len(data) < 48 or data[6] != _ICMP[6]:
            return None
        length = struct.unpack("!H", data[4:6])[0]
        return parse_icmp(data[40:40 + length], IPv6Address(data[8:24]), IPv6Address(data[24:40]))
    head = (data[0] & 15) * 4
    if data[0] >> 4 != 4 or len(data) < head + 8 or head < 20 or data[9] != _ICMP[4] or checksum(data[:head]):
        return None
    return parse_icmp(data[head:struct.unpack("!H", data[2:4])[0]], IPv4Address(data[12:16]), IPv4Address(data[16:20]))


def parse_icmp(message: bytes, source: Address, destination: Address) -> Echo | None:
    """An echo out of an ICMP message whose addresses are known."""
    if len(message) < 8 or checksum(_pseudo(source, destination, len(message)) + message):
        return None
    kind, code, _sum, identifier, sequence = struct.unpack("!BBHHH", message[:8])
    names = {number: name for name, number in _TYPES[source.version].items()}
    if code or kind not in names:
        return None
    return Echo(names[kind], source, destination, identifier, sequence, message[8:])


def _pseudo(source: Address, destination: Address, length: int) -> bytes:
    if source.version == 4:
        return b""
    return source.packed + destination.packed + struct.pack("!IHBB", length, 0, 0, _ICMP[6])

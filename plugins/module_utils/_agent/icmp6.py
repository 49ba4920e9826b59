# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""IPv6 and ICMPv6 as bytes: the few packets that the agent makes or must understand. No socket, no clock."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv6Address

HEADER = 40
"""Length of the fixed IPv6 header."""
MINIMUM_MTU = 1280
"""What every IPv6 link must carry (RFC 8200 section 5)."""
ICMPV6 = 58
PACKET_TOO_BIG = 2
ECHO_REQUEST = 128
ECHO_REPLY = 129


@dataclass(frozen=True)
class Echo:
    """An echo request or reply, checksum verified."""

    kind: int
    source: IPv6Address
    destination: IPv6Address
    identifier: int
    sequence: int
    payload: bytes


def is_ipv6(packet: bytes) -> bool:
    """Whether these bytes are one whole IPv6 packet: version 6 and the payload length says what is there."""
    return len(packet) >= HEADER and packet[0] >> 4 == 6 and (packet[4] << 8 | packet[5]) + HEADER == len(packet)


def checksum(source: bytes, destination: bytes, next_header: int, body: bytes) -> int:
    """Internet checksum over the IPv6 pseudo-header (RFC 8200 section 8.1) and `body`, whose checksum field is zero.

    Over a body that carries its checksum the result is 0 when that is right.
    """
    data = source + destination + struct.pack("!IBBBB", len(body), 0, 0, 0, next_header) + body
    if len(data) % 2:
        data += b"\0"
    # One's complement addition is arithmetic modulo 0xFFFF; a sum of something is never the positive zero.
    return 0xFFFF ^ (int.from_bytes(data, "big") % 0xFFFF or 0xFFFF)


def packet(source: IPv6Address, destination: IPv6Address, kind: int, code: int, rest: bytes, hop_limit: int = 64) -> bytes:
    """A whole ICMPv6 packet. rest: what follows the checksum. The flow label is zero (tsp-protocol.md section 12 row 20)."""
    unsigned = struct.pack("!BBH", kind, code, 0) + rest
    total = checksum(source.packed, destination.packed, ICMPV6, unsigned)
    body = struct.pack("!BBH", kind, code, total) + rest
    return struct.pack("!IHBB", 6 << 28, len(body), ICMPV6, hop_limit) + source.packed + destination.packed + body


def echo_request(source: IPv6Address, destination: IPv6Address, identifier: int, sequence: int, payload: bytes = b"") -> bytes:
    """An echo request (RFC 4443 section 4.1) as a whole packet. identifier and sequence are taken modulo 65536."""
    return packet(source, destination, ECHO_REQUEST, 0, struct.pack("!HH", identifier & 0xFFFF, sequence & 0xFFFF) + payload)


def echo_reply_to(echo: Echo) -> bytes:
    """The answer to an echo request."""
    return packet(echo.destination, echo.source, ECHO_REPLY, 0, struct.pack("!HH", echo.identifier, echo.sequence) + echo.payload)


def parse_echo(data: bytes) -> Echo | None:
    """The echo request or reply in a whole packet; None for anything else, and for a wrong checksum."""
    if not is_ipv6(data) or len(data) < HEADER + 8 or data[6] != ICMPV6 or data[HEADER] not in (ECHO_REQUEST, ECHO_REPLY):
        return None
    body = data[HEADER:]
    if body[1] != 0 or checksum(data[8:24], data[24:40], ICMPV6, body) != 0:
        return None
    identifier, sequence = struct.unpack_from("!HH", body, 4)
    return Echo(body[0], IPv6Address(data[8:24]), IPv6Address(data[24:40]), identifier, sequence, body[8:])


def packet_too_big(original: bytes, mtu: int, reporter: IPv6Address) -> bytes | None:
    """Packet Too Big (RFC 4443 section 3.2) to the sender of `original`, at most 1280 bytes long.

    mtu: what would have fitted, never below 1280 in the message. None where no error may be sent: about an ICMPv6 error, or to an
    address that names no single node (RFC 4443 section 2.4 e).
    """
    if len(original) < HEADER or original[0] >> 4 != 6:
        return None
    if original[6] == ICMPV6 and len(original) > HEADER and original[HEADER] < 128:
        return None
    source = IPv6Address(original[8:24])
    if source.is_multicast or source.is_unspecified:
        return None
    quoted = original[:MINIMUM_MTU - HEADER - 8]
    return packet(reporter, source, PACKET_TOO_BIG, 0, struct.pack("!I", max(mtu, MINIMUM_MTU)) + quoted)


def without_flow_label(data: bytes) -> bytes:
    """The packet with its flow label cleared: some brokers take its last byte for signalling (tsp-protocol.md section 12 row 20).

    No checksum covers the label (RFC 8200 section 8.1), so nothing else changes.
    """
    if data[1] & 0x0F == 0 and data[2] == 0 and data[3] == 0:
        return data
    return bytes((data[0], data[1] & 0xF0, 0, 0)) + data[4:]

# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""The few packets that the broker answers or changes by itself, as bytes: echo replies, hop limits, unreachable errors."""

from __future__ import annotations

from ipaddress import IPv6Address

from .._agent import icmp6

HEADER4 = 20
DESTINATION_UNREACHABLE = 1
ADDRESS_UNREACHABLE = 3


def echo_reply(packet: bytes) -> bytes | None:
    """The answer to an echo request, IPv6 or IPv4; None for anything else.

    Addresses are swapped; payload, identifier, sequence and hop limit stay as they came (tsp-protocol.md sections 7, 12 row 16).
    A request with a wrong checksum, a fragment, or one with extension headers is not answered.
    """
    if packet[0] >> 4 == 6:
        if len(packet) < icmp6.HEADER + 8 or packet[6] != icmp6.ICMPV6 or packet[40:42] != b"\x80\0":
            return None
        if icmp6.checksum(packet[8:24], packet[24:40], icmp6.ICMPV6, packet[40:]) != 0:
            return None
        # Swapping the addresses does not change the sum; the type grows by one, so the checksum shrinks by 0x0100.
        return (packet[:8] + packet[24:40] + packet[8:24] + b"\x81\0" + _less(packet[42:44], 0x0100) + packet[44:])
    length = (packet[0] & 0x0F) * 4
    if length != HEADER4 or len(packet) < HEADER4 + 8 or packet[9] != 1 or packet[20:22] != b"\x08\0":
        return None
    if int.from_bytes(packet[6:8], "big") & 0x3FFF or _sum(packet[20:]) not in (0, 0xFFFF):
        return None
    return packet[:12] + packet[16:20] + packet[12:16] + b"\0\0" + _more(packet[22:24], 0x0800) + packet[24:]


def one_hop_less(packet: bytes) -> bytes | None:
    """The packet with its hop limit (IPv4: TTL) one lower; None when it may not travel further."""
    if packet[0] >> 4 == 6:
        return packet[:7] + bytes((packet[7] - 1,)) + packet[8:] if packet[7] > 1 else None
    if packet[8] <= 1:
        return None
    return packet[:8] + bytes((packet[8] - 1, packet[9])) + _more(packet[10:12], 0x0100) + packet[12:]


def whole(packet: bytes) -> bool:
    """Whether this is one IP packet: a known version, and exactly as long as its header says."""
    if len(packet) >= 40 and packet[0] >> 4 == 6:
        return (packet[4] << 8 | packet[5]) + 40 == len(packet)
    return len(packet) >= HEADER4 and packet[0] >> 4 == 4 and (packet[2] << 8 | packet[3]) == len(packet) and packet[0] & 0x0F >= 5


def unreachable(packet: bytes, reporter: IPv6Address) -> bytes | None:
    """ICMPv6 "address unreachable" to the sender of `packet` (RFC 4443 section 3.1); None where no error may be sent (2.4 e)."""
    if packet[0] >> 4 != 6 or packet[6] == icmp6.ICMPV6 and len(packet) > 40 and packet[40] < 128:
        return None
    source = IPv6Address(packet[8:24])
    if source.is_multicast or source.is_unspecified or source.is_link_local:
        return None
    return icmp6.packet(reporter, source, DESTINATION_UNREACHABLE, ADDRESS_UNREACHABLE,
                        bytes(4) + packet[:icmp6.MINIMUM_MTU - icmp6.HEADER - 8])


def _sum(data: bytes) -> int:
    return int.from_bytes(data if len(data) % 2 == 0 else data + b"\0", "big") % 0xFFFF


def _less(field: bytes, amount: int) -> bytes:
    """A checksum field after a word of the data grew by `amount` (RFC 1624)."""
    return ((int.from_bytes(field, "big") - amount) % 0xFFFF).to_bytes(2, "big")


def _more(field: bytes, amount: int) -> bytes:
    """A checksum field after a word of the data shrank by `amount`."""
    return ((int.from_bytes(field, "big") + amount) % 0xFFFF).to_bytes(2, "big")

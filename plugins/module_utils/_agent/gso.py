# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""Many packets for one call of the kernel: pure functions of bytes.

A TUN device with IFF_VNET_HDR puts ten bytes before each packet (struct virtio_net_hdr of linux/virtio_net.h, in the machine's byte order).
They let the kernel hand over a whole burst of a TCP connection as one packet with the checksum left open, for us to cut and to sum up,
and let us hand over segments that belong together as one. What leaves this host is the very packets that the kernel would have made.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Union

from .icmp6 import HEADER as IPV6_HEADER

VNET = struct.Struct("=BBHHHH")
"""flags, gso_type, hdr_len, gso_size, csum_start, csum_offset."""
LENGTH, SEQUENCE = struct.Struct("!H"), struct.Struct("!I")
Buffer = Union[bytes, bytearray]
PLAIN = bytes(VNET.size)
NEEDS_CSUM = 1
GSO_NONE = 0
GSO_TCPV6 = 4
TCP, UDP = 6, 17
ACK, PSH, FIN, CWR = 0x10, 0x08, 0x01, 0x80
_FOLD = tuple((1 << bits) - 1 for bits in (5632, 2816, 1408))
LONGEST = 65535
"""Bytes of a packet that a kernel takes, header included, whatever their number is called."""


def finished(header: bytes, packet: bytes) -> Sequence[Buffer]:
    """The packets in what was read from such a device: one, or the segments of one that was too large, with their checksums.

    Empty for what no kernel says.
    """
    flags, kind, _length, size, start, offset = VNET.unpack(header)
    if kind == GSO_TCPV6:
        return _cut(packet, size, start)
    if kind != GSO_NONE:
        return ()
    if flags & NEEDS_CSUM:
        place = start + offset
        if not IPV6_HEADER <= start < place <= len(packet) - 2:
            return ()
        total = 0xFFFF ^ (_sum(packet[start:]) or 0xFFFF)
        if total == 0 and offset == 6:
            total = 0xFFFF  # UDP: 0 would mean that there is none (RFC 768)
        return (packet[:place] + total.to_bytes(2, "big") + packet[place + 2:],)
    return (packet,)


def _sum(data: Buffer | memoryview) -> int:
    """One's complement sum of 16-bit words, as an integer modulo 0xFFFF.

    Folded first, which changes nothing modulo 0xFFFF and takes less than the division of a number that long.
    """
    value = int.from_bytes(data, "big")
    if len(data) & 1:
        value <<= 8
    value = (value >> 5632) + (value & _FOLD[0])
    value = (value >> 2816) + (value & _FOLD[1])
    return ((value >> 1408) + (value & _FOLD[2])) % 0xFFFF


def _cut(packet: bytes, size: int, start: int) -> Sequence[Buffer]:
    """TCP segments of `size` bytes of data out of a large one (RFC 9293 section 3.1). start: where the TCP header begins."""
    data = start + (packet[start + 12] >> 4) * 4 if len(packet) > start + 20 else len(packet)
    if start < IPV6_HEADER or size == 0 or data >= len(packet) or data < start + 20:
        return ()
    # One header for all, in which only what differs is written anew.
    head = bytearray(packet[:data])
    sequence = int.from_bytes(head[start + 4:start + 8], "big")
    flags = head[start + 13]
    head[start + 4:start + 8] = bytes(4)
    head[start + 13] = 0
    head[start + 16:start + 18] = bytes(2)
    fixed = _sum(head[8:40]) + TCP + _sum(head[start:])
    segments: list[Buffer] = []
    view, whole, length = memoryview(packet), len(packet), 0
    for at in range(data, whole, size):
        payload = view[at:at + size]
        if len(payload) != length:  # the first one, and a shorter last one
            length = len(payload)
            LENGTH.pack_into(head, 4, data - IPV6_HEADER + length)
        mine = flags
        if at > data:
            mine &= ~CWR
        if at + size < whole:
            mine &= ~(PSH | FIN)
        total = 0xFFFF ^ ((fixed + data - start + length + sequence + mine + _sum(payload)) % 0xFFFF or 0xFFFF)
        SEQUENCE.pack_into(head, start + 4, sequence)
        head[start + 13] = mine
        LENGTH.pack_into(head, start + 16, total)
        segments.append(head + payload)
        sequence = (sequence + length) & 0xFFFFFFFF
    return segments


def runs(packets: Sequence[Buffer], most: int, longest: int) -> list[list[Buffer]]:
    """Packets in their order as runs of one size, the last of a run may be shorter: what UDP_SEGMENT sends in one call.

    most: packets in a run; longest: bytes.
    """
    out: list[list[Buffer]] = []
    run: list[Buffer] = []
    size = room = 0
    for packet in packets:
        length = len(packet)
        if run and length <= size and length <= room and len(run) < most:
            run.append(packet)
            room -= length
            if length < size:
                room = 0
        else:
            run = [packet]
            out.append(run)
            size, room = length, longest - length
    return out


def merged(packets: Sequence[bytes]) -> list[list[bytes]]:
    """Packets in their order as what to write to such a device in one call each: its header and the packet, or the parts of a large one.

    TCP segments that follow each other become one, when they differ in nothing but their place and their data and their checksums are
    right, for the kernel then looks at those no more.
    """
    out: list[list[bytes]] = []
    group: list[bytes] = []
    wanted, data, size, alike, length = 0, 0, 0, b"", 0
    for packet in packets:
        if group:
            payload = len(packet) - data
            if 0 < payload <= size and length + payload <= LONGEST and int.from_bytes(packet[44:48], "big") == wanted and \
                    _alike(packet, data) == alike and _right(packet):
                group.append(packet)
                wanted = (wanted + payload) & 0xFFFFFFFF
                length += payload
                if payload < size or packet[53] & PSH:
                    out.append(_joined(group, data, size, length))
                    group = []
                continue
            out.append(_joined(group, data, size, length))
            group = []
        if len(packet) > 60 and packet[6] == TCP and packet[53] == ACK:
            data = IPV6_HEADER + (packet[52] >> 4) * 4
            size = len(packet) - data
            if data >= 60 and size > 0 and _right(packet):
                group, alike, length = [packet], _alike(packet, data), len(packet)
                wanted = (int.from_bytes(packet[44:48], "big") + size) & 0xFFFFFFFF
                continue
        out.append([PLAIN, packet])
    if group:
        out.append(_joined(group, data, size, length))
    return out


def _alike(packet: bytes, data: int) -> bytes:
    """What segments of one burst have in common: all headers but length, sequence number, PSH and checksum."""
    return b"".join((packet[:4], packet[6:44], packet[48:53], bytes((packet[53] & ~PSH & 0xFF,)), packet[54:56], packet[58:data]))


def _right(packet: bytes) -> bool:
    """Whether a TCP checksum is right."""
    return (_sum(packet[8:]) + TCP + len(packet) - IPV6_HEADER) % 0xFFFF == 0  # the addresses, and all behind the header


def _joined(group: list[bytes], data: int, size: int, length: int) -> list[bytes]:
    first = group[0]
    if len(group) == 1:
        return [PLAIN, first]
    inner = length - IPV6_HEADER
    # The checksum of the pseudo-header alone: the kernel adds the rest when it must.
    pseudo = (_sum(first[8:40]) + TCP + inner) % 0xFFFF
    head = b"".join((VNET.pack(NEEDS_CSUM, GSO_TCPV6, data, size, IPV6_HEADER, 16), first[:4], inner.to_bytes(2, "big"), first[6:53],
                     group[-1][53:54], first[54:56], pseudo.to_bytes(2, "big"), first[58:]))
    return [head, *(packet[data:] for packet in group[1:])]

# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Bursts cut into packets and put together again: byte for byte what the kernel would have sent, and nothing that does not belong."""

from __future__ import annotations

import random
import struct
from ipaddress import IPv6Address
from typing import Any

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent import gso, icmp6

OURS, FAR = IPv6Address("2001:db8:f::2").packed, IPv6Address("2001:db8:1::1").packed
OPTIONS = bytes.fromhex("0101080a0000002a00000007")
RANDOM = random.Random(4653)


def segment(sequence: int, data: bytes, flags: int = gso.ACK, options: bytes = OPTIONS, window: int = 500, label: int = 0,
            ack: int = 77) -> bytes:
    """A TCP segment as RFC 9293 has it, with the checksum that icmp6 computes its own way."""
    def header(total: int) -> bytes:
        return struct.pack("!HHIIBBHHH", 4000, 5201, sequence & 0xFFFFFFFF, ack, (20 + len(options)) // 4 << 4, flags, window, total,
                           0) + options
    total = icmp6.checksum(OURS, FAR, gso.TCP, header(0) + data)
    body = header(total) + data
    return struct.pack("!IHBB", 6 << 28 | label, len(body), gso.TCP, 64) + OURS + FAR + body


def burst(sequence: int, data: bytes, size: int, flags: int, options: bytes = OPTIONS) -> tuple[bytes, bytes]:
    """What the kernel gives to a TUN device instead of the segments: the header, and one packet with its checksum left open."""
    packet = bytearray(segment(sequence, data, flags, options))
    packet[56:58] = b"\xab\xcd"  # of no meaning for a burst
    return gso.VNET.pack(gso.NEEDS_CSUM, gso.GSO_TCPV6, 60 + len(options), size, 40, 16), bytes(packet)


@pytest.mark.parametrize("size", [1400, 1401, 7, 60000])
@pytest.mark.parametrize("options", [OPTIONS, b""])
def test_a_burst_becomes_the_segments_that_the_kernel_would_have_sent(size: int, options: bytes) -> None:
    data = RANDOM.randbytes(min(20 * size + 33, 64000))
    sequence = 0xFFFFF000  # which runs over on the way
    parts = [data[at:at + size] for at in range(0, len(data), size)]
    expected = []
    for number, part in enumerate(parts):
        flags = gso.ACK | (gso.CWR if number == 0 else 0) | (gso.PSH | gso.FIN if number == len(parts) - 1 else 0)
        expected.append(segment(sequence + number * size, part, flags, options))
    header, packet = burst(sequence, data, size, gso.ACK | gso.CWR | gso.PSH | gso.FIN, options)
    assert [bytes(part) for part in gso.finished(header, packet)] == expected


def test_a_checksum_that_was_left_open_is_made() -> None:
    for _n in range(200):
        body = RANDOM.randbytes(RANDOM.randrange(0, 40))
        udp = struct.pack("!HHHH", 4000, 53, 8 + len(body), 0) + body
        whole = struct.pack("!IHBB", 6 << 28, len(udp), gso.UDP, 64) + OURS + FAR + udp
        pseudo = 0xFFFF ^ icmp6.checksum(OURS, FAR, gso.UDP, bytes(len(udp)))
        opened = whole[:46] + pseudo.to_bytes(2, "big") + whole[48:]
        (packet,) = gso.finished(gso.VNET.pack(gso.NEEDS_CSUM, gso.GSO_NONE, 0, 0, 40, 6), opened)
        total = icmp6.checksum(OURS, FAR, gso.UDP, udp) or 0xFFFF
        assert bytes(packet) == whole[:46] + total.to_bytes(2, "big") + whole[48:]
    plain = segment(1, b"x")
    assert gso.finished(gso.PLAIN, plain) == (plain,)


@pytest.mark.parametrize("header", [
    gso.VNET.pack(0, 1, 0, 1400, 0, 0), gso.VNET.pack(1, gso.GSO_TCPV6, 72, 0, 40, 16), gso.VNET.pack(1, gso.GSO_TCPV6, 72, 9, 20, 16),
    gso.VNET.pack(1, gso.GSO_TCPV6, 72, 9, 60000, 16), gso.VNET.pack(1, 0, 0, 0, 20, 6), gso.VNET.pack(1, 0, 0, 0, 40, 60000)])
def test_what_no_kernel_says_is_dropped(header: bytes) -> None:
    assert list(gso.finished(header, segment(1, b"x" * 40))) == []


def again(writes: list[list[bytes]]) -> list[bytes]:
    """The segments that the kernel makes of what was written."""
    out: list[bytes] = []
    for parts in writes:
        data = b"".join(parts)
        out += [bytes(part) for part in gso.finished(data[:10], data[10:])]
    return out


def test_segments_that_follow_each_other_go_in_one_call() -> None:
    packets = [segment(1000 + 1400 * n, RANDOM.randbytes(1400), gso.ACK | (gso.PSH if n == 29 else 0)) for n in range(30)]
    writes = gso.merged(packets)
    assert len(writes) == 1 and again(writes) == packets
    flags, kind, header, size, start, offset = gso.VNET.unpack_from(writes[0][0])
    assert (flags, kind, header, size, start, offset) == (gso.NEEDS_CSUM, gso.GSO_TCPV6, 72, 1400, 40, 16)
    whole = b"".join(writes[0])[10:]
    assert icmp6.is_ipv6(whole)
    assert int.from_bytes(whole[56:58], "big") == 0xFFFF ^ icmp6.checksum(OURS, FAR, gso.TCP, bytes(len(whole) - 40))
    short = [*packets[:3], segment(1000 + 1400 * 3, b"end"), segment(1003 + 1400 * 3, RANDOM.randbytes(1400))]
    assert [len(parts) for parts in gso.merged(short)] == [4, 2] and again(gso.merged(short)) == short
    many = [segment(1400 * n, RANDOM.randbytes(1400)) for n in range(100)]
    assert again(gso.merged(many)) == many and all(len(b"".join(parts)) <= 65545 for parts in gso.merged(many))


@pytest.mark.parametrize("change", [
    {"window": 501}, {"ack": 78}, {"options": b"\x01" * 12}, {"flags": gso.ACK | gso.FIN}, {"sequence": 2401}, {"label": 5},
    {"options": b""}])
def test_what_differs_is_left_alone(change: dict[str, Any]) -> None:
    packets = [segment(1000, b"a" * 1400), segment(**{"sequence": 2400, "data": b"b" * 1400, **change})]
    writes = gso.merged(packets)
    assert [b"".join(parts) for parts in writes] == [gso.PLAIN + packet for packet in packets]


def test_a_wrong_checksum_is_the_receivers_to_find() -> None:
    packets = [segment(1000 + 1400 * n, b"a" * 1400) for n in range(4)]
    packets[2] = packets[2][:-1] + b"!"
    assert again(gso.merged(packets)) == packets
    assert [gso.PLAIN, packets[2]] in gso.merged(packets)


def test_order_is_kept_among_everything_else() -> None:
    ping = icmp6.echo_request(IPv6Address(OURS), IPv6Address(FAR), 7, 1)
    packets = [ping, segment(0, b"a" * 100), segment(100, b"b" * 100), ping, segment(200, b"c" * 100), b"\x60", segment(300, b"")]
    assert [bytes(b"".join(parts)[10:]) for parts in gso.merged([ping, packets[5]])] == [ping, packets[5]]
    assert again(gso.merged(packets[:5])) == packets[:5]


def test_runs_of_one_size() -> None:
    sizes = [10, 10, 10, 7, 10, 12, 12, 3, 3]
    packets = [bytes(size) for size in sizes]
    assert [[len(packet) for packet in run] for run in gso.runs(packets, 64, 1000)] == [[10, 10, 10, 7], [10], [12, 12, 3], [3]]
    assert [len(run) for run in gso.runs([bytes(10)] * 7, 3, 1000)] == [3, 3, 1]
    assert [len(run) for run in gso.runs([bytes(10)] * 7, 64, 25)] == [2, 2, 2, 1]

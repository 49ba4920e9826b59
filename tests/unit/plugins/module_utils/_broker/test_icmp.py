# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The packets that the broker answers or changes by itself."""

from __future__ import annotations

from ipaddress import IPv6Address

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._broker import icmp
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._broker import _packets as make
from hypothesis import given, settings
from hypothesis import strategies as st

CLIENT, BROKER = "2001:db8:f::2", "2001:db8:f::1"


@settings(max_examples=200, deadline=None)
@given(payload=st.binary(max_size=80), ident=st.integers(0, 65535), seq=st.integers(0, 65535), hops=st.integers(1, 255))
def test_an_echo_reply_keeps_everything_but_addresses_and_type(payload: bytes, ident: int, seq: int, hops: int) -> None:
    request = make.ping6(CLIENT, BROKER, ident=ident, seq=seq, payload=payload, hops=hops)
    reply = icmp.echo_reply(request)
    assert reply is not None and make.checksum6_is_right(reply)
    assert reply == request[:8] + request[24:40] + request[8:24] + b"\x81\0" + reply[42:44] + request[44:]
    assert reply[7] == hops


@settings(max_examples=100, deadline=None)
@given(payload=st.binary(max_size=80), ttl=st.integers(1, 255))
def test_the_same_in_ipv4(payload: bytes, ttl: int) -> None:
    request = make.ping4("198.51.100.2", "198.51.100.1", payload=payload, ttl=ttl)
    reply = icmp.echo_reply(request)
    assert reply is not None and make.header4_is_right(reply) and make.ones(reply[20:]) == 0
    assert reply[12:20] == request[16:20] + request[12:16] and reply[20] == 0 and reply[24:] == request[24:] and reply[8] == ttl


@pytest.mark.parametrize("packet", [
    make.ping6(CLIENT, BROKER, good=False), make.ping6(CLIENT, BROKER, kind=129), make.udp6(CLIENT, BROKER),
    make.ping6(CLIENT, BROKER)[:44], make.ping4("198.51.100.2", "198.51.100.1")[:-1] + b"?", b"\x45" + bytes(19), b"\x60" + bytes(39)])
def test_nothing_else_is_answered(packet: bytes) -> None:
    assert icmp.echo_reply(packet) is None


@settings(max_examples=100, deadline=None)
@given(hops=st.integers(0, 255))
def test_one_hop_less(hops: int) -> None:
    six, four = make.udp6(CLIENT, BROKER, hops=hops), make.ping4("198.51.100.2", "198.51.100.3", ttl=hops)
    if hops <= 1:
        assert icmp.one_hop_less(six) is None and icmp.one_hop_less(four) is None
        return
    assert icmp.one_hop_less(six) == six[:7] + bytes((hops - 1,)) + six[8:]
    less = icmp.one_hop_less(four)
    assert less is not None and less[8] == hops - 1 and make.header4_is_right(less) and less[12:] == four[12:]


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=120))
def test_any_bytes_are_judged_without_a_fault(data: bytes) -> None:
    if icmp.whole(data):
        icmp.echo_reply(data)
        icmp.one_hop_less(data)
        icmp.unreachable(data, IPv6Address(BROKER))


def test_whole_packets_only() -> None:
    packet = make.ping6(CLIENT, BROKER)
    assert icmp.whole(packet) and not icmp.whole(packet[:-1]) and not icmp.whole(packet + b"x") and not icmp.whole(b"")
    assert icmp.whole(make.ping4("198.51.100.2", "198.51.100.1")) and not icmp.whole(b"\x45")


def test_unreachable_quotes_the_packet_and_is_never_sent_about_errors() -> None:
    packet = make.udp6("2001:db8:1::1", "2001:db8:f::99", bytes(1400))
    error = icmp.unreachable(packet, IPv6Address(BROKER))
    assert error is not None and make.checksum6_is_right(error) and len(error) <= 1280
    assert error[40:42] == b"\x01\x03" and error[48:] == packet[:len(error) - 48]
    assert icmp.unreachable(error, IPv6Address(BROKER)) is None
    assert icmp.unreachable(make.udp6("ff02::1", "2001:db8:f::99"), IPv6Address(BROKER)) is None
    assert icmp.unreachable(make.udp6("::", "2001:db8:f::99"), IPv6Address(BROKER)) is None

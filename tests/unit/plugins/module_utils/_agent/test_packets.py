# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Packets as bytes: what the agent makes is what other systems accept, and what it must not answer it does not."""

from __future__ import annotations

import struct
from ipaddress import IPv6Address, IPv6Network

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent import icmp6
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent.screen import (
    LOCAL_ONLY,
    MALFORMED,
    PASS,
    SIGNALLING,
    SPOOFED,
    Screen,
)
from hypothesis import given
from hypothesis import strategies as st

A, B = IPv6Address("2001:db8::5"), IPv6Address("2001:db8::1")


def reference_checksum(source: bytes, destination: bytes, body: bytes) -> int:
    """RFC 1071, word by word."""
    data = source + destination + struct.pack("!II", len(body), 58) + body + b"\0" * (len(body) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


@given(st.binary(max_size=200))
def test_checksum_is_the_internet_checksum(body: bytes) -> None:
    assert icmp6.checksum(A.packed, B.packed, 58, body) == reference_checksum(A.packed, B.packed, body)


def test_an_echo_request_as_the_wire_has_it() -> None:
    packet = icmp6.echo_request(A, B, 0x1234, 5, b"abc")
    assert packet[:8] == bytes.fromhex("60000000000b3a40")
    assert packet[8:40] == A.packed + B.packed and packet[40:42] == b"\x80\x00" and packet[44:] == b"\x12\x34\x00\x05abc"
    echo = icmp6.parse_echo(packet)
    assert echo == icmp6.Echo(128, A, B, 0x1234, 5, b"abc")
    reply = icmp6.parse_echo(icmp6.echo_reply_to(echo))
    assert reply == icmp6.Echo(129, B, A, 0x1234, 5, b"abc")


@given(st.binary(max_size=120))
def test_any_bytes_parse_or_not(data: bytes) -> None:
    assert icmp6.parse_echo(data) is None or icmp6.is_ipv6(data)


def test_a_damaged_echo_is_none() -> None:
    packet = bytearray(icmp6.echo_request(A, B, 1, 1, b"abc"))
    packet[-1] ^= 1
    assert icmp6.parse_echo(bytes(packet)) is None
    assert icmp6.parse_echo(bytes(packet[:-1])) is None


def test_packet_too_big() -> None:
    original = icmp6.echo_request(A, B, 1, 1, b"x" * 1400)
    answer = icmp6.packet_too_big(original, 1372, B)
    assert answer is not None and len(answer) == 1280 and icmp6.is_ipv6(answer)
    assert answer[8:40] == B.packed + A.packed and answer[40] == 2
    assert struct.unpack("!I", answer[44:48])[0] == 1372
    assert icmp6.checksum(answer[8:24], answer[24:40], 58, answer[40:]) == 0
    assert answer[48:] == original[:1280 - 48]
    assert struct.unpack("!I", icmp6.packet_too_big(original, 600, B)[44:48])[0] == 1280


def test_no_error_about_an_error() -> None:
    error = icmp6.packet_too_big(icmp6.echo_request(A, B, 1, 1), 1400, B)
    assert error is not None and icmp6.packet_too_big(error, 1300, B) is None
    for source in ("ff02::1", "::"):
        assert icmp6.packet_too_big(icmp6.echo_request(IPv6Address(source), B, 1, 1), 1300, B) is None
    assert icmp6.packet_too_big(b"", 1300, B) is None


def test_the_flow_label_goes_and_nothing_else() -> None:
    packet = icmp6.echo_request(A, B, 1, 1, b"abc")
    labelled = bytes.fromhex("6ab123f0") + packet[4:]
    assert icmp6.without_flow_label(labelled) == bytes.fromhex("6ab00000") + packet[4:]
    assert icmp6.without_flow_label(packet) is packet


SCREEN = Screen(A, IPv6Network("2001:db8:100::/47"))


@pytest.mark.parametrize(("source", "destination", "outward", "inward"), [
    ("2001:db8::5", "2001:db8:ffff::1", PASS, SPOOFED),
    ("2001:db8:100::1", "2001:db8:ffff::1", PASS, SPOOFED),
    ("2001:db8:101:ffff::1", "2001:db8:ffff::1", PASS, SPOOFED),
    ("2001:db8:102::1", "2001:db8:ffff::1", SPOOFED, SPOOFED),
    ("2001:db8:ffff::1", "2001:db8::5", SPOOFED, PASS),
    ("2001:db8:ffff::1", "2001:db8:101::9", SPOOFED, PASS),
    ("2001:db8::5", "2001:db8:101::9", PASS, SPOOFED),
    ("fe80::1", "2001:db8::5", LOCAL_ONLY, LOCAL_ONLY),
    ("fe80::1", "ff02::2", LOCAL_ONLY, LOCAL_ONLY),
    ("2001:db8::5", "ff02::16", LOCAL_ONLY, LOCAL_ONLY),
    ("2001:db8::5", "ff0e::1", PASS, SPOOFED),
    ("::", "ff02::16", LOCAL_ONLY, LOCAL_ONLY),
    ("ff02::1", "2001:db8::5", LOCAL_ONLY, LOCAL_ONLY),
    ("ff0e::1", "2001:db8::5", SPOOFED, LOCAL_ONLY),
])
def test_who_may_pass(source: str, destination: str, outward: str, inward: str) -> None:
    packet = icmp6.echo_request(IPv6Address(source), IPv6Address(destination), 1, 1)
    assert (SCREEN.outward(packet), SCREEN.inward(packet)) == (outward, inward)


def test_what_is_not_ipv6_never_passes() -> None:
    packet = icmp6.echo_request(A, B, 1, 1)
    for data in (b"", b"\x60", packet[:-1], packet + b"x", b"\x45" + packet[1:], b"\xf0\x00\x00\xf0abc"):
        assert SCREEN.outward(data) == MALFORMED and SCREEN.inward(data) == MALFORMED
    assert SCREEN.inward(b"\xf0\x00\x00\xf0\0\0\0\0200 Success\r\n") == SIGNALLING


@given(st.binary(max_size=100))
def test_any_bytes_get_a_verdict(data: bytes) -> None:
    for verdict in (SCREEN.outward(data), SCREEN.inward(data)):
        assert verdict in (PASS, MALFORMED, LOCAL_ONLY, SPOOFED, SIGNALLING)
        assert verdict != PASS or icmp6.is_ipv6(data)


def test_a_host_without_a_prefix_has_its_address_only() -> None:
    screen = Screen(A, None)
    assert screen.ours(A.packed) and not screen.ours(B.packed) and not screen.ours(IPv6Address("::").packed)

# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The table of UDP sessions, with a clock of the test's own and a socket that only notes what is sent."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Iterator
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._broker.session import Session
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._broker.udp import STALE, UdpAdapter
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.server import ServerConfig
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._broker import _packets as make
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._broker.test_policy import World

VERSION = b"VERSION=2.0.1\r\n"
ANONYMOUS = b"AUTHENTICATE ANONYMOUS\r\n\0"
CREATE = (b'<tunnel action="create" type="v6udpv4" proxy="no">\r\n <client>\r\n  <address type="ipv4">10.0.0.2</address>\r\n'
          b' </client>\r\n</tunnel>\r\n')
CREATE = b"Content-length: %d\r\n%s" % (len(CREATE), CREATE)
ACCEPT = b'Content-length: 35\r\n<tunnel action="accept"></tunnel>\r\n'


class Peers(World):
    """A broker behind an adapter. say() sends a datagram and returns the texts of the answers."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.sent: list[tuple[bytes, tuple[str, int]]] = []
        self.policy.offered = frozenset(("ANONYMOUS", "PLAIN", "DIGEST-MD5"))
        self.server_config = ServerConfig(rng=bytes)
        self.adapter = UdpAdapter(self._session, lambda _peer, _data: None, 3, pytest.fail)

    def _session(self, transport: str, peer: tuple[str, int], local: Any) -> Session:
        return Session(self.policy, self.server_config, transport, peer, local, 3653)

    def send(self, payload: bytes, peer: tuple[str, int], local: str | None) -> bool:
        self.sent.append((payload, peer))
        return True

    def say(self, text: bytes, number: int = 0, stamp: int = 5, port: int = 40000) -> list[bytes]:
        header = struct.pack("!II", 0xF00000F0 + number, stamp)
        self.adapter._signalling(self, header + text, ("192.0.2.7", port), "192.0.2.1", self.mono)  # type: ignore[arg-type]
        answers, self.sent = self.sent, []
        assert all(answer[:8] == header and peer == ("192.0.2.7", port) for answer, peer in answers)
        return [answer[8:] for answer, _peer in answers]

    def tick(self, seconds: float) -> None:
        self.mono += seconds
        self.adapter.tick(self.mono)


@pytest.fixture
def peers(tmp_path: Path) -> Iterator[Peers]:
    one = Peers(tmp_path)
    yield one
    one.store.close()


def test_sessions_end_when_they_were_silent_for_long_enough(peers: Peers) -> None:
    for port in (1, 2, 3):
        peers.say(VERSION, port=port)
        peers.tick(9)
    peers.say(ANONYMOUS, 1, port=1)  # the oldest is not the stillest
    assert [port for _host, port in peers.adapter.sessions] == [2, 3, 1]
    peers.tick(14)
    assert [port for _host, port in peers.adapter.sessions] == [3, 1]
    peers.tick(30)
    assert not peers.adapter.sessions
    assert [(line["port"], line["level"]) for line in peers.logged("session") + peers.logged("session_failed")] == [
        (2, "info"), (3, "info"), (1, "warning")]


def test_an_old_session_that_lives_does_not_keep_the_table_full(peers: Peers) -> None:
    for port in (1, 2, 3):
        peers.say(VERSION, port=port)
    peers.tick(STALE + 1)
    peers.say(ANONYMOUS, 1, port=1)
    assert peers.say(VERSION, port=4)[0].startswith(b"CAPABILITY")
    assert [port for _host, port in peers.adapter.sessions] == [3, 1, 4]


def test_who_is_refused_again_and_again_takes_nobodys_place(peers: Peers) -> None:
    """gw6c 5.1 offers its versions for ever, without a pause and each time from another port (tsp-protocol.md section 2)."""
    peers.say(VERSION, port=1)
    for port in range(2, 20):
        assert peers.say(b"VERSION=9.9.9\r\n", port=port)[0].startswith(b"302 ")
    assert peers.say(VERSION, port=20)[0].startswith(b"CAPABILITY")
    assert peers.say(ANONYMOUS, 1, port=1) == [b"200 Success\r\n"]


def test_refusals_without_end_do_not_fill_the_disk(peers: Peers) -> None:
    for port in range(1, 3001):
        peers.say(b"VERSION=9.9.9\r\n", port=port)
    assert len(peers.logged("session_failed")) == 2000
    for number, text in enumerate((VERSION, ANONYMOUS, CREATE, ACCEPT)):
        peers.say(text, number, port=4000)
    peers.tick(60)
    peers.policy.tell_unreported()
    peers.policy.tell_unreported()
    assert [line["count"] for line in peers.logged("sessions_unreported")] == [1000]
    assert [line["port"] for line in peers.logged("session") if line["established"]] == [4000], "who has a tunnel is always told of"
    peers.say(b"VERSION=9.9.9\r\n", port=1)
    assert len(peers.logged("session_failed")) == 2001


@pytest.mark.parametrize("text", [VERSION + bytes(1000), b"", bytes(9000)], ids=["sessions", "polling", "padding"])
def test_one_peer_holds_one_place_whatever_it_sends(peers: Peers, text: bytes) -> None:
    peers.log.level = "error"
    tracemalloc.start()
    try:
        peers.say(VERSION)
        for number in range(1, 6000):
            assert peers.say(text, number, stamp=10 * number)
            if number == 1000:
                before = tracemalloc.get_traced_memory()[0]
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert len(peers.adapter.sessions) == 1 and grown < 100_000


def test_a_copy_of_the_first_message_is_no_end_of_the_session(peers: Peers) -> None:
    peers.say(VERSION)
    peers.say(b"AUTHENTICATE DIGEST-MD5\r\n\0", 1, 6)
    assert peers.say(VERSION)[0].startswith(b"CAPABILITY")
    assert not peers.logged("session_failed"), "a copy made by the network was taken for a client that began again"
    peers.say(VERSION, 0, 7)
    line, = peers.logged("session_failed")
    assert line["mechanism"] == "digest-md5" and len(line["said"]) == 6 and line["state"] == "AUTHENTICATING"
    peers.tick(60)
    assert peers.logged("session")[-1]["said"] == [f"client: {VERSION.decode().strip()}⏎", *line["said"][1:2]]


def test_a_session_with_its_last_copies_far_apart_goes_on(peers: Peers) -> None:
    """Old clients send a message at 0, 2, 4, 6, 8, 12, 20 and 36 s; all but the last answer may be lost."""
    peers.say(VERSION)
    peers.say(ANONYMOUS, 1)
    granted = peers.say(CREATE, 2)
    assert b"200 Success" in granted[0]
    for seconds, stamp in ((20, 20_000), (16, 36_000)):
        peers.tick(seconds)
        assert peers.say(CREATE, 2, stamp) == granted
    assert peers.say(ACCEPT, 3, 37_000) == [b""] and len(peers.table) == 1


@pytest.mark.parametrize("pause", [0.0, 0.2, 3.0, 20.0])
@pytest.mark.parametrize("stamp", [2, 370, 373, 998])
def test_another_session_from_the_same_port_works_at_once(peers: Peers, pause: float, stamp: int) -> None:
    """A client that was started again, or another one to which a NAT gave the port: same numbers, time stamps of 0 to 999 again."""
    for number, text in enumerate((VERSION, ANONYMOUS, CREATE, ACCEPT)):
        assert peers.say(text, number, 371 + 3 * number)
    assert len(peers.logged("tunnel_opened")) == 1
    peers.mono += pause
    said = [peers.say(text, number, stamp + 3 * number)[0] for number, text in enumerate((
        VERSION, b"AUTHENTICATE PLAIN\r\n\0", b"\0alice\0secret1\r\n", CREATE, ACCEPT))]
    assert said[0].startswith(b"CAPABILITY") and said[1:3] == [b"", b"200 Success\r\n"] and b"200 Success" in said[3] and said[4] == b""
    assert [line["owner"] for line in peers.logged("tunnel_opened")] == ["anonymous:192.0.2.7#40000", "user:alice"]
    assert len(peers.table) == 1, "the tunnel of whoever had the port before stands in the way"


def test_a_packet_through_the_tunnel_stands_for_a_lost_accept(peers: Peers) -> None:
    peer = ("192.0.2.7", 40000)
    for number, text in enumerate((VERSION, ANONYMOUS, CREATE)):
        granted = peers.say(text, number)
    inner = "2001:db8:f::2"
    assert b"2001:0db8:000f:0000:0000:0000:0000:0002" in granted[0]
    for packet, end in ((make.udp6("2001:db8:f::3", "2001:db8:1::1"), peer), (make.udp6(inner, "2001:db8:1::1"), ("192.0.2.7", 40001)),
                        (b"\x60", peer)):
        assert not peers.adapter.confirm(end, packet, peers.mono)
    assert not peers.table.by_lease
    peers.tick(20)
    peers.say(VERSION, port=2)
    peers.tick(5)
    assert peers.adapter.confirm(peer, make.udp6(inner, "2001:db8:1::1"), peers.mono)
    assert peers.table.by_outer[peer].inner_address == IPv6Address(inner) and len(peers.logged("tunnel_opened")) == 1
    assert not peers.adapter.confirm(peer, make.udp6("2001:db8:f::3", "2001:db8:1::1"), peers.mono)
    peers.tick(26)
    assert list(peers.adapter.sessions) == [peer], "a session whose time was over stayed behind one that had got more"
    peers.tick(60)
    assert len(peers.table) == 1 and len(peers.logged("tunnel_opened")) == 1 and not peers.logged("session_failed")


def test_an_accept_that_comes_after_all_is_answered(peers: Peers) -> None:
    for number, text in enumerate((VERSION, ANONYMOUS, CREATE)):
        peers.say(text, number)
    assert peers.adapter.confirm(("192.0.2.7", 40000), make.udp6("2001:db8:f::2", "2001:db8:1::1"), peers.mono)
    assert peers.say(ACCEPT, 3) == [b""]

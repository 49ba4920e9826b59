# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A running broker over loopback: every mechanism, every mode, every transport, and what an unfriendly client does."""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._broker import config
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._broker.keys import write_private
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._broker.service import Broker
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp import events, sasl
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.errors import LocalError
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._broker import _packets as make
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._broker._client import asking, error, grant
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._broker.running import RunningBroker, broker_in_thread

METHODS = ["anonymous", "plain", "digest-md5", "passdss-3des-1"]


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[RunningBroker]:
    with broker_in_thread(tmp_path) as one:
        yield one


def until(condition: Callable[[], Any], seconds: float = 30) -> Any:
    """Wait for what must come; the limit only ends a test that has failed."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)
    return value


def datagram(text: bytes, number: int = 0, stamp: int = 5) -> bytes:
    return struct.pack("!II", 0xF00000F0 + number, stamp) + text


@pytest.fixture
def raw(broker: RunningBroker) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.settimeout(30)
        one.connect((broker.host, broker.port))
        yield one


def exchange(one: socket.socket, text: bytes, number: int = 0, stamp: int = 5) -> bytes:
    """One datagram and its answer's text; header checked."""
    sent = datagram(text, number, stamp)
    one.send(sent)
    answer = one.recv(8192)
    assert answer[:8] == sent[:8]
    return answer[8:]


# ---- what it is for ----

@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("transport", "version"), [("udp", "2.0.2"), ("udp", "2.0.1"), ("udp", "2.0.0"), ("tcp", "2.0.2"),
                                                    ("tcp", "2.0.1"), ("tcp", "2.0.0"), ("tcp", "1.0.1")])
def test_every_mechanism_over_every_transport_and_version(tmp_path: Path, method: str, transport: str, version: str) -> None:
    if method.startswith("passdss") and not sasl.have_passdss():
        pytest.skip("needs the package cryptography")
    user = None if method == "anonymous" else "alice"
    with broker_in_thread(tmp_path) as broker:
        made = grant(broker, user=user, method=method, transport=transport, version=version, mode="v6v4")
        assert made.mode == "v6v4" and made.client.ipv4 == made.server.ipv4 == IPv4Address("127.0.0.1")
        assert made.client.ipv6 == IPv6Address("2001:db8:f::2") and made.server.ipv6 == IPv6Address("2001:db8:f::1")
        assert made.lifetime == 604800 and made.keepalive.interval == 30 and made.keepalive.address == made.server.ipv6
        opened = until(lambda: broker.log_lines("tunnel_opened"))
        assert opened[0]["mode"] == "v6v4" and opened[0].get("user") == user
        assert not broker.log_lines("session_failed")


@pytest.mark.parametrize(("mode", "over6", "granted"), [("v6anyv4", False, "v6v4"), ("v6v4", False, "v6v4"), ("v6udpv4", False, "v6udpv4"),
                                                        ("v4v6", True, "v4v6")])
@pytest.mark.parametrize("host_type", ["host", "router"])
def test_every_mode(broker: RunningBroker, mode: str, over6: bool, granted: str, host_type: str) -> None:
    request = {"mode": mode, "host_type": host_type}
    if host_type == "router":
        request |= {"prefix_length": 28 if mode == "v4v6" else 60, "dns_servers": ("ns1.example", "ns2.example")}
    made = grant(broker, over6=over6, **request)
    assert made.mode == granted and made.client.dns_name == "alice.tunnels.example"
    assert (made.prefix.prefixlen if made.prefix else None) == request.get("prefix_length")
    assert made.dns_servers == request.get("dns_servers", ())


def test_v6anyv4_behind_nat_becomes_v6udpv4(broker: RunningBroker) -> None:
    assert grant(broker, mode="v6anyv4", client_ipv4=IPv4Address("10.1.2.3")).mode == "v6udpv4"
    refused = error(broker, mode="v6anyv4", client_ipv4=IPv4Address("10.1.2.3"), transport="tcp")
    assert refused.status == 303
    assert any("named 10.1.2.3, seen as 127.0.0.1" in line["why"] for line in broker.log_lines("session_failed"))


def test_answers_come_from_the_address_that_was_spoken_to(tmp_path: Path) -> None:
    with broker_in_thread(tmp_path, {"listen": {"addresses": ["0.0.0.0", "::"]}}) as broker:
        for host in ("127.0.0.1", "127.0.0.5", "::1"):
            mode = "v4v6" if ":" in host else "v6udpv4"
            with asking(host, broker.port, mode=mode) as outcome:  # a connected socket takes no answer from elsewhere
                end = outcome.grant.server
                assert str(end.ipv6 if ":" in host else end.ipv4) == host


def test_reply_to_create_is_laid_out_as_old_clients_want_it(broker: RunningBroker, raw: socket.socket) -> None:
    exchange(raw, b"VERSION=2.0.1\r\n", 0)
    assert exchange(raw, b"AUTHENTICATE ANONYMOUS\r\n\0", 1) == b"200 Success\r\n"
    body = (b'<tunnel action="create" type="v6udpv4" proxy="no">\r\n <client>\r\n  <address type="ipv4">127.0.0.1</address>\r\n'
            b" </client>\r\n</tunnel>\r\n")
    answer = exchange(raw, b"Content-length: %d\r\n%s" % (len(body), body), 2)
    head, _unused, rest = answer.partition(b"\r\n")
    assert head == b"Content-length: %d" % len(rest)
    assert rest.startswith(b'200 Success\r\n<tunnel action="info" type="v6udpv4" lifetime="604800">')
    assert b'<address type="ipv6">2001:0db8:000f:0000:0000:0000:0000:0002</address>' in rest and b"'" not in rest and b"<?" not in rest


# ---- keepalive and data ----

def test_a_ping_through_the_tunnel_is_answered_as_it_came(broker: RunningBroker) -> None:
    with asking(broker.host, broker.port, mode="v6udpv4") as outcome:
        inner = str(outcome.grant.client.ipv6)
        request = make.ping6(inner, "2001:db8:f::1", ident=0xBEEF, seq=0x0100, payload=bytes(range(56)), hops=64)
        outcome.socket.send(request)
        reply = outcome.socket.recv(2048)
        assert reply[:8] == request[:8] and reply[8:40] == request[24:40] + request[8:24] and reply[40] == 129
        assert reply[44:] == request[44:] and make.checksum6_is_right(reply)
        outcome.socket.send(make.ping6("2001:db8:f::99", "2001:db8:f::1"))
        outcome.socket.send(make.udp6("fe80::1", "ff02::2"))
        counters = broker.broker.plane.counters
        until(lambda: counters["dropped_source"] == 1 and counters["dropped_link_local"] == 1)


def test_a_tunnel_whose_accept_was_lost_works_with_its_first_packet(broker: RunningBroker, raw: socket.socket) -> None:
    body = b'<tunnel action="create" type="v6udpv4" proxy="no"><client></client></tunnel>\r\n'
    for number, text in enumerate((b"VERSION=2.0.1\r\n", b"AUTHENTICATE ANONYMOUS\r\n\0", b"Content-length: %d\r\n%s" % (len(body), body))):
        exchange(raw, text, number)
    raw.send(make.ping6("2001:db8:f::2", "2001:db8:f::1"))
    assert raw.recv(2048)[40] == 129 and broker.log_lines("tunnel_opened")


def test_data_from_another_port_is_not_taken(broker: RunningBroker) -> None:
    with asking(broker.host, broker.port, mode="v6udpv4") as outcome, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as thief:
        thief.connect((broker.host, broker.port))
        thief.send(make.ping6(str(outcome.grant.client.ipv6), "2001:db8:f::1"))
        until(lambda: broker.broker.plane.counters["dropped_unknown_peer"] == 1)
        thief.setblocking(False)
        with pytest.raises(BlockingIOError):
            thief.recv(100)


@pytest.mark.parametrize("listen", ["127.0.0.1", "0.0.0.0"])
@pytest.mark.parametrize("outer", ["127.0.0.9", "192.0.2.77"], ids=["of this host", "of a NAT before it"])
def test_packets_flow_whatever_outer_address_is_told(tmp_path: Path, listen: str, outer: str) -> None:
    with broker_in_thread(tmp_path, {"listen": {"addresses": [listen]}, "addresses": {"outer_ipv4": outer}}) as broker, \
            asking(broker.host, broker.port, mode="v6udpv4") as outcome:
        assert str(outcome.grant.server.ipv4) == outer
        outcome.socket.send(make.ping6(str(outcome.grant.client.ipv6), "2001:db8:f::1"))
        assert outcome.socket.recv(2048)[40] == 129
        assert [line["address"] for line in broker.log_lines("outer_elsewhere")] == ([outer] if outer == "192.0.2.77" else [])


def test_clients_reach_each_other_and_the_second_login_expels_the_first(broker: RunningBroker) -> None:
    with asking(broker.host, broker.port, mode="v6udpv4") as alice, \
            asking(broker.host, broker.port, user="bob", mode="v6udpv4", host_type="router") as bob:
        one, two = str(alice.grant.client.ipv6), str(bob.grant.prefix.network_address + 1)
        alice.socket.send(make.udp6(one, two, b"hello", hops=9))
        received = bob.socket.recv(2048)
        assert received[7] == 8 and received.endswith(b"hello")
        with asking(broker.host, broker.port, mode="v6udpv4") as again:
            assert again.grant.client.ipv6 == alice.grant.client.ipv6
            alice.socket.send(make.ping6(one, "2001:db8:f::1"))
            until(lambda: broker.broker.plane.counters["dropped_unknown_peer"] == 1)
            bob.socket.send(make.udp6(two, one, b"back"))
            assert again.socket.recv(2048).endswith(b"back")


def test_a_new_session_on_the_same_port_starts_afresh(broker: RunningBroker) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as held:
        held.bind((broker.host, 0))
        source = held.getsockname()
    first = grant(broker, mode="v6udpv4", source=source)
    time.sleep(0.002)  # another time stamp, as any client that was restarted has
    assert grant(broker, mode="v6udpv4", source=source, user="bob").client.ipv6 != first.client.ipv6
    assert len(broker.broker.table) == 1


def test_silence_frees_the_end_of_a_real_session(tmp_path: Path) -> None:
    with broker_in_thread(tmp_path, {"keepalive": {"minimum": 1, "interval": 1, "silence": 2}}) as broker:
        with asking(broker.host, broker.port, mode="v6udpv4", keepalive_interval=1) as outcome:
            until(lambda: broker.log_lines("tunnel_closed"))
            assert not broker.broker.table.by_lease
            again = grant(broker, mode="v6udpv4", keepalive_interval=1)
            assert again.client.ipv6 == outcome.grant.client.ipv6


# ---- refusals ----

@pytest.mark.parametrize("method", METHODS[1:])
@pytest.mark.parametrize("transport", ["udp", "tcp"])
@pytest.mark.parametrize(("user", "password"), [("alice", "wrong"), ("nobody", "secret1"), ("gone", "secret4")])
def test_a_wrong_login_is_refused_and_explained_in_the_log(broker: RunningBroker, method: str, transport: str, user: str,
                                                           password: str) -> None:
    if method.startswith("passdss") and not sasl.have_passdss():
        pytest.skip("needs the package cryptography")
    refused = error(broker, user=user, password=password, method=method, transport=transport)
    assert refused.code == "auth_failed" and refused.status == 300
    line = until(lambda: broker.log_lines("session_failed"))[0]
    assert user in line["why"] and line["status"] == 300 and line["user"] == user and line["said"][-1].startswith("broker: 300")


def test_too_many_failures_are_answered_with_530_at_version(broker: RunningBroker) -> None:
    for _again in range(10):
        assert error(broker, password="wrong").status == 300
    assert error(broker).status == 530
    assert error(broker, transport="tcp").status == 530
    assert grant(broker, over6=True, mode="v4v6").mode == "v4v6", "another address has to pay for it"


def test_sessions_opened_in_advance_buy_no_more_guesses(broker: RunningBroker) -> None:
    said = []
    sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _again in range(30)]
    for one in sockets:
        one.settimeout(30)
        one.connect((broker.host, broker.port))
        exchange(one, b"VERSION=2.0.1\r\n", 0)
        exchange(one, b"AUTHENTICATE PLAIN\r\n\0", 1)
    for one in sockets:
        said.append(exchange(one, b"\0alice\0guess\r\n", 2)[:4])
        one.close()
    assert said == [b"300 "] * 10 + [b"530 "] * 20


@pytest.mark.parametrize(("changes", "arguments", "status"), [
    ({"modes": ["v6v4"]}, {"mode": "v6v4", "client_ipv4": IPv4Address("192.0.2.9")}, 501),
    ({}, {"mode": "v6v4", "client_ipv4": IPv4Address("192.0.2.9"), "proxy": True}, 501),
    ({}, {"host_type": "router", "prefix_length": 52}, 518),
    ({}, {"user": None, "host_type": "router"}, 522),
    ({"pools": {"ipv6": "2001:db8:f::/126", "prefixes": [{"network": "2001:db8:8000::/56", "lengths": 56}]},
      "accounts": [{"username": "alice", "password": "secret1", "prefix": "2001:db8:8000::/56"},
                   {"username": "bob", "password": "secret2"}]},
     {"user": "bob", "host_type": "router", "prefix_length": 56}, 507),
    ({"limits": {"tunnels": 1}, "accounts": []}, {"user": None, "mode": "v6udpv4"}, 301),
])
@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_refusals(tmp_path: Path, changes: dict[str, Any], arguments: dict[str, Any], status: int, transport: str) -> None:
    with broker_in_thread(tmp_path, changes) as broker:
        if status == 301:
            grant(broker, user=None, mode="v6udpv4")
            transport, arguments = "udp", {**arguments}
        refused = error(broker, transport=transport, **arguments)
        assert refused.status == status
        line = until(lambda: broker.log_lines("session_failed"))[-1]
        assert line["status"] == status and line["why"]


def test_what_is_not_offered_is_not_had(tmp_path: Path) -> None:
    with broker_in_thread(tmp_path, {"modes": ["v6v4"], "auth": {"anonymous": False, "plain": False}, "versions": ["2.0.2"]}) as broker:
        with asking(broker.host, broker.port, action="capabilities") as outcome:
            offer = next(e for e in outcome.events if isinstance(e, events.CapabilitiesReceived))
            assert offer.tunnels == {"V6V4"} and "PLAIN" not in offer.auths and "ANONYMOUS" not in offer.auths
        assert error(broker, version="2.0.1").code == "version_unsupported"
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
            one.settimeout(30)
            one.connect((broker.host, broker.port))
            exchange(one, b"VERSION=2.0.2\r\n", 0)
            assert exchange(one, b"AUTHENTICATE ANONYMOUS\r\n\0", 1).startswith(b"300 ")


@pytest.mark.parametrize("at", ["version", "authenticate", "create"])
@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_redirects_at_every_step(tmp_path: Path, at: str, transport: str) -> None:
    brokers = ["broker2.example:99", "192.0.2.2", "[2001:db8::2]:3653"]
    with broker_in_thread(tmp_path, {"redirect": {"at": at, "brokers": brokers}}) as broker, \
            asking(broker.host, broker.port, transport=transport) as outcome:
        last = outcome.events[-1]
        assert isinstance(last, events.Redirected) and last.status > 1000
        assert {(b.family, b.address) for b in last.brokers} == {("dn", "broker2.example"), ("ipv4", "192.0.2.2"), ("ipv6", "2001:db8::2")}


def test_a_redirect_to_this_broker_is_left_out(tmp_path: Path) -> None:
    with broker_in_thread(tmp_path, {"listen": {"addresses": ["0.0.0.0"]}}) as broker:
        itself = config.Redirect("version", (config.broker_address(f"127.0.0.1:{broker.port}"),))
        broker.broker.policy.config = replace(broker.broker.config, redirect=itself)
        assert grant(broker, mode="v6udpv4")


def test_delete_and_info(broker: RunningBroker) -> None:
    made = grant(broker, mode="v6udpv4")
    with asking(broker.host, broker.port, action="info", mode="v6udpv4") as outcome:
        assert next(e.grant for e in outcome.events if isinstance(e, events.Granted)).client.ipv6 == made.client.ipv6
    for _again in range(2):
        with asking(broker.host, broker.port, action="delete", mode="v6udpv4") as outcome:
            assert any(isinstance(e, events.Deleted) for e in outcome.events)
    assert broker.broker.store.count() == 0 and not broker.log_lines("session_failed")


# ---- bad input ----

def test_echo_requests_are_answered_without_a_session(broker: RunningBroker, raw: socket.socket) -> None:
    for number in range(3):
        assert exchange(raw, b"ECHO REQUEST", number).startswith(b"200")
    assert not broker.broker.udp.sessions


@pytest.mark.parametrize("garbage", [b"", b"\xf0", b"\xff" * 7, b"\x50" + bytes(60), b"\x60", b"\x60" + bytes(60), b"\xf0" + bytes(2000)])
def test_garbage_datagrams_harm_nobody(broker: RunningBroker, raw: socket.socket, garbage: bytes) -> None:
    raw.send(garbage)
    raw.send(datagram(b"ECHO REQUEST"))
    while not raw.recv(9000)[8:].startswith(b"200"):
        pass
    assert grant(broker, mode="v6udpv4") and not broker.log_lines("defect")


@pytest.mark.parametrize("text", [b"HELLO\r\n", b"VERSION=9.9.9\r\n", b"VERSION=" + b"2" * 3000 + b"\r\n", b"\0\0\0",
                                  b"Content-length: 99999999\r\n<", b"AUTHENTICATE PLAIN\r\n\0",
                                  b'Content-length: 50\r\n<!DOCTYPE x [<!ENTITY a "b">]><tunnel/>'])
@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_every_senseless_message_is_answered_with_a_status(broker: RunningBroker, raw: socket.socket, text: bytes, transport: str) -> None:
    if transport == "udp":
        answer = exchange(raw, text)
    else:
        with socket.create_connection((broker.host, broker.port), timeout=30) as one:
            one.sendall(text)
            one.shutdown(socket.SHUT_WR)
            answer = b""
            while part := one.recv(4096):
                answer += part
    if text.strip(b"\0"):
        assert b"CAPABILITY" not in answer and answer.split(b"\r\n")[-2].split()[0].isdigit(), answer
    assert grant(broker, mode="v6udpv4") and not broker.log_lines("defect")


def test_a_hostile_user_name_cannot_forge_the_log_or_a_name(broker: RunningBroker) -> None:
    with asking(broker.host, broker.port, user='x"; $(id)', password="y") as outcome:
        assert outcome.error.status == 300
    assert all(isinstance(line, dict) for line in broker.log_lines())


def test_too_many_connections_of_one_address_hear_530(tmp_path: Path) -> None:
    with broker_in_thread(tmp_path, {"limits": {"tcp_connections_per_address": 2}}) as broker:
        held = [socket.create_connection((broker.host, broker.port)) for _again in range(2)]
        until(lambda: len(broker.broker.tcp.connections) == 2)
        with socket.create_connection((broker.host, broker.port), timeout=30) as third:
            assert third.recv(100).startswith(b"530 ") and third.recv(100) == b""
        for one in held:
            one.close()
        until(lambda: not broker.broker.tcp.connections)
        assert grant(broker, transport="tcp", mode="v6v4") and not broker.broker.tcp.addresses


def test_who_drips_is_ended(tmp_path: Path) -> None:
    with broker_in_thread(tmp_path, {"limits": {"negotiation_seconds": 5}}) as broker:
        broker.broker.tcp.seconds = 0.5
        with socket.create_connection((broker.host, broker.port), timeout=30) as one:
            stop = threading.Event()

            def drip() -> None:
                while not stop.wait(0.05):
                    try:
                        one.send(b"V")
                    except OSError:
                        return

            thread = threading.Thread(target=drip)
            thread.start()
            try:
                assert one.recv(100) == b""
            except ConnectionResetError:
                pass
            stop.set()
            thread.join()
        until(lambda: not broker.broker.tcp.connections)


def test_a_full_table_of_sessions_hears_530_and_keeps_nothing(tmp_path: Path) -> None:
    with broker_in_thread(tmp_path, {"limits": {"sessions": 1}}) as broker:
        sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _again in range(2)]
        for one in sockets:
            one.settimeout(30)
            one.connect((broker.host, broker.port))
        assert exchange(sockets[0], b"VERSION=2.0.1\r\n").startswith(b"CAPABILITY")
        assert exchange(sockets[1], b"VERSION=2.0.1\r\n").startswith(b"530 ")
        assert len(broker.broker.udp.sessions) == 1
        first, = broker.broker.udp.sessions.values()
        first.seen -= 10  # as if it had been still for that long
        assert exchange(sockets[1], b"VERSION=2.0.1\r\n", 1).startswith(b"CAPABILITY"), "a still session kept a living one out"
        for one in sockets:
            one.close()


def test_sessions_that_are_done_make_room(tmp_path: Path) -> None:
    with broker_in_thread(tmp_path, {"limits": {"sessions": 2}}) as broker:
        for _again in range(5):
            assert grant(broker, user=None, mode="v6udpv4")
        assert len(broker.broker.udp.sessions) == 2 and len(broker.broker.table) == 5
        assert not broker.broker.udp.counters["udp_refused_busy"]


def test_duplicates_are_answered_from_memory(broker: RunningBroker, raw: socket.socket) -> None:
    first = exchange(raw, b"VERSION=2.0.1\r\n", 0)
    assert exchange(raw, b"VERSION=2.0.1\r\n", 0, stamp=5) == first
    challenge = exchange(raw, b"AUTHENTICATE DIGEST-MD5\r\n\0", 1)
    assert exchange(raw, b"AUTHENTICATE DIGEST-MD5\r\n\0", 1) == challenge, "a retransmission got another nonce"


def test_a_client_that_goes_away_before_it_accepts_leaves_nothing(broker: RunningBroker) -> None:
    with socket.create_connection((broker.host, broker.port), timeout=30) as one:
        def say(text: bytes) -> bytes:
            one.sendall(text)
            return one.recv(8192)

        say(b"VERSION=2.0.1\r\n")
        say(b"AUTHENTICATE ANONYMOUS\r\n\0")
        body = b'<tunnel action="create" type="v6v4" proxy="no"><client><address type="ipv4">127.0.0.1</address></client></tunnel>\r\n'
        assert b"200 Success" in say(b"Content-length: %d\r\n%s" % (len(body), body))
        assert broker.broker.store.count() == 1
    until(lambda: broker.log_lines("grant_withdrawn"))
    assert broker.broker.store.count() == 0 and not broker.broker.table.by_lease


def test_a_client_that_stops_half_way_is_explained_and_one_that_only_looks_is_no_failure(broker: RunningBroker) -> None:
    for last in (b"VERSION=2.0.1\r\n", b"AUTHENTICATE DIGEST-MD5\r\n\0"):
        with socket.create_connection((broker.host, broker.port), timeout=30) as one:
            one.sendall(b"VERSION=2.0.1\r\n")
            assert one.recv(4096).startswith(b"CAPABILITY")
            if last.startswith(b"AUTH"):
                one.sendall(last)
                assert one.recv(4096)
    line = until(lambda: broker.log_lines("session_failed"))[0]
    assert line["why"] == "the client went away or fell silent" and line["said"][-1].startswith('broker: realm="broker.example"')
    assert len(broker.log_lines("session_failed")) == len(broker.log_lines("session")) == 1


def test_no_secret_is_ever_logged(tmp_path: Path) -> None:
    entry = {"username": "alice", "password": "canary-1234"}
    with broker_in_thread(tmp_path, {"accounts": [entry], "log": {"level": "debug"}}) as broker:
        for transport in ("udp", "tcp"):
            for method in METHODS[1:] if sasl.have_passdss() else METHODS[1:3]:
                grant(broker, method=method, transport=transport, password="canary-1234", mode="v6v4")
                error(broker, method=method, transport=transport, password="canary-wrong")
                error(broker, method=method, transport=transport, password="canary-1234", host_type="router", prefix_length=51)
        assert "canary" not in broker.log_text()
    for file in tmp_path.iterdir():
        assert b"canary" not in file.read_bytes(), file.name


# ---- start and stop ----

def test_a_log_that_was_rotated_is_opened_anew_whatever_the_configuration_says(broker: RunningBroker, tmp_path: Path) -> None:
    log = broker.broker.log
    log.path = tmp_path / "log"
    log.reopen()
    log.path.rename(tmp_path / "log.1")
    broker.broker.path = tmp_path / "broken.yml"
    broker.broker.path.write_text("name: [", encoding="utf-8")
    broker.broker.reload()
    log.close()
    assert "reload_refused" in log.path.read_text(encoding="utf-8"), "it went on writing to the file that was moved away"


def test_the_store_and_the_port_are_free_again_after_stop(tmp_path: Path) -> None:
    with broker_in_thread(tmp_path) as broker:
        port = broker.port
        before = grant(broker, mode="v6udpv4", host_type="router")
    with broker_in_thread(tmp_path, {"listen": {"port": port}}) as broker:
        assert broker.port == port and broker.log_lines("listening")[0]["restored"] == 1
        after = grant(broker, mode="v6udpv4", host_type="router")
        assert (after.client.ipv6, after.prefix) == (before.client.ipv6, before.prefix)


def test_data_flows_on_over_a_restart(tmp_path: Path) -> None:
    with broker_in_thread(tmp_path) as broker:
        port = broker.port
        with asking(broker.host, port, mode="v6udpv4") as outcome:
            inner, kept = str(outcome.grant.client.ipv6), outcome.socket.dup()
    with kept, broker_in_thread(tmp_path, {"listen": {"port": port}}):
        kept.settimeout(30)
        kept.send(make.ping6(inner, "2001:db8:f::1"))
        assert kept.recv(2048)[40] == 129, "the client would have had to ask again"


@pytest.mark.parametrize(("changes", "code"), [({"listen": {"addresses": ["192.0.2.200"]}}, "cannot_listen"),
                                               ({"port": True}, "cannot_listen"), ({"key": True}, "key_unusable"),
                                               ({"store": True}, "store_busy")])
def test_a_start_that_fails_says_why_and_leaves_nothing(tmp_path: Path, changes: dict[str, Any], code: str) -> None:
    with broker_in_thread(tmp_path) as first:
        folder = tmp_path / "second"
        folder.mkdir()
        if "port" in changes:
            changes = {"listen": {"port": first.port}}
        elif "key" in changes:
            if not sasl.have_passdss():
                pytest.skip("needs the package cryptography")
            (folder / "key.pem").write_text("x")
            (folder / "key.pem").chmod(0o644)
            changes = {"key_file": str(folder / "key.pem")}
        elif "store" in changes:
            changes = {"store": {"path": str(tmp_path / "leases.db")}}
        with pytest.raises(LocalError) as caught, broker_in_thread(folder, changes):
            pass
        assert caught.value.code == code and caught.value.hint
        assert grant(first, mode="v6udpv4")
    with broker_in_thread(tmp_path):
        pass


def test_the_key_is_made_once_and_private(tmp_path: Path) -> None:
    if not sasl.have_passdss():
        pytest.skip("needs the package cryptography")
    file = tmp_path / "state" / "key.pem"
    with broker_in_thread(tmp_path, {"key_file": str(file)}) as broker:
        assert broker.log_lines("key_made")
    key = file.read_bytes()
    assert file.stat().st_mode & 0o777 == 0o600
    with broker_in_thread(tmp_path, {"key_file": str(file)}) as broker:
        assert not broker.log_lines("key_made") and file.read_bytes() == key


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_key_that_root_makes_belongs_to_the_service(tmp_path: Path) -> None:
    os.chown(tmp_path, 65534, 65534)
    write_private(tmp_path / "key.pem", b"secret")
    made = (tmp_path / "key.pem").stat()
    assert (made.st_uid, made.st_gid, made.st_mode & 0o777) == (65534, 65534, 0o600)


def test_without_cryptography_passdss_is_left_out_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sasl, "have_passdss", lambda: False)
    with broker_in_thread(tmp_path, {"key_file": str(tmp_path / "key.pem")}) as broker:
        assert "cryptography" in broker.log_lines("mechanism_left_out")[0]["why"]
        assert "PASSDSS-3DES-1" not in broker.log_lines("listening")[0]["auth"] and not (tmp_path / "key.pem").exists()
    with pytest.raises(LocalError) as caught, broker_in_thread(tmp_path, {"auth": {"passdss-3des-1": True}}):
        pass
    assert caught.value.code == "missing_library"


def test_a_defect_ends_one_session_and_is_logged(broker: RunningBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(broker.broker, Broker)

    def broken(*_arguments: Any) -> Any:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(broker.broker.policy, "create", broken)
    assert error(broker).status == 310
    assert "a defect" in until(lambda: broker.log_lines("defect"))[0]["why"]
    monkeypatch.undo()
    assert grant(broker, mode="v6udpv4")

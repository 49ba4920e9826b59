# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whole sessions, client and broker in memory, on clean networks and on bad ones."""

from __future__ import annotations

import random
from ipaddress import IPv6Address

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp import dsakey, rudp, states
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.errors import NetworkError, RemoteError
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.events import (
    Authenticated,
    BrokerAddress,
    CapabilitiesReceived,
    Completed,
    Deleted,
    Failed,
    Granted,
    Redirected,
)
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.messages import Refusal
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.request import TunnelRequest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.server import ServerConfig, TspServer
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._tsp._pair import (
    CLIENT_V4,
    ConnectionPair,
    FakeBackend,
    Network,
    a_grant,
    client_config,
    seeded,
)

METHODS = ("anonymous", "plain", "digest-md5", "passdss-3des-1")
PAIRS = {"anonymous": 4, "plain": 5, "digest-md5": 6, "passdss-3des-1": 6}
TRIPS = {"anonymous": 3, "plain": 3, "digest-md5": 4, "passdss-3des-1": 4}


@pytest.fixture(scope="module")
def server_config():
    """A broker with a DSA key, made once: it takes a second."""
    pytest.importorskip("cryptography")
    return ServerConfig(rng=seeded(2), dsa_key=dsakey.generate_dsa_key())


def session(transport, method, server_config, backend=None, network=None, **changes):
    return ConnectionPair(client_config(transport, auth_method=method, **changes), backend, network, server_config)


# Clean networks.


@pytest.mark.parametrize("transport", ["udp", "tcp"])
@pytest.mark.parametrize("method", METHODS)
def test_a_session_ends_with_a_tunnel(transport, method, server_config):
    pair = session(transport, method, server_config).run(20)
    assert [type(event) for event in pair.events] == [CapabilitiesReceived, Authenticated, Granted, Completed]
    assert pair.events[1] == Authenticated(method)
    assert pair.events[2].grant == a_grant()
    assert pair.events[2].warnings == ()
    assert pair.client.quirks == {}
    assert pair.server.established
    assert pair.backend.calls == ["capabilities", "authenticated", "create", "accept"]
    assert pair.server.session.username == (None if method == "anonymous" else "alice")
    assert pair.backend.request == TunnelRequest(mode="v6anyv4", client_ipv4=CLIENT_V4)


@pytest.mark.parametrize("method", METHODS)
def test_datagram_pairs_on_a_clean_path(method, server_config):
    pair = session("udp", method, server_config).run(20)
    assert len(pair.sent["client"]) == len(pair.sent["server"]) == PAIRS[method]


@pytest.mark.parametrize("method", METHODS)
def test_round_trips_over_tcp(method, server_config):
    # A delay so long that everything else vanishes beside it: the accept leaves after so many round trips.
    pair = session("tcp", method, server_config, network=Network(delay=(0.5, 0.5))).run(20)
    assert isinstance(pair.last, Completed)
    assert round(pair.times("client")[-1]) == TRIPS[method]
    assert len(pair.sent["client"]) == TRIPS[method] + 1


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("piece", [1, 2, 7, 100])
def test_tcp_in_pieces(method, piece, server_config):
    network = Network(piece=piece)
    pair = session("tcp", method, server_config, network=network).run(20)
    assert isinstance(pair.last, Completed), pair.events
    assert pair.client.quirks == {}
    assert pair.server.established


@pytest.mark.parametrize("transport", ["udp", "tcp"])
@pytest.mark.parametrize("method", METHODS[1:])
def test_a_wrong_password(transport, method, server_config):
    pair = session(transport, method, server_config, password="canary-91b7").run(20)
    pair.check_last_word()
    assert isinstance(pair.last, Failed)
    assert (pair.last.error.code, pair.last.error.status) == ("auth_failed", 300)
    assert "canary" not in str(pair.last.error) + repr(pair.last) + repr(pair.client.config)
    assert pair.backend.calls == ["capabilities", "auth_failed"]


@pytest.mark.parametrize("method", METHODS[1:])
def test_an_unknown_user(method, server_config):
    pair = session("udp", method, server_config, username="mallory").run(20)
    assert pair.last.error.code == "auth_failed"
    assert "create" not in pair.backend.calls


def test_any_takes_the_strongest(server_config):
    for offered, taken in (("ANONYMOUS PLAIN DIGEST-MD5 PASSDSS-3DES-1", "passdss-3des-1"), ("ANONYMOUS PLAIN DIGEST-MD5", "digest-md5"),
                           ("ANONYMOUS PLAIN", "plain")):
        pair = session("udp", "any", server_config, FakeBackend(auths=offered)).run(20)
        assert Authenticated(taken) in pair.events
    pair = session("udp", "any", server_config, FakeBackend(auths="ANONYMOUS PLAIN"), allow_plaintext=False).run(20)
    assert pair.last.error.code == "no_common_mechanism"
    assert len(pair.sent["client"]) == 1  # nothing more than VERSION was said


def test_any_passes_passdss_by_when_no_key_can_be_checked(server_config):
    pair = session("udp", "any", server_config, verify_key=None).run(20)
    assert Authenticated("digest-md5") in pair.events


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_a_broker_key_that_is_refused(transport, server_config):
    def refuse(_blob):
        raise RemoteError("server_key_changed", "Changed.", "Look.")

    pair = session(transport, "passdss-3des-1", server_config, verify_key=refuse).run(20)
    assert pair.last.error.code == "server_key_changed"
    assert "create" not in pair.backend.calls


# What else can be asked.


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_capabilities_only(transport, server_config):
    pair = session(transport, "any", server_config, action="capabilities").run(20)
    assert [type(event) for event in pair.events] == [CapabilitiesReceived, Completed]
    assert pair.events[0].version == "2.0.2"
    assert pair.events[0].tunnels == {"V6V4", "V6UDPV4", "V4V6"}
    assert len(pair.sent["client"]) == 1


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_info(transport, server_config):
    pair = session(transport, "digest-md5", server_config, action="info", grant=a_grant()).run(20)
    assert isinstance(pair.last, Completed)
    assert pair.events[-2].grant == a_grant()
    assert pair.backend.calls == ["capabilities", "authenticated", "info"]
    assert (pair.server.session.named_ipv4, pair.server.session.named_ipv6) == (CLIENT_V4, IPv6Address("2001:db8:4000::5"))


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_delete(transport, server_config):
    pair = session(transport, "digest-md5", server_config, action="delete", grant=a_grant()).run(20)
    assert pair.events[-2:] == [Deleted(), Completed()]
    assert pair.backend.calls == ["capabilities", "authenticated", "delete"]
    assert pair.texts("client")[-1].splitlines()[1] == b'<tunnel action="delete" type="v6v4" proxy="no">'
    assert pair.client.quirks == {}


def test_delete_of_nothing(server_config):
    backend = FakeBackend()
    backend.refusals["delete"] = Refusal(310, "No such tunnel")
    pair = session("udp", "digest-md5", server_config, backend, action="delete").run(20)
    assert (pair.last.error.code, pair.last.error.status) == ("server_error", 310)
    assert 'It said: "310 No such tunnel"' in str(pair.last.error)


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_a_router(transport, server_config):
    request = TunnelRequest(mode="v6v4", host_type="router", prefix_length=60, dns_servers=("ns1.example", "ns2.example"))
    pair = session(transport, "digest-md5", server_config, request=request).run(20)
    grant = pair.events[2].grant
    assert str(grant.prefix) == "2001:db8:4100::/60"
    assert grant.dns_servers == ("ns1.example", "ns2.example")
    assert pair.backend.request.prefix_length == 60
    assert pair.events[2].warnings == ()
    assert pair.client.quirks == {}


def test_v4v6(server_config):
    request = TunnelRequest(mode="v4v6", host_type="router", prefix_length=28)
    backend = FakeBackend()
    pair = session("udp", "anonymous", server_config, backend, request=request, local_address=IPv6Address("2001:db8:1::1")).run(20)
    assert pair.events[2].grant.mode == "v4v6"
    assert backend.client_address == IPv6Address("2001:db8:1::1")
    assert pair.events[2].warnings == ("A prefix of length 28 was asked for, and the broker delegated none.",)
    assert pair.client.quirks == {}


def test_v6udpv4_names_the_brokers_port(server_config):
    backend = FakeBackend()
    pair = session("udp", "anonymous", server_config, backend, request=TunnelRequest(mode="v6udpv4"), server="192.0.2.254:13653").run(20)
    assert pair.events[2].grant.server.udp_port == 13653
    assert pair.events[2].grant.client.udp_port is None


def test_version_1_has_no_accept(server_config):
    pair = session("tcp", "anonymous", server_config, version="1.0.1").run(20)
    assert isinstance(pair.last, Completed)
    assert pair.server.established
    assert not any(b"accept" in text for text in pair.texts("client"))


# Redirections and refusals at every step.

ELSEWHERE = (BrokerAddress("ipv4", "192.0.2.252"), BrokerAddress("ipv6", "2001:db8::53", 13653), BrokerAddress("dn", "b.example", 4000))


@pytest.mark.parametrize("transport", ["udp", "tcp"])
@pytest.mark.parametrize("step", ["version", "authenticate", "create"])
@pytest.mark.parametrize("method", METHODS)
def test_redirection(transport, method, step, server_config):
    backend = FakeBackend()
    backend.redirects[step] = ELSEWHERE
    pair = session(transport, method, server_config, backend, Network(piece=3)).run(100)
    pair.check_last_word()
    assert pair.last == Redirected(1200, ELSEWHERE)
    assert pair.client.quirks == {}
    assert pair.server.closed
    assert not pair.server.established


@pytest.mark.parametrize("method, answers", [("PLAIN", [b""]), ("PASSDSS-3DES-1", [b""]), ("DIGEST-MD5", []), ("ANONYMOUS", [])])
def test_redirection_waits_until_an_old_client_reads(method, answers, server_config):
    """After AUTHENTICATE PLAIN and PASSDSS-3DES-1 it sends its next message without looking at what came (sections 3.3, 3.5)."""
    backend = FakeBackend()
    backend.redirects["authenticate"] = ELSEWHERE
    broker = TspServer(server_config, backend, "udp", ("192.0.2.1", 4000))
    said = []
    for number, text in enumerate((b"VERSION=2.0.1\r\n", b"AUTHENTICATE " + method.encode() + b"\r\n\0", b"\0alice\0secret1\r\n")):
        broker.receive((0xF00000F0 + number).to_bytes(4, "big") + bytes(4) + text, 1.0 + number)
        said += [datagram[8:] for datagram in broker.data_to_send(1.0 + number)]
    assert said[1:1 + len(answers)] == answers
    assert said[1 + len(answers)].startswith(b"1200 ")


@pytest.mark.parametrize("transport", ["udp", "tcp"])
@pytest.mark.parametrize("call, status, code", [
    ("capabilities", 530, "busy"), ("authenticated", 530, "busy"), ("auth_failed", 530, "busy"), ("create", 301, "no_more_tunnels"),
    ("create", 303, "mode_refused"), ("create", 506, "ipv4_in_use"), ("create", 599, "server_timeout"), ("create", 777, "refused"),
    ("create", 1000, "refused"), ("accept", 310, "server_error")])
def test_refusal(transport, call, status, code, server_config):
    backend = FakeBackend()
    backend.refusals[call] = Refusal(status)
    password = "wrong" if call == "auth_failed" else "secret1"
    pair = session(transport, "digest-md5", server_config, backend, password=password).run(100)
    pair.check_last_word()
    if call == "accept" and transport == "tcp":
        assert isinstance(pair.last, Completed)  # over TCP nobody answers an accept
    else:
        assert (pair.last.error.code, pair.last.error.status) == (code, status)
    assert not pair.server.established
    assert pair.client.quirks == {}


def test_a_version_that_the_broker_refuses():
    config = ServerConfig(rng=seeded(2), versions=("2.0.0",))
    pair = ConnectionPair(client_config("udp"), server_config=config).run(20)
    assert (pair.last.error.code, pair.last.error.status) == ("version_unsupported", 302)
    pair = ConnectionPair(client_config("udp", version="2.0.0"), server_config=config).run(20)
    assert isinstance(pair.last, Completed)


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_a_grant_of_no_use_is_rejected(transport, server_config):
    backend = FakeBackend()
    backend.grant = a_grant("v4v6")  # v6anyv4 was asked for
    pair = session(transport, "anonymous", server_config, backend).run(100)
    pair.check_last_word()
    assert pair.last.error.code == "bad_grant"
    assert pair.backend.calls[-1] == "reject"
    assert not pair.server.established


def test_strict_rejects_another_prefix(server_config):
    backend = FakeBackend()
    request = TunnelRequest(mode="v6v4", host_type="router", prefix_length=56)
    backend.grant = a_grant()
    pair = session("udp", "anonymous", server_config, backend, request=request, strict=True).run(100)
    assert pair.last.error.code == "bad_grant"
    assert backend.calls[-1] == "reject"
    backend = FakeBackend()
    backend.grant = a_grant()
    pair = session("udp", "anonymous", server_config, backend, request=request).run(100)
    assert isinstance(pair.last, Completed)
    assert pair.events[2].warnings == ("A prefix of length 56 was asked for, and the broker delegated none.",)


# Retransmission times, as measured on the old client (transcripts rto-drop2, rto-midsilent, rto-silent-*).


def test_two_datagrams_lost_at_the_beginning(server_config):
    network = Network(drop=lambda side, number: side == "client" and number < 2)
    pair = session("udp", "anonymous", server_config, network=network).run(100)
    assert isinstance(pair.last, Completed)
    assert pair.times("client")[:3] == [0.0, 2.0, 4.0]
    texts = pair.texts("client")
    assert texts[0] == texts[1] == texts[2]
    headers = [rudp.HEADER.unpack_from(data) for _at, data in pair.sent["client"][:3]]
    assert [sequence for sequence, _timestamp in headers] == [0xF00000F0] * 3
    assert [timestamp - headers[0][1] for _sequence, timestamp in headers] == [0, 2000, 4000]


def test_a_silent_broker_is_given_up_after_six_seconds(server_config):
    pair = session("udp", "anonymous", server_config, network=Network(loss=1.0)).run(100)
    pair.check_last_word()
    assert isinstance(pair.last.error, NetworkError)
    assert pair.last.error.code == "no_answer"
    assert pair.times("client") == [0.0, 2.0, 4.0]
    assert pair.now - pair.sent["client"][0][0] == pytest.approx(6.0)


def test_a_broker_that_falls_silent_is_given_up_after_66_seconds(server_config):
    network = Network(drop=lambda side, number: side == "server" and number > 0, delay=(0.0, 0.0))
    pair = session("udp", "anonymous", server_config, network=network)
    pair.run(500, until=lambda: pair.client.closed)
    assert pair.last.error.code == "went_silent"
    assert pair.times("client")[1:] == [0.0, 2.0, 4.0, 6.0, 8.0, 12.0, 20.0, 36.0]
    assert pair.now - pair.sent["client"][1][0] == pytest.approx(66.0)


def test_an_accept_without_an_answer_completes(server_config):
    network = Network(drop=lambda side, number: side == "server" and number > 2, delay=(0.0, 0.0))
    pair = session("udp", "anonymous", server_config, network=network)
    pair.run(500, until=lambda: pair.client.closed)
    assert isinstance(pair.last, Completed)
    assert pair.client.quirks == {"accept_unanswered": 1}
    assert pair.times("client")[3:] == [0.0, 2.0, 4.0, 6.0]


def test_the_broker_repeats_its_answers_from_memory(server_config):
    """Each message arrives three times; the backend hears of each once, and each answer is the same but for the time stamp."""
    network = Network(duplication=1.0)
    pair = session("udp", "digest-md5", server_config, network=network).run(100)
    assert isinstance(pair.last, Completed)
    assert pair.backend.calls == ["capabilities", "authenticated", "create", "accept"]
    texts = pair.texts("server")
    assert texts[::2] == texts[1::2]
    assert pair.client.quirks == {}


# Bad networks.


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", range(12))
def test_loss_duplication_reordering_and_delay(method, seed, server_config):
    source = random.Random(seed)
    network = Network(loss=source.choice((0.05, 0.15, 0.3)), duplication=source.choice((0.0, 0.2, 0.5)),
                      delay=source.choice(((0.001, 0.2), (0.05, 2.5), (0.5, 4.5))), seed=seed)
    pair = session("udp", method, server_config, network=network)
    pair.run(900, until=lambda: pair.client.closed)
    pair.check_last_word()
    if isinstance(pair.last, Completed):
        assert [event for event in pair.events if isinstance(event, Granted)]
        assert pair.backend.calls.count("create") == 1
    else:
        assert isinstance(pair.last.error, NetworkError), pair.last
        assert pair.last.error.code in ("no_answer", "went_silent")
    assert all(2.0 <= rto <= 30.0 for rto in pair.rtos)
    sequences = [rudp.HEADER.unpack_from(data)[0] for _at, data in pair.sent["client"]]
    assert max(sequences.count(sequence) for sequence in sequences) <= 8
    assert set(pair.client.quirks) <= {"accept_unanswered"}


def test_most_sessions_survive_a_bad_network(server_config):
    ended = []
    for seed in range(60):
        network = Network(loss=0.2, duplication=0.2, delay=(0.01, 1.5), seed=seed)
        pair = session("udp", "digest-md5", server_config, network=network)
        pair.run(900, until=lambda pair=pair: pair.client.closed)
        ended.append(type(pair.last))
    # Three sends of the first message may all be lost: that is the old client's rule too.
    assert ended.count(Completed) >= 54


def test_a_long_path_raises_the_timeout(server_config):
    """Round trips of 7 s: the estimator follows, instead of sending everything four times for ever."""
    pair = session("udp", "digest-md5", server_config, network=Network(delay=(1.9, 1.9)))
    pair.run(900, until=lambda: pair.client.closed)
    assert isinstance(pair.last, Completed)
    assert max(pair.rtos) > 2.0
    sequences = [rudp.HEADER.unpack_from(data)[0] for _at, data in pair.sent["client"]]
    assert sequences.count(sequences[-1]) < sequences.count(sequences[0])


# Sessions that begin again, that are left, that are slow.


def test_a_new_session_from_the_same_port(server_config):
    """An agent negotiates anew from the port that carries its tunnel; the broker must not take that for an old datagram."""
    first = session("udp", "digest-md5", server_config).run(5)
    assert isinstance(first.last, Completed)
    second = session("udp", "digest-md5", server_config, first.backend, rng=seeded(7))
    second.server = first.server
    second.now = first.now + 20
    second.run(5)
    assert isinstance(second.last, Completed), second.events
    assert first.backend.calls.count("create") == 2
    assert second.server.established


def test_a_client_that_dies_and_starts_again_at_once(server_config):
    """Same port, same sequence numbers, other random numbers, half a second later, in the middle of the first try."""
    first = session("udp", "digest-md5", server_config, network=Network(drop=lambda side, number: number > 1))
    first.run(0.5)
    assert first.server.state == states.AUTHENTICATING
    second = session("udp", "digest-md5", server_config, first.backend, rng=seeded(9))
    second.server = first.server
    second.now = first.now + 0.5
    second.run(5)
    assert isinstance(second.last, Completed), second.events


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_a_tunnel_never_accepted_is_given_back(transport, server_config):
    pair = session(transport, "anonymous", server_config)
    pair.run(20, until=lambda: pair.server.state == states.CONFIRMING)
    pair.server.handle_timer(pair.now + 31)
    assert pair.server.closed
    assert pair.backend.calls[-1] == "reject"


def test_a_connection_closed_in_the_middle(server_config):
    pair = session("tcp", "digest-md5", server_config)
    pair.run(20, until=lambda: pair.server.state == states.CONFIRMING)
    pair.client.receive_eof(pair.now)
    pair.server.receive_eof(pair.now)
    pair.run(0)
    assert pair.last.error.code == "connection_closed"
    assert pair.server.closed
    assert pair.backend.calls[-1] == "reject"


def test_an_idle_session_is_closed(server_config):
    pair = session("tcp", "anonymous", server_config)
    pair.server.connect(0.0)
    assert pair.server.next_timer() == 30.0
    pair.server.handle_timer(29.0)
    assert not pair.server.closed
    pair.server.handle_timer(30.0)
    assert pair.server.closed
    assert pair.server.next_timer() is None


def test_an_established_session_may_be_forgotten(server_config):
    pair = session("udp", "anonymous", server_config).run(100)
    assert pair.server.closed
    assert pair.server.established
    assert pair.backend.calls[-1] == "accept"

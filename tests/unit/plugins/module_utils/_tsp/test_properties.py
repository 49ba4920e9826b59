# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Properties: any bytes give an event or a clear error and nothing else, and a stream means the same however it is cut.

Hypothesis with a fixed budget and fixed seeds, so that a run proves the same thing everywhere. To search further:
TSP_PROPERTY_EXAMPLES=5000 pytest …, which uses that budget and a new seed each time. tests/fuzz searches without end.
"""

from __future__ import annotations

import base64
import os
from ipaddress import IPv4Address, IPv6Address, IPv6Network

import pytest

pytest.importorskip("hypothesis")

from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp import (  # noqa: E402
    capability,
    digest_md5,
    knownkeys,
    messages,
    rudp,
    sasl,
    xml_read,
    xml_write,
)
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.errors import LocalError, RemoteError  # noqa: E402
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.events import BrokerAddress  # noqa: E402
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.lease import Endpoint, Grant, Keepalive  # noqa: E402
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.quirks import QUIRKS  # noqa: E402
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.request import TunnelRequest  # noqa: E402
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.server import is_signalling, stateless_reply  # noqa: E402
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._tsp import _hostile  # noqa: E402
from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

BUDGET = int(os.environ.get("TSP_PROPERTY_EXAMPLES", "0"))


def budget(examples):
    """`examples` repeatable examples, or TSP_PROPERTY_EXAMPLES random ones. Never a deadline: machines differ."""
    return settings(max_examples=BUDGET or examples, derandomize=not BUDGET, deadline=None, database=None,
                    suppress_health_check=list(HealthCheck))


CORPUS = _hostile.corpus()
TOKENS = [
    b"\0", b"\r\n", b"\n", b"\r", b"\r\x08", b" ", b"=", b"==", b"\"", b"'", b"<", b">", b"/>", b"<!--", b"-->", b"<?xml?>", b"0" * 40,
    b"<!DOCTYPE a [<!ENTITY b \"c\">]>", b"&b;", b"&#0;", b"&lt;", b"</tunnel>\r\n", b"<tunnel action=\"accept\"></tunnel>\r\n",
    b"200", b"200 ", b"200 Success\r\n", b"1200 Redirection\r\n", b"300 Authentication failed\r\n", b"99999", b"AAAB", b"A" * 5000,
    b"Content-length: 0\r\n", b"Content-length: 99999999999\r\n", b"Content-length: 5\r\n", b"\xff\xfe", "é".encode(),
    b"CAPABILITY TUNNEL=V6V4 AUTH=ANONYMOUS\r\n", b"VERSION=2.0.1\r\n", b"VERSION=1.0.1\r\n", b"ECHO REQUEST",
    b"AUTHENTICATE PLAIN\r\n\0", b"AUTHENTICATE DIGEST-MD5\r\n", b"2001:db8::1", b"::", b"127.0.0.1", b"192.0.2.1", b"%eth0"]


@st.composite
def mutated(draw):
    """A recorded text with a few things done to it."""
    text = draw(st.sampled_from(CORPUS))
    for _number in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(text)))
        what = draw(st.sampled_from(("insert", "cut", "swap", "repeat", "token", "splice")))
        if what == "insert":
            text = text[:at] + draw(st.binary(min_size=1, max_size=4)) + text[at:]
        elif what == "cut":
            text = text[:at] + text[at + draw(st.integers(1, 40)):]
        elif what == "swap" and text[at:at + 1]:
            text = text[:at] + bytes([text[at] ^ draw(st.integers(1, 255))]) + text[at + 1:]
        elif what == "repeat":
            text = text[:at] + text[at:at + 20] * draw(st.integers(2, 5)) + text[at + 20:]
        elif what == "token":
            text = text[:at] + draw(st.sampled_from(TOKENS)) + text[at:]
        else:
            text = text[:at] + draw(st.sampled_from(CORPUS))[at:]
    return text


hostile = st.one_of(mutated(), mutated(), st.sampled_from(TOKENS), st.binary(max_size=200))
situations = st.tuples(st.sampled_from(_hostile.TRANSPORTS), st.sampled_from(_hostile.METHODS),
                       st.sampled_from(("create", "create", "info", "delete", "capabilities")), st.integers(0, 13))


def both_at(situation):
    transport, method, action, delivered = situation
    return _hostile.Both(transport, method, action).start().deliver(delivered)


def test_the_situations_cover_every_state():
    clients, servers = set(), set()
    for transport in _hostile.TRANSPORTS:
        for method in _hostile.METHODS:
            for action in ("create", "info", "delete", "capabilities"):
                for delivered in range(16):
                    both = both_at((transport, method, action, delivered))
                    clients.add(both.client.state)
                    servers.add(both.server.state)
    assert {"WAIT_CAPABILITY", "WAIT_AUTH", "WAIT_GRANT", "WAIT_INFO", "WAIT_DELETE", "WAIT_CONFIRM", "COMPLETED"} <= clients
    assert {"HELLO", "NEGOTIATED", "AUTHENTICATING", "READY", "CONFIRMING", "ESTABLISHED"} <= servers


# Any bytes.


@budget(125)
@given(situations, st.lists(hostile, min_size=1, max_size=4))
def test_a_client_survives_anything(situation, texts):
    _hostile.attack_client(both_at(situation), texts)


@budget(125)
@given(situations, st.lists(hostile, min_size=1, max_size=4))
def test_a_broker_survives_anything(situation, texts):
    _hostile.attack_server(both_at(situation), texts)


@budget(50)
@given(situations, st.binary(max_size=60), st.booleans())
def test_datagrams_without_a_usable_header_are_ignored(situation, data, to_client):
    both = both_at(("udp", *situation[1:]))
    side = both.client if to_client else both.server
    state, before = side.state, len(both.events)
    side.receive(data[:7], both.now)
    assert side.state == state and side.data_to_send(both.now) == [] and len(both.events) == before
    side.receive(data, both.now)
    is_signalling(data)
    stateless_reply(data)


# However it is cut.


def sent_by(side, transport, method, action):
    """Everything that one side says in a good session over TCP, as one stream."""
    both = _hostile.Both(transport, method, action).start()
    streams = {"client": b"", "server": b""}
    for _number in range(40):
        streams["client"] += b"".join(both.to_server)
        streams["server"] += b"".join(both.to_client)
        waiting = len(both.to_server) + len(both.to_client)
        both.deliver(max(waiting, 1))
    return streams[side]


@st.composite
def streams(draw, side):
    method = draw(st.sampled_from([name for name in _hostile.METHODS if name != "passdss-3des-1"]))
    action = draw(st.sampled_from(("create", "info", "delete")))
    whole = draw(st.one_of(st.just(""), hostile.map(bytes), st.just("good")))
    text = sent_by(side, "tcp", method, action)
    if isinstance(whole, bytes):
        at = draw(st.integers(0, len(text)))
        text = text[:at] + whole + text[at + draw(st.integers(0, 30)):]
    return method, action, text


def client_result(method, action, text, pieces):
    both = _hostile.Both("tcp", method, action).start()
    at = 0
    for size in [*pieces, len(text)]:
        if text[at:at + size]:
            both.client.receive(text[at:at + size], both.now)
            both.collect()
        at += size
    both.client.receive_eof(both.now)
    both.collect()
    _hostile.check_client(both)
    return [repr(event) for event in both.events], both.client.state, b"".join(both.to_server), both.client.quirks


@budget(60)
@given(streams("server"), st.lists(st.integers(1, 60), max_size=30))
def test_a_client_reads_a_stream_the_same_however_it_is_cut(case, pieces):
    method, action, text = case
    whole = client_result(method, action, text, [])
    assert client_result(method, action, text, [1] * len(text)) == whole
    assert client_result(method, action, text, pieces) == whole


def server_result(method, action, text, pieces):
    both = _hostile.Both("tcp", method, action)
    said, at = [], 0
    for size in [*pieces, len(text)]:
        if text[at:at + size]:
            both.server.receive(text[at:at + size], both.now)
            said += both.server.data_to_send(both.now)
        at += size
    both.server.receive_eof(both.now)
    said += both.server.data_to_send(both.now)
    return b"".join(said), both.server.state, both.server.established, both.backend.calls


@budget(60)
@given(streams("client"), st.lists(st.integers(1, 60), max_size=30))
def test_a_broker_reads_a_stream_the_same_however_it_is_cut(case, pieces):
    method, action, text = case
    whole = server_result(method, action, text, [])
    assert server_result(method, action, text, [1] * len(text)) == whole
    assert server_result(method, action, text, pieces) == whole


# Mechanisms.


sasl_bytes = st.one_of(hostile, mutated().map(base64.b64encode))


@pytest.mark.parametrize("name", [method.upper() for method in _hostile.METHODS])
@budget(30)
@given(step=st.integers(0, 3), data=sasl_bytes)
def test_mechanisms_survive_anything(name, step, data):
    client, server = _hostile.halves(name, step)
    try:
        assert isinstance(client.step(data), bytes)
    except RemoteError as error:
        assert error.code in ("bad_sasl_message", "server_not_authentic", "unexpected_message")
        assert "secret1" not in str(error)
    reply = server.step(data)
    assert isinstance(reply.reply, bytes) and reply.verdict in (None, True, False)
    if name != "ANONYMOUS" and b"secret1" not in data:
        assert reply.verdict is not True


@pytest.mark.parametrize("name", [method.upper() for method in _hostile.METHODS])
@budget(30)
@given(step=st.integers(0, 3), data=sasl_bytes)
def test_a_message_is_found_at_the_same_place_however_it_comes(name, step, data):
    for mechanism in _hostile.halves(name, step):
        found = [mechanism.split(data[:length]) for length in range(len(data) + 1)]
        for length, size in enumerate(found):
            assert size is None or 0 < size <= length
        sizes = [size for size in found if size is not None]
        if sizes and len(data) < sasl.MAX_MESSAGE:
            # A line end that comes later may be counted in; nothing else may.
            rest = data[sizes[0]:sizes[-1]]
            assert rest.strip(b"\r\n") == b"" or hopeless(mechanism, data)


def hopeless(mechanism, data):
    """Whether every piece of `data` that is taken for a message is refused anyway."""
    try:
        if isinstance(mechanism, sasl.ServerMechanism):
            return mechanism.step(data).verdict is False
        mechanism.step(data)
    except RemoteError:
        return True
    return False


@budget(150)
@given(st.one_of(hostile, st.text(max_size=60).map(str.encode)))
def test_digest_fields_are_read_or_refused(data):
    fields = digest_md5.parse_fields(data)
    assert fields is None or all(isinstance(value, bytes) and b"\0" not in value and b"\n" not in value for value in fields.values())


@budget(100)
@given(st.dictionaries(st.from_regex(r"[a-z][a-z-]{0,8}", fullmatch=True),
                       st.text(st.characters(min_codepoint=32, exclude_characters="\x7f", exclude_categories=["Cs"]), max_size=20),
                       min_size=1, max_size=6))
def test_digest_fields_survive_quoting(values):
    text = b", ".join(name.encode() + b"=" + digest_md5.quote(value.encode()) for name, value in values.items())
    assert digest_md5.parse_fields(text) == {name: value.encode() for name, value in values.items()}


# XML, capabilities, numbers, keys.


def counted():
    seen = []

    def quirk(name):
        assert name in QUIRKS
        seen.append(name)

    return quirk


@budget(200)
@given(hostile)
def test_xml_is_read_or_refused(data):
    at = data.find(b"<")
    body = data[at:] if at >= 0 else data
    try:
        xml_read.parse(body, counted())
    except xml_read.XmlError as error:
        assert str(error).isprintable()
    for read in (lambda: messages.read_grant(body, counted(), TunnelRequest()), lambda: messages.read_brokers(body, counted())):
        try:
            assert isinstance(read(), (Grant, tuple))
        except RemoteError as error:
            assert error.code in ("bad_grant", "protocol_error", "redirect_empty") and error.message.isprintable()
    try:
        messages.read_client(body)
    except messages.Refusal as no:
        assert 300 <= no.status < 600


NAMES = st.from_regex(r"[a-z0-9]{1,10}(\.[a-z0-9]{1,10}){0,3}\.example", fullmatch=True)
V4 = st.integers(1, 250).map(lambda n: IPv4Address(f"198.51.100.{n}"))
V6 = st.integers(1, 2 ** 60).map(lambda n: IPv6Address((0x20010DB8 << 96) + n))
KEEPALIVES = st.one_of(st.none(), st.builds(Keepalive, st.integers(1, 86400), st.one_of(V6)))
PREFIXES = st.one_of(st.none(), st.integers(40, 64).map(lambda n: IPv6Network(f"2001:db8:4000::/{n}")))


@budget(100)
@given(st.sampled_from(("v6v4", "v6udpv4")), V4, V4, V6, V6, PREFIXES, st.lists(NAMES, max_size=3, unique=True), KEEPALIVES,
       st.one_of(st.none(), st.integers(1, 10 ** 8)), st.one_of(st.none(), NAMES))
def test_a_grant_survives_the_wire(mode, c4, s4, c6, s6, prefix, dns, keepalive, lifetime, name):
    grant = Grant(mode, Endpoint(c4, c6, name), Endpoint(s4, IPv6Address(int(s6) ^ 1 << 90)), prefix, tuple(dns) if prefix else (),
                  keepalive, lifetime)
    text = xml_write.info(grant)
    body = text[text.index(b"<tunnel"):]
    wanted = grant
    if keepalive is not None and keepalive.address is None:
        wanted = grant.__class__(**{**grant.__dict__, "keepalive": Keepalive(keepalive.interval, grant.server.ipv6)})
    assert messages.read_grant(body, counted(), TunnelRequest()) == wanted


@budget(100)
@given(st.sampled_from(("v6v4", "v6udpv4", "v6anyv4")), st.booleans(), st.one_of(st.none(), st.integers(1, 128)),
       st.lists(NAMES, max_size=3, unique=True), V4, st.booleans(), st.integers(1, 86400), st.booleans())
def test_a_request_survives_the_wire(mode, router, length, dns, address, keepalive, interval, proxy):
    request = TunnelRequest(mode, "router" if router else "host", length if router else None, tuple(dns) if router else (), address, None,
                            proxy and mode != "v6udpv4", keepalive, interval if keepalive else 30)
    text = xml_write.create(request, address)
    message = messages.read_client(text[text.index(b"<tunnel"):])
    wanted = request
    if router and length is None:
        wanted = TunnelRequest(**{**request.__dict__, "prefix_length": 48})
    assert message.action == "create" and message.ipv4 == address and message.request == wanted


@budget(75)
@given(st.lists(st.one_of(st.builds(BrokerAddress, st.just("ipv4"), V4.map(str), st.one_of(st.none(), st.integers(1, 65535))),
                          st.builds(BrokerAddress, st.just("ipv6"), V6.map(str), st.one_of(st.none(), st.integers(1, 65535))),
                          st.builds(BrokerAddress, st.just("dn"), NAMES, st.one_of(st.none(), st.integers(1, 65535)))),
                min_size=1, max_size=50, unique=True))
def test_a_broker_list_survives_the_wire(brokers):
    text = xml_write.redirection(brokers)
    found = messages.read_brokers(text[text.index(b"<tunnel"):], counted())

    def plain(broker):
        return broker.family, broker.address, broker.port or 3653

    assert list(dict.fromkeys(map(plain, found))) == list(dict.fromkeys(map(plain, brokers)))


@budget(150)
@given(st.one_of(hostile.map(lambda data: data.decode("utf-8", "replace")), st.text(max_size=80)))
def test_capability_lines_are_read_or_refused(line):
    for text in (line, "CAPABILITY " + line):
        offer = capability.parse(text, counted())
        if offer is not None:
            for words in offer:
                assert all(word == word.upper() and word.isprintable() for word in words)


@budget(50)
@given(st.sets(st.sampled_from(capability.TUNNELS), min_size=1), st.sets(st.sampled_from(capability.AUTHS)))
def test_a_capability_line_survives_the_wire(tunnels, auths):
    line = capability.build(frozenset(tunnels), frozenset(auths))
    assert capability.parse(line.decode().rstrip("\r\n"), counted()) == (tunnels, auths)


@budget(100)
@given(st.lists(st.tuples(st.sampled_from(("send", "receive", "echo", "time")), st.binary(max_size=30)), max_size=30))
def test_reliable_udp_survives_anything(script):
    client, server, now, last = rudp.RudpClient(rudp.RudpConfig()), rudp.RudpServer(), 0.0, b""
    for what, data in script:
        if what == "send":
            client.send(data, now)
        elif what == "receive":
            client.receive(data, now)
        elif what == "echo" and last:
            client.receive(last[:8] + data, now)
        else:
            now += 1.5
            client.handle_timer(now)
        for datagram in client.data_to_send():
            last = datagram
            assert datagram[0] >> 4 == 0xF and datagram[3] >= 0xF0
            text = server.receive(datagram, now, opens=False)
            if text is not None:
                server.answer(b"x")
            for answer in server.data_to_send():
                assert answer[:8] == datagram[:8]
        timer = client.next_timer()
        assert timer is None or now - 2 <= timer <= now + 30, "the timeout lies between 2 and 30 s"
        server.receive(data, now, opens=False)
        server.data_to_send()


@budget(100)
@given(st.one_of(st.text(max_size=120), hostile.map(lambda data: data.decode("latin-1"))),
       st.sampled_from(("b.example", "[2001:db8::1]:3653")))
def test_known_keys_are_read_or_refused(text, server):
    for more in ("", f"\n{server} ", f"\n{server} ssh-dss "):
        try:
            found = knownkeys.find(more + text, server)
            assert found is None or found.startswith(b"\0\0\0\7ssh-dss")
        except LocalError as error:
            assert error.code == "known_keys_invalid"


@budget(50)
@given(st.lists(st.tuples(st.sampled_from(("a.example", "b.example", "c.example:3653")), st.binary(max_size=30)), max_size=6))
def test_the_last_known_key_wins(entries):
    text, wanted = "", {}
    for server, tail in entries:
        text = knownkeys.add(text, server, b"\0\0\0\7ssh-dss" + tail)
        wanted[server] = b"\0\0\0\7ssh-dss" + tail
    for server in ("a.example", "b.example", "c.example:3653"):
        assert knownkeys.find(text, server) == wanted.get(server)

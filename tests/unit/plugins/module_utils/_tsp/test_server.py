# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Our broker towards clients: what old ones insist on, what odd ones send, what bad ones try (tsp-protocol.md sections 1.5, 4.3, 12)."""

from __future__ import annotations

import struct

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp import states
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.messages import Refusal
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.server import ServerConfig, TspServer, is_signalling, stateless_reply
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._tsp._pair import PEER, FakeBackend, seeded

CAPABILITY = (b"CAPABILITY TUNNEL=V6V4 TUNNEL=V6UDPV4 TUNNEL=V4V6 AUTH=ANONYMOUS AUTH=PLAIN AUTH=DIGEST-MD5 AUTH=PASSDSS-3DES-1\r\n")
SUCCESS = b"200 Success\r\n"
CREATE = (b'<tunnel action="create" type="v6v4" proxy="no">\r\n <client>\r\n  <address type="ipv4">192.0.2.1</address>\r\n'
          b'  <keepalive interval="30">\r\n    <address type="ipv6">::</address>\r\n  </keepalive>\r\n </client>\r\n</tunnel>\r\n')
ACCEPT = b'Content-length: 35\r\n<tunnel action="accept"></tunnel>\r\n'


def headed(body, number=None):
    return b"Content-length: %d\r\n" % (len(body) if number is None else number) + body


class Session:
    """A broker's session; `say` gives what comes back, without headers over UDP (one datagram each)."""

    def __init__(self, transport="udp", backend=None, **config):
        self.backend = backend or FakeBackend()
        self.server = TspServer(ServerConfig(rng=seeded(3), **config), self.backend, transport, PEER)
        self.udp = transport == "udp"
        self.sequence = 0xF00000F0
        self.now = 100.0

    def say(self, text, sequence=None, timestamp=None):
        if not self.udp:
            self.server.receive(text, self.now)
            return self.server.data_to_send(self.now)
        if sequence is None:
            sequence, self.sequence = self.sequence, self.sequence + 1
        timestamp = int(self.now * 1000) % 1000 if timestamp is None else timestamp
        header = struct.pack("!II", sequence, timestamp)
        self.server.receive(header + text, self.now)
        answers = self.server.data_to_send(self.now)
        assert all(answer[:8] == header for answer in answers)
        return [answer[8:] for answer in answers]

    def ready(self):
        assert self.say(b"VERSION=2.0.1\r\n") == [CAPABILITY]
        assert self.say(b"AUTHENTICATE ANONYMOUS\r\n\0") == [SUCCESS]
        return self


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_the_old_clients_session(transport):
    session = Session(transport).ready()
    (answer,) = session.say(headed(CREATE))  # one write: the first line must be in the first read
    assert answer.startswith(b'Content-length: 501\r\n200 Success\r\n<tunnel action="info" type="v6v4" lifetime="604800">\r\n')
    assert not session.server.established
    assert session.say(ACCEPT) == ([b""] if transport == "udp" else [])
    assert session.server.established
    assert session.backend.calls == ["capabilities", "authenticated", "create", "accept"]


@pytest.mark.parametrize("line", [
    b"VERSION=2.0.1\r\n", b"VERSION=2.0.1\n", b"VERSION=2.0.1", b"version=2.0.1\r\n", b"VERSION=2.0.1\r\b", b"VERSION=2.0.1\r\n\0",
    b"VERSION = 2.0.1 \r\n"])
def test_versions_as_clients_spell_them(line):
    assert Session("udp").say(line) == [CAPABILITY]
    session = Session("tcp")
    answer = session.say(line)
    if not answer:  # nothing ended the line: after a short silence it is taken as it is
        session.server.handle_timer(session.server.next_timer())
        answer = session.server.data_to_send(session.now)
    assert answer == [CAPABILITY]


@pytest.mark.parametrize("line, transport", [
    (b"VERSION=2.1.0\r\n", "udp"), (b"VERSION=3.0.0\r\n", "udp"), (b"VERSION=\r\n", "udp"), (b"VERSION=x\r\n", "udp"),
    (b"VERSION\r\n", "udp"), (b"VERSION=1.0.1\r\n", "udp"), (b"VERSION=2.0.9\r\n", "tcp"), (b"VERSION=" + b"9" * 500 + b"\r\n", "tcp")])
def test_versions_that_are_refused_can_be_followed_by_others(line, transport):
    session = Session(transport)
    assert session.say(line) == [b"302 Unsupported client version\r\n"]
    assert session.say(b"VERSION=2.0.0\r\n") == [CAPABILITY]
    assert session.server.session.version == "2.0.0"


def test_version_1_over_tcp():
    session = Session("tcp")
    assert session.say(b"VERSION=1.0.1\r\n") == [CAPABILITY]
    assert session.say(b"AUTHENTICATE ANONYMOUS\r\n\0") == [SUCCESS]
    assert session.say(headed(CREATE))
    assert session.server.established  # there is no accept in version 1
    assert session.backend.calls[-1] == "accept"


# PLAIN, with the stray NUL of old clients and without.


@pytest.mark.parametrize("writes", [
    [b"AUTHENTICATE PLAIN\r\n\0", b"\0alice\0secret1\r\n"],
    [b"AUTHENTICATE PLAIN\r\n", b"\0\0alice\0secret1\r\n"],
    [b"AUTHENTICATE PLAIN\r\n\0\0alice\0secret1\r\n"],
    [b"AUTHENTICATE PLAIN\r\n\0alice\0secret1\r\n"],
    [bytes([octet]) for octet in b"AUTHENTICATE PLAIN\r\n\0\0alice\0secret1\r\n"],
])
def test_plain_over_tcp(writes):
    session = Session("tcp")
    session.say(b"VERSION=2.0.1\r\n")
    answers = [answer for write in writes for answer in session.say(write)]
    assert answers == [SUCCESS]
    assert session.server.session.username == "alice"
    assert session.say(headed(CREATE))


def test_plain_over_udp():
    session = Session()
    session.say(b"VERSION=2.0.1\r\n")
    assert session.say(b"AUTHENTICATE PLAIN\r\n\0") == [b""]
    assert session.say(b"\0alice\0secret1\r\n") == [SUCCESS]
    session = Session()
    session.say(b"VERSION=2.0.1\r\n")
    session.say(b"AUTHENTICATE PLAIN\r\n\0")
    assert session.say(b"\0alice\0wrong\r\n") == [b"300 Authentication failed\r\n"]
    assert session.backend.calls[-1] == "auth_failed"
    assert session.say(headed(CREATE)) == [headed(b"310 Out of order\r\n")]


# DIGEST-MD5: rspauth and verdict apart.


def digest(session, behind=b"\0", password="secret1"):
    """Authenticates with our own client half; gives what the response brought."""
    from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp import sasl
    client = sasl.client_mechanism("DIGEST-MD5", username="alice", password=password, server="192.0.2.254", rng=seeded(5))
    session.say(b"VERSION=2.0.1\r\n")
    (challenge,) = session.say(b"AUTHENTICATE DIGEST-MD5\r\n" + behind)
    answer = session.say(client.step(challenge))
    if password == "secret1":
        client.step(answer[0])
        client.finish()
    return answer


def test_digest_over_udp_keeps_the_verdict_for_the_next_datagram():
    session = Session()
    (rspauth,) = digest(session)
    assert b"200" not in rspauth
    assert session.say(b"") == [SUCCESS]
    assert session.say(b"") == [b""]
    assert session.say(headed(CREATE))[0].startswith(b"Content-length: 501\r\n200 Success")


def test_digest_over_udp_when_the_client_does_not_ask():
    session = Session()
    digest(session)
    assert session.say(headed(CREATE))[0].startswith(b"Content-length: 501\r\n200 Success")


@pytest.mark.parametrize("behind, gap", [(b"\0", 0.05), (b"", 0.005)])
def test_digest_over_tcp_waits_between_the_two_writes(behind, gap):
    """An old client, which shows by its NUL, hangs when both come in one read."""
    session = Session("tcp")
    assert len(digest(session, behind)) == 1
    assert session.server.next_timer() == pytest.approx(session.now + gap)
    session.server.handle_timer(session.now + gap - 0.001)
    assert session.server.data_to_send(session.now) == []
    session.server.handle_timer(session.now + gap)
    assert session.server.data_to_send(session.now) == [SUCCESS]
    assert session.server.next_timer() > session.now + 1


def test_digest_over_tcp_when_the_client_is_faster():
    session = Session("tcp")
    digest(session)
    first, second = session.say(headed(CREATE))
    assert first == SUCCESS
    assert second.startswith(b"Content-length: 501\r\n")


def test_a_wrong_digest():
    session = Session("tcp")
    assert digest(session, password="wrong") == [b"300 Authentication failed\r\n"]
    assert session.server.closed


@pytest.mark.parametrize("line", [b"AUTHENTICATE CRAM-MD5\r\n", b"AUTHENTICATE\r\n", b"AUTHENTICATE \0\r\n", b"AUTHENTICATE X Y\r\n"])
def test_other_mechanisms(line):
    session = Session("tcp")
    session.say(b"VERSION=2.0.1\r\n")
    assert session.say(line) == [b"300 Authentication failed\r\n"]
    assert session.server.closed


def test_a_mechanism_that_is_not_offered():
    session = Session("udp", FakeBackend(auths="DIGEST-MD5"))
    session.say(b"VERSION=2.0.1\r\n")
    assert session.say(b"AUTHENTICATE ANONYMOUS\r\n\0") == [b"300 Authentication failed\r\n"]
    assert session.say(headed(CREATE)) == [headed(b"310 Out of order\r\n")]


def test_passdss_without_a_key():
    session = Session()
    session.say(b"VERSION=2.0.1\r\n")
    assert session.say(b"AUTHENTICATE PASSDSS-3DES-1\r\n\0") == [b"310 Mechanism unavailable\r\n"]


# XML as third parties send it.


@pytest.mark.parametrize("transport", ["udp", "tcp"])
@pytest.mark.parametrize("text", [
    headed(CREATE), headed(CREATE.rstrip(), len(CREATE)), CREATE, b"content-length:%d\n" % len(CREATE) + CREATE,
    b"Content-length: %d\r\n\r\n" % len(CREATE) + CREATE, headed(CREATE).replace(b"\r\n", b"\r\b"),
    headed(CREATE.replace(b' proxy="no"', b"")), headed(CREATE.replace(b'<address type="ipv6">::</address>', b"")),
    headed(b'<?xml version="1.0"?>' + CREATE), headed(CREATE.replace(b'"', b"'")), headed(CREATE.replace(b"tunnel", b"TUNNEL"))])
def test_creates(text, transport):
    session = Session(transport).ready()
    (answer,) = session.say(text)
    assert answer.startswith(b"Content-length: 501\r\n200 Success\r\n")
    assert session.backend.request.keepalive_interval == 30


def test_sequences_from_one():
    session = Session()
    session.sequence = 1
    session.ready()
    assert session.say(headed(CREATE))[0].startswith(b"Content-length: 501")
    assert session.say(ACCEPT) == [b""]
    assert session.server.established


@pytest.mark.parametrize("body, answer", [
    (b"<tunnel", b"500 Invalid request format: it is not well-formed"),
    (b'<tunnel action="dance"></tunnel>', b"500 Invalid request format: unknown action\r\n"),
    (b'<tunnel action="create" type="gre"></tunnel>', b"303 Unsupported tunnel type\r\n"),
    (b"<!DOCTYPE tunnel><tunnel></tunnel>", b"500 Invalid request format: it contains declarations"),
    (ACCEPT[20:], b"310 Out of order\r\n"),
])
def test_bad_xml_is_answered_with_content_length_and_may_be_followed_by_good(body, answer):
    session = Session().ready()
    (said,) = session.say(headed(body))
    header, _unused, text = said.partition(b"\r\n")
    assert header == b"Content-length: %d" % len(text)
    assert text.startswith(answer)
    assert session.say(headed(CREATE))[0].startswith(b"Content-length: 501")


@pytest.mark.parametrize("body", [b'<tunnel action="delete"></tunnel>', b'<tunnel action="info" type="v6anyv4">\n</tunnel>'])
def test_delete_and_info_of_a_ruby_client(body):
    session = Session().ready()
    (answer,) = session.say(headed(body))
    assert answer.startswith(b"Content-length: 13\r\n200 Success\r\n" if b"delete" in body else b"Content-length: 501\r\n200 Success\r\n")
    assert session.backend.calls[-1] == ("delete" if b"delete" in body else "info")


def test_reject():
    session = Session().ready()
    session.say(headed(CREATE))
    assert session.say(ACCEPT.replace(b"accept", b"reject")) == [b""]
    assert session.backend.calls[-1] == "reject"
    assert not session.server.established


def test_an_accept_that_the_backend_refuses():
    session = Session().ready()
    session.backend.refusals["accept"] = Refusal(310, "Failed to confirm client tunnel")
    session.say(headed(CREATE))
    assert session.say(ACCEPT) == [headed(b"310 Failed to confirm client tunnel\r\n")]
    assert not session.server.established


def test_a_packet_through_the_tunnel_confirms_it():
    """Every copy of the accept may be lost; the client uses its tunnel all the same."""
    session = Session().ready()
    assert not session.server.confirm(session.now)
    session.say(headed(CREATE))
    assert session.server.confirm(session.now)
    assert session.server.established
    assert session.server.confirm(session.now)
    assert session.say(ACCEPT) == [b""]
    assert session.backend.calls.count("accept") == 1
    session = Session().ready()
    session.backend.refusals["accept"] = Refusal(310)
    session.say(headed(CREATE))
    assert not session.server.confirm(session.now)


# UDP: every datagram is answered once, duplicates from memory.


def test_every_datagram_is_answered():
    session = Session().ready()
    for text in (b"", b"\0", b"\r\n", b"HELLO\r\n", b"ECHO REQUEST", b"\xff\xfe", b"AUTHENTICATE PLAIN\r\n\0"):
        assert len(session.say(text)) == 1, text


def test_duplicates_do_not_disturb():
    session = Session()
    for text in (b"VERSION=2.0.1\r\n", b"AUTHENTICATE ANONYMOUS\r\n\0", headed(CREATE), ACCEPT):
        sequence = session.sequence
        first = session.say(text)
        for timestamp in (5, 2005, 4005):
            assert session.say(text, sequence, timestamp) == first
    assert session.backend.calls == ["capabilities", "authenticated", "create", "accept"]
    assert session.say(b"VERSION=2.0.1\r\n", 0xF00000F0, 0) == [CAPABILITY]  # a late copy of the very first
    assert session.server.established


def test_a_new_version_begins_again():
    session = Session().ready()
    session.say(headed(CREATE))
    session.say(ACCEPT)
    old = session.server.session
    session.now += 20
    session.sequence = 0xF00000F0
    session.ready()
    assert not session.server.established
    assert session.server.session is not old
    session.say(headed(CREATE))
    session.say(ACCEPT)
    assert session.server.established
    assert "reject" not in session.backend.calls


def test_a_new_version_gives_back_what_was_not_accepted():
    session = Session().ready()
    session.say(headed(CREATE))
    session.now += 20
    session.sequence = 0xF00000F0
    session.ready()
    assert session.backend.calls.count("reject") == 1


def test_version_1_hears_one_answer_when_its_tunnel_cannot_be_opened():
    session = Session("tcp")
    session.backend.refusals["accept"] = Refusal(310, "no")
    session.say(b"VERSION=1.0.1\r\n")
    session.say(b"AUTHENTICATE ANONYMOUS\r\n\0")
    assert session.say(headed(CREATE)) == [headed(b"310 no\r\n")]
    assert session.server.state == states.READY and not session.server.established


@pytest.mark.parametrize("data, signalling", [
    (b"\xf0\x00\x00\xf0\x00\x00\x00\x00", True), (b"\x00\x00\x00\x01\x00\x00\x00\x00VERSION", True), (b"\xf0\x00\x00", False),
    (b"\x60" + bytes(39), False), (b"\x45" + bytes(39), False), (b"", False)])
def test_signalling_is_told_from_packets(data, signalling):
    assert is_signalling(data) is signalling


def test_echo_requests_need_no_session():
    header = b"\xf0\x00\x00\xf0\x00\x00\x03\x64"
    assert stateless_reply(header + b"ECHO REQUEST") == header + SUCCESS
    assert stateless_reply(header + b"ECHO REQUEST\r\n\0") == header + SUCCESS
    assert stateless_reply(header + b"VERSION=2.0.1\r\n") is None
    assert stateless_reply(header) is None


# Limits.


@pytest.mark.parametrize("transport", ["udp", "tcp"])
@pytest.mark.parametrize("text", [b"x" * 5000 + b"\r\n", b"Content-length: 70000\r\n", b"<tunnel>" + b"x" * 70000])
def test_oversize_ends_the_session(text, transport):
    session = Session(transport)
    assert session.say(text) == [b"500 Invalid request format\r\n"]
    assert session.server.closed
    session = Session(transport).ready()
    assert session.say(text) == [headed(b"500 Invalid request format\r\n")]
    assert session.server.closed


def test_a_session_has_a_limit_of_messages():
    session = Session("tcp", max_messages=5)
    for _again in range(5):
        assert session.say(b"VERSION=2.0.1\r\n") == [CAPABILITY]
    assert session.say(b"VERSION=2.0.1\r\n") == [b"500 Invalid request format\r\n"]
    assert session.server.closed


def test_trickled_bytes_do_not_keep_a_connection():
    session = Session("tcp", idle_timeout=10.0, grace=100.0)
    session.server.connect(100.0)
    for octet in b"VERSION=2.0.1":
        session.say(bytes([octet]))
        session.now += 1.0
        session.server.handle_timer(session.now)
    assert session.server.closed
    assert session.server.data_to_send(session.now) == []


@pytest.mark.parametrize("text", [b"HELLO\r\n", b"GET / HTTP/1.1\r\n", b"\x16\x03\x01\x02\x00\n"])
def test_strangers(text):
    assert Session("tcp").say(text) == [b"500 Invalid request format\r\n"]


def test_nothing_is_done_before_authentication():
    for before in ([], [b"VERSION=2.0.1\r\n"]):
        session = Session()
        for text in before:
            session.say(text)
        for action in (b"create", b"info", b"delete", b"accept", b"reject"):
            assert session.say(headed(CREATE.replace(b"create", action))) == [headed(b"310 Out of order\r\n")]
        assert not {"create", "info", "delete", "accept", "reject"} & set(session.backend.calls)
    assert session.server.state == states.NEGOTIATED


def test_after_the_end_nothing_is_read():
    session = Session("tcp").ready()
    session.server.receive_eof(session.now)
    assert session.server.closed
    assert session.say(headed(CREATE)) == []
    assert session.server.next_timer() is None

# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The model of tsps held against what the real one said: every recorded request with its answer, and every recorded session."""

from __future__ import annotations

import base64
import re
from typing import Any

import pytest
from ansible_collections.tunnelbroker.tsp.tests.interop import tsps_like
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._tsp import _recordings

PASSWORDS = {"alice": "secret1", "bob": "hunter2"}
PEER = ("192.0.2.1", 34521)
SESSIONS = [name for name in _recordings.names() if name.startswith("tsps-") and name not in _recordings.TABLES]


def model(monkeypatch: pytest.MonkeyPatch) -> tuple[tsps_like.TspsLike, list[bytes]]:
    """A server without a socket, and what it sends."""
    server = tsps_like.TspsLike(None, passwords=PASSWORDS)  # type: ignore[arg-type]
    sent: list[bytes] = []
    monkeypatch.setattr(tsps_like, "OUTER", "192.0.2.254")
    monkeypatch.setattr(server, "_send", lambda datagram, _peer, signalling=True: sent.append(datagram))
    return server, sent


def decoded(line: bytes) -> bytes:
    """What a base64 line holds; nothing for other text."""
    return base64.b64decode(line) if re.match(rb"[A-Za-z0-9+/=]{8,}\r\n\Z", line) else b""


@pytest.mark.parametrize("name", SESSIONS)
def test_recorded_sessions(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the client said brings out what the server said. (The nonce is the recorded one.)"""
    for session in _recordings.load(name).answered():
        if session.transport != "udp" or not session.sent("C"):
            continue
        server, sent = model(monkeypatch)
        host, port = session.client.split(":")
        for message, replies in session.pairs():
            if not replies:
                continue
            recorded = replies[0].data
            sent.clear()
            server._datagram(message.data, (host, int(port)))
            challenge = decoded(recorded[8:])
            if b"nonce=" in challenge and b"rspauth" not in challenge:
                nonce = re.search(rb'nonce="([^"]+)"', challenge)
                assert nonce and re.sub(rb'nonce="[^"]+"', nonce[0], decoded(sent[0][8:])) == challenge
                server.sessions[(host, int(port))].nonce = nonce[1].decode()
                continue
            assert sent == [recorded], message


def test_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hand-made requests whose description says what was sent."""
    seen = 0
    for title, answer in _recordings.load_table("tsps-probe"):
        server, sent = model(monkeypatch)
        match = re.fullmatch(r"(auth )?(b'(?:VERSION|version|HELLO|ECHO|auth|AUTH).*)", title)
        if match is None:
            continue
        if match[1]:
            server._datagram(header(0xF0) + b"VERSION=2.0.1\r\n", PEER)
            sent.clear()
        server._datagram(header(0xF1 if match[1] else 0xF0) + eval(match[2], {}), PEER)  # a bytes literal of our own fixture
        assert sent == [bytes.fromhex(answer.split()[0]) + eval(answer.partition(" ")[2], {})], title
        seen += 1
    assert seen >= 15


def header(last: int) -> bytes:
    return bytes([0xF0, 0, 0, last]) + bytes.fromhex("11223344")


def test_known_defects(monkeypatch: pytest.MonkeyPatch) -> None:
    probes = {row[0]: row[1] for row in _recordings.load_table("tsps-probe")}
    server, sent = model(monkeypatch)
    version = b"VERSION=2.0.1\r\n"
    server._datagram(header(0xF0) + version, PEER)
    server._datagram(header(0xF0) + version, PEER)
    assert repr([datagram[8:] for datagram in sent]) == probes["dup VERSION replies"]
    for title, sequence in (("seq bytes f1 00 00 00", b"\xf1\0\0\0"), ("seq bytes f0 00 00 01", b"\xf0\0\0\1"),
                            ("LE-style marker seq bytes 00 00 00 f1", b"\0\0\0\xf1")):
        server, sent = model(monkeypatch)
        server._datagram(sequence + bytes.fromhex("11223344") + version, PEER)
        head, text = probes[title].split(" ", 1)
        assert sent[0][:4] == bytes.fromhex(head)[:4] and repr(sent[0][8:]) == text
    created: Any = [header(0xF0) + version, header(0xF1) + b"AUTHENTICATE ANONYMOUS\r\n\0"]
    body = b'<tunnel action="create" type="v6udpv4" proxy="no">\r\n <client>\r\n </client>\r\n</tunnel>\r\n'
    created.append(header(0xF2) + b"Content-length: %d\r\n%s" % (len(body), body))
    server, sent = model(monkeypatch)
    for datagram in (*created, created[-1]):
        server._datagram(datagram, PEER)
    assert sent[-1][8:] == b"310 Failed to confirm client tunnel\r\n" and not server.sessions
    server, sent = model(monkeypatch)
    for datagram in (*created, header(0xF3) + b'Content-length: 35\r\n<tunnel action="accept"></tunnel>\r\n'):
        server._datagram(datagram, PEER)
    session = server.established()[0]
    for label, answered in ((0x12300, True), (0x123EF, True), (0x123F0, False), (0x123FF, False)):
        sent.clear()
        server._datagram(tsps_like.icmp(session.address, tsps_like.OWN, 128, bytes(4), b"x" * 8, flow_label=label), PEER)
        assert (len(sent[0]) == 56 and tsps_like.Echo(sent[0]).destination == session.address) == answered

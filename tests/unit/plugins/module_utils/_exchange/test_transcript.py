# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The record of an exchange shows everything but secrets."""

from __future__ import annotations

import base64
import json

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._exchange.transcript import Transcript, scrub

SECRET = "correct horse"
HEADER = bytes.fromhex("f00000f000000000")


def recorded(messages, transport="tcp", enabled=True):
    transcript = Transcript(enabled, 100.0, SECRET)
    recorder = transcript.session(transport, "192.0.2.1:3653")
    for now, (direction, data) in enumerate(messages, 101):
        (recorder.sent if direction == ">" else recorder.received)((HEADER if transport == "udp" else b"") + data, float(now))
    return transcript.records


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_plain_credentials_are_struck_out_and_the_rest_is_shown(transport):
    records = recorded([
        (">", b"VERSION=2.0.2\r\n"), ("<", b"CAPABILITY TUNNEL=V6V4 AUTH=PLAIN\r\n"),
        (">", b"AUTHENTICATE PLAIN\r\n\0alice\0correct horse\r\n"), ("<", b"200 Success\r\n")], transport)
    text = json.dumps(records)
    assert "horse" not in text and "alice" not in text
    assert [r["text"] for r in records] == [
        "VERSION=2.0.2\r\n", "CAPABILITY TUNNEL=V6V4 AUTH=PLAIN\r\n", "AUTHENTICATE PLAIN\r\n[19 bytes struck out]", "200 Success\r\n"]
    assert records[0] == {"t": 1.0, "direction": "C>S", "transport": transport, "peer": "192.0.2.1:3653", "text": "VERSION=2.0.2\r\n"}


def test_sasl_payloads_are_struck_out_in_both_directions_also_beside_a_status_line():
    challenge, answer = base64.b64encode(b'realm="r",nonce="n"') + b"\r\n", base64.b64encode(b'username="alice",response=0') + b"\r\n"
    records = recorded([(">", b"AUTHENTICATE DIGEST-MD5\r\n"), ("<", challenge), (">", answer),
                        ("<", base64.b64encode(b"rspauth=1") + b"\r\n200 Success\r\n")])
    text = json.dumps(records)
    for secret in (challenge, answer):
        assert secret.strip().decode() not in text
    assert records[-1]["text"].endswith("200 Success\r\n") and "struck out" in records[-1]["text"]


def test_a_fragment_of_a_payload_that_looks_like_a_number_is_struck_out():
    records = recorded([(">", b"AUTHENTICATE DIGEST-MD5\r\n"), ("<", b"1234567890"), ("<", b"200abcdef")])
    assert "1234567890" not in json.dumps(records) and "200abcdef" not in json.dumps(records)


def test_after_the_verdict_messages_are_shown_again():
    transcript = Transcript(True, 0.0, SECRET)
    recorder = transcript.session("tcp", "192.0.2.1:3653")
    recorder.sent(b"AUTHENTICATE ANONYMOUS\r\n", 0.1)
    recorder.received(b"200 Success\r\n", 0.2)
    recorder.authenticated()
    recorder.sent(b"Content-length: 3\r\n<a>", 0.3)
    assert transcript.records[-1]["text"] == "Content-length: 3\r\n<a>"


def test_a_broker_that_sends_the_password_back_does_not_get_it_into_the_record():
    records = recorded([("<", b"310 correct horse is no password\r\n")])
    assert records[0]["text"] == "310 [struck out] is no password\r\n"


def test_short_passwords_are_not_spelt_out_by_their_gaps():
    assert scrub("a bad abc", "abc") == "a bad abc"


def test_bytes_that_are_no_text_are_escaped():
    records = recorded([("<", b"\x00\x1b[31m\xff\n")])
    assert records[0]["text"] == "\\x00\\x1b[31m\\xff\n"


def test_nothing_is_kept_unless_asked_for_and_a_flood_is_bounded():
    assert recorded([(">", b"x")], enabled=False) == []
    assert len(recorded([("<", b"x")] * 1000)) == 400

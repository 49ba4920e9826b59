# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Logs that explain a failed session and never hold a secret; counting failures."""

from __future__ import annotations

import io
import json
import stat
from base64 import b64encode
from pathlib import Path

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._broker.logs import Log
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._broker.ratelimit import REMEMBERED, FailureWindow, TokenBucket
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._broker.trace import Trace
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.errors import LocalError

OFFER = b"CAPABILITY TUNNEL=V6V4 AUTH=PLAIN AUTH=DIGEST-MD5\r\n"


def told(*messages: tuple[str, bytes]) -> str:
    trace = Trace()
    for who, payload in messages:
        (trace.received if who == "c" else trace.answered)(payload)
    return "\n".join(trace.lines())


def test_plain_credentials_are_struck_out_wherever_they_come() -> None:
    apart = told(("c", b"VERSION=2.0.1\r\n"), ("b", OFFER), ("c", b"AUTHENTICATE PLAIN\r\n\0"), ("b", b""),
                 ("c", b"\0alice\0canary\r\n"), ("b", b"300 Authentication failed\r\n"))
    assert "canary" not in apart and "AUTHENTICATE PLAIN" in apart and "15 bytes of credentials" in apart and "300 Auth" in apart
    together = told(("c", b"VERSION=2.0.1\r\n"), ("b", OFFER), ("c", b"AUTHENTICATE PLAIN\r\n\0\0alice\0canary\r\n"),
                    ("b", b"200 Success\r\n"))
    assert "canary" not in together and "14 bytes of credentials" in together
    torn = told(("b", OFFER), ("c", b"AUTHENTICATE PL"), ("c", b"AIN\r\n\0\0alice\0can"), ("c", b"ary\r\n"))
    assert "can" not in torn.replace("CAPABILITY", "") and "ary" not in torn
    odd = told(("b", OFFER), ("c", b"authenticate plain\n\0\0alice\0canary\r\n"), ("c", b"canary"))
    assert "canary" not in odd


def test_of_digest_only_the_harmless_fields_remain() -> None:
    fields = (b'charset=utf8,username="ali\\"ce",realm="r",nonce="n",nc=00000001,cnonce="canary",digest-uri="tsp/x",'
              b'response=deadbeef,qop=auth')
    text = told(("b", OFFER), ("c", b"AUTHENTICATE DIGEST-MD5\r\n\0"), ("b", b64encode(b'realm="r",nonce="n"') + b"\r\n"),
                ("c", b64encode(fields) + b"\r\n"), ("b", b64encode(b"rspauth=cafe") + b"\r\n"), ("c", b""), ("b", b"200 Success\r\n"))
    assert 'username="ali\\"ce"' in text and 'realm="r",nonce="n"' in text
    assert "canary" not in text and "deadbeef" not in text and "cafe" not in text


def test_after_the_login_everything_is_shown_on_one_line_each() -> None:
    text = told(("b", OFFER), ("c", b"AUTHENTICATE ANONYMOUS\r\n\0"), ("b", b"200 Success\r\n"),
                ("c", b"Content-length: 9\r\n<tunnel/>"), ("b", b"Content-length: 30\r\n500 Invalid request format\r\n"),
                ("c", b"\x1b[31m\0\xff"))
    assert "<tunnel/>" in text and "500 Invalid" in text
    assert len(text.splitlines()) == 6 and all(line.isprintable() for line in text.splitlines())


def test_a_trace_is_bounded() -> None:
    trace = Trace()
    for _again in range(1000):
        trace.received(b"x" * 5000)
    assert len(trace.lines()) <= 24 and all(len(line) < 700 for line in trace.lines())


def test_json_lines_and_levels() -> None:
    stream = io.StringIO()
    log = Log("info", stream=stream, clock=lambda: 1.5)
    log.debug("hidden")
    log.info("event", user='a"\n', nothing=None, port=3)
    assert json.loads(stream.getvalue()) == {
        "time": "1970-01-01T00:00:01.500Z", "level": "info", "event": "event", "user": 'a"\n', "port": 3}
    assert stream.getvalue().count("\n") == 1


def test_text_lines_cannot_be_forged() -> None:
    stream = io.StringIO()
    Log("info", "text", stream=stream, clock=lambda: 0).warning("event", user="a\nb ERROR x=1", n=[1])
    line, = stream.getvalue().splitlines()
    assert line == '1970-01-01T00:00:00.000Z WARNING event user="a\\nb ERROR x=1" n=[1]'


def test_the_file_is_private_and_can_be_rotated(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = Log("info", path=path)
    log.info("one")
    path.rename(tmp_path / "log.1")
    log.info("two")
    log.reopen()
    log.info("three")
    log.close()
    assert "two" in (tmp_path / "log.1").read_text() and "three" in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(LocalError) as caught:
        Log("info", path=tmp_path / "none" / "log")
    assert caught.value.code == "log_unwritable"


def test_a_full_disk_does_not_end_the_broker() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    log = Log("info", path=Path("/dev/full"))
    log.info("event")
    try:
        log.close()
    except OSError:
        pass


def test_failures_of_one_ipv6_network_count_together() -> None:
    window = FailureWindow(2)
    window.add("2001:db8::1", 0)
    window.add("2001:db8::2", 1)
    assert window.blocked("2001:db8::3", 2) and not window.blocked("2001:db8:0:1::1", 2)
    assert not window.blocked("2001:db8::3", 61.5) or window.blocked("2001:db8::3", 60.5)
    assert not window.blocked("2001:db8::3", 62)


def test_memory_of_failures_is_bounded() -> None:
    window = FailureWindow(1)
    for number in range(REMEMBERED + 50):
        window.add(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 0)
    assert len(window._seen) == REMEMBERED and window.blocked(f"10.0.{(REMEMBERED + 49) >> 8}.{(REMEMBERED + 49) & 255}", 1)


def test_a_token_bucket() -> None:
    bucket = TokenBucket(1, 2)
    assert [bucket.take(100), bucket.take(100), bucket.take(100), bucket.take(101)] == [True, True, False, True]

# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Our client towards brokers that do it their own way: it gets its tunnel, and says what it had to tolerate.

The brokers are scripts: one answer per message of the client (tsp-protocol.md sections 1.5, 4, 11, 12).
"""

from __future__ import annotations

from ipaddress import IPv6Address

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp import rudp, states, xml_write
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.client import Credentials, TspClient
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.errors import LocalError
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.events import (
    BrokerAddress,
    Completed,
    Deleted,
    Failed,
    Granted,
    Redirected,
)
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.request import TunnelRequest
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._tsp._pair import a_grant, client_config
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._tsp._script import (
    CAPABILITY,
    GOOD,
    INFO,
    LIST,
    SUCCESS,
    XML,
    Script,
    headed,
)

OK = b"200 Success\r\n"
VARIANTS = [
    ([CAPABILITY, SUCCESS, INFO, b""], {}),
    ([CAPABILITY, SUCCESS, INFO, b"200 Success\r\n"], {"accept_answered": 1}),
    ([CAPABILITY, SUCCESS, INFO, xml_write.ACCEPT], {"accept_echoed": 1, "status_missing": 1}),
    ([CAPABILITY, SUCCESS, headed(OK + XML, len(XML)), b""], {"content_length_short": 1}),
    ([CAPABILITY, SUCCESS, headed(OK + XML, len(OK + XML) + 50), b""], {"content_length_long": 1}),
    ([CAPABILITY, SUCCESS, headed(OK + XML, len(OK + XML) + 2), b""], {"content_length_long": 1}),
    ([CAPABILITY, SUCCESS, headed(OK + XML.rstrip(), len(OK + XML)), b""], {}),
    ([CAPABILITY, SUCCESS, headed(OK + XML, len(OK + XML) - 2), b""], {}),
    ([CAPABILITY, SUCCESS, INFO.replace(b"Content-length: ", b"Content-Length:000"), b""],
     {"header_case": 1, "header_spacing": 1, "content_length_zeros": 1}),
    ([CAPABILITY, SUCCESS, OK + XML, b""], {"header_missing": 1}),
    ([CAPABILITY, SUCCESS, headed(XML), b""], {"status_missing": 1}),
    ([CAPABILITY, SUCCESS, headed(b"201 Created\r\n" + XML), b""], {"status_2xx": 1}),
    ([CAPABILITY, SUCCESS, headed(b"200\r\n" + XML), b""], {"reason_missing": 1}),
    ([CAPABILITY, SUCCESS, headed(OK + b'<?xml version="1.0"?>' + XML), b""], {"xml_prolog": 1}),
    ([CAPABILITY, SUCCESS, headed(OK + b"<!-- hi -->" + XML), b""], {"xml_comment": 1}),
    ([CAPABILITY, SUCCESS, headed(OK + XML.replace(b'"', b"'")), b""], {"xml_single_quotes": 1}),
    ([CAPABILITY, SUCCESS, headed(OK + XML.replace(b"server>", b"SERVER>")), b""], {"xml_case": 1}),
    ([CAPABILITY, SUCCESS, headed(OK + XML.replace(b"</client>", b"<extra/></client>")), b""], {"xml_unknown_element": 1}),
    ([CAPABILITY, SUCCESS, headed((OK + XML).replace(b"\r\n", b"\n")), b""], {"line_feed_only": 1}),
    ([CAPABILITY.replace(b"\r\n", b"\n"), SUCCESS, INFO, b""], {"line_feed_only": 1}),
    ([b"\0\0" + CAPABILITY, SUCCESS, INFO, b""], {"leading_padding": 1}),
    ([CAPABILITY.replace(b"V6V4", b"v6v4"), SUCCESS, INFO, b""], {"capability_case": 1}),
    ([CAPABILITY, headed(SUCCESS), INFO, b""], {"header_unexpected": 1}),
]


@pytest.mark.parametrize("transport", ["udp", "tcp"])
@pytest.mark.parametrize("answers, quirks", VARIANTS)
def test_tolerances(answers, quirks, transport):
    answers = answers if transport == "udp" else answers[:3]
    whole = Script(answers, transport=transport).run()
    assert [type(event) for event in whole.events[-2:]] == [Granted, Completed], whole.last
    assert whole.events[-2].grant == a_grant()
    # Over TCP nothing is read behind the accept.
    expected = {} if transport == "tcp" and quirks.keys() & {"accept_answered", "accept_echoed"} else quirks
    assert whole.client.quirks == expected
    if transport == "tcp":
        cut = Script(answers, transport=transport, pieces=1).run()
        assert cut.events == whole.events
        assert cut.client.quirks == expected


UDP_VARIANTS = [
    # What cannot be had over TCP: ends of datagrams, empty datagrams, parts.
    ([CAPABILITY + b"\0\0", SUCCESS, INFO, b""], {"trailing_padding": 1}),
    ([CAPABILITY.rstrip(), SUCCESS, INFO, b""], {"line_end_missing": 1}),
    ([CAPABILITY + b"junk", SUCCESS, INFO, b""], {"trailing_bytes": 1}),
    ([b"", CAPABILITY, SUCCESS, INFO, b""], {"empty_reply": 1}),
    ([CAPABILITY, b"", b"", SUCCESS, INFO, b""], {"empty_reply": 2}),
    ([CAPABILITY, SUCCESS, INFO[:100], INFO[100:], b""], {"body_polled": 1}),
    ([CAPABILITY, SUCCESS, INFO[:100], INFO[100:200], INFO[200:], b""], {"body_polled": 2}),
    ([CAPABILITY, SUCCESS, INFO.replace(b"</tunnel>\r\n", b""), b"", b""],
     {"body_polled": 1, "xml_root_unclosed": 1, "content_length_long": 1}),
    ([CAPABILITY, SUCCESS, INFO, b"\0"], {"trailing_padding": 1}),
]


@pytest.mark.parametrize("answers, quirks", UDP_VARIANTS)
def test_tolerances_of_datagrams(answers, quirks):
    script = Script(answers).run()
    assert [type(event) for event in script.events[-2:]] == [Granted, Completed], script.last
    assert script.client.quirks == quirks


def test_a_status_line_without_its_end_over_tcp():
    script = Script([CAPABILITY, b"200 Success", INFO], transport="tcp").run()
    assert isinstance(script.last, Completed)
    assert script.client.quirks == {"line_end_missing": 1, "end_by_silence": 1}


def test_an_answer_that_ends_with_the_connection():
    script = Script([CAPABILITY, SUCCESS, INFO.replace(b"</tunnel>\r\n", b"")], transport="tcp", eof=True).run()
    assert isinstance(script.last, Completed)
    assert script.client.quirks["end_by_close"] == 1


def test_rspauth_and_verdict_in_one_datagram():
    """CITC's broker does so; asking for the verdict again would cost a round trip and a sequence number."""
    import base64
    import hashlib

    def md5(data):
        return hashlib.md5(data, usedforsecurity=False)

    class Digest(Script):
        def _exchange(self):
            while sent := self.client.data_to_send(self.now):
                for data in sent:
                    text = data[8:]
                    self.said.append(text)
                    if text.startswith(b"VERSION"):
                        answer = b"CAPABILITY TUNNEL=V6V4 AUTH=DIGEST-MD5\r\n"
                    elif text.startswith(b"AUTHENTICATE"):
                        answer = base64.b64encode(b'realm="r",nonce="n",qop=auth,algorithm=md5-sess,charset=utf8') + b"\r\n"
                    elif text.startswith(b"Content-length"):
                        answer = INFO if b"create" in text else b""
                    else:
                        fields = base64.b64decode(text)
                        cnonce = fields.split(b'cnonce="')[1].split(b'"')[0]
                        key = md5(md5(b"alice:r:secret1").digest() + b":n:" + cnonce).hexdigest().encode()
                        right = md5(b":".join((key, b"n", b"00000001", cnonce, b"auth",
                                               md5(b":tsp/192.0.2.254").hexdigest().encode()))).hexdigest().encode()
                        answer = base64.b64encode(b"rspauth=" + right) + b"\r\n200 Success\r\n"
                    self.client.receive(data[:8] + answer, self.now)

    script = Digest([], auth_method="digest-md5").run()
    assert isinstance(script.last, Completed), script.last
    assert script.client.quirks == {"several_lines": 1}
    assert len(script.said) == 5


def test_a_stray_datagram_is_ignored_and_counted():
    client = TspClient(client_config())
    client.connect(1.0)
    (datagram,) = client.data_to_send(1.0)
    client.receive(rudp.HEADER.pack(0xF00000F8, 5) + b"999 wrong seq\r\n", 1.0)
    client.receive(b"\x60" + bytes(39), 1.0)
    client.receive(b"\xf0", 1.0)
    assert client.quirks == {"stray_datagram": 1}
    assert client.state == states.WAIT_CAPABILITY
    client.receive(datagram[:8] + CAPABILITY, 1.0)
    assert client.state == states.WAIT_AUTH


def test_a_time_stamp_of_zero():
    client = TspClient(client_config())
    client.connect(1.0)
    (datagram,) = client.data_to_send(1.0)
    client.receive(datagram[:4] + bytes(4) + CAPABILITY, 1.0)
    assert client.quirks == {"timestamp_changed": 1}
    assert client.state == states.WAIT_AUTH


# What ends in an error.


@pytest.mark.parametrize("answers, code, status", [
    ([b"302 Unsupported client version\r\n"], "version_unsupported", 302),
    ([b"530 busy\r\n"], "busy", 530),
    ([b"1000 Go\r\n"], "refused", 1000),
    ([b"999 what\r\n"], "refused", 999),
    ([b"HTTP/1.1 400 Bad Request\r\nServer: x\r\n"], "protocol_error", None),
    ([b"SSH-2.0-OpenSSH_9.2\r\n"], "protocol_error", None),
    ([b"200 Success\r\n"], "protocol_error", None),
    ([b"VERSION=2.0.2\r\n"], "stale_session", None),
    ([b"CAPABILITY TUNNEL=V4V6 AUTH=ANONYMOUS\r\n"], "mode_not_offered", None),
    ([b"CAPABILITY TUNNEL=V6V4 AUTH=PLAIN\r\n"], "no_common_mechanism", None),
    ([b"CAPABILITY TUNNEL=V6V4\r\n"], "no_common_mechanism", None),
    ([CAPABILITY, b"300 Authentication failed\r\n"], "auth_failed", 300),
    ([CAPABILITY, b"cmVhbG0=\r\n"], "unexpected_message", None),
    ([CAPABILITY, SUCCESS, headed(b"310 Test error 310\r\n")], "server_error", 310),
    ([CAPABILITY, SUCCESS, b"310 TSP status error\r\n"], "server_error", 310),
    ([CAPABILITY, SUCCESS, b"310 TSP status error"], "server_error", 310),
    ([CAPABILITY, SUCCESS, headed(b"302 no\r\n" + XML)], "version_unsupported", 302),
    ([CAPABILITY, SUCCESS, headed(OK + b"<html>no</html>\r\n")], "protocol_error", None),
    ([CAPABILITY, SUCCESS, headed(OK)], "protocol_error", None),
    ([CAPABILITY, SUCCESS, headed(OK + b"<!DOCTYPE tunnel [<!ENTITY x 'y'>]>" + XML)], "protocol_error", None),
    ([CAPABILITY, SUCCESS, b"Content-length: 99999999\r\n"], "protocol_error", None),
    ([b"1200 Redirection\r\n<tunnel action='list' type='broker'><broker></broker></tunnel>"], "redirect_empty", None),
    ([b"1200 Redirection\r\n"], "redirect_empty", None),
])
@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_errors(answers, code, status, transport):
    script = Script(answers, transport=transport, eof=True).run()
    assert isinstance(script.last, Failed)
    assert (script.last.error.code, script.last.error.to_dict()["status"]) == (code, status)
    assert script.last.error.message.isprintable()
    assert script.last.error.hint
    assert script.client.closed
    assert script.client.next_timer() is None


def test_a_line_without_end():
    client = TspClient(client_config("tcp"))
    client.connect(1.0)
    client.receive(b"x" * 5000, 1.0)
    assert client.next_event().error.code == "protocol_error"


def test_a_tunnel_of_no_use_is_rejected_in_words():
    script = Script([CAPABILITY, SUCCESS, INFO.replace(b"192.0.2.254", b"127.0.0.1")]).run()
    assert script.last.error.code == "bad_grant"
    assert script.said[-1] == b'Content-length: 35\r\n<tunnel action="reject"></tunnel>\r\n'


def test_loopback_is_allowed_where_the_broker_is_there_too():
    script = Script([CAPABILITY, SUCCESS, INFO.replace(b"192.0.2.254", b"127.0.0.1"), b""], peer_is_loopback=True).run()
    assert isinstance(script.last, Completed)


def test_a_udp_tunnel_over_tcp_is_rejected():
    info = xml_write.info(a_grant("v6udpv4"))
    script = Script([CAPABILITY, SUCCESS, info], transport="tcp").run()
    assert script.last.error.code == "bad_grant"
    assert isinstance(Script([CAPABILITY, SUCCESS, info, b""]).run().last, Completed)


def test_a_broker_that_only_says_nothing():
    script = Script([b""] * 50).run()
    assert script.last.error.code == "protocol_error"
    assert len(script.said) == 5  # VERSION and four questions


def test_a_broker_that_never_ends():
    """Parts without end: asked for a few times, then judged."""
    script = Script([CAPABILITY, SUCCESS] + [b"Content-length: 60000\r\n200 OK\r\n<tunnel>"] + [b"<a/>"] * 50).run()
    assert script.last.error.code == "protocol_error"
    assert len(script.said) < 12


def test_an_accept_that_is_refused():
    script = Script([CAPABILITY, SUCCESS, INFO, b"310 Failed to confirm client tunnel\r\n"]).run()
    assert [type(event) for event in script.events[-2:]] == [Granted, Failed]


@pytest.mark.parametrize("status", [b"1200", b"1302", b"1999"])
@pytest.mark.parametrize("before", [[], [CAPABILITY], [CAPABILITY, SUCCESS]])
@pytest.mark.parametrize("with_length", [True, False])
def test_redirections_at_every_step(status, before, with_length):
    answer = status + b" Redirection\r\n" + LIST
    script = Script([*before, headed(answer) if with_length else answer]).run()
    assert script.last == Redirected(int(status), (BrokerAddress("ipv4", "192.0.2.9"),))


# Time over TCP.


def test_a_dripping_broker_is_cut_off():
    client = TspClient(client_config("tcp", reply_timeout=10.0))
    client.connect(0.0)
    client.data_to_send(0.0)
    now = 0.0
    drip = iter(CAPABILITY * 20)
    while client.next_timer() is not None:
        now = min(now + 0.5, client.next_timer())
        client.receive(bytes([next(drip)]) if now % 0.5 == 0 else b"", now)
        client.handle_timer(now)
        assert now <= 10.0
    events = []
    while (event := client.next_event()) is not None:
        events.append(event)
    assert events[-1].error.code == "no_answer"


def test_a_silent_broker_over_tcp():
    script = Script([CAPABILITY], transport="tcp").run()
    assert script.last.error.code == "went_silent"
    assert script.now == 530.0


# The configuration.


@pytest.mark.parametrize("config", [
    {"transport": "sctp"}, {"action": "dance"}, {"version": "2"}, {"version": "2.0.2\r\nX"}, {"server": ""}, {"server": "a b"},
    {"server": "a\nb"}, {"auth_method": "kerberos"}, {"version": "1.0.1"}, {"transport": "tcp", "request": TunnelRequest(mode="v6udpv4")},
    {"transport": "tcp", "version": "1.0.1", "request": TunnelRequest(mode="v4v6")},
])
def test_configurations_that_contradict_themselves(config):
    with pytest.raises(LocalError) as caught:
        TspClient(client_config(**config))
    assert caught.value.code == "invalid_request"


def test_a_missing_client_address():
    with pytest.raises(LocalError) as caught:
        TspClient(client_config(local_address=IPv6Address("2001:db8::1"), request=TunnelRequest(mode="v6v4")))
    assert caught.value.code == "client_address_missing"
    assert "client_ipv4" in caught.value.hint
    with pytest.raises(LocalError):
        TspClient(client_config(request=TunnelRequest(mode="v4v6")))


def test_delete_needs_no_client_address():
    script = Script([CAPABILITY, SUCCESS, headed(SUCCESS)], action="delete", local_address=IPv6Address("2001:db8::1"),
                    request=TunnelRequest(mode="v6v4")).run()
    assert script.events[-2:] == [Deleted(), Completed()]


def test_secrets_do_not_show():
    credentials = Credentials("alice", "canary-91b7")
    assert "canary" not in repr(credentials)
    assert "canary" not in repr(client_config(password="canary-91b7"))


@pytest.mark.parametrize("before", [0, 100, 110, 119])
@pytest.mark.parametrize("secret", ["canary-91b7", "tab\tcanary-91b7", "canary-91b7 \u00a0"])
def test_a_broker_that_sends_the_password_back_does_not_get_it_shown(before, secret):
    said = f"300 {'x' * before} {secret}!\r\n".encode()
    for answers in ([b"CAPABILITY TUNNEL=V6V4 AUTH=PLAIN\r\n", said], [b"CAPABILITY TUNNEL=V6V4 AUTH=PLAIN\r\n", b"OK " + said[4:]]):
        script = Script(answers, transport="tcp", auth_method="plain", password=secret).run()
        message = script.events[-1].error.message
        assert "canary"[:3] not in message and message.isprintable(), "not even the part that is left when a long text is cut"


def test_plain_over_tcp_is_one_write_without_the_stray_nul():
    script = Script([b"CAPABILITY TUNNEL=V6V4 AUTH=PLAIN\r\n", SUCCESS, INFO], transport="tcp", auth_method="plain").run()
    assert script.said[1] == b"AUTHENTICATE PLAIN\r\n\0alice\0secret1\r\n"
    script = Script([b"CAPABILITY TUNNEL=V6V4 AUTH=PLAIN\r\n", b"", SUCCESS, INFO, b""], auth_method="plain").run()
    assert script.said[1:3] == [b"AUTHENTICATE PLAIN\r\n", b"\0alice\0secret1\r\n"]
    assert script.client.quirks == {}


def test_what_comes_after_the_last_word_is_ignored():
    script = Script(GOOD).run()
    for data in (b"\xf0\x00\x00\xf4" + bytes(4) + SUCCESS, b"", b"\x60" * 40):
        script.client.receive(data, script.now)
    script.client.handle_timer(script.now + 100)
    script.client.receive_eof(script.now)
    assert script.client.next_event() is None
    assert script.client.data_to_send(script.now) == []


def test_connect_twice():
    client = TspClient(client_config())
    client.connect(1.0)
    with pytest.raises(LocalError):
        client.connect(1.0)

# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""SASL DIGEST-MD5 (RFC 2831, tsp-protocol.md section 3.4): against recordings, against itself, and against tampering."""

from __future__ import annotations

import base64
import hashlib
import re

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp import digest_md5
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.errors import RemoteError
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._tsp._accounts import (
    FakeAccount,
    counting_rng,
    lookup_of,
    rng_saying,
)
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._tsp._recordings import all_sessions

REALM = "broker.example"


def make_client(username="alice", password="secret1", server="192.0.2.254", version="2.0.2", **more):
    return digest_md5.DigestClient(username, password, server=server, version=version, rng=counting_rng(), **more)


def make_server(*accounts, version="2.0.2", realm=REALM):
    return digest_md5.DigestServer(lookup_of(*(accounts or (FakeAccount(),))), realm=realm, rng=counting_rng(50), version=version)


def recorded():
    """(id, recording, challenge, response, rspauth or None) of every DIGEST-MD5 exchange that was recorded."""
    found = []
    for recording, session in all_sessions():
        client = [m.text.rstrip(b"\0") for m in session.sent("C")]
        said = [line for m in session.sent("S") for line in m.text.splitlines(keepends=True)]
        challenge = next((text for text in said if text.startswith(b"cmVhbG0")), None)
        if challenge is None:
            continue
        response = next(text for text in client if text.startswith(b"Y2hhcnNldD"))
        rspauth = next((text for text in said if text.startswith(b"cnNwYXV0aD")), None)
        found.append(pytest.param(recording, challenge, response, rspauth, id=recording.name))
    return found


def test_the_recordings_hold_digest_exchanges():
    assert len(recorded()) >= 10


@pytest.mark.parametrize("recording, challenge, response, rspauth", recorded())
def test_the_client_says_what_the_old_client_said(recording, challenge, response, rspauth):
    cnonce = re.search(rb'cnonce="([^"]*)"', base64.b64decode(response)).group(1)
    client = make_client(recording.conf["userid"], recording.conf["passwd"], recording.conf["server"], "2.0.1", cnonce=cnonce)
    assert client.split(challenge) == len(challenge)
    assert client.step(challenge) == response
    if rspauth is None:
        return
    assert client.step(rspauth) == b""
    client.finish()
    assert client.quirks == {}


@pytest.mark.parametrize("recording, challenge, response, rspauth", recorded())
def test_the_server_understands_the_old_client(recording, challenge, response, rspauth):
    fields = digest_md5.parse_fields(base64.b64decode(challenge))
    account = FakeAccount(recording.conf["userid"], recording.conf["passwd"])
    wrong = rspauth is None
    if wrong:
        account.password = "secret1"
        assert account.password != recording.conf["passwd"]
    nonce = fields["nonce"].decode()
    server = digest_md5.DigestServer(lookup_of(account), realm=fields["realm"].decode(), version="2.0.1", rng=rng_saying(nonce))
    reply, verdict = server.step(response)
    assert server.username == recording.conf["userid"]
    assert (verdict, reply) == ((False, b"") if wrong else (True, rspauth))


@pytest.mark.parametrize("username, password", [
    ("alice", "secret1"), ('q"uo"te', "secret1"), ("back\\slash\\", "p\\w"), ("zoë", "pä\"ß, wörd €"), ("a,b=c", ""), ("a b", "x y"),
])
@pytest.mark.parametrize("version", ["2.0.2", "2.0.1", "2.0.0", "1.0.1"])
def test_both_halves_agree(username, password, version):
    client, server = make_client(username, password, version=version), make_server(FakeAccount(username, password), version=version)
    reply, verdict = server.step(client.step(server.start()))
    assert verdict is True and server.username == username
    assert client.step(reply) == b""
    client.finish()


def test_the_challenge_has_the_form_old_clients_know():
    text = base64.b64decode(make_server().start())
    assert re.fullmatch(rb'realm="broker.example",nonce="[0-9a-f]{16}",qop=auth,algorithm=md5-sess,charset=utf8', text)


def test_nonces_differ():
    rng = counting_rng()
    servers = [digest_md5.DigestServer(lookup_of(), realm=REALM, rng=rng, version="2.0.2") for _unused in range(20)]
    assert len({server.start() for server in servers}) == 20


def test_the_server_string_is_signed_with_its_port():
    client, server = make_client(server="[2001:db8::1]:3653"), make_server()
    response = client.step(server.start())
    assert b'digest-uri="tsp/[2001:db8::1]:3653"' in base64.b64decode(response)
    assert server.step(response).verdict is True


# Wrong things a client can say.


def tampered(change):
    server = make_server()
    text = base64.b64decode(make_client().step(server.start()))
    changed = change(text)
    assert changed != text, "the test changed nothing"
    return server.step(base64.b64encode(changed) + b"\r\n")


@pytest.mark.parametrize("old, new", [
    (rb'username="alice"', b'username="bob"'),
    (rb'username="alice"', b'username="Alice"'),
    (rb'username="alice"', b'username=""'),
    (rb'username="alice",', b""),
    (rb'realm="broker.example"', b'realm="other.example"'),
    (rb'realm="broker.example",', b""),
    (rb'nonce="([0-9a-f])', rb'nonce="x\1'),
    (rb'nonce="[0-9a-f]{16}"', b'nonce="0000000000000000"'),
    (rb'([,])nonce="[^"]*",', rb"\1"),
    (rb"nc=00000001", b"nc=00000002"),
    (rb"nc=00000001", b"nc=1"),
    (rb"nc=00000001,", b""),
    (rb'cnonce="', b'cnonce="0'),
    (rb'cnonce="[^"]*"', b'cnonce=""'),
    (rb'cnonce="[^"]*",', b""),
    (rb'digest-uri="tsp/', b'digest-uri="imap/'),
    (rb'digest-uri="tsp/192', b'digest-uri="tsp/193'),
    (rb'digest-uri="[^"]*",', b""),
    (rb"response=.", b"response=g"),
    (rb"response=[0-9a-f]{32}", b"response=" + b"0" * 32),
    (rb"response=[0-9a-f]{32}", b"response="),
    (rb"response=[0-9a-f]{32},", b""),
    (rb"response=([0-9a-f]{32})", rb"response=\g<1>0"),
    (rb"qop=auth\Z", b"qop=auth-int"),
    (rb"qop=auth\Z", b"qop=auth,nc=00000001"),
    (rb"qop=auth\Z", b'qop="auth'),
    (rb"charset=", b"=,charset="),
])
def test_a_changed_field_is_refused(old, new):
    assert tampered(lambda text: re.sub(old, new, text, count=1)) == (b"", False)


@pytest.mark.parametrize("change", [
    lambda t: t.replace(b",", b", "),
    lambda t: t.replace(b"response=", b"RESPONSE="),
    lambda t: re.sub(rb"response=(\w+)", lambda m: b"response=" + m.group(1).upper(), t),
    lambda t: re.sub(rb"response=(\w+)", rb'response="\1"', t),
    lambda t: t.replace(b"nc=00000001", b'nc="00000001"'),
    lambda t: t.replace(b"qop=auth", b'qop="auth"'),
    lambda t: t.replace(b",qop=auth", b""),
    lambda t: t + b"\0",
    lambda t: t + b",",
    lambda t: t + b',maxbuf=4096,cipher=""',
    lambda t: b",".join(reversed(t.split(b","))),
    lambda t: re.sub(rb"charset=utf8,", b"", t),
])
def test_harmless_spellings_are_accepted(change):
    assert tampered(change).verdict is True


def test_the_response_of_another_session_is_refused():
    first, second = make_server(), digest_md5.DigestServer(lookup_of(FakeAccount()), realm=REALM, rng=counting_rng(60), version="2.0.2")
    response = make_client().step(first.start())
    assert second.step(response).verdict is False
    assert first.step(response).verdict is True


def test_one_challenge_is_good_for_one_attempt():
    server = make_server()
    right = make_client().step(server.start())
    assert server.step(make_client(password="wrong").step(server.start())).verdict is False
    assert server.step(right).verdict is False
    again = make_server()
    assert again.step(right).verdict is True
    assert again.step(right).verdict is False


@pytest.mark.parametrize("accounts", [
    (), (FakeAccount(enabled=False),), (FakeAccount(password=None),), (FakeAccount(password="other"),)])
def test_unknown_disabled_and_wrong_look_alike(accounts):
    server = digest_md5.DigestServer(lookup_of(*accounts), realm=REALM, rng=counting_rng(), version="2.0.2")
    assert base64.b64decode(server.start()).startswith(b"realm=")
    assert server.step(make_client().step(server.start())) == (b"", False)


@pytest.mark.parametrize("garbage", [b"", b"\r\n", b"\0", b"****\r\n", b"AAAA\r\n", base64.b64encode(b"username=\"x"), b"A" * 9000])
def test_garbage_is_refused(garbage):
    assert make_server().step(garbage) == (b"", False)


# Wrong things a server can say.


def challenge_of(text):
    return base64.b64encode(text) + b"\r\n"


@pytest.mark.parametrize("text, quirks", [
    (b'realm="r",nonce="n",qop=auth,algorithm=md5-sess,charset=utf8', {}),
    (b'realm="r", nonce="n", qop="auth,auth-int", algorithm=md5-sess, charset=utf-8', {}),
    (b'realm="r1",realm="r2",nonce="n",qop=auth,algorithm=md5-sess,charset=utf8', {}),
    (b'nonce="n"', {"digest_without_realm": 1, "digest_without_qop": 1, "digest_without_algorithm": 1, "digest_without_charset": 1}),
    (b'realm=r,nonce=n,qop=auth,algorithm=md5-sess,charset=utf8\0\0', {}),
])
def test_spellings_of_a_challenge(text, quirks):
    client = make_client()
    assert b'nonce="n"' in base64.b64decode(client.step(challenge_of(text)))
    assert client.quirks == quirks


@pytest.mark.parametrize("text", [
    b'realm="r",qop=auth', b'realm="r",nonce=""', b'nonce="n",qop="auth-int"', b'nonce="n",algorithm=md5', b'nonce="n"x', b"",
    b'nonce="n",nonce="m"', b'nonce="a\r\nb"', b'nonce="' + b"n" * 2000 + b'"', b"rspauth=" + b"0" * 32,
])
def test_unusable_challenges(text):
    with pytest.raises(RemoteError) as caught:
        make_client().step(challenge_of(text))
    assert caught.value.code == "bad_sasl_message"


@pytest.mark.parametrize("message", [b"*", b"\0\0", b"\xff\xfe\r\n", b"AAA=AAA="])
def test_garbage_from_the_server(message):
    with pytest.raises(RemoteError) as caught:
        make_client().step(message)
    assert caught.value.code == "bad_sasl_message"


@pytest.mark.parametrize("text", [b"rspauth=" + b"0" * 32, b"rspauth=", b"rspauth=x", b"nonce=x", b'realm="r",nonce="n"'])
def test_a_wrong_rspauth_unmasks_the_server(text):
    client = make_client()
    client.step(make_server().start())
    with pytest.raises(RemoteError) as caught:
        client.step(challenge_of(text))
    assert caught.value.code == "server_not_authentic"
    with pytest.raises(RemoteError):
        client.finish()


def test_success_without_rspauth_unmasks_the_server():
    for steps in (0, 1):
        client = make_client()
        if steps:
            client.step(make_server().start())
        with pytest.raises(RemoteError) as caught:
            client.finish()
        assert caught.value.code == "server_not_authentic"


def test_nothing_may_follow_rspauth():
    client, server = make_client(), make_server()
    rspauth = server.step(client.step(server.start())).reply
    client.step(rspauth)
    with pytest.raises(RemoteError) as caught:
        client.step(rspauth)
    assert caught.value.code == "unexpected_message"


# The zero-octet rule.


def zero_account(first, last):
    """An account whose MD5(user:realm:password) has its first zero octet at an index in first..last."""
    for number in range(20000):
        account = FakeAccount(password=f"pw{number}")
        if first <= account.ha1(REALM).find(b"\0") <= last:
            return account
    raise AssertionError("not found")


def old_response(account, server, until_zero, whole_a1):
    """What an old client sends, written down independently of the code under test."""
    nonce = re.search(rb'nonce="(\w+)"', base64.b64decode(server.start())).group(1)
    secret, tail, uri = account.ha1(REALM), b":" + nonce + b":17954", b"tsp/b.example"
    a1 = secret + tail
    if until_zero:
        a1 = secret[:secret.find(b"\0")] + (b"" if whole_a1 else tail)

    def md5(data: bytes) -> bytes:
        return hashlib.md5(data).hexdigest().encode()

    answer = md5(md5(a1) + b":" + nonce + b":00000001:17954:auth:" + md5(b"AUTHENTICATE:" + uri))
    return base64.b64encode(b'username="alice",realm="broker.example",nonce="' + nonce + b'",nc=00000001,cnonce="17954",digest-uri="'
                            + uri + b'",response=' + answer + b",qop=auth")


@pytest.mark.parametrize("version, until_zero, whole_a1, verdict", [
    ("2.0.2", False, True, True), ("2.0.2", True, True, False), ("2.0.2", True, False, False),
    ("2.0.1", True, True, False), ("2.0.0", True, True, True), ("2.0.0", True, False, True), ("2.0.0", False, True, True),
    ("1.0.1", True, True, True),
])
def test_old_versions_end_the_secret_at_a_zero_octet(version, until_zero, whole_a1, verdict):
    account = zero_account(8, 15)
    server = make_server(account, version=version)
    assert server.step(old_response(account, server, until_zero, whole_a1)).verdict is verdict


def test_a_secret_cut_too_short_opens_no_account():
    account = zero_account(0, 1)
    for whole_a1 in (True, False):
        server = make_server(account, version="2.0.0")
        assert server.step(old_response(account, server, True, whole_a1)).verdict is False


@pytest.mark.parametrize("first, last, cut", [(8, 15, True), (0, 7, False)])
def test_the_client_follows_the_rule_where_it_is_safe(first, last, cut):
    account = zero_account(first, last)
    for version in ("2.0.1", "2.0.0"):
        client = make_client("alice", account.password, "b.example", version, cnonce=b"17954")
        server = make_server(account, version=version)
        response = client.step(server.start())
        said = re.search(rb"response=(\w+)", base64.b64decode(response)).group(1)
        old = re.search(rb"response=(\w+)", base64.b64decode(old_response(account, server, True, True))).group(1)
        assert (said == old) is (cut and version == "2.0.0")
        assert client.step(server.step(response).reply) == b""
        client.finish()

# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""ANONYMOUS, PLAIN and the choice of a mechanism (tsp-protocol.md sections 3.1 to 3.3)."""

from __future__ import annotations

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp import sasl
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.errors import LocalError, RemoteError, TspError
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._tsp._accounts import FakeAccount, counting_rng, lookup_of
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._tsp._recordings import load

ALL = frozenset({"ANONYMOUS", "PLAIN", "DIGEST-MD5", "PASSDSS-3DES-1"})


def client(name, username="alice", password="secret1", **more):
    return sasl.client_mechanism(name, username=username, password=password, server="192.0.2.254", rng=counting_rng(), **more)


def server(name, *accounts, **more):
    return sasl.server_mechanism(name, lookup=lookup_of(*(accounts or (FakeAccount(),))), realm="broker.example",
                                 rng=counting_rng(100), **more)


# choose


@pytest.mark.parametrize("offered, method, more, expected", [
    (ALL, "any", {}, "PASSDSS-3DES-1"),
    (ALL, "any", {"have_passdss": False}, "DIGEST-MD5"),
    (ALL - {"PASSDSS-3DES-1"}, "any", {}, "DIGEST-MD5"),
    (frozenset({"PLAIN", "ANONYMOUS"}), "any", {"allow_plaintext": True}, "PLAIN"),
    (ALL, "anonymous", {}, "ANONYMOUS"),
    (ALL, "plain", {}, "PLAIN"),
    (ALL, "DIGEST-MD5", {}, "DIGEST-MD5"),
    (frozenset({"digest-md5"}), "any", {}, "DIGEST-MD5"),
    (frozenset({"GSSAPI", "DIGEST-MD5"}), "any", {}, "DIGEST-MD5"),
])
def test_the_strongest_permitted_mechanism_is_chosen(offered, method, more, expected):
    assert sasl.choose(offered, method, **{"allow_plaintext": False, "have_passdss": True, **more}) == expected


@pytest.mark.parametrize("offered, method, have, said", [
    ({"PLAIN"}, "any", True, "allow_plaintext"),
    ({"ANONYMOUS"}, "any", True, "auth_method: anonymous"),
    ({"PLAIN", "ANONYMOUS"}, "any", True, "allow_plaintext"),
    ({"PASSDSS-3DES-1"}, "any", False, "cryptography"),
    (set(), "any", True, "none that we know"),
    ({"DIGEST-MD5"}, "plain", True, "digest-md5"),
    ({"PLAIN"}, "digest-md5", True, "plain"),
    ({"DIGEST-MD5"}, "passdss-3des-1", True, "digest-md5"),
    ({"DIGEST-MD5"}, "anonymous", True, "digest-md5"),
])
def test_nothing_weaker_than_permitted_is_chosen(offered, method, have, said):
    with pytest.raises(RemoteError) as caught:
        sasl.choose(frozenset(offered), method, allow_plaintext=False, have_passdss=have)
    assert caught.value.code == "no_common_mechanism"
    assert said in caught.value.hint


def test_passdss_by_name_without_its_library_names_the_package():
    with pytest.raises(LocalError) as caught:
        sasl.choose(ALL, "passdss-3des-1", allow_plaintext=False, have_passdss=False)
    assert caught.value.code == "missing_library"
    assert "cryptography" in caught.value.message


def test_an_unknown_method_is_our_own_mistake():
    with pytest.raises(LocalError) as caught:
        sasl.choose(ALL, "kerberos", allow_plaintext=True, have_passdss=True)
    assert caught.value.code == "invalid_request"


# construction


@pytest.mark.parametrize("name", ["PLAIN", "DIGEST-MD5", "PASSDSS-3DES-1"])
@pytest.mark.parametrize("username, password", [(None, "secret1"), ("", "secret1"), ("alice", None)])
def test_credentials_are_needed(name, username, password):
    with pytest.raises(LocalError) as caught:
        client(name, username, password)
    assert caught.value.code == "missing_credentials"


@pytest.mark.parametrize("name", ["PLAIN", "DIGEST-MD5", "PASSDSS-3DES-1"])
@pytest.mark.parametrize("username", ["ali\0ce", "alice\r\n", "a" * 254, "\ud800"])
def test_names_that_no_broker_could_read_are_refused(name, username):
    with pytest.raises(LocalError) as caught:
        client(name, username)
    assert caught.value.code == "invalid_credentials"


@pytest.mark.parametrize("password", ["se\0cret", "se\rcret", "se\ncret"])
def test_plain_cannot_carry_every_password_and_never_shows_it(password):
    with pytest.raises(TspError) as caught:
        client("PLAIN", password=password)
    assert caught.value.code == "invalid_credentials"
    assert "cret" not in str(caught.value)


def test_unknown_mechanisms_are_refused():
    for make in (client, server):
        with pytest.raises(LocalError) as caught:
            make("CRAM-MD5")
        assert caught.value.code == "invalid_request"


def test_passdss_cannot_be_served_without_a_key():
    with pytest.raises(LocalError) as caught:
        server("PASSDSS-3DES-1")
    assert caught.value.code == "missing_key"


# ANONYMOUS


def test_anonymous_needs_nothing_but_the_request():
    ours, theirs = client("ANONYMOUS", None, None), server("ANONYMOUS")
    assert ours.first() == b"" and theirs.immediate and theirs.start() == b""
    assert theirs.step(b"") == (b"", True)
    assert theirs.username is None
    ours.finish()


def test_anonymous_expects_no_message():
    with pytest.raises(RemoteError) as caught:
        client("ANONYMOUS").step(b"cmVhbG0=\r\n")
    assert caught.value.code == "unexpected_message"


# PLAIN


def test_plain_bytes_are_those_of_the_old_client():
    for name in ("tsps-udp-plain-v6udpv4", "stub-tcp-v6v4-plain", "stub-wrongpw-plain"):
        recording = load(name)
        said = b"".join(m.text for m in recording.answered()[0].sent("C"))
        sent = client("PLAIN", recording.conf["userid"], recording.conf["passwd"]).first()
        assert b"AUTHENTICATE PLAIN\r\n\0" + sent in said


@pytest.mark.parametrize("message, verdict", [
    (b"\0alice\0secret1\r\n", True),
    (b"\0\0alice\0secret1\r\n", True),
    (b"\0alice\0secret1\n", True),
    (b"\0alice\0secret1\r\b", True),
    (b"\0alice\0secret1", True),
    (b"\0alice\0secret1\r\n\0", True),
    (b"alice\0alice\0secret1\r\n", True),
    (b"root\0alice\0secret1\r\n", False),
    (b"\0alice\0secret2\r\n", False),
    (b"\0alice\0secret1 \r\n", False),
    (b"\0alice\0\r\n", False),
    (b"\0bob\0secret1\r\n", False),
    (b"\0\0secret1\r\n", False),
    (b"alice\0secret1\r\n", False),
    (b"\0al\xffice\0secret1\r\n", False),
    (b"\0alice\0secr\xff\r\n", False),
    (b"\r\n", False),
    (b"", False),
    (b"\0" * 9000, False),
    (b"\0alice\0" + b"x" * 2000 + b"\r\n", False),
])
def test_plain_verdicts(message, verdict):
    assert server("PLAIN").step(message) == (b"", verdict)


def test_plain_carries_utf8_unchanged():
    account = FakeAccount("zoë", "pässwörd €\\\"")
    ours = client("PLAIN", "zoë", "pässwörd €\\\"")
    assert ours.first() == "\0zoë\0pässwörd €\\\"\r\n".encode()
    theirs = server("PLAIN", account)
    assert theirs.step(ours.first()) == (b"", True)
    assert theirs.username == "zoë"


def test_a_disabled_account_pays_for_the_comparison_and_is_refused():
    account = FakeAccount(enabled=False)
    assert server("PLAIN", account).step(b"\0alice\0secret1\r\n") == (b"", False)
    assert account.verified == 1


def test_plain_is_found_in_a_stream_byte_by_byte():
    stream = b"\0\0alice\0secret1\r\nContent-length: 35\r\n"
    theirs = server("PLAIN")
    ends = {theirs.split(stream[:length]) for length in range(len(stream) + 1)}
    assert ends == {None, 17}
    assert theirs.split(b"x" * 9000) == 9000, "what never ends must not be waited for"


def test_base64_is_forgiving_at_the_edges_only():
    assert sasl.decode_base64(b"\0\r\nYWJjZA==\r\n\0") == b"abcd"
    assert sasl.decode_base64(b"YWJjZA\r\n") == b"abcd"
    assert sasl.decode_base64(b"") == b""
    for bad in (b"Y", b"YW JjZA==", b"YWJj*A==", b"YW=JjZA=", b"\xff" * 8, b"A" * 8193):
        assert sasl.decode_base64(bad) is None


def test_without_cryptography_passdss_is_missing_and_says_so(monkeypatch):
    import builtins
    real = builtins.__import__

    def fake(name, *args, **kwargs):
        if name.startswith("cryptography"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", fake)
    assert sasl.have_passdss() is False
    with pytest.raises(LocalError) as caught:
        client("PASSDSS-3DES-1")
    assert caught.value.code == "missing_library" and "cryptography" in caught.value.hint

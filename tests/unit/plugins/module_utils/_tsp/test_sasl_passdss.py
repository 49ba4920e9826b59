# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""SASL PASSDSS-3DES-1 (tsp-protocol.md section 3.5): against a model of the old client, against itself, and against tampering."""

from __future__ import annotations

import base64
import hashlib
import hmac
import struct

import pytest

pytest.importorskip("cryptography")

from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp import dsakey, passdss, sasl  # noqa: E402
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.errors import LocalError, RemoteError  # noqa: E402
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.server import ServerConfig, TspServer  # noqa: E402
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._tsp._accounts import (  # noqa: E402
    FakeAccount,
    counting_rng,
    lookup_of,
)
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._tsp._pair import FakeBackend  # noqa: E402
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._tsp._recordings import load  # noqa: E402

PASSDSS_RECORDINGS = ("stub-udp-v6v4-passdss", "stub-udp-v6v4-passdss-keyknown", "stub-tcp-v6v4-passdss-3des-1", "stub-tcp-any",
                      "stub-passdss-badsig", "stub-passdss-shortsig")


@pytest.fixture(scope="module")
def key():
    return dsakey.generate_dsa_key()


def trust(blob):
    """Any key will do."""


def make_client(username="alice", password="secret1", verify_key=trust, seed=0):
    return passdss.PassdssClient(username, password, rng=counting_rng(seed), verify_key=verify_key)


def make_server(key, *accounts, seed=500):
    return passdss.PassdssServer(lookup_of(*(accounts or (FakeAccount(),))), rng=counting_rng(seed), dsa_key=key)


def mpint(number):
    data = number.to_bytes((number.bit_length() + 7) // 8, "big")
    return struct.pack(">I", len(data)) + data


def fields(data, layout):
    """Take s (string), m (mpint), 4 (four octets) out of `data`; the last element is what is left."""
    out = []
    for kind in layout:
        if kind == "4":
            value, data = data[:4], data[4:]
        else:
            (length,) = struct.unpack(">I", data[:4])
            value, data = data[4:4 + length], data[4 + length:]
            assert len(value) == length
        out.append(int.from_bytes(value, "big") if kind == "m" else value)
    return [*out, data]


def recorded_texts(name):
    session = load(name).answered()[-1]
    texts = [(m.direction, m.text) for m in session.messages]
    at = next(i for i, (side, text) in enumerate(texts) if side == "C" and text.startswith(b"AUTHENTICATE PASSDSS"))
    c1 = next(text for side, text in texts[at + 1:] if side == "C")
    s2 = next(text for side, text in texts[at + 1:] if side == "S" and text.startswith(b"AAAB"))
    return c1, s2


class OldClient:
    """What gw6c does, out of tsp-protocol.md section 3.5 alone, DSA in plain arithmetic."""

    def __init__(self, user=b"alice", password=b"secret1", secret=0x1234567890ABCDEF << 900):
        self.secret, self.password = secret, password
        self.c1 = struct.pack(">I", 0) + struct.pack(">I", len(user)) + user + mpint(pow(2, secret, passdss.PRIME))

    def answer(self, s2, zero_padding=False):
        blob, y, four, signature, rest = fields(base64.b64decode(s2), "sm4s")
        assert not rest and len(blob) >= 240 and len(signature) >= 59
        _name, p, q, g, public, rest = fields(blob, "smmmm")
        name, r, s, rest = fields(signature, "smm")
        assert name == b"ssh-dss" and not rest
        k = mpint(pow(y, self.secret, passdss.PRIME))
        hashed = self.c1 + struct.pack(">I", len(blob)) + blob + mpint(y) + four
        h = hashlib.sha1(hashed + k).digest()
        w = pow(s, -1, q)
        v = pow(g, int.from_bytes(h, "big") * w % q, p) * pow(public, r * w % q, p) % p % q
        assert v == r, "the signature is not one over H itself"
        first = hashlib.sha1(k + b"C" + h).digest()
        self.keys = (hashlib.sha1(k + b"A" + h).digest()[:8], (first + hashlib.sha1(k + first).digest())[:24])
        own = four[:1] + b"\0\0\0"
        mac = hmac.new(hashlib.sha1(k + b"E" + h).digest(), hashed + own, hashlib.sha1).digest()
        content = own + struct.pack(">I", len(self.password)) + self.password + mac
        padding = -len(content) % 8 if zero_padding else 8 - len(content) % 8
        return self.encrypt(content + (b"\0" if zero_padding else bytes([padding])) * padding)

    def encrypt(self, content):
        lib = dsakey.library()
        cipher = lib.ciphers.Cipher(lib.triple_des(self.keys[1]), lib.ciphers.modes.CBC(self.keys[0])).encryptor()
        return base64.b64encode(cipher.update(content) + cipher.finalize())


# Both halves.


@pytest.mark.parametrize("username, password", [
    ("alice", "secret1"), ("zoë", "pä\"ß\\ wörd €"), ("a", ""), ("a" * 253, "p" * 1024), ("alice", "12345"), ("alice", "line\r\nend\0"),
])
def test_both_halves_agree(key, username, password):
    client, server = make_client(username, password), make_server(key, FakeAccount(username, password))
    assert server.start() == b""
    s2, verdict = server.step(client.first())
    assert verdict is None and server.username == username
    assert server.step(client.step(s2)) == (b"", True)
    client.finish()


@pytest.mark.parametrize("length", range(20))
@pytest.mark.parametrize("zero_padding", [False, True])
def test_the_server_understands_the_old_client(key, length, zero_padding):
    old, server = OldClient(password=b"p" * length), make_server(key, FakeAccount(password="p" * length))
    s2 = server.step(base64.b64encode(old.c1)).reply
    assert s2.endswith(b"\r\n")
    assert server.step(old.answer(s2, zero_padding)) == (b"", True)


def test_both_numbers_of_a_signature_have_twenty_octets(key):
    for number in range(150):  # one in 128 would be shorter
        r, s = key.sign(hashlib.sha1(bytes([number])).digest())
        assert r.bit_length() > 152 and s.bit_length() > 152


def test_numbers_have_no_leading_zero_octet(key):
    for seed in range(40):
        client, server = make_client(seed=seed), make_server(key, seed=900 + seed)
        c1 = base64.b64decode(client.first())
        _blob, rest = fields(base64.b64decode(server.step(client.first()).reply), "s")
        for data in (c1[4 + 4 + 5:], rest):
            assert data[4] != 0


def test_the_key_is_written_as_the_recorded_servers_wrote_theirs(key):
    _c1, s2 = recorded_texts("stub-udp-v6v4-passdss")
    recorded = fields(base64.b64decode(s2), "s")[0]
    for blob in (key.blob, recorded):
        name, p, q, g, y, rest = fields(blob, "smmmm")
        assert name == b"ssh-dss" and not rest and p.bit_length() == 1024 and q.bit_length() == 160
        assert dsakey.key_blob(p, q, g, y) == blob


@pytest.mark.parametrize("name", PASSDSS_RECORDINGS)
def test_recorded_first_messages_get_an_answer_the_old_client_accepts(key, name):
    c1, _s2 = recorded_texts(name)
    server = make_server(key)
    for stray in (b"", b"\0", b"\0\r\n"):
        assert server.split(stray + c1) == len(stray + c1)
    s2, verdict = server.step(c1)
    assert verdict is None and server.username == "alice"
    blob, _y, four, signature, rest = fields(base64.b64decode(s2), "sm4s")
    assert len(blob) >= 240 and len(signature) == 59 and four == b"\1\0\0\0" and not rest


@pytest.mark.parametrize("name", PASSDSS_RECORDINGS)
def test_the_client_has_the_layout_of_the_old_one(name):
    c1, _s2 = recorded_texts(name)
    ours = base64.b64decode(make_client().first())
    theirs = base64.b64decode(c1)
    assert fields(ours, "ss")[:2] == fields(theirs, "ss")[:2] == [b"", b"alice"]
    assert fields(ours, "ssm")[3] == fields(theirs, "ssm")[3] == b""


@pytest.mark.parametrize("name", PASSDSS_RECORDINGS)
def test_a_recorded_answer_proves_nothing_to_another_client(name):
    _c1, s2 = recorded_texts(name)
    client = make_client()
    assert client.split(s2) == len(s2)
    with pytest.raises(RemoteError) as caught:
        client.step(s2)
    assert caught.value.code == "server_not_authentic"


# Whole sessions of the old client, model instead of recording, because its answer depends on ours.


@pytest.mark.parametrize("transport, piece", [("udp", 0), ("tcp", 0), ("tcp", 1), ("tcp", 50)])
@pytest.mark.parametrize("password, right", [("secret1", True), ("wrong", False), ("1234567890123456", False)])
def test_an_old_client_gets_through_a_whole_session(key, transport, piece, password, right):
    broker = TspServer(ServerConfig(rng=counting_rng(3), dsa_key=key), FakeBackend(), transport, ("192.0.2.1", 4000))
    number = [0xF00000EF]

    def ask(text):
        number[0] += 1
        header = struct.pack(">II", number[0], 371) if transport == "udp" else b""
        data, said = header + text, []
        for at in range(0, len(data), piece or len(data)):
            broker.receive(data[at:at + (piece or len(data))], 0.0)
            said += broker.data_to_send(0.0)
        assert len(said) == 1 if transport == "udp" else len(said) <= 1
        return said[0][len(header):] if said else b""

    assert b" AUTH=PASSDSS-3DES-1" in ask(b"VERSION=2.0.1\r\n")
    old = OldClient(password=password.encode())
    assert ask(b"AUTHENTICATE PASSDSS-3DES-1\r\n\0") == b"", "over UDP the bare header, over TCP nothing"
    s2 = ask(base64.b64encode(old.c1))
    verdict = ask(old.answer(s2))
    assert verdict == (b"200 Success\r\n" if right else b"300 Authentication failed\r\n")
    if right:
        body = b'<tunnel action="create" type="v6v4" proxy="no">\r\n <client>\r\n  <address type="ipv4">192.0.2.1</address>\r\n'
        body += b" </client>\r\n</tunnel>\r\n"
        assert b"\r\n200 Success\r\n<tunnel action=\"info\"" in ask(b"Content-length: %d\r\n" % len(body) + body)


# Streams.


@pytest.mark.parametrize("line_end", [b"", b"\r\n", b"\n"])
@pytest.mark.parametrize("password", ["secret1", "1234", "123456789012", "", "12345678901234567890"])
def test_messages_are_found_in_a_stream_byte_by_byte(key, password, line_end):
    client, server = make_client(password=password), make_server(key, FakeAccount(password=password))

    def feed(half, message):
        """The message as `half` finds it when it comes in single octets, and when it comes whole."""
        whole = half.split(message)
        assert whole == len(message)
        ends = [(half.split(message[:length]), length) for length in range(len(message) + 1)]
        found = next(end for end, _length in ends if end is not None)
        assert all(end is None for end, length in ends if length < found)
        assert message[found:] in (b"", b"\r\n", b"\n")
        return message[:found]

    c1 = client.first()
    s2 = server.step(feed(server, b"\0" + c1 + line_end)).reply
    assert s2[-2:] == b"\r\n"
    c3 = client.step(feed(client, s2[:-2] + line_end))
    assert server.step(feed(server, b"\r\n" + c3 + line_end)) == (b"", True)
    client.finish()


def test_a_zero_padded_answer_is_found_by_its_line_end(key):
    old, server = OldClient(password=b"1234"), make_server(key, FakeAccount(password="1234"))
    c3 = old.answer(server.step(base64.b64encode(old.c1)).reply, zero_padding=True)
    assert len(base64.b64decode(c3)) == 32
    assert server.split(c3) == len(c3), "the base64 padding shows that nothing follows"
    assert server.split(c3 + b"\r\n") == len(c3) + 2


def test_hopeless_streams_end_at_once(key):
    server = make_server(key)
    for stream in (b"////////", b"hello world", b"A" * 9000, b"\xff"):
        end = server.split(stream)
        assert end is not None and server.step(stream[:end]) == (b"", False)
        server = make_server(key)
    assert make_client().split(b"300 Authentication failed\r\n") == 27
    assert make_client().split(b"300 Authent") is None


# Wrong things a client can say.


def exchange(key, change_c1=None, change_c3=None, accounts=(), password="secret1"):
    server, client = make_server(key, *accounts), make_client(password=password)
    c1 = client.first()
    step = server.step(c1 if change_c1 is None else base64.b64encode(change_c1(base64.b64decode(c1))))
    if step.verdict is not None:
        return step
    c3 = base64.b64decode(client.step(step.reply)) if change_c1 is None else bytes(40)
    return server.step(base64.b64encode(c3 if change_c3 is None else change_c3(c3)))


X_AT = 4 + 4 + 5


@pytest.mark.parametrize("change", [
    lambda c1: c1[:X_AT] + mpint(0), lambda c1: c1[:X_AT] + mpint(1), lambda c1: c1[:X_AT] + mpint(passdss.PRIME - 1),
    lambda c1: c1[:X_AT] + mpint(passdss.PRIME), lambda c1: c1[:X_AT] + mpint(passdss.PRIME + 5),
    lambda c1: c1 + b"\0", lambda c1: c1[:-1], lambda c1: c1[:6], lambda c1: b"", lambda c1: b"\xff" * 40,
    lambda c1: b"\0\0\0\4root" + c1[4:], lambda c1: c1[:4] + b"\0\0\0\0" + c1[X_AT:], lambda c1: c1[:8] + b"\xff" + c1[9:],
    lambda c1: c1[:8] + b"\0" + c1[9:],
])
def test_a_malformed_first_message_is_refused(key, change):
    assert exchange(key, change_c1=change) == (b"", False)


def test_a_changed_exchange_value_is_refused_at_the_end(key):
    assert exchange(key, change_c1=lambda c1: c1[:-1] + bytes([c1[-1] ^ 1])) == (b"", False)


def test_the_user_as_its_own_authorisation_identity_is_accepted(key):
    server = make_server(key)
    old = OldClient()
    old.c1 = b"\0\0\0\5alice" + old.c1[4:]
    assert server.step(old.answer(server.step(base64.b64encode(old.c1)).reply)).verdict is True


@pytest.mark.parametrize("octet", range(40))
def test_no_octet_of_the_answer_can_be_changed(key, octet):
    assert exchange(key, change_c3=lambda c3: c3[:octet] + bytes([c3[octet] ^ 0x40]) + c3[octet + 1:]) == (b"", False)


@pytest.mark.parametrize("change", [lambda c3: b"", lambda c3: c3[:-1], lambda c3: c3[:-8], lambda c3: c3 + bytes(8), lambda c3: bytes(40)])
def test_a_malformed_answer_is_refused(key, change):
    assert exchange(key, change_c3=change) == (b"", False)


def test_wrong_padding_is_refused(key):
    old, server = OldClient(), make_server(key)
    old.answer(server.step(base64.b64encode(old.c1)).reply)
    lib = dsakey.library()
    cipher = lib.ciphers.Cipher(lib.triple_des(old.keys[1]), lib.ciphers.modes.CBC(old.keys[0])).decryptor()
    right = OldClient.answer(old, make_and_keep(server, old))
    content = cipher.update(base64.b64decode(right)) + cipher.finalize()
    assert server.step(old.encrypt(content[:-1] + b"\7")) == (b"", False)


def make_and_keep(server, old):
    """S2 of `server` again, for the keys that it already has."""
    fresh = passdss.PassdssServer(lookup_of(FakeAccount()), rng=counting_rng(500), dsa_key=server._key)
    return fresh.step(base64.b64encode(old.c1)).reply


@pytest.mark.parametrize("accounts", [
    (FakeAccount("bob"),), (FakeAccount(enabled=False),), (FakeAccount(password="other"),), (FakeAccount(password=None),)])
def test_unknown_disabled_and_wrong_look_alike(key, accounts):
    assert exchange(key, accounts=accounts) == (b"", False)


def test_one_exchange_is_good_for_one_attempt(key):
    client, server = make_client(), make_server(key)
    c3 = client.step(server.step(client.first()).reply)
    assert server.step(base64.b64encode(bytes(40))).verdict is False
    assert server.step(c3).verdict is False


@pytest.mark.parametrize("garbage", [b"", b"\r\n", b"*", b"\0\0", b"A", b"=" * 8, b"A" * 9000])
def test_garbage_is_refused(key, garbage):
    assert make_server(key).step(garbage) == (b"", False)


# Wrong things a server can say.


def s2_changed(key, change, verify_key=trust):
    client = make_client(verify_key=verify_key)
    s2 = base64.b64decode(make_server(key).step(client.first()).reply)
    with pytest.raises(RemoteError) as caught:
        client.step(base64.b64encode(change(s2)) + b"\r\n")
    with pytest.raises(RemoteError):
        client.finish()
    return caught.value.code


def replaced(s2, **new):
    blob, y, four, signature, _rest = fields(s2, "sm4s")
    parts = {"blob": blob, "y": mpint(y), "four": four, "signature": signature, **new}
    return (struct.pack(">I", len(parts["blob"])) + parts["blob"] + parts["y"] + parts["four"]
            + struct.pack(">I", len(parts["signature"])) + parts["signature"])


@pytest.mark.parametrize("change, code", [
    (lambda s2: replaced(s2, y=mpint(2)), "server_not_authentic"),
    (lambda s2: replaced(s2, y=mpint(0)), "bad_sasl_message"),
    (lambda s2: replaced(s2, y=mpint(1)), "bad_sasl_message"),
    (lambda s2: replaced(s2, y=mpint(passdss.PRIME - 1)), "bad_sasl_message"),
    (lambda s2: replaced(s2, y=mpint(passdss.PRIME + 2)), "bad_sasl_message"),
    (lambda s2: replaced(s2, four=b"\3\0\0\0"), "server_not_authentic"),
    (lambda s2: replaced(s2, four=b"\1\0\0\1"), "server_not_authentic"),
    (lambda s2: replaced(s2, blob=fields(s2, "s")[0][:200]), "bad_sasl_message"),
    (lambda s2: replaced(s2, blob=b"\0\0\0\7ssh-rsa" + fields(s2, "s")[0][11:]), "bad_sasl_message"),
    (lambda s2: replaced(s2, blob=fields(s2, "s")[0][:-1] + b"\1"), "bad_sasl_message"),
    (lambda s2: replaced(s2, blob=fields(s2, "s")[0] + b"\0"), "bad_sasl_message"),
    (lambda s2: replaced(s2, signature=b"\0\0\0\7ssh-dss" + mpint(1 << 159) + mpint(1 << 158)), "server_not_authentic"),
    (lambda s2: replaced(s2, signature=b"\0\0\0\7ssh-dss" + mpint(0) + mpint(0)), "server_not_authentic"),
    (lambda s2: replaced(s2, signature=b"\0\0\0\7ssh-dss" + mpint(1 << 900) + mpint(1)), "server_not_authentic"),
    (lambda s2: replaced(s2, signature=b"\0\0\0\7ssh-rsa" + bytes(48)), "bad_sasl_message"),
    (lambda s2: replaced(s2, signature=b""), "bad_sasl_message"),
    (lambda s2: replaced(s2, signature=fields(s2, "sm4s")[3] + b"\0"), "bad_sasl_message"),
    (lambda s2: s2 + b"\0", "bad_sasl_message"),
    (lambda s2: s2[:-1], "bad_sasl_message"),
    (lambda s2: b"", "bad_sasl_message"),
    (lambda s2: b"\xff" * 60, "bad_sasl_message"),
])
def test_a_changed_answer_is_refused_before_the_password_leaves(key, change, code):
    assert s2_changed(key, change) == code


def test_a_signature_over_a_second_hash_is_refused(key):
    """ssh-dss signs SHA-1(H); this mechanism signs H."""
    class Twice:
        blob = key.blob

        @staticmethod
        def sign(digest):
            return key.sign(hashlib.sha1(digest).digest())

    client = make_client()
    with pytest.raises(RemoteError) as caught:
        client.step(make_server(Twice).step(client.first()).reply)
    assert caught.value.code == "server_not_authentic"


def test_a_zero_octet_before_y_on_the_wire_does_no_harm(key):
    """A server may write Y as SSH does as long as it hashes the minimal form (tsp-protocol.md section 3.5)."""
    client, server = make_client(), make_server(key)
    s2 = base64.b64decode(server.step(client.first()).reply)
    y = mpint(fields(s2, "sm")[1])[4:]
    padded = replaced(s2, y=struct.pack(">I", len(y) + 1) + b"\0" + y)
    assert server.step(client.step(base64.b64encode(padded))).verdict is True


def test_short_signature_numbers_do_no_harm_to_us(key):
    """Old clients refuse them; DSA does not care."""
    class Short:
        blob = key.blob

        @staticmethod
        def sign(digest):
            lib = dsakey.library()
            while True:
                signature = key._private.sign(digest, lib.utils.Prehashed(lib.hashes.SHA1()))
                r, s = lib.utils.decode_dss_signature(signature)
                if r.bit_length() <= 152 or s.bit_length() <= 152:
                    return r, s

    client, server = make_client(), make_server(Short)
    assert server.step(client.step(server.step(client.first()).reply)).verdict is True


def test_a_key_that_is_no_dsa_key_is_refused(key):
    name, p, q, _g, y, _rest = fields(key.blob, "smmmm")
    for wrong in ((p, q, 1, y), (p, q, 2, 1), (p, q, p - 1, y), (p, q, _g, 0), (p, q, _g, p), (p - 2, q, _g, y), (p, q + 2, _g, y),
                  (1 << 1023, 1 << 159, 2, 4), (p, 1, _g, y), (p, 0, _g, y), (3 ** 9000, 3 ** 5000, 3, 3)):
        code = s2_changed(key, lambda s2, wrong=wrong: replaced(s2, blob=dsakey.key_blob(*wrong).ljust(240, b"\0")))
        assert code in ("bad_sasl_message", "server_not_authentic")


def test_the_key_is_judged_after_its_signature(key):
    judged = []
    client = make_client(verify_key=judged.append)
    client.step(make_server(key).step(client.first()).reply)
    assert judged == [key.blob]
    judged.clear()
    s2_changed(key, lambda s2: replaced(s2, four=b"\3\0\0\0"), judged.append)
    assert judged == []


def test_a_refused_key_ends_it(key):
    def refuse(blob):
        raise RemoteError("server_key_changed", "no")

    assert s2_changed(key, lambda s2: s2, refuse) == "server_key_changed"
    assert s2_changed(key, lambda s2: s2, None) == "server_key_unknown"


def test_success_without_proof_unmasks_the_server():
    with pytest.raises(RemoteError) as caught:
        make_client().finish()
    assert caught.value.code == "server_not_authentic"


def test_nothing_may_follow(key):
    client = make_client()
    s2 = make_server(key).step(client.first()).reply
    client.step(s2)
    with pytest.raises(RemoteError) as caught:
        client.step(s2)
    assert caught.value.code == "unexpected_message"


# The broker's key.


def test_a_key_survives_its_file(key):
    again = dsakey.load_dsa_key(key.to_pem())
    assert again.blob == key.blob and again.to_pem() == key.to_pem()
    assert key.to_pem().startswith(b"-----BEGIN PRIVATE KEY-----")


def test_a_key_does_not_show_itself(key):
    assert repr(key) == f"<DsaKey {dsakey.fingerprint(key.blob)}>"


def test_key_files_that_hold_something_else():
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import dsa, ec
    encodings = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    for pem in (b"", b"nonsense", ec.generate_private_key(ec.SECP256R1()).private_bytes(*encodings),
                dsa.generate_private_key(2048).private_bytes(*encodings)):
        with pytest.raises(LocalError) as caught:
            dsakey.load_dsa_key(pem)
        assert caught.value.code == "invalid_key"


def test_the_library_is_there():
    assert sasl.have_passdss() is True

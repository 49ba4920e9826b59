# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""SASL PASSDSS-3DES-1 (draft-newman-sasl-passdss-01) as TSP speaks it (tsp-protocol.md section 3.5), both halves.

Diffie-Hellman, the server's half signed with its DSA key; then the password, encrypted. Three messages, each one base64 text:

    C1  string authorisation id (empty), string user, mpint X
    S2  uint32 length of the key blob, key blob, mpint Y, layer mask, 3 octets buffer size, uint32 length of the signature, signature
    C3  3DES-CBC(layer mask, 3 octets buffer size, string password, HMAC-SHA-1), PKCS#5 or zero padding

The clients' messages carry no line end, so `split` finds their end by their structure.

What is signed: DSA over H itself, H being the SHA-1 that the signature algorithm would otherwise compute; H is not hashed a
second time as SSH's ssh-dss does. tsp-protocol.md section 3.5 says "DSA signature of H", verified live against two client
versions; the other public implementation of the draft, plugins/passdss.c of Cyrus SASL 2.1, hands the 20 octets of the hash to
OpenSSL's DSA_do_sign, which hashes nothing. The client accepts only that.

3DES and DSA come from the package cryptography, imported when the mechanism is chosen. The Diffie-Hellman exchange is
`pow()`: one use per key, so its timing tells nobody anything twice, and this group is too small for some builds of OpenSSL.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Callable
from typing import Any

from .dsakey import SSH_DSS, DsaKey, Reader, Short, fingerprint, library, mpint, string, verify
from .errors import RemoteError
from .sasl import (
    MAX_MESSAGE,
    MAX_PASSWORD,
    PASSDSS,
    AccountLookup,
    ClientMechanism,
    Rng,
    ServerMechanism,
    ServerStep,
    VerifyKey,
    decode_base64,
    decode_name,
    encode_credentials,
    line_length,
    verify_password,
)

PRIME = int(
    "FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74020BBEA63B139B22514A08798E3404DD"
    "EF9519B3CD3A431B302B0A6DF25F14374FE1356D6D51C245E485B576625E7EC6F44C42E9A637ED6B0BFF5CB6F406B7ED"
    "EE386BFB5A899FA5AE9F24117C4B1FE649286651ECE65381FFFFFFFFFFFFFFFF", 16)
"""Second Oakley group (RFC 2409 section 6.2), generator 2."""
GENERATOR = 2
EXPONENT_OCTETS = 24
"""192 random bits: RFC 3526 section 8 asks for twice the strength of the group in bits, here about 160; each octet more costs time."""
LAYERS = b"\x01\x00\x00\x00"
"""Offered: no security layer, hence no buffer. TSP never uses one."""
SHORTEST_BLOB = 240
"""Octets; the old client refuses shorter key blobs."""
MAC_OCTETS = 20
_BLOCK = 8
_STRAY = b"\0\r\n"
_BASE64 = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=")


# What both halves compute.


class _Keys:
    """The keys of one exchange. transcript: C1, and S2 up to its signature, Y in its minimal form."""

    def __init__(self, transcript: bytes, shared: int) -> None:
        k = mpint(shared)
        self.h = hashlib.sha1(transcript + k).digest()
        first = hashlib.sha1(k + b"C" + self.h).digest()
        self._transcript = transcript
        self._iv = hashlib.sha1(k + b"A" + self.h).digest()[:_BLOCK]
        self._cipher_key = (first + hashlib.sha1(k + first).digest())[:24]
        self._integrity_key = hashlib.sha1(k + b"E" + self.h).digest()

    def mac(self, layers: bytes) -> bytes:
        return hmac.new(self._integrity_key, self._transcript + layers, hashlib.sha1).digest()

    def encrypt(self, data: bytes) -> bytes:
        context = self._cipher().encryptor()
        return bytes(context.update(data) + context.finalize())

    def decrypt(self, data: bytes) -> bytes:
        context = self._cipher().decryptor()
        return bytes(context.update(data) + context.finalize())

    def _cipher(self) -> Any:
        lib = library()
        return lib.ciphers.Cipher(lib.triple_des(self._cipher_key), lib.ciphers.modes.CBC(self._iv))


def _exponent(rng: Rng) -> int:
    return int.from_bytes(rng(EXPONENT_OCTETS), "big") | 1 << (8 * EXPONENT_OCTETS - 1)


def _in_range(number: int) -> bool:
    return 1 < number < PRIME - 1


def _split(buffer: bytes, structure: Callable[[bytes], int]) -> int | None:
    """Where a base64 message ends in `buffer` by its structure, its line end included if it is there already.

    structure(data) -> octets of the decoded message, raising Short when `data` is too short to tell, ValueError when hopeless.
    A line end or an octet that is not base64 ends a message too, and a hopeless one ends at once: whoever reads it refuses it.
    """
    start = 0
    while start < len(buffer) and buffer[start] in _STRAY:
        start += 1
    end = start
    while end < len(buffer) and buffer[end] in _BASE64:
        end += 1
    if end - start > MAX_MESSAGE:
        return len(buffer)
    needed = None
    try:
        needed = start + -(-structure(base64.b64decode(buffer[start:start + (end - start) // 4 * 4])) // 3) * 4
    except Short:
        pass
    except (ValueError, binascii.Error):
        return len(buffer)
    if needed is not None and needed <= end:
        rest = buffer[needed:needed + 2]
        return needed + (2 if rest == b"\r\n" else 1 if rest[:1] == b"\n" else 0)
    if end == len(buffer):
        return None
    if buffer[end] in b"\r\n":
        length = line_length(buffer[end:])
        return None if length is None else end + length
    return end + 1


class PassdssClient(ClientMechanism):
    """The client's half. verify_key(blob) judges the broker's key, after its signature was found good; None trusts no key."""

    name = PASSDSS

    def __init__(self, username: str, password: str, *, rng: Rng, verify_key: VerifyKey | None) -> None:
        super().__init__()
        library()
        self._user, self._password = encode_credentials(username, password)
        self._x = _exponent(rng)
        self._verify_key = verify_key
        self._c1 = string(b"") + string(self._user) + mpint(pow(GENERATOR, self._x, PRIME))
        self._authentic = False

    def first(self) -> bytes:
        return base64.b64encode(self._c1)

    def split(self, buffer: bytes) -> int | None:
        # A key blob is shorter than 2^24 octets, so S2 begins with A; anything else is a line of another kind.
        if buffer.lstrip(_STRAY)[:1] not in (b"", b"A"):
            return line_length(buffer)
        return _split(buffer, self._length_of_s2)

    @staticmethod
    def _length_of_s2(data: bytes) -> int:
        reader = Reader(data)
        reader.string()
        reader.string()
        reader.take(4)
        return reader.length() + reader.at

    def step(self, message: bytes) -> bytes:
        if self._authentic:
            return super().step(message)
        data = decode_base64(message)
        try:
            if data is None:
                raise ValueError("it is not base64")
            return self._answer(data)
        except (Short, ValueError) as exc:
            why = "it ends too early" if isinstance(exc, Short) else str(exc)
            raise RemoteError("bad_sasl_message", f"The broker's PASSDSS-3DES-1 message is of no use: {why}.",
                              "Report it to the broker's operator, or choose another auth_method.") from None

    def finish(self) -> None:
        if not self._authentic:
            raise self._not_authentic()

    @staticmethod
    def _not_authentic() -> RemoteError:
        return RemoteError("server_not_authentic", "The broker did not prove that it holds its key (PASSDSS-3DES-1 signature).",
                           "Somebody may be answering in the broker's place: check its address and the network in between.")

    def _answer(self, data: bytes) -> bytes:
        reader = Reader(data)
        blob, y, layers = reader.string(), reader.mpint(), reader.take(4)
        signature = Reader(reader.string())
        if len(blob) < SHORTEST_BLOB:
            raise ValueError("its key is too short")
        if signature.string() != SSH_DSS:
            raise ValueError("its signature is not ssh-dss")
        r, s = signature.mpint(), signature.mpint()
        if reader.at != len(data) or signature.at != len(signature.data):
            raise ValueError("octets follow its end")
        if not _in_range(y):
            raise ValueError("its Diffie-Hellman value is out of range")
        keys = _Keys(self._c1 + string(blob) + mpint(y) + layers, pow(y, self._x, PRIME))
        if not verify(blob, keys.h, r, s):
            raise self._not_authentic()
        if self._verify_key is None:
            raise RemoteError("server_key_unknown", f"The broker's key {fingerprint(blob)} is not known.",
                              "Name it in server_key, or add it to the known keys file.")
        self._verify_key(blob)
        self._authentic = True
        own_layers = layers[:1] + b"\0\0\0"  # the old client repeats the mask
        content = own_layers + string(self._password) + keys.mac(own_layers)
        padding = _BLOCK - len(content) % _BLOCK
        return base64.b64encode(keys.encrypt(content + bytes([padding]) * padding))


class PassdssServer(ServerMechanism):
    """The server's half. Unknown users are led to the end like everybody and refused there."""

    name = PASSDSS

    def __init__(self, lookup: AccountLookup, *, rng: Rng, dsa_key: DsaKey) -> None:
        super().__init__()
        library()
        self._lookup, self._rng, self._key = lookup, rng, dsa_key
        self._keys: _Keys | None = None
        self._spent = False

    def split(self, buffer: bytes) -> int | None:
        return _split(buffer, self._length_of_c1 if self._keys is None else self._length_of_c3)

    @staticmethod
    def _length_of_c1(data: bytes) -> int:
        reader = Reader(data)
        reader.string()
        reader.string()
        return reader.length() + reader.at

    def _length_of_c3(self, data: bytes) -> int:
        """The password's length stands in the first block. PKCS#5 is expected; a line end or `=` ends a zero-padded one too."""
        if len(data) < _BLOCK or self._keys is None:
            raise Short
        length = int.from_bytes(self._keys.decrypt(data[:_BLOCK])[4:], "big")
        if length > MAX_PASSWORD:
            raise ValueError
        content = _BLOCK + length + MAC_OCTETS
        if content == len(data) and content % _BLOCK == 0 and content % 3:
            return content
        return content + _BLOCK - content % _BLOCK

    def step(self, message: bytes) -> ServerStep:
        data = decode_base64(message)
        if data is None or self._spent:
            return ServerStep(b"", False)
        try:
            if self._keys is None:
                return ServerStep(self._challenge(data), None)
            return ServerStep(b"", self._judge(self._keys, data))
        except (Short, ValueError):
            self._spent = True
            return ServerStep(b"", False)

    def _challenge(self, c1: bytes) -> bytes:
        reader = Reader(c1)
        identity, user, x = reader.string(), reader.string(), reader.mpint()
        if reader.at != len(c1) or identity not in (b"", user) or not _in_range(x):
            raise ValueError
        self.username = decode_name(user)
        if self.username is None:
            raise ValueError
        secret = _exponent(self._rng)
        head = string(self._key.blob) + mpint(pow(GENERATOR, secret, PRIME)) + LAYERS
        self._keys = _Keys(c1 + head, pow(x, secret, PRIME))
        r, s = self._key.sign(self._keys.h)
        return base64.b64encode(head + string(string(SSH_DSS) + mpint(r) + mpint(s))) + b"\r\n"

    def _judge(self, keys: _Keys, c3: bytes) -> bool:
        self._spent = True
        if not c3 or len(c3) % _BLOCK:
            return False
        content = keys.decrypt(c3)
        reader = Reader(content)
        layers, password, mac = reader.take(4), reader.string(), reader.take(MAC_OCTETS)
        padding = content[reader.at:]
        padded = padding in (bytes([len(padding)]) * len(padding), bytes(len(padding))) and len(padding) <= _BLOCK
        if not (hmac.compare_digest(mac, keys.mac(layers)) and padded) or self.username is None:
            return False
        return verify_password(self._lookup, self.username, password)

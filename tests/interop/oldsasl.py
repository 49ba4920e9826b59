# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The old clients' side of the SASL mechanisms (tsp-protocol.md section 3), and what they insist on.

Written from the facts alone, arithmetic included: nothing is shared with the code under test.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import re
import struct
import time
import warnings
from collections.abc import Callable

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    try:
        from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
        from cryptography.hazmat.primitives.ciphers import Cipher, modes
    except ImportError:  # then PASSDSS cannot be spoken, as in the clients' builds without OpenSSL
        TripleDES = None  # type: ignore[assignment, misc]

STRENGTH = ("PASSDSS-3DES-1", "DIGEST-MD5", "PLAIN")
STATUS = re.compile(rb"([0-9]{3,4}) ")
# RFC 2409, section 6.2.
GROUP2 = int("FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74020BBEA63B139B22514A08798E3404DD"
             "EF9519B3CD3A431B302B0A6DF25F14374FE1356D6D51C245E485B576625E7EC6F44C42E9A637ED6B0BFF5CB6F406B7ED"
             "EE386BFB5A899FA5AE9F24117C4B1FE649286651ECE65381FFFFFFFFFFFFFFFF", 16)


class AuthFailure(Exception):
    """The client refuses what the broker sent."""


class Said(Exception):
    """The broker said a status line in the middle of the mechanism: the client looks at its number."""

    def __init__(self, text: bytes) -> None:
        super().__init__(text)
        self.text = text


def decode(line: bytes) -> bytes:
    """A base64 line as the client reads it: one read is one line. Raises Said, AuthFailure."""
    if STATUS.match(line):
        raise Said(line)
    text = line.rstrip(b"\r\n")
    if b"\n" in text:
        raise AuthFailure(f"two messages came in one read, the client hangs: {line!r}")
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        raise AuthFailure(f"not base64: {line[:60]!r}") from None


# DIGEST-MD5 -----------------------------------------------------------------------------------------------------------------------


def challenge(text: bytes) -> dict[str, str]:
    """name=value or name="value", separated by single commas."""
    found = {}
    for part in re.findall(r'[^,"]*(?:"[^"]*")?[^,"]*', text.decode("utf-8")):
        if part:
            name, equals, value = part.partition("=")
            if not equals or name != name.strip():
                raise AuthFailure(f"digest challenge: {part!r}")
            found[name] = value.strip('"')
    return found


def _md5(data: bytes) -> bytes:
    return hashlib.md5(data, usedforsecurity=False).digest()


class Digest:
    """server: the configured server string, with port. version: up to 2.0.0 a zero byte in the hash of the password cuts it."""

    def __init__(self, user: str, password: str, server: str, version: str, cnonce: str | None = None) -> None:
        self.user, self.password, self.version = user, password, version
        self.uri = f"tsp/{server}"
        self.cnonce = cnonce or str(int(time.time()))

    def answer(self, line: bytes) -> bytes:
        """Our line to the broker's challenge."""
        said = challenge(decode(line))
        for name in ("realm", "nonce", "qop", "charset"):
            if name not in said:
                raise AuthFailure(f"the client crashes: no {name} in the challenge")
        realm, self.nonce = said["realm"], said["nonce"]
        first = _md5(f"{self.user}:{realm}:{self.password}".encode())
        if tuple(map(int, self.version.split("."))) <= (2, 0, 0) and b"\0" in first:
            first = first[:first.index(b"\0")]
        self.a1 = _md5(first + f":{self.nonce}:{self.cnonce}".encode()).hex()
        quoted = self.user.replace("\\", "\\\\").replace('"', '\\"')
        text = (f'charset={said["charset"]},username="{quoted}",realm="{realm}",nonce="{self.nonce}",nc=00000001,cnonce="{self.cnonce}",'
                f'digest-uri="{self.uri}",response={self.response("AUTHENTICATE")},qop=auth')
        return base64.b64encode(text.encode()) + b"\r\n"

    def response(self, method: str) -> str:
        a2 = _md5(f"{method}:{self.uri}".encode()).hex()
        return _md5(f"{self.a1}:{self.nonce}:00000001:{self.cnonce}:auth:{a2}".encode()).hex()

    def verify(self, line: bytes) -> None:
        """The broker's rspauth."""
        said = decode(line).decode()
        if said != f"rspauth={self.response('')}":
            raise AuthFailure(f"wrong rspauth: {said!r}")


# PASSDSS-3DES-1 -------------------------------------------------------------------------------------------------------------------


def string(data: bytes) -> bytes:
    return struct.pack("!I", len(data)) + data


def mpint(number: int) -> bytes:
    """Minimal, unsigned: no zero octet before a set top bit."""
    return string(number.to_bytes((number.bit_length() + 7) // 8, "big"))


def take(data: bytes) -> tuple[bytes, bytes]:
    """A string off the front."""
    if len(data) < 4 or len(data) < 4 + (size := struct.unpack_from("!I", data)[0]):
        raise AuthFailure("a PASSDSS message is cut short")
    return data[4:4 + size], data[4 + size:]


class Passdss:
    """The key blob that the broker shows is in `blob`; known: the one in gw6ckeys.pub, None: the user says yes."""

    def __init__(self, user: str, password: str, known: bytes | None = None, rng: Callable[[int], bytes] = os.urandom) -> None:
        self.user, self.password, self.known = user, password, known
        self.blob = b""
        self._x = int.from_bytes(rng(64), "big")

    def first(self) -> bytes:
        self.c1 = string(b"") + string(self.user.encode()) + mpint(pow(2, self._x, GROUP2))
        return base64.b64encode(self.c1)

    def answer(self, line: bytes) -> bytes:
        message = decode(line)
        blob, rest = take(message)
        y_bytes, rest = take(rest)
        layer, rest = rest[:4], rest[4:]
        signature, rest = take(rest)
        if rest:
            raise AuthFailure("something stands behind the signature")
        if len(blob) < 240:
            raise AuthFailure(f"the key has {len(blob)} bytes, the client wants 240")
        if len(signature) < 59:
            raise AuthFailure(f"the signature has {len(signature)} bytes, the client wants 59")
        if self.known is not None and self.known != blob:
            raise AuthFailure("the server key changed")
        self.blob = blob
        y = int.from_bytes(y_bytes, "big")
        if not 1 < y < GROUP2 - 1:
            raise AuthFailure("Y is out of range")
        k = mpint(pow(y, self._x, GROUP2))
        proven = self.c1 + string(blob) + mpint(y) + layer
        h = hashlib.sha1(proven + k).digest()
        self._verify(blob, signature, h)

        def derived(letter: bytes) -> bytes:
            return hashlib.sha1(k + letter + h).digest()

        key = derived(b"C")
        key = (key + hashlib.sha1(k + key).digest())[:24]
        head = layer[:1] + bytes(3)
        plain = head + string(self.password.encode()) + hmac.new(derived(b"E"), proven + head, hashlib.sha1).digest()
        pad = 8 - len(plain) % 8
        encryptor = Cipher(TripleDES(key), modes.CBC(derived(b"A")[:8])).encryptor()
        return base64.b64encode(encryptor.update(plain + bytes([pad]) * pad) + encryptor.finalize())

    @staticmethod
    def _verify(blob: bytes, signature: bytes, digest: bytes) -> None:
        """DSA (FIPS 186) over the 20 bytes of H themselves."""
        numbers = []
        kind, rest = take(blob)
        for _time in range(4):
            number, rest = take(rest)
            numbers.append(int.from_bytes(number, "big"))
        p, q, g, y = numbers
        kind2, rest2 = take(signature)
        r_bytes, rest2 = take(rest2)
        s_bytes, rest2 = take(rest2)
        if kind != b"ssh-dss" or kind2 != b"ssh-dss" or rest or rest2 or (len(r_bytes), len(s_bytes)) != (20, 20):
            raise AuthFailure("the key or the signature is malformed")
        r, s = int.from_bytes(r_bytes, "big"), int.from_bytes(s_bytes, "big")
        if not (0 < r < q and 0 < s < q):
            raise AuthFailure("the signature is out of range")
        w = pow(s, -1, q)
        if pow(g, int.from_bytes(digest, "big") * w % q, p) * pow(y, r * w % q, p) % p % q != r:
            raise AuthFailure("the server's signature is wrong")

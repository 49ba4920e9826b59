# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""SASL DIGEST-MD5 (RFC 2831) as TSP speaks it (tsp-protocol.md section 3.4), both halves.

Three base64 lines: challenge, response, rspauth. qop is always auth, the algorithm md5-sess, the service `tsp`. The response
has the old client's layout to the byte: field order, quoting, and the digest-uri made of the server string as configured.

Zero octets: in versions up to 2.0.0 old peers end A1 at the first zero octet of MD5(user:realm:password). A peer who ends it
early authenticates against almost nothing (at the very first octet, against nothing at all), so the rule is followed only where
`SHORTEST_SECRET` octets remain; otherwise all 16 are used, as everybody does from 2.0.1 on. Whether A1 ends there or only its
first field does cannot be told from what is recorded: the server takes both, the client sends the former.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Mapping

from .errors import RemoteError
from .sasl import (
    DIGEST_MD5,
    AccountLookup,
    ClientMechanism,
    Rng,
    ServerMechanism,
    ServerStep,
    decode_base64,
    decode_name,
    encode_credentials,
)

SERVICE = b"tsp/"
NONCE_COUNT = b"00000001"
SHORTEST_SECRET = 8
_PAIR = re.compile(rb'[ \t]*([A-Za-z][A-Za-z0-9-]*)[ \t]*=[ \t]*("(?:[^"\\]|\\.)*"|[^",\x00-\x20]*)[ \t]*(?:,|\Z)', re.DOTALL)
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
_HEX32 = re.compile(rb"[0-9A-Fa-f]{32}\Z")
_MAX_VALUE = 1024


def _md5(data: bytes) -> bytes:
    try:
        return hashlib.md5(data, usedforsecurity=False).digest()
    except TypeError:  # a build of hashlib without that keyword
        return hashlib.md5(data).digest()


def _hex(data: bytes) -> bytes:
    return _md5(data).hex().encode("ascii")


def ha1(username: bytes, realm: bytes, password: bytes) -> bytes:
    """MD5(user:realm:password), 16 raw octets: what a server has to store at least."""
    return _md5(username + b":" + realm + b":" + password)


def session_keys(secret: bytes, nonce: bytes, cnonce: bytes, version: str) -> list[bytes]:
    """The possible values of MD5hex(A1), the one to send first. More than one only by the zero-octet rule above."""
    tail = b":" + nonce + b":" + cnonce
    full = _hex(secret + tail)
    zero = secret.find(b"\0")
    if zero < SHORTEST_SECRET or not _ends_at_zero(version):
        return [full]
    return [_hex(secret[:zero]), _hex(secret[:zero] + tail), full]


def secret_too_short(secret: bytes, version: str) -> bool:
    """Whether an old peer ends `secret` so early that the zero-octet rule is not followed, and it cannot log in."""
    return 0 <= secret.find(b"\0") < SHORTEST_SECRET and _ends_at_zero(version)


def _ends_at_zero(version: str) -> bool:
    numbers = [int(part) if part.isdigit() else 0 for part in version.split(".")]
    return numbers <= [2, 0, 0]


def response(session_key: bytes, nonce: bytes, cnonce: bytes, uri: bytes, *, method: bytes = b"AUTHENTICATE") -> bytes:
    """The 32 hex digits of `response` (method AUTHENTICATE) or of `rspauth` (empty method)."""
    return _hex(b":".join((session_key, nonce, NONCE_COUNT, cnonce, b"auth", _hex(method + b":" + uri))))


def parse_fields(text: bytes) -> dict[str, bytes] | None:
    """`name=value, name="value"` to a dict, names in lower case, quoting undone; None when it is anything else or names repeat.

    The first realm of several is kept, as RFC 2831 section 2.1.1 lets a client choose.
    """
    fields: dict[str, bytes] = {}
    at, text = 0, text.strip(b"\0\r\n\t ,")
    if not text:
        return None
    while at < len(text):
        match = _PAIR.match(text, at)
        if match is None:
            return None
        name, value = match.group(1).decode("ascii").lower(), match.group(2)
        if value.startswith(b'"'):
            value = value[1:-1]
            if b"\\" in value:
                value = re.sub(rb"\\(.)", rb"\1", value, flags=re.DOTALL)
        if len(value) > _MAX_VALUE or _CONTROL.search(value):
            return None
        if name in fields and name != "realm":
            return None
        fields.setdefault(name, value)
        at = match.end()
    return fields


def quote(value: bytes) -> bytes:
    """`value` as a quoted string: backslash before a quote or a backslash."""
    return b'"' + re.sub(rb'(["\\])', rb"\\\1", value) + b'"'


def _line(text: bytes) -> bytes:
    return base64.b64encode(text) + b"\r\n"


class DigestClient(ClientMechanism):
    """The client's half. cnonce: for tests and replays only; otherwise 64 random bits in hex."""

    name = DIGEST_MD5

    def __init__(self, username: str, password: str, *, server: str, version: str, rng: Rng, cnonce: bytes | None = None) -> None:
        super().__init__()
        self._user, self._password = encode_credentials(username, password)
        self._uri = SERVICE + server.encode("utf-8", "replace")
        self._version = version
        self._cnonce = cnonce if cnonce is not None else rng(8).hex().encode("ascii")
        self._expected: list[bytes] = []
        self._proved = False

    def step(self, message: bytes) -> bytes:
        text = decode_base64(message)
        fields = None if text is None else parse_fields(text)
        if fields is None:
            raise RemoteError("bad_sasl_message", "The broker's DIGEST-MD5 message cannot be read.",
                              "Report it to the broker's operator, or choose another auth_method.")
        if not self._expected:
            return self._answer(fields)
        if self._proved:
            return super().step(message)
        said = fields.get("rspauth", b"").lower()
        matches = [hmac.compare_digest(said, expected) for expected in self._expected]  # every one: no timing to learn from
        if not any(matches):
            raise self._not_authentic()
        self._proved = True
        return b""

    def finish(self) -> None:
        if not self._proved:
            raise self._not_authentic()

    @staticmethod
    def _not_authentic() -> RemoteError:
        return RemoteError("server_not_authentic", "The broker did not prove that it knows the password (DIGEST-MD5 rspauth).",
                           "Somebody may be answering in the broker's place: check its address and the network in between.")

    def _answer(self, fields: Mapping[str, bytes]) -> bytes:
        nonce, realm, charset = fields.get("nonce", b""), fields.get("realm"), fields.get("charset")
        if not nonce:
            raise self._unusable("it has no nonce")
        if fields.get("algorithm", b"md5-sess").lower() != b"md5-sess":
            raise self._unusable("its algorithm is not md5-sess")
        if b"auth" not in fields.get("qop", b"auth").lower().replace(b" ", b"").split(b","):
            raise self._unusable("it does not offer qop auth")
        for name in ("realm", "qop", "algorithm", "charset"):
            if name not in fields:
                self._quirk(f"digest_without_{name}")
        realm = realm or b""
        # Old servers read the fields by position: the order and the quoting below are the old client's.
        parts = [] if charset is None else [b"charset=" + (charset if re.match(rb"[A-Za-z0-9_-]{1,40}\Z", charset) else b"utf-8")]
        parts += [b"username=" + quote(self._user), b"realm=" + quote(realm), b"nonce=" + quote(nonce), b"nc=" + NONCE_COUNT,
                  b"cnonce=" + quote(self._cnonce), b"digest-uri=" + quote(self._uri)]
        keys = session_keys(ha1(self._user, realm, self._password), nonce, self._cnonce, self._version)
        self._expected = [response(key, nonce, self._cnonce, self._uri, method=b"") for key in keys]
        parts += [b"response=" + response(keys[0], nonce, self._cnonce, self._uri), b"qop=auth"]
        return _line(b",".join(parts))

    @staticmethod
    def _unusable(why: str) -> RemoteError:
        return RemoteError("bad_sasl_message", f"The broker's DIGEST-MD5 challenge is of no use: {why}.",
                           "Report it to the broker's operator, or choose another auth_method.")


class DigestServer(ServerMechanism):
    """The server's half. Unknown and disabled users get a challenge and cost the same arithmetic as everybody."""

    name = DIGEST_MD5

    def __init__(self, lookup: AccountLookup, *, realm: str, rng: Rng, version: str) -> None:
        super().__init__()
        self._lookup, self._realm, self._version = lookup, realm, version
        self._nonce = rng(8).hex().encode("ascii")
        self._nobody = rng(16)
        self._spent = False

    def start(self) -> bytes:
        # realm, nonce, qop and charset must all be there, in words the old clients know (tsp-protocol.md section 3.4, step 1).
        return _line(b"realm=" + quote(self._realm.encode("utf-8", "replace")) + b",nonce=" + quote(self._nonce)
                     + b",qop=auth,algorithm=md5-sess,charset=utf8")

    def step(self, message: bytes) -> ServerStep:
        spent, self._spent = self._spent, True  # one nonce, one attempt
        text = decode_base64(message)
        fields = None if text is None else parse_fields(text)
        if fields is None or spent:
            return ServerStep(b"", False)
        self.username = decode_name(fields.get("username", b""))
        account = None if self.username is None else self._lookup(self.username)
        secret = None if account is None else account.ha1(self._realm)
        cnonce, uri, said = fields.get("cnonce", b""), fields.get("digest-uri", b""), fields.get("response", b"").lower()
        fits = (
            account is not None and account.enabled and secret is not None and len(secret) == 16
            and hmac.compare_digest(fields.get("nonce", b""), self._nonce)
            and fields.get("realm", b"") == self._realm.encode("utf-8", "replace")
            and fields.get("nc") == NONCE_COUNT and fields.get("qop", b"auth").lower() == b"auth"
            and bool(cnonce) and uri[:len(SERVICE)].lower() == SERVICE and _HEX32.match(said) is not None)
        # The host in digest-uri is what the client calls us, so it is taken from the message and not compared.
        keys = session_keys(secret if secret is not None else self._nobody, self._nonce, cnonce, self._version)
        right = [hmac.compare_digest(said, response(key, self._nonce, cnonce, uri)) for key in keys]
        if not fits or True not in right:
            return ServerStep(b"", False)
        rspauth = response(keys[right.index(True)], self._nonce, cnonce, uri, method=b"")
        return ServerStep(_line(b"rspauth=" + rspauth), True)

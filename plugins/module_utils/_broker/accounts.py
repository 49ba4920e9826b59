# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""Accounts: who may ask for tunnels, and how a password is checked without being kept.

What each SASL mechanism needs (docs/broker.md, "Accounts", says what leaks with it):

- PLAIN and PASSDSS-3DES-1 hand the password itself to the broker: a salted scrypt hash suffices.
- DIGEST-MD5 needs HA1 = MD5(user:realm:password) (RFC 2831 section 2.1.2.1), which is as good as the password for that realm.
  An account made without it cannot use DIGEST-MD5.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv6Address, IPv6Network

from .._tsp import digest_md5
from .._tsp.errors import LocalError

SCRYPT_LOG_N = 14
SCRYPT_R = 8
SCRYPT_P = 1
MAX_PASSWORD = 128
"""Longest password that the old clients take (tsp-protocol.md section 10)."""
MAX_USERNAME = 253


def check_username(name: str) -> str:
    """The name itself. Raises LocalError `bad_username`."""
    if not name or len(name.encode()) > MAX_USERNAME or not name.isprintable() or name != name.strip():
        raise LocalError("bad_username", f"{name[:40]!r} cannot be a user name.",
                         f"Use 1 to {MAX_USERNAME} printable characters, no blanks at the ends.")
    return name


def check_password(password: str) -> str:
    """The password itself. Raises LocalError `bad_password`, which never quotes it."""
    if not password or len(password.encode()) > MAX_PASSWORD or not password.isprintable():
        raise LocalError("bad_password", "This cannot be a password.", f"Use 1 to {MAX_PASSWORD} printable characters.")
    return password


def scrypt_hash(password: str, salt: bytes, log_n: int = SCRYPT_LOG_N) -> str:
    """`$scrypt$ln=14,r=8,p=1$salt$hash`, both parts base64 without padding. salt: 16 random bytes."""
    made = hashlib.scrypt(password.encode(), salt=salt, n=1 << log_n, r=SCRYPT_R, p=SCRYPT_P, maxmem=1 << (log_n + 12), dklen=32)
    return f"$scrypt$ln={log_n},r={SCRYPT_R},p={SCRYPT_P}${_b64(salt)}${_b64(made)}"


def check_scrypt(text: str) -> str:
    """The hash itself. Raises ValueError for anything that scrypt_hash would not have made."""
    _parse_scrypt(text)
    return text


def scrypt_matches(password: str, stored: str) -> bool:
    """Whether `password` gave `stored`; False for a broken hash."""
    try:
        log_n, salt, wanted = _parse_scrypt(stored)
    except ValueError:
        return False
    return hmac.compare_digest(scrypt_hash(password, salt, log_n), stored) if wanted else False


def ha1(username: str, realm: str, password: str) -> bytes:
    """MD5(user:realm:password), 16 bytes, over the raw bytes of the configuration."""
    return digest_md5.ha1(username.encode(), realm.encode(), password.encode())


def _parse_scrypt(text: str) -> tuple[int, bytes, bytes]:
    parts = text.split("$")
    if len(parts) != 5 or parts[0] or parts[1] != "scrypt":
        raise ValueError("not a scrypt hash")
    values = dict(item.partition("=")[::2] for item in parts[2].split(","))
    log_n = int(values.get("ln", "0"))
    if not 10 <= log_n <= 20 or values.get("r") != str(SCRYPT_R) or values.get("p") != str(SCRYPT_P):
        raise ValueError("unknown scrypt parameters")
    try:
        salt, made = (base64.b64decode(part + "=" * (-len(part) % 4), validate=True) for part in parts[3:])
    except binascii.Error as exc:
        raise ValueError(str(exc)) from None
    if len(salt) < 8 or len(made) != 32:
        raise ValueError("salt or hash of the wrong length")
    return log_n, salt, made


def _b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode().rstrip("=")


@dataclass(frozen=True)
class Account:
    """One user. Fits the Account port of `_tsp.sasl`: `password` is always None, for nobody here knows it.

    tunnels: how many at once; with 1 the user is the tunnel, with more it is the user and the outer address.
    proxy: may ask for tunnels that end at another machine. ipv6, prefix, ipv4: fixed addresses, else from the pools.
    """

    username: str
    enabled: bool = True
    scrypt: str | None = field(default=None, repr=False)
    digest: bytes | None = field(default=None, repr=False)
    digest_realm: str = ""
    tunnels: int = 1
    proxy: bool = False
    ipv6: IPv6Address | None = None
    prefix: IPv6Network | None = None
    ipv4: IPv4Address | None = None
    origin: str = "configuration"

    @property
    def password(self) -> str | None:
        """Nobody knows it."""
        return None

    def ha1(self, realm: str) -> bytes | None:
        """H(user:realm:password) for this realm, or None: then DIGEST-MD5 is not possible."""
        return self.digest if self.digest is not None and realm == self.digest_realm else None

    def verify(self, password: str) -> bool:
        """Whether this is the password. HA1 answers in microseconds where it is there; scrypt takes some tens of milliseconds."""
        if self.digest is not None:
            return hmac.compare_digest(ha1(self.username, self.digest_realm, password), self.digest)
        return self.scrypt is not None and scrypt_matches(password, self.scrypt)


def with_password(account: Account, password: str, realm: str, rng: Callable[[int], bytes], digest: bool = True) -> Account:
    """The account with what is kept of this password: the scrypt hash, and HA1 unless digest is False."""
    check_password(password)
    return replace(account, scrypt=scrypt_hash(password, rng(16)), digest=ha1(account.username, realm, password) if digest else None,
                   digest_realm=realm if digest else "")


class AccountBook:
    """All accounts: those of the configuration first, then those that `users` put into the store.

    `stored` looks one up in the store; it is asked each time, so that `users` takes effect at once.
    """

    def __init__(self, configured: Mapping[str, Account], stored: Callable[[str], Account | None]) -> None:
        self.configured = configured
        self._stored = stored

    def __call__(self, username: str) -> Account | None:
        """The account of that name, enabled or not; None for nobody."""
        return self.configured.get(username) or self._stored(username)

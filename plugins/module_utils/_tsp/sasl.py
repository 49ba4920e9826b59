# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""SASL as TSP speaks it (RFC 5572 section 4.4.2, tsp-protocol.md section 3): the interface of a mechanism, ANONYMOUS and PLAIN.

A mechanism is an object for one authentication. It knows nothing of sockets or of UDP and TCP: complete messages come in,
complete wire bytes go out. DIGEST-MD5 and PASSDSS-3DES-1 live in files of their own.

User names and passwords travel as raw UTF-8 bytes, never normalised: that is what the old clients and servers hash.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import TYPE_CHECKING, Callable, NamedTuple, Protocol

from .errors import LocalError, RemoteError

if TYPE_CHECKING:
    from .dsakey import DsaKey

ANONYMOUS = "ANONYMOUS"
PLAIN = "PLAIN"
DIGEST_MD5 = "DIGEST-MD5"
PASSDSS = "PASSDSS-3DES-1"
STRONGEST_FIRST = (PASSDSS, DIGEST_MD5, PLAIN)
"""What auth_method `any` tries, in this order. ANONYMOUS is not among them: whoever has a password does not want it ignored."""
AUTH_METHODS = ("any", "anonymous", "plain", "digest-md5", "passdss-3des-1")

MAX_MESSAGE = 8192
"""Octets of one SASL message on the wire. The largest real one is 858 (a PASSDSS key over UDP, tsp-protocol.md section 1.4)."""
MAX_NAME = 253
"""Octets of a user name (the old client's limit, tsp-protocol.md section 10)."""
MAX_PASSWORD = 1024
"""Octets of a password. The old client stops at 128; nothing on the wire does."""

_LINE_END = re.compile(rb"\r?\n|\r\x08")  # CR BS: what the AARNet client sends (tsp-protocol.md section 12, row 8)
_PADDING = b"\0\r\n\t \x08"

Rng = Callable[[int], bytes]
VerifyKey = Callable[[bytes], None]


class Account(Protocol):
    """What a server mechanism needs to know of one user; implemented by the broker's account store."""

    username: str
    enabled: bool
    password: str | None

    def verify(self, password: str) -> bool:
        """Whether `password` is right, compared in constant time."""

    def ha1(self, realm: str) -> bytes | None:
        """MD5(user:realm:password) as 16 raw octets (for DIGEST-MD5), or None when neither it nor the password is stored."""


class AccountLookup(Protocol):
    """Finds an account by its user name; None when there is none.

    A store whose `verify` is slow on purpose should return a disabled decoy account for an unknown name, so that PLAIN and
    PASSDSS-3DES-1 take the same time for names that exist and names that do not. The mechanisms refuse whatever is not enabled.
    """

    def __call__(self, username: str) -> Account | None:
        """The account called `username`."""


class ServerStep(NamedTuple):
    """What a server says to a client's message. reply: wire bytes, b"" for nothing (UDP: an empty datagram).

    verdict: None = another client message is awaited; True or False = authenticated or refused. A reply together with the
    verdict True (DIGEST-MD5's rspauth) goes out first and the status line apart (tsp-protocol.md section 12, row 5).
    """

    reply: bytes
    verdict: bool | None


class ClientMechanism:
    """The client's half of one authentication. `quirks`: tolerances used towards the broker, name to count."""

    name = ""

    def __init__(self) -> None:
        self.quirks: dict[str, int] = {}

    def first(self) -> bytes:
        """Wire bytes to send right behind the AUTHENTICATE line without waiting; b"" when the server speaks next."""
        return b""

    def split(self, buffer: bytes) -> int | None:
        """Octets at the start of `buffer` that form the server's next message, its line end included; None = more needed."""
        return line_length(buffer)

    def step(self, message: bytes) -> bytes:
        """Answer one server message (never a status line). b"" = nothing to say. Raises RemoteError."""
        raise RemoteError("unexpected_message", f"The broker sent a message that {self.name} does not know.",
                          "Report it to the broker's operator, or choose another auth_method.")

    def finish(self) -> None:
        """Called when the broker said 200. Raises RemoteError `server_not_authentic` when it did not prove itself but had to."""

    def _quirk(self, name: str) -> None:
        self.quirks[name] = self.quirks.get(name, 0) + 1


class ServerMechanism:
    """The server's half of one authentication.

    username: the name claimed so far, None when anonymous, not known yet or not UTF-8. immediate: the verdict needs no
    message of the client beyond AUTHENTICATE (ANONYMOUS): ask for it with `step(b"")`. Nothing a client sends makes `step`
    raise: what cannot be read is refused.
    """

    name = ""
    immediate = False

    def __init__(self) -> None:
        self.username: str | None = None

    def start(self) -> bytes:
        """What the server says to AUTHENTICATE; b"" = it waits (UDP: an empty datagram; TCP: nothing)."""
        return b""

    def split(self, buffer: bytes) -> int | None:
        """Octets at the start of `buffer` (a TCP stream) that form the client's next message; None = more needed.

        Stray NULs before a message, which the old clients send behind AUTHENTICATE, count as part of it.
        """
        return line_length(buffer)

    def step(self, message: bytes) -> ServerStep:
        """Answer one client message."""
        raise NotImplementedError


class AnonymousClient(ClientMechanism):
    """ANONYMOUS (tsp-protocol.md section 3.2): the AUTHENTICATE line is all there is."""

    name = ANONYMOUS


class AnonymousServer(ServerMechanism):
    """ANONYMOUS: always granted; whether it is offered at all is the broker's configuration."""

    name = ANONYMOUS
    immediate = True

    def step(self, message: bytes) -> ServerStep:
        return ServerStep(b"", True)


class PlainClient(ClientMechanism):
    """PLAIN (tsp-protocol.md section 3.3): NUL user NUL password CRLF, raw, behind AUTHENTICATE; the server stays silent."""

    name = PLAIN

    def __init__(self, username: str, password: str) -> None:
        super().__init__()
        self._user, self._password = encode_credentials(username, password)
        if any(octet in self._password for octet in b"\0\r\n"):
            raise LocalError("invalid_credentials", "PLAIN cannot carry a password with NUL, CR or LF in it.",
                             "Use auth_method digest-md5, or change the password.")

    def first(self) -> bytes:
        return b"\0" + self._user + b"\0" + self._password + b"\r\n"


class PlainServer(ServerMechanism):
    """PLAIN. The authorisation identity must be empty or the user itself."""

    name = PLAIN

    def __init__(self, lookup: AccountLookup) -> None:
        super().__init__()
        self._lookup = lookup

    def step(self, message: bytes) -> ServerStep:
        # On TCP the old clients' stray NUL stands before PLAIN's own one, so the fields are counted from the end.
        fields = strip_line_end(message[:MAX_MESSAGE + 1]).split(b"\0")
        if len(message) > MAX_MESSAGE or len(fields) < 3:
            return ServerStep(b"", False)
        identities = [field for field in fields[:-2] if field]
        self.username = decode_name(fields[-2])
        if self.username is None or identities not in ([], [fields[-2]]):
            return ServerStep(b"", False)
        return ServerStep(b"", verify_password(self._lookup, self.username, fields[-1]))


def client_mechanism(name: str, *, username: str | None = None, password: str | None = None, server: str = "",
                     version: str = "2.0.2", rng: Rng | None = None, verify_key: VerifyKey | None = None) -> ClientMechanism:
    """The client's half of mechanism `name` (any case).

    server: host[:port] as configured, which DIGEST-MD5 signs. version: the TSP version agreed on. rng: random octets.
    verify_key: called with the broker's public key blob (PASSDSS-3DES-1), raises RemoteError to refuse it; None refuses all.
    Raises LocalError `missing_credentials`, `invalid_credentials`, `missing_library`, or `invalid_request` for an unknown name.
    """
    name = name.upper()
    if name == ANONYMOUS:
        return AnonymousClient()
    if name not in STRONGEST_FIRST:
        raise LocalError("invalid_request", f"auth_method {name.lower()!r} is unknown.", f"Use one of {', '.join(AUTH_METHODS)}.")
    if not username or password is None:
        raise LocalError("missing_credentials", f"{name} needs a user name and a password.",
                         "Set username and password, or auth_method: anonymous.")
    if name == PLAIN:
        return PlainClient(username, password)
    if rng is None:
        raise LocalError("invalid_request", f"{name} needs a source of random octets.")
    if name == DIGEST_MD5:
        from .digest_md5 import DigestClient
        return DigestClient(username, password, server=server, version=version, rng=rng)
    from .passdss import PassdssClient
    return PassdssClient(username, password, rng=rng, verify_key=verify_key)


def server_mechanism(name: str, *, lookup: AccountLookup, realm: str, rng: Rng, version: str = "2.0.2",
                     dsa_key: DsaKey | None = None) -> ServerMechanism:
    """The server's half of mechanism `name` (any case). Raises LocalError when it is unknown or cannot be served here."""
    name = name.upper()
    if name == ANONYMOUS:
        return AnonymousServer()
    if name == PLAIN:
        return PlainServer(lookup)
    if name == DIGEST_MD5:
        from .digest_md5 import DigestServer
        return DigestServer(lookup, realm=realm, rng=rng, version=version)
    if name == PASSDSS:
        from .passdss import PassdssServer
        if dsa_key is None:
            raise LocalError("missing_key", "PASSDSS-3DES-1 needs the broker's DSA key.",
                             "Generate one, or take PASSDSS-3DES-1 out of the offered mechanisms.")
        return PassdssServer(lookup, rng=rng, dsa_key=dsa_key)
    raise LocalError("invalid_request", f"The SASL mechanism {name!r} is unknown.", f"Use one of {', '.join(AUTH_METHODS[1:])}.")


def choose(offered: frozenset[str], auth_method: str, *, allow_plaintext: bool, have_passdss: bool) -> str:
    """The mechanism to use (upper case) out of those the broker offers (tsp-protocol.md section 3.1).

    `any` means the strongest one offered, PLAIN only with `allow_plaintext` and ANONYMOUS never; a named method is used or
    nothing is. Raises RemoteError `no_common_mechanism`, or LocalError `missing_library` / `invalid_request`.
    """
    wanted = auth_method.lower()
    names = {name.upper() for name in offered}
    known = sorted(names & {ANONYMOUS, *STRONGEST_FIRST})
    offer = ", ".join(known).lower() or "none that we know"
    if wanted not in AUTH_METHODS:
        raise LocalError("invalid_request", f"auth_method {auth_method!r} is unknown.", f"Use one of {', '.join(AUTH_METHODS)}.")
    if wanted != "any":
        if wanted.upper() not in names:
            raise RemoteError("no_common_mechanism", f"The broker does not offer the authentication method {wanted}.",
                              f"It offers: {offer}.")
        if wanted.upper() == PASSDSS and not have_passdss:
            raise missing_library()
        return wanted.upper()
    for name in STRONGEST_FIRST:
        if name in names and (name != PASSDSS or have_passdss) and (name != PLAIN or allow_plaintext):
            return name
    hint = f"It offers: {offer}."
    if PASSDSS in names:
        hint += " Install the Python package cryptography to use passdss-3des-1."
    if PLAIN in names:
        hint += " Set allow_plaintext: true to let the password travel unencrypted."
    if ANONYMOUS in names:
        hint += " Set auth_method: anonymous to go without an account."
    raise RemoteError("no_common_mechanism", "The broker offers no authentication method that may be used.", hint)


def have_passdss() -> bool:
    """Whether PASSDSS-3DES-1 can be spoken here: the package cryptography is installed and works."""
    from .dsakey import library
    try:
        library()
    except LocalError:
        return False
    return True


def missing_library() -> LocalError:
    """The error for PASSDSS-3DES-1 without the package it needs."""
    return LocalError("missing_library", "PASSDSS-3DES-1 needs the Python package cryptography, which is not installed here.",
                      "Install cryptography for the Python that runs this, or use auth_method digest-md5.")


# What the mechanisms share.


def line_length(buffer: bytes) -> int | None:
    """Octets of the first line of `buffer` with its end; all of an oversized buffer, so that whoever reads it refuses it."""
    match = _LINE_END.search(buffer)
    if match is not None:
        return match.end()
    return len(buffer) if len(buffer) > MAX_MESSAGE else None


def strip_line_end(message: bytes) -> bytes:
    """`message` without one line end, and without NULs behind that."""
    message = message.rstrip(b"\0") if message.rstrip(b"\0").endswith((b"\n", b"\r\x08")) else message
    for end in (b"\r\n", b"\n", b"\r\x08"):
        if message.endswith(end):
            return message[:-len(end)]
    return message


def decode_base64(message: bytes) -> bytes | None:
    """The octets of a base64 message, padding and blanks around it forgiven; None when it is not base64 or oversized."""
    text = message[:MAX_MESSAGE + 1].strip(_PADDING).rstrip(b"=")
    if len(message) > MAX_MESSAGE or len(text) % 4 == 1:
        return None
    try:
        return base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except binascii.Error:
        return None


def decode_name(raw: bytes) -> str | None:
    """A user name from the wire; None when it is empty, too long, not UTF-8 or holds control characters."""
    try:
        name = raw.decode("utf-8")
    except UnicodeDecodeError:
        return None
    return name if 0 < len(raw) <= MAX_NAME and not _has_controls(name) else None


def encode_credentials(username: str, password: str) -> tuple[bytes, bytes]:
    """User name and password as octets. Raises LocalError `invalid_credentials`, never showing the password."""
    try:
        user, secret = username.encode("utf-8"), password.encode("utf-8")
    except UnicodeEncodeError:
        raise LocalError("invalid_credentials", "The user name or the password is not valid Unicode text.") from None
    if not 0 < len(user) <= MAX_NAME or _has_controls(username):
        raise LocalError("invalid_credentials", f"A user name has 1 to {MAX_NAME} octets and no control characters.",
                         "Check username.")
    if len(secret) > MAX_PASSWORD:
        raise LocalError("invalid_credentials", f"The password is longer than {MAX_PASSWORD} octets.", "Check password.")
    return user, secret


def verify_password(lookup: AccountLookup, username: str, raw: bytes) -> bool:
    """Whether `raw` is the password of an enabled account `username`. Disabled accounts pay for the comparison too."""
    account = lookup(username)
    try:
        password = raw.decode("utf-8")
    except UnicodeDecodeError:
        return False
    if account is None or len(raw) > MAX_PASSWORD:
        return False
    right = account.verify(password)
    return bool(right and account.enabled)


def _has_controls(text: str) -> bool:
    return any(ord(char) < 32 or ord(char) == 127 for char in text)

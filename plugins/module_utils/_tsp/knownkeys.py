# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""Which broker keys are trusted (PASSDSS-3DES-1), in the old client's file format (tsp-protocol.md section 3.5).

One line per server, `<server string> ssh-dss <base64 of the key blob>`; the last matching line wins. Text comes in and text goes
out: reading and writing the file is the caller's business.
"""

from __future__ import annotations

import base64
import binascii
import hmac

from .dsakey import fingerprint
from .errors import LocalError, RemoteError

REJECT = "reject"
ACCEPT_NEW = "accept_new"
POLICIES = (REJECT, ACCEPT_NEW)
_TYPE = "ssh-dss"
_HEADER = b"\x00\x00\x00\x07ssh-dss"


def find(text: str, server: str) -> bytes | None:
    """The key blob stored for `server` (host[:port] as configured, case ignored), or None.

    Raises LocalError `known_keys_invalid` when the line that counts cannot be read: taking the key for unknown could make
    `accept_new` trust somebody else's.
    """
    found: bytes | None = None
    for number, line in enumerate(text.splitlines(), 1):
        fields = line.replace("\0", " ").split()
        if not fields or fields[0].startswith("#") or fields[0].lower() != server.lower():
            continue
        try:
            if len(fields) < 3 or fields[1] != _TYPE:
                raise ValueError
            found = decode_key(fields[2])
        except ValueError:
            raise LocalError("known_keys_invalid", f"Line {number} of the known keys, for {server}, is not a server key.",
                             f"Correct or remove it. A line reads: {server} {_TYPE} <base64>.") from None
    return found


def add(text: str, server: str, blob: bytes) -> str:
    """`text` with a line for `server` appended. Raises LocalError for a server string that would break the format."""
    if not server or server.split() != [server] or not server.isprintable() or server.startswith("#"):
        raise LocalError("invalid_request", f"{server!r} cannot name a server in the known keys.")
    if text and not text.endswith("\n"):
        text += "\n"
    return f"{text}{server} {_TYPE} {base64.b64encode(blob).decode('ascii')}\n"


def decode_key(value: str) -> bytes:
    """A key blob from its base64 text, with or without `ssh-dss` before it. Raises ValueError."""
    fields = value.split()
    if len(fields) == 2 and fields[0] == _TYPE:
        fields = fields[1:]
    try:
        blob = base64.b64decode(fields[0] if len(fields) == 1 else "?", validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise ValueError("not base64") from None
    if not blob.startswith(_HEADER):
        raise ValueError("not an ssh-dss key")
    return blob


class KeyPolicy:
    """Judges the key of one broker; an object of it is the `verify_key` of the client.

    pinned: base64 of the only key to accept (the option server_key), wins over everything. text: the known keys. policy: what
    to do with a server that stands in neither, reject | accept_new. file_name: for messages only. After the exchange `accepted`
    holds a new key that the caller should store with `add`, or None.
    """

    def __init__(self, server: str, *, policy: str = REJECT, text: str = "", pinned: str | None = None,
                 file_name: str = "the known keys file") -> None:
        if policy not in POLICIES:
            raise LocalError("invalid_request", f"server_key_policy {policy!r} is unknown.", f"Use one of {', '.join(POLICIES)}.")
        self.server = server
        self.accepted: bytes | None = None
        self._policy, self._file_name = policy, file_name
        self._pinned = pinned is not None
        if pinned is None:
            self._known = find(text, server)
            return
        try:
            self._known = decode_key(pinned)
        except ValueError as exc:
            raise LocalError("invalid_request", f"server_key is of no use: {exc}.",
                             f"Give the base64 text that stands behind {_TYPE} in a known keys file.") from None

    @property
    def may_accept(self) -> bool:
        """False when every key would be refused: the server is unknown, and new ones are rejected."""
        return self._known is not None or self._policy == ACCEPT_NEW

    def __call__(self, blob: bytes) -> None:
        """Return when `blob` is to be trusted. Raises RemoteError `server_key_unknown` or `server_key_changed`."""
        if self._known is None:
            if self._policy == ACCEPT_NEW:
                self.accepted = blob
                return
            raise RemoteError(
                "server_key_unknown", f"The key of {self.server}, {fingerprint(blob)}, is not known.",
                f"Compare the fingerprint with the broker's operator; then set server_key, or add to {self._file_name} the line: "
                f"{self.server} {_TYPE} {base64.b64encode(blob).decode('ascii')}")
        if not hmac.compare_digest(self._known, blob):
            where = "server_key" if self._pinned else self._file_name
            raise RemoteError(
                "server_key_changed",
                f"The key of {self.server} is {fingerprint(blob)}, but {where} has {fingerprint(self._known)}.",
                "Somebody may be answering in the broker's place. If its operator confirms the new key, replace the old one "
                f"in {where}.")

# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""What was said in one session, with credentials struck out, so that the log line of a failure explains itself."""

from __future__ import annotations

import re
from base64 import b64decode
from collections import deque

KEPT = 24
LONGEST = 600
DIGEST_LONGEST = 2048
STATUS = re.compile(rb"(?:Content-length:\s*\d+\r?\n)?(\d{3,4})(?:[ \r\n]|$)", re.IGNORECASE)
AUTHENTICATE = re.compile(rb"AUTHENTICATE +([A-Za-z0-9-]{1,32})\r?\n", re.IGNORECASE)
SHOWN_FIELDS = ("username", "realm", "nonce", "nc", "digest-uri", "charset", "qop", "algorithm")
"""Of a DIGEST-MD5 response; cnonce and response are struck out: together with the rest they allow guessing the password."""


class Trace:
    """Feed it what was received and answered (without the UDP header), then read `lines()` and `status`.

    From the capability line until the client has logged in, whatever the client sends may be a credential: only its mechanism, and
    the harmless fields of DIGEST-MD5, are kept. Text is made when it is asked for, which for most sessions is never.
    """

    __slots__ = ("_mechanism", "_said", "_secret", "count", "refused", "status")

    def __init__(self) -> None:
        self.count = 0
        """Messages so far, both ways."""
        self.status: int | None = None
        """Of the last answer that had one."""
        self.refused: int | None = None
        """Of the last answer that was not 200."""
        self._said: deque[tuple[str, bytes, int]] = deque(maxlen=KEPT)
        self._secret = False
        self._mechanism = ""

    def received(self, payload: bytes) -> None:
        """From the client."""
        self.count += 1
        if not self._secret or payload[:14].lower() == b"content-length" or payload[:8].upper() == b"VERSION=":
            self._keep("client", payload)
            return
        found = AUTHENTICATE.match(payload)
        if found:
            self._mechanism = found[1].decode().upper()
            rest = len(payload[found.end():].lstrip(b"\0"))
            more = f" and {rest} bytes of credentials" if rest else ""
            self._keep("client", f"AUTHENTICATE {self._mechanism}{more}".encode())
        elif self._mechanism == "DIGEST-MD5" and payload.strip(b"\0\r\n "):
            self._keep("digest", payload, DIGEST_LONGEST)
        else:
            self._keep("secret", str(len(payload)).encode() if payload.strip(b"\0\r\n ") else b"")

    def answered(self, payload: bytes) -> None:
        """To the client."""
        self.count += 1
        found = STATUS.match(payload)
        kind = "broker"
        if found:
            self.status = int(found[1])
            if self.status != 200:
                self.refused = self.status
            else:
                self._secret = False
        elif payload[:10] == b"CAPABILITY":
            self._secret = True
        elif self._secret:
            kind = "challenge"
        self._keep(kind, payload)

    def _keep(self, kind: str, payload: bytes, longest: int = LONGEST) -> None:
        self._said.append((kind, payload[:longest], len(payload)))

    def lines(self) -> list[str]:
        """What was said, one printable line per message."""
        return [self._line(kind, payload, size) for kind, payload, size in self._said]

    def _line(self, kind: str, payload: bytes, size: int) -> str:
        if not payload:
            return f"{'broker' if kind in ('broker', 'challenge') else 'client'}: (nothing)"
        if kind == "secret":
            return f"client: ({payload.decode()} bytes of credentials)"
        if kind == "digest":
            fields = _digest_fields(payload.strip(b"\0\r\n "))
            return f"client: {fields} (rest struck out)" if fields else f"client: ({size} bytes of credentials)"
        if kind == "challenge":
            return f"broker: {self._challenge(payload)}"
        return f"{kind}: {shown(payload, size)}"

    def _challenge(self, payload: bytes) -> str:
        try:
            text = b64decode(payload.strip(), validate=True).decode("ascii")
        except ValueError:
            text = ""
        return shown(text.encode()) if text.isprintable() and text.startswith("realm=") else f"({len(payload)} bytes of {self._mechanism})"


def _digest_fields(bare: bytes) -> str:
    try:
        text = b64decode(bare, validate=True).decode("utf-8")
    except ValueError:
        return ""
    found = dict(re.findall(r'([a-z-]+)\s*=\s*("(?:[^"\\]|\\.)*"|[^,\s]*)', text))
    return shown(",".join(f"{key}={found[key]}" for key in SHOWN_FIELDS if key in found).encode())


def shown(payload: bytes, size: int = 0) -> str:
    """Wire text as one printable line. size: of the whole, where payload is only its beginning."""
    if not payload:
        return "(nothing)"
    text = payload[:LONGEST].decode("utf-8", "backslashreplace").replace("\r\n", "⏎")
    line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    return line + (f"… ({max(size, len(payload))} bytes)" if max(size, len(payload)) > LONGEST else "")

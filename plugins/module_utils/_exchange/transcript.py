# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""A record of an exchange that can be shown to others: who sent what when, secrets struck out."""

from __future__ import annotations

import re
from typing import Any

HEADER = 8
"""Bytes of the reliable UDP header (tsp-protocol.md section 1.2)."""
STATUS = re.compile(rb"[0-9]{3,4} [ -~]*\Z")
"""A status line: may be shown although it comes in the middle of an authentication."""
SHORTEST_SECRET = 4
"""Characters; a shorter password is not searched for: striking it out everywhere would spell it."""
MOST_RECORDS = 400


def scrub(text: str, secret: str | None) -> str:
    """`text` without `secret`, should a broker have sent it back."""
    if secret is None or len(secret) < SHORTEST_SECRET:
        return text
    return text.replace(secret, "[struck out]")


class Transcript:
    """Records messages in order. Between AUTHENTICATE and the broker's verdict only that line and status lines are kept."""

    def __init__(self, enabled: bool, started: float, secret: str | None = None) -> None:
        self.records: list[dict[str, Any]] = []
        self.enabled = enabled
        self._started = started
        self._secret = secret

    def session(self, transport: str, peer: str) -> Recorder:
        """A recorder for one session: transport as in the lease, peer as `address:port`."""
        return Recorder(self, transport, peer)

    def add(self, now: float, direction: str, transport: str, peer: str, text: str) -> None:
        """One message; the first MOST_RECORDS are kept."""
        if len(self.records) < MOST_RECORDS:
            self.records.append({"t": round(now - self._started, 6), "direction": direction, "transport": transport, "peer": peer,
                                 "text": scrub(text, self._secret)})


class Recorder:
    """Knows how far one session is, and so what must be struck out."""

    def __init__(self, transcript: Transcript, transport: str, peer: str) -> None:
        self._transcript = transcript
        self._transport = transport
        self._peer = peer
        self._secret_phase = False

    def sent(self, data: bytes, now: float) -> None:
        """What we sent: a datagram with its header, or one write."""
        if self._transcript.enabled:
            self._add("C>S", self._ours(self._payload(data)), now)

    def received(self, data: bytes, now: float) -> None:
        """What came, before the protocol core saw it."""
        if self._transcript.enabled:
            self._add("S>C", self._theirs(self._payload(data)), now)

    def authenticated(self) -> None:
        """The broker has accepted us: what follows is no secret."""
        self._secret_phase = False

    def _payload(self, data: bytes) -> bytes:
        return data[HEADER:] if self._transport.startswith("udp") else data

    def _add(self, direction: str, text: str, now: float) -> None:
        self._transcript.add(now, direction, self._transport, self._peer, text)

    def _ours(self, data: bytes) -> str:
        if data.upper().startswith(b"AUTHENTICATE "):
            self._secret_phase = True
            line, _end, rest = data.partition(b"\n")
            return _show(line + b"\n") + _struck(rest)
        return _struck(data) if self._secret_phase else _show(data)

    def _theirs(self, data: bytes) -> str:
        if not self._secret_phase:
            return _show(data)
        lines = data.splitlines(keepends=True)
        return "".join(_show(line) if STATUS.match(line.strip()) else _struck(line) for line in lines)


def _show(data: bytes) -> str:
    """Text as it is, everything else escaped: JSON and terminals can take it."""
    text = data.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() or c in "\r\n\t" else f"\\x{ord(c):02x}" for c in text)


def _struck(data: bytes) -> str:
    size = len(data.strip(b"\0\r\n"))
    return f"[{size} bytes struck out]" if size else ""


def lines(record: dict[str, Any]) -> list[str]:
    """One record as lines for a log: who said what when, what follows indented."""
    said = str(record["text"]).splitlines() or ["(nothing)"]
    first = f"{record['t']:.3f} {record['direction']} {record['transport']} {record['peer']}: {said[0]}"
    return [first, *(f"    {line}" for line in said[1:] if line.strip())]

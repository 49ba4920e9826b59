# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Reads the recorded sessions of tests/fixtures/transcripts (their form: reduce.py there)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

FOLDER = Path(__file__).resolve().parents[4] / "fixtures" / "transcripts"
TABLES = ("stub-create-variants", "tsps-probe")
"""Files that are tables of single requests, not sessions."""


class Message(NamedTuple):
    """direction: C | S | I. data: a datagram, or a piece of a TCP stream."""

    direction: str
    time: float
    transport: str
    data: bytes

    @property
    def text(self) -> bytes:
        """The TSP text: without the UDP header."""
        return self.data[8:] if self.transport == "udp" else self.data


@dataclass
class Session:
    """All messages between one client port and one server: one attempt of the client."""

    transport: str
    client: str
    server: str
    messages: list[Message] = field(default_factory=list)

    def sent(self, direction: str) -> list[Message]:
        """Signalling messages of one side, retransmissions included."""
        return [m for m in self.messages if m.direction == direction and (self.transport == "tcp" or m.data[:1] >= b"\xf0")]

    def pairs(self) -> list[tuple[Message, list[Message]]]:
        """Each distinct client message, and what the server said before the next one."""
        pairs: list[tuple[Message, list[Message]]] = []
        seen: dict[bytes, int] = {}
        for message in self.messages:
            if self.transport == "udp" and message.data[:1] < b"\xf0":
                continue  # the data plane
            key = message.data[:4]
            if message.direction == "S":
                at = seen.get(key) if self.transport == "udp" else len(pairs) - 1
                if at is not None and at >= 0:
                    pairs[at][1].append(message)
            elif self.transport == "tcp" or key not in seen:
                seen[key] = len(pairs)
                pairs.append((message, []))
        return pairs


@dataclass
class Recording:
    """One file. conf: the old client's configuration. exit: its status, None while running. env: what its script was told."""

    name: str
    client: str
    note: str
    exit: int | None
    conf: dict[str, str]
    env: dict[str, str]
    rows: list[list[Any]]

    def sessions(self) -> list[Session]:
        """The attempts in the order of their first message; refused ones (ICMP, RST) have client messages only."""
        found: dict[tuple[str, str, str], Session] = {}
        for direction, time, transport, client, server, payload in self.rows:
            kind = transport.partition(":")[0]
            if direction == "I":
                continue
            session = found.setdefault((kind, client, server), Session(kind, client, server))
            if ":" not in transport:
                session.messages.append(Message(direction, time, kind, bytes.fromhex(payload)))
        return list(found.values())

    def answered(self) -> list[Session]:
        """The attempts in which the server said something."""
        return [session for session in self.sessions() if session.sent("S")]


def names() -> list[str]:
    """All recorded files, tables included."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def load(name: str) -> Recording:
    raw = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return Recording(name, raw["client"], raw["note"], raw["exit"], raw["conf"], raw["env"], raw["messages"])


def load_table(name: str) -> list[list[Any]]:
    rows: list[list[Any]] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return rows


def all_sessions() -> Iterator[tuple[Recording, Session]]:
    for name in names():
        if name not in TABLES:
            recording = load(name)
            for session in recording.sessions():
                yield recording, session

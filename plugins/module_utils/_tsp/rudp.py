# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""TSP's reliable UDP (RFC 5572 section 4.4.1; tsp-protocol.md sections 1.2-1.4): header, retransmission, duplicate answers.

Datagram: sequence (4 bytes, network order) ‖ timestamp in milliseconds (4 bytes) ‖ text, perhaps empty. Strict request and reply:
one message is outstanding at a time, and each gets exactly one answer with the same two words.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass

HEADER = struct.Struct("!II")
HEADER_SIZE = 8
FIRST_SEQUENCE = 0xF00000F0
"""Starts with F for us and ends with F for old servers that look at the wrong end of the word (tsp-protocol.md section 1.2)."""


@dataclass(frozen=True)
class RudpConfig:
    """Times in seconds, measured on the old client (tsp-protocol.md section 1.4).

    tries_first: sends of a message before the broker is given up that never answered anything. tries: once it has answered something.
    tries_accept: for the accept, whose answer says nothing new: the tunnel is taken as granted afterwards.
    """

    rto_initial: float = 2.0
    rto_min: float = 2.0
    rto_max: float = 30.0
    tries_first: int = 3
    tries: int = 8
    tries_accept: int = 4
    backoff_from: int = 4


class RudpClient:
    """The client's side of one socket: numbers messages, retransmits the outstanding one, recognises its answer.

    Raises nothing for what the network does. `failed` is set when the tries are used up, `repeated` as soon as any message is sent twice.
    """

    def __init__(self, config: RudpConfig, timestamp_offset: int = 0) -> None:
        self._config = config
        self._offset = timestamp_offset
        self._start = 0.0
        self._started = False
        self._sequence = FIRST_SEQUENCE - 1
        self._payload: bytes | None = None
        self._sends: dict[int, float] = {}
        self._tries = 0
        self._limit = 0
        self._deadline: float | None = None
        self._queue: list[bytes] = []
        self._srtt = 0.0
        self._rttvar = 0.5
        self._rto = config.rto_initial
        self._used: set[int] = set()
        self.answered = False
        self.failed = False
        self.repeated = False
        self.timestamp_changed = False

    def start_at(self, timestamp: int) -> None:
        """The time stamp (milliseconds) of the first message, instead of timestamp_offset."""
        self._offset = timestamp

    @property
    def waiting(self) -> bool:
        """Whether a message is outstanding."""
        return self._payload is not None

    @property
    def rto(self) -> float:
        """The retransmission timeout in force, before backoff, in seconds."""
        return self._rto

    def send(self, payload: bytes, now: float, tries: int | None = None) -> None:
        """Make `payload` (may be b"") the outstanding message, under a new sequence number. tries: at most so many sends."""
        if not self._started:
            self._start, self._started = now, True
        # After FF old servers would no longer see the mark in the low byte; wrapping inside F0..FF keeps both ends marked.
        self._sequence = FIRST_SEQUENCE | ((self._sequence + 1) & 0x0F)
        self._used.add(self._sequence)
        self._payload = payload
        self._sends = {}
        self._tries = 0
        self._limit = self._config.tries if self.answered else self._config.tries_first
        if tries is not None:
            self._limit = min(self._limit, tries)
        self.failed = False
        self._transmit(now)

    def cancel(self) -> None:
        """Stop waiting for an answer."""
        self._payload = None
        self._deadline = None

    def receive(self, datagram: bytes, now: float) -> bytes | None:
        """The text of the answer to the outstanding message; None when the datagram is something else, which is to be ignored."""
        if self._payload is None or len(datagram) < HEADER_SIZE:
            return None
        sequence, timestamp = HEADER.unpack_from(datagram)
        if sequence != self._sequence:
            return None
        # Only a send whose own time stamp came back tells the round trip for certain (Karn); some servers return 0.
        sent = self._sends.get(timestamp)
        self.timestamp_changed = sent is None
        if sent is None and self._tries == 1:
            sent = next(iter(self._sends.values()))
        if sent is not None:
            self._measure(max(0.0, now - sent))
        self.answered = True
        self.cancel()
        return datagram[HEADER_SIZE:]

    def is_late(self, datagram: bytes) -> bool:
        """Whether this answers a message of ours that was answered before: a duplicate, nobody's fault."""
        return int.from_bytes(datagram[:4], "big") in self._used

    def data_to_send(self) -> list[bytes]:
        """Take the datagrams that are due."""
        queue, self._queue = self._queue, []
        return queue

    def next_timer(self) -> float | None:
        """When the outstanding message is to be retransmitted or given up."""
        return self._deadline

    def handle_timer(self, now: float) -> None:
        """Retransmit, or give up: then `failed` is True and nothing is outstanding."""
        if self._payload is None or self._deadline is None or now < self._deadline:
            return
        if self._tries >= self._limit:
            self.failed = True
            self.cancel()
        else:
            self._transmit(now)

    def _transmit(self, now: float) -> None:
        timestamp = (int((now - self._start) * 1000) + self._offset) & 0xFFFFFFFF
        if self._payload is None:
            raise AssertionError
        self._sends[timestamp] = now
        self._queue.append(HEADER.pack(self._sequence, timestamp) + self._payload)
        self._tries += 1
        self.repeated = self.repeated or self._tries > 1
        doublings = max(0, self._tries - self._config.backoff_from)
        self._deadline = now + min(self._rto * 2 ** doublings, self._config.rto_max)

    def _measure(self, rtt: float) -> None:
        delta = rtt - self._srtt
        self._srtt += delta / 8
        self._rttvar += (abs(delta) - self._rttvar) / 4
        self._rto = min(max(self._srtt + 4 * self._rttvar, self._config.rto_min), self._config.rto_max)


class RudpServer:
    """The server's side of one client: recognises retransmissions and repeats their answers from memory.

    RFC 5572 section 4.4.1 has the client repeat the sequence number so that this is possible; a server that runs the same message twice
    breaks the session (tsp-protocol.md section 11).
    """

    SETTLED = 10.0
    """Seconds after which a copy of an old datagram is no longer expected to come out of the network."""
    OLDER = 2.0
    """The same for a copy that would have to be older than the oldest of its session that was seen: a NAT gave its port to another."""
    APART = 1000
    """Milliseconds between two sends of one message at least; it is 2 s by every known client."""
    REMEMBERED = 32
    """Answers that are kept; a session has 4 to 6, and more where a client polls."""

    def __init__(self) -> None:
        self._answers: dict[int, tuple[bytes, bytes | None]] = {}
        self._stamps: list[int] = []
        self._header = b""
        self._sequence = 0
        self._latest = -1
        self._at = 0.0
        self._queue: list[bytes] = []

    def receive(self, datagram: bytes, now: float, *, opens: bool) -> bytes | None:
        """The text of a new message, to be followed by answer(); None for a retransmission (answered) or what is no message.

        opens: the text is one that opens a session. A client that starts again behind the same port uses the same first sequence
        number as before, and so does another client that a NAT gave that port; it is told from a late copy by its time stamp (within
        a session they grow, and copies are sent some seconds apart), or by the quiet before it.
        """
        if len(datagram) < HEADER_SIZE:
            return None
        sequence, timestamp = HEADER.unpack_from(datagram)
        text = datagram[HEADER_SIZE:]
        mark = text if len(text) <= 512 else hashlib.sha256(text).digest()
        known = self._answers.get(sequence)
        again = opens and len(self._answers) > 1 and self._begins_again(timestamp, now - self._at)
        if known is not None and known[0] == mark and not again:
            if opens and len(self._stamps) < self.REMEMBERED:
                self._stamps.append(timestamp)
            if known[1] is not None:
                self._queue.append(datagram[:HEADER_SIZE] + known[1])
            return None
        if opens:
            self._answers.clear()
            self._stamps, self._latest = [timestamp], -1
        elif len(self._answers) >= self.REMEMBERED:
            del self._answers[next(iter(self._answers))]
        self._header = datagram[:HEADER_SIZE]
        self._sequence = sequence
        self._answers[sequence] = (mark, None)
        self._latest = max(self._latest, timestamp)
        self._at = now
        return text

    def _begins_again(self, timestamp: int, quiet: float) -> bool:
        """Whether a message that opens a session, like the one that opened this one, opens another."""
        if timestamp > self._latest or quiet > self.SETTLED:
            return True
        if timestamp in self._stamps:
            return False
        apart = min((abs(timestamp - stamp) for stamp in self._stamps), default=0)
        return apart < self.APART or timestamp < self._stamps[0] and quiet > self.OLDER

    def answer(self, text: bytes) -> None:
        """The one answer, perhaps b"", to the message that receive() gave last: header returned unchanged, remembered."""
        self._answers[self._sequence] = (self._answers[self._sequence][0], text)
        self._queue.append(self._header + text)

    def data_to_send(self) -> list[bytes]:
        """Take the datagrams that are due."""
        queue, self._queue = self._queue, []
        return queue

# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""When to ping the broker, and when to call the tunnel dead: sans-IO, the owner gives the time and sends the pings.

A ping is due once an interval, unless traffic went both ways since the last look. Alive means that *replies* came: a tunnel that
only sends is not alive. Three pings in a row without an answer, each waited for five seconds, and the tunnel is lost
(tsp-protocol.md section 7).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Union

from .._tsp.lease import Grant

NAT_SAFE_INTERVAL = 25.0
"""Seconds. Many NATs forget an idle UDP flow after 30, so over UDP we ping at least this often whatever the broker says."""
MISSES = 3
WAIT = 5.0
TROUBLED_WAIT = 1.0
JITTER = 0.1
"""A fleet must not ping in step: each interval is shortened by up to this share, never lengthened (the NAT would not wait)."""


@dataclass(frozen=True)
class Ping:
    """Send an echo request with this sequence number now."""

    sequence: int


@dataclass(frozen=True)
class Lost:
    """Nothing came back: the tunnel carries nothing. No further pings until `restart`."""


Action = Union[Ping, Lost]


def interval_for(grant: Grant, longest: float | None = None) -> float | None:
    """Seconds between pings for a grant; None when it has no keepalive. longest: the user's own cap."""
    if grant.keepalive is None:
        return None
    interval = float(grant.keepalive.interval)
    if grant.mode == "v6udpv4":
        interval = min(interval, NAT_SAFE_INTERVAL)
    return interval if longest is None else min(interval, longest)


class Keepalive:
    """One tunnel's keepalive. Times are monotonic seconds; jitter() gives a number in [0, 1)."""

    def __init__(self, interval: float, now: float, jitter: Callable[[], float], misses: int = MISSES, wait: float = WAIT) -> None:
        self.interval = interval
        self.misses_allowed = misses
        self.wait = wait
        self.missed = 0
        self.last_rtt: float | None = None
        self.last_reply: float | None = None
        self._jitter = jitter
        self._sequence = 0
        self._pending: dict[int, float] = {}
        self._waiting = False
        self._lost = False
        self._sent = False
        self._received = False
        self._due = now + self._delay()

    @property
    def lost(self) -> bool:
        """Whether `Lost` was reported and nothing has come since."""
        return self._lost

    def sent(self) -> None:
        """User traffic went out."""
        self._sent = True

    def received(self) -> None:
        """User traffic came in."""
        self._received = True

    def probe(self, now: float) -> None:
        """Look at once: after set-up, or when the network hints that something is wrong. A look under way goes on undisturbed."""
        if not self._waiting and not self._lost:
            self._sent = self._received = False
            self._due = now

    def trouble(self, now: float) -> None:
        """The network says that the broker is unreachable: look at once, and do not wait long for the answer."""
        self.probe(now)
        if self._waiting:
            self._due = min(self._due, now + TROUBLED_WAIT)

    def next_timer(self) -> float | None:
        """When to call handle_timer; None once lost."""
        return None if self._lost else self._due

    def handle_timer(self, now: float) -> Action | None:
        """What to do at `now`; None before its time, and when traffic makes a ping needless."""
        if self._lost or now < self._due:
            return None
        if self._waiting:
            self.missed += 1
            self._waiting = False
            if self.missed >= self.misses_allowed:
                self._lost = True
                return Lost()
        elif self._sent and self._received:
            self._sent = self._received = False
            self._due = now + self._delay()
            return None
        self._sequence = (self._sequence + 1) & 0xFFFF
        self._pending[self._sequence] = now
        self._waiting = True
        self._due = now + self.wait
        return Ping(self._sequence)

    def reply(self, sequence: int, now: float) -> float | None:
        """An echo reply came: its round trip in seconds; None when we are not waiting for this one (a duplicate, a forgery)."""
        sent_at = self._pending.pop(sequence, None)
        if sent_at is None:
            return None
        self._pending.clear()
        self._waiting = self._lost = self._sent = self._received = False
        self.missed = 0
        self.last_rtt = now - sent_at
        self.last_reply = now
        self._due = now + self._delay()
        return self.last_rtt

    def _delay(self) -> float:
        return self.interval * (1.0 - JITTER * self._jitter())

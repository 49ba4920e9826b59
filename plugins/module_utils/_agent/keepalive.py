# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""When to ping the broker, and when to call the tunnel dead: sans-IO, the owner gives the time and sends the pings.

The first ping comes five seconds after set-up; from answer to answer the pause grows as the old client's, until it lies between three
quarters and the whole of the interval (tsp-protocol.md section 7). No ping is needed where traffic went both ways since the last look.
Alive means that something was *received*: a tunnel that only sends is not alive. So many pings in a row without an answer, each waited
for five seconds, and the tunnel is lost.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, Union

from .._tsp.lease import Grant, Lease

NAT_SAFE_INTERVAL = 25.0
"""Seconds. Many NATs forget an idle UDP flow after 30, so over UDP we ping at least this often whatever the broker says."""
MISSES = 3
WAIT = 5.0
"""Seconds that an answer may take; an interval shorter than that, where there is one."""
HURRIED_WAIT = 1.0
"""The same where something hints that the tunnel is dead; also the shortest wait."""
FIRST = 5.0
"""Seconds to the first ping after set-up."""
SECOND_GROWTH, LEAST_GROWTH, MOST_GROWTH = 1.6, 1.40, 1.79
FULL = 0.75
"""Share of the interval from which on the pause grows no more. A fleet must not ping in step, so it is anything between this and 1."""
MOST_PENDING = 128
"""Pings whose answers are still taken."""
NO_GROWTH_AFTER = 2
"""Misses in a row after which the next pause is no longer than the last one."""


@dataclass(frozen=True)
class Ping:
    """Send an echo request with this sequence number now."""

    sequence: int


@dataclass(frozen=True)
class Lost:
    """Nothing came back: the tunnel carries nothing. No further pings until `restart`."""


Action = Union[Ping, Lost]


class IdleTest(Protocol):
    """Who wants to know after how long a silence the tunnel still answers; see `natprobe`."""

    def wanted(self) -> float | None:
        """Seconds of silence to try next; None when nothing is to be found out."""

    def survived(self, idle: float) -> None:
        """The first ping after this silence was answered."""

    def failed(self, idle: float) -> None:
        """It was not."""


def behind_nat(lease: Lease) -> bool:
    """Whether the broker knows this host by another outer address than the host itself has."""
    outer = lease.grant.outer_address(lease.grant.client)
    return lease.local_address is not None and outer is not None and lease.local_address != outer


def interval_for(grant: Grant, longest: float | None = None, nat: bool = False) -> float | None:
    """Seconds between pings for a grant; None when it has no keepalive. longest: the user's own cap. nat: there is a NAT between."""
    if grant.keepalive is None:
        return None
    interval = float(grant.keepalive.interval)
    if grant.mode == "v6udpv4" or nat:
        interval = min(interval, NAT_SAFE_INTERVAL)
    return interval if longest is None else min(interval, longest)


class Keepalive:
    """One tunnel's keepalive. Times are monotonic seconds; jitter() gives a number in [0, 1).

    misses: pings without an answer that make a loss, None: nothing does, and a broker's end that never answers is pinged once an interval.
    wait: seconds for each. idle_test: sets the pauses while it wants to know something.
    """

    def __init__(self, interval: float, now: float, jitter: Callable[[], float], misses: int | None = MISSES, wait: float | None = None,
                 idle_test: IdleTest | None = None) -> None:
        self.interval = interval
        self.misses_allowed = misses
        self.wait = max(HURRIED_WAIT, min(WAIT, interval)) if wait is None else wait
        self.missed = 0
        self.last_rtt: float | None = None
        self.last_reply: float | None = None
        self._jitter = jitter
        self._idle_test = idle_test
        self._sequence = 0
        self._pending: dict[int, float] = {}
        self._pause = 0.0
        self._waiting = False
        self._hurried = False
        self._lost = False
        self._sent = False
        self._received = False
        self._testing: float | None = None
        self._due = now + self._next_pause()

    @property
    def lost(self) -> bool:
        """Whether `Lost` was reported and nothing has come since."""
        return self._lost

    def sent(self) -> None:
        """User traffic went out."""
        self._sent = True

    def received(self) -> None:
        """User traffic came in. While an answer is waited for it is as good as one: it came through the tunnel."""
        self._received = True

    def probe(self, now: float) -> None:
        """Look at once: after set-up, or when the network hints that something is wrong. A look under way goes on undisturbed."""
        if not self._waiting and not self._lost:
            self._sent = self._received = False
            self._testing = None
            self._pause = 0.0
            self._due = now

    def trouble(self, now: float) -> None:
        """The network says that the broker is unreachable: look at once, and do not wait long for the answer."""
        self.probe(now)
        if self._waiting:
            self._due = min(self._due, now + HURRIED_WAIT)

    def hurry(self, now: float) -> None:
        """The network may be another one, or time stood still: look at once, and wait for no answer long until one has come."""
        self._hurried = True
        self.trouble(now)

    def next_timer(self) -> float | None:
        """When to call handle_timer; None once lost."""
        return None if self._lost else self._due

    def handle_timer(self, now: float) -> Action | None:
        """What to do at `now`; None before its time, and when traffic makes a ping needless."""
        if self._lost or now < self._due:
            return None
        if self._waiting and self._received:
            self._heard(now)
            return None
        if self._waiting:
            self.missed += 1
            self._waiting = False
            if self.misses_allowed is not None and self.missed >= self.misses_allowed:
                self._lost = True
                self._tell_test(False)
                return Lost()
        elif self._sent or self._received:
            self._testing = None  # the silence was none
            if self._sent and self._received:
                self._sent = self._received = False
                self._due = now + self._next_pause()
                return None
        self._sequence = (self._sequence + 1) & 0xFFFF
        self._pending[self._sequence] = now
        if len(self._pending) > MOST_PENDING:
            del self._pending[next(iter(self._pending))]
        self._waiting = True
        self._sent = self._received = False
        wait = min(self.wait, HURRIED_WAIT) if self._hurried else self.wait
        self._due = now + (self.interval if self.misses_allowed is None and self.missed >= MISSES else wait)
        return Ping(self._sequence)

    def reply(self, sequence: int, now: float) -> float | None:
        """An echo reply came: its round trip in seconds; None when we are not waiting for this one (a duplicate, a forgery)."""
        sent_at = self._pending.get(sequence)
        if sent_at is None:
            return None
        self.last_rtt = now - sent_at
        self.last_reply = now
        self._heard(now)
        return self.last_rtt

    def _heard(self, now: float) -> None:
        self._tell_test(self.missed == 0)
        self._pending.clear()
        self._waiting = self._hurried = self._lost = self._sent = self._received = False
        grow, self.missed = self.missed < NO_GROWTH_AFTER, 0
        self._due = now + (self._pause if self._pause and not grow else self._next_pause())

    def _tell_test(self, survived: bool) -> None:
        tested, self._testing = self._testing, None
        if tested is not None and self._idle_test is not None:
            (self._idle_test.survived if survived else self._idle_test.failed)(tested)

    def _next_pause(self) -> float:
        wanted = None if self._idle_test is None else self._idle_test.wanted()
        if wanted is not None:
            self._testing = self._pause = wanted
            return wanted
        before = self._pause
        if not before:
            grown = FIRST
        elif before == FIRST:
            grown = before * SECOND_GROWTH
        else:
            grown = before * (LEAST_GROWTH + (MOST_GROWTH - LEAST_GROWTH) * self._jitter())
        if grown >= FULL * self.interval:
            grown = self.interval * (FULL + (1.0 - FULL) * self._jitter())
        self._pause = grown
        return grown

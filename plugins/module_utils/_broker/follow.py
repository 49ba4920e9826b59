# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""Follows a v6udpv4 client whose NAT forgot it and gave it another port: its packets come from there, and it does not know.

Packets carry no proof of who sent them, so both paths are tried, as QUIC does when an address changes (RFC 9000 sections 8.2, 9.3.3):
echo requests to the known port; where that shows no life, to the new port, and the tunnel moves if what could not be guessed comes back.
A host that drops pings looks just like a dead port, and its neighbours behind the same NAT could say that they are it. So the known port
must first have missed a keepalive, unless this very client has answered us before. Until then nobody hears anything.

Never to another outer address: behind the same one is the client's own NAT; anywhere else is everybody who knows its inner address.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv6Address

from .._agent import icmp6
from .ends.port import EndTable, SendUdp, TunnelEnd
from .icmp import whole
from .ratelimit import TokenBucket

LATE = 1.1
"""A keepalive that is later than so many intervals was missed: old clients send one within each."""
KNOWN, NEW = 2, 3
"""How often the known port is asked, then the new one: once with each tick."""
HOLD = 10.0
"""Seconds after a trial that came to nothing until the next one about the same tunnel."""
LONGEST = 60.0
"""Seconds after which a trial asks no more."""
RATE = 50
"""Trials that may begin in a second. With LONGEST and HOLD it bounds what is kept here."""
TOKEN = 16


class Trial:
    """An end, the port that its client may have now, and how far the question is. asked: how often. over: since when."""

    __slots__ = ("asked", "began", "end", "heard", "over", "port", "token")

    def __init__(self, end: TunnelEnd, port: int, token: bytes, now: float) -> None:
        self.end = end
        self.port = port
        self.token = token
        self.began = now
        self.heard = end.received
        self.asked = 0
        self.over: float | None = None

    @property
    def alive(self) -> bool:
        """Whether the known port has shown life."""
        return self.end.received != self.heard


class Follower:
    """stranger() for every packet from where no end is open, tick() about once a second. Times are monotonic seconds.

    own: our address inside the tunnels. move(end, port): what is to happen. rng(n): n random bytes.
    """

    def __init__(self, table: EndTable, own: IPv6Address, send_udp: SendUdp, move: Callable[[TunnelEnd, int], None],
                 rng: Callable[[int], bytes]) -> None:
        self.trials: dict[int, Trial] = {}
        """By lease."""
        self._table = table
        self._own = own
        self._send = send_udp
        self._move = move
        self._rng = rng
        self._bucket = TokenBucket(RATE, RATE)

    def stranger(self, peer: tuple[str, int], packet: bytes, now: float) -> None:
        """A datagram that is no signalling, from an unknown endpoint."""
        if not whole(packet):
            return
        end = self._table.towards(packet[8:24])
        if end is None or end.mode != "v6udpv4" or end.remote != peer[0] or not (end.interval or end.answers):
            return
        trial = self.trials.get(end.lease)
        if trial is None or trial.end is not end:
            if self._bucket.take(now):
                self.trials[end.lease] = Trial(end, peer[1], self._rng(TOKEN), now)
        elif trial.port == peer[1] and not trial.alive:
            echo = icmp6.parse_echo(packet)
            if echo is not None and echo.payload == trial.token:
                del self.trials[end.lease]
                end.answers = True
                self._move(end, trial.port)

    def tick(self, now: float) -> None:
        """Ask on, or give up."""
        for lease, trial in list(self.trials.items()):
            if self._table.by_lease.get(lease) is not trial.end or trial.over is not None and now - trial.over >= HOLD:
                del self.trials[lease]
            elif trial.over is None:
                self._go_on(trial, now)

    def _go_on(self, trial: Trial, now: float) -> None:
        end = trial.end
        if trial.alive or trial.asked == KNOWN + NEW or now - trial.began > LONGEST:
            trial.over = now
        elif end.answers or now - end.last_seen > LATE * end.interval:
            trial.asked += 1
            if trial.asked <= KNOWN:
                self._ask(end, end.port, self._rng(TOKEN))
            else:
                self._ask(end, trial.port, trial.token)

    def _ask(self, end: TunnelEnd, port: int, token: bytes) -> None:
        """An echo request to the client, at this port. (The known port shows life by any packet, so what it is asked is not kept.)"""
        request = icmp6.echo_request(self._own, IPv6Address(end.inner), int.from_bytes(token[:2], "big"), 1, token)
        self._send(request, (end.remote, port), end.local)

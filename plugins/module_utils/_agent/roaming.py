# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""Whether this host still reaches the broker from where the tunnel was made, and whether it was asleep.

What counts is the address from which the kernel would send to the broker: it changes with the host's address and with its default
route, and not with whatever our own device, or one that carries nothing of ours, does.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import datetime
from ipaddress import ip_address
from typing import Optional

from .._exchange.options import Address, ExchangeOptions, parse_broker
from .._exchange.source import Source, own_address
from .._tsp.lease import Lease
from .watch import Watch

DEBOUNCE = 0.3
"""Seconds: where one thing changes, others follow."""
ANYWHERE = {4: "192.0.2.1", 6: "2001:db8::1"}
"""For documentation only (RFC 5737, RFC 3849), so what leads there is the default route."""
MOVED, AWAY, BACK = "moved", "away", "back"
"""The host has another address towards the broker; none; the one of the tunnel again."""
JUMP = 10.0
"""Seconds by which the wall clock is ahead of the other, where the system does not tell its sleep."""
NAP = 2.0
"""Seconds of sleep that make no difference."""
Where = Callable[[Address, Source], Optional[Address]]


class Roaming:
    """tell(MOVED | AWAY | BACK, sentence) is called from the loop. where: the address from which this host would send."""

    def __init__(self, options: ExchangeOptions, mode: str, tell: Callable[[str, str], None], where: Where = own_address) -> None:
        self._source = Source(options.source_address, options.source_interface)
        self._tell = tell
        self._where = where
        self._peer: Address = self._first_peer(options, 6 if mode == "v4v6" else 4)
        self._made_at: Address | None = None
        self._at: Address | None = None

    def begin(self) -> None:
        """From now on, a change is one against this moment."""
        self._at = self._made_at = self._where(self._peer, self._source)

    def settle(self, lease: Lease) -> None:
        """A tunnel was made with this lease, from where this host is now."""
        peer = lease.grant.outer_address(lease.grant.server)
        if peer is not None:
            self._peer = peer
        self.begin()

    async def run(self, watch: Watch) -> None:
        """Look whenever `watch` says so, until cancelled."""
        try:
            while True:
                await watch.changed()
                await asyncio.sleep(DEBOUNCE)
                self.look()
        finally:
            watch.close()

    def look(self) -> None:
        """Compare, and tell what differs."""
        before, self._at = self._at, self._where(self._peer, self._source)
        if self._at is None:
            if before is not None:
                self._tell(AWAY, "This host has no way to the broker any more.")
        elif self._at != self._made_at:
            made, self._made_at = self._made_at, self._at
            self._tell(MOVED, f"This host now sends to the broker from {self._at}" + (f", not from {made}." if made is not None else "."))
        elif before is None:
            self._tell(BACK, "This host has a way to the broker again.")

    @staticmethod
    def _first_peer(options: ExchangeOptions, version: int) -> Address:
        for broker in options.brokers:
            address = parse_broker(broker).address
            if address is not None and address.version == version:
                return address
        return ip_address(ANYWHERE[version])


class Standstill:
    """Notices that time went on without us. wall() gives aware datetimes, which somebody may set; steady() the seconds that we saw pass."""

    def __init__(self, wall: Callable[[], datetime], steady: Callable[[], float]) -> None:
        self._boot: int | None = getattr(time, "CLOCK_BOOTTIME", None)
        self._wall, self._steady = wall, steady
        self._before = self._ahead()

    def slept(self) -> float:
        """Seconds of sleep since the last call, as the system tells it; where it does not, by how much the wall clock has jumped ahead."""
        before, self._before = self._before, self._ahead()
        ahead = self._before - before
        return ahead if ahead > (NAP if self._boot is not None else JUMP) else 0.0

    def _ahead(self) -> float:
        if self._boot is not None:
            return time.clock_gettime(self._boot) - time.clock_gettime(time.CLOCK_MONOTONIC)
        return self._wall().timestamp() - self._steady()

# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""Counting what strangers do, in bounded memory. Times are monotonic seconds and given by the caller."""

from __future__ import annotations

from collections import OrderedDict, deque
from ipaddress import IPv6Address, ip_address

WINDOW = 60.0
REMEMBERED = 10_000


class FailureWindow:
    """Failures per address within the last minute; IPv6 counts by /64, for a host has that many addresses to try from."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._seen: OrderedDict[str, deque[float]] = OrderedDict()

    def add(self, address: str, now: float) -> None:
        """Note one failure."""
        key = _key(address)
        times = self._seen.pop(key, None)
        if times is None:
            times = deque(maxlen=self.limit)
            if len(self._seen) >= REMEMBERED:
                self._seen.popitem(last=False)
        elif times.maxlen != self.limit:
            times = deque(times, maxlen=self.limit)
        times.append(now)
        self._seen[key] = times

    def blocked(self, address: str, now: float) -> bool:
        """Whether this address used up its failures."""
        if not self._seen:
            return False
        key = _key(address)
        times = self._seen.get(key)
        if times is None:
            return False
        while times and times[0] <= now - WINDOW:
            times.popleft()
        if not times:
            del self._seen[key]
            return False
        return len(times) >= self.limit


class TokenBucket:
    """At most `rate` things a second on average, `burst` at once."""

    def __init__(self, rate: float, burst: float) -> None:
        self.rate = rate
        self.burst = burst
        self._tokens = burst
        self._at = 0.0

    def take(self, now: float) -> bool:
        """Whether one more may happen now."""
        self._tokens = min(self.burst, self._tokens + (now - self._at) * self.rate)
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


def _key(address: str) -> str:
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    return str(IPv6Address(int(parsed) >> 64 << 64)) if parsed.version == 6 else address

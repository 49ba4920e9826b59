# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""How long the NAT remembers the tunnel's flow while nothing passes: found out on that flow, once, and kept on disk.

Only the tunnel's own mapping matters, and nobody can be asked to send to it later: a packet of ours makes a forgotten mapping anew
before anything comes back. (A second socket sees the same: its ECHO REQUEST is answered in any case, and no answer tells the public
port.) What can be seen is the answer to the first ping after a silence. A forgotten mapping means another public port, from which the
broker takes nothing, or, where it follows its clients, takes nothing at first. So the silence grows from answer to answer until one
stays away, twice, for a packet may be lost anywhere; then the bound is halved in. A silence that user traffic breaks counts for nothing.
Each failure can cost a new negotiation, which keeps addresses and prefix; there are about five in all, and never again on this path.

What cannot be seen: a broker that follows at once. The tunnel then lives after any silence, which is what is told.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable
from typing import Any

from .._exchange.files import read_text, write_private
from .._tsp.lease import Lease
from .keepalive import behind_nat

FIRST_SILENCE = 10.0
SHORTEST_SILENCE = 2.0
GROWTH = 1.6
CLOSE = 1.2
"""Known once the shortest silence that was too long is no longer than so many times the longest that was not."""
BELIEVED = 2
"""Failures after the same silence."""
SAFETY = 0.8
"""Share of the longest good silence after which we ping."""
MOST_LOSSES = 3
"""Of a tunnel that is pinged as often as was found to be enough."""


class NatProbe:
    """The search for one path. longest: seconds between pings that the broker allows, beyond which nothing needs to be known.

    path: file to keep the result in, None for none. say(sentence): told once it is found.
    """

    def __init__(self, longest: float, path: str | None = None, say: Callable[[str], None] = lambda _sentence: None) -> None:
        self.longest = longest
        self.good = 0.0
        """The longest silence after which the tunnel answered. bad: the shortest after which it did not, None while there is none."""
        self.bad: float | None = None
        self.path = path
        self._say = say
        self._doubt: float | None = None
        self._doubts = 0
        self._losses = 0
        self._load()

    @property
    def found(self) -> bool:
        """Whether there is nothing more to find out."""
        if self.bad is None:
            return self.good >= self.longest
        return self.bad <= SHORTEST_SILENCE or self.bad <= self.good * CLOSE

    @property
    def interval(self) -> float | None:
        """Seconds between pings that are safe; None while nothing is known."""
        if self.bad is None and self.good >= self.longest:
            return self.longest
        return min(self.longest, self.good * SAFETY) if self.good else None

    @property
    def said(self) -> str:
        """The result, a sentence."""
        if not self.found:
            return "Not known yet: it is being found out while the tunnel is idle."
        if self.bad is None:
            return f"The tunnel answers after {self.good:.0f} s of silence, the longest that the broker lets pass between pings."
        return (f"The NAT forgets the tunnel after {self.good:.0f} to {self.bad:.0f} s of silence, "
                f"so it is pinged at least every {self.interval or SHORTEST_SILENCE:.0f} s.")

    def wanted(self) -> float | None:
        """Seconds of silence to try next; None when nothing is to be found out."""
        if self.found:
            return None
        if self._doubt is not None:
            return self._doubt
        if self.bad is None:
            return min(self.longest, self.good * GROWTH or FIRST_SILENCE)
        return max(SHORTEST_SILENCE, math.sqrt(self.good * self.bad) if self.good else self.bad / 2)

    def survived(self, idle: float) -> None:
        """The first ping after this silence was answered."""
        self._doubt, self._doubts = None, 0
        self.good = max(self.good, idle)
        if self.bad is not None and self.bad <= self.good:
            self.bad = None  # it had another reason
        self._keep()

    def failed(self, idle: float) -> None:
        """It was not: after BELIEVED of them this silence is too long."""
        self._doubts = self._doubts + 1 if self._doubt == idle else 1
        self._doubt = idle
        if self._doubts >= BELIEVED:
            self._doubt, self._doubts = None, 0
            self.bad = idle
            self.good = min(self.good, idle / CLOSE)
            self._keep()

    def lost_anyway(self) -> None:
        """The tunnel was lost. Often enough, although the result is kept to, and the NAT is another one: find it out again."""
        self._losses += self.found
        if self._losses >= MOST_LOSSES:
            self._losses, self.good, self.bad = 0, 0.0, None
            self._keep()

    def _keep(self) -> None:
        if self.found:
            self._say(self.said)
        if self.path is not None:
            try:
                write_private(self.path, json.dumps({"good": self.good, "bad": self.bad, "longest": self.longest}) + "\n")
            except OSError:
                pass  # it is found out again after the next start

    def _load(self) -> None:
        if self.path is None:
            return
        try:
            data: Any = json.loads(read_text(self.path))
            good, bad = float(data["good"]), None if data["bad"] is None else float(data["bad"])
        except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError):
            return
        if 0 <= good <= 86400 and (bad is None or good < bad <= 86400):
            self.good, self.bad = good, bad


def memory_file(state_dir: str, lease: Lease) -> str:
    """Where the result for this path is kept: the broker's end, the public address, and the host's own behind it."""
    grant = lease.grant
    key = f"{grant.outer_address(grant.server)} {grant.outer_address(grant.client)} {lease.local_address}"
    return os.path.join(state_dir, f"nat-{hashlib.sha256(key.encode()).hexdigest()[:24]}.json")


def facts(lease: Lease | None, probe: NatProbe | None) -> dict[str, Any] | None:
    """What is known of the NAT, for the status: {behind: bool, lifetime: seconds or None, said: a sentence}; None without a lease."""
    if lease is None or lease.local_address is None:
        return None
    if not behind_nat(lease):
        return {"behind": False, "lifetime": None, "said": "The broker sees this host's own address."}
    if probe is None:
        return {"behind": True, "lifetime": None, "said": "The broker sees another address than this host's own."}
    return {"behind": True, "lifetime": round(probe.good, 1) if probe.found and probe.bad is not None else None, "said": probe.said}

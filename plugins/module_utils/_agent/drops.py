# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""Has the log tell what came from outside and was dropped: when it begins, and while it goes on once a minute at most, with the number."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from typing import Callable

from .logs import AGAIN

SAID = {"dropped_in_malformed": "datagrams from the broker's port that are no IPv6 packets",
        "dropped_in_spoofed": "packets out of the tunnel that are not for this host, or claim to come from it"}
"""By the data plane's counters. What a link has among its own (local_only), and late answers of an exchange, are no news."""


class Drops:
    """For one tunnel, and its logger. clock: monotonic seconds."""

    def __init__(self, log: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._clock = clock
        self._told = dict.fromkeys(SAID, 0)
        self._when = dict.fromkeys(SAID, -math.inf)

    def look(self, counters: Mapping[str, int]) -> None:
        """counters: as the data plane has them; call it now and then."""
        for key, what in SAID.items():
            count = counters.get(key, 0)
            if count < self._told[key]:
                self._told[key] = 0  # another data plane counts anew
            if count > self._told[key] and self._clock() - self._when[key] >= AGAIN:
                self._log.warning("dropped %d %s", count - self._told[key], what)
                self._told[key], self._when[key] = count, self._clock()

# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""A broker that keeps silent, while others could be asked: how long to wait for it.

Nobody is disturbed while the broker that is asked answers. Only once it has been silent for SILENCE, those that could be asked instead,
and it itself, are sent an ECHO REQUEST. Whoever sends anything back is there. At GIVE_UP the silent one is left, unless it is there
after all, or nobody else is: then it gets the old client's time (tsp-protocol.md section 1.4). So a black hole among several brokers
costs less than three seconds, its other transport (FEW_SECONDS) included, and a second one nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from .echo import answers
from .options import Broker
from .resolve import Lookup
from .source import Source

SILENCE, GIVE_UP = 0.6, 1.9
"""Seconds after the first message to a broker that has not said anything."""
FEW_SECONDS = 0.8
"""For another transport of a broker that has been given up."""
LONGEST = 10.0
"""Seconds after which nobody is listened for any more."""


class Others:
    """Who is there. Use for one exchange, and close."""

    def __init__(self, family: int, source: Source, lookup: Lookup) -> None:
        self._family, self._source, self._lookup = family, source, lookup
        self._loop = asyncio.get_running_loop()
        self._asked: dict[Broker, asyncio.Future[bool]] = {}
        self._there: set[Broker] = set()
        self.silent: set[Broker] = set()
        """Those that were given up."""

    def pick(self, left: Sequence[Broker]) -> Broker:
        """Whom of `left` to ask next: the first, unless it is known to be silent and another one to be there."""
        return next((broker for broker in left if broker in self._there), left[0])

    def listen(self, brokers: Sequence[Broker]) -> None:
        """Find out which of them are there."""
        for broker in brokers:
            if broker not in self._asked:
                self._asked[broker] = asyncio.ensure_future(self._listen(broker))

    async def _listen(self, broker: Broker) -> bool:
        there = await answers(broker, self._family, self._source, LONGEST, self._lookup)
        if there:
            self._there.add(broker)
        return there

    async def given_up(self, broker: Broker, heard: asyncio.Event, left: Sequence[Broker]) -> None:
        """Returns once `broker` is to be left for one of `left`; never while it says something. To be cancelled."""
        began = self._loop.time()
        try:
            await asyncio.wait_for(heard.wait(), SILENCE)
        except asyncio.TimeoutError:
            self.listen((broker, *left))
            await self._decide(broker, began + GIVE_UP, left)
            if not heard.is_set():
                self.silent.add(broker)
                return
        await self._loop.create_future()

    async def _decide(self, broker: Broker, at: float, left: Sequence[Broker]) -> None:
        """Until time `at`, and as long as nobody else is there, or `broker` is."""
        waiting = {self._asked[other] for other in (broker, *left)}
        while True:
            remaining = at - self._loop.time()
            if remaining <= 0 and broker not in self._there and any(other in self._there for other in left):
                return
            pending = {task for task in waiting if not task.done()}
            if not pending or broker in self._there:
                await self._loop.create_future()  # the old client's time
            await asyncio.wait(pending, timeout=remaining if remaining > 0 else None, return_when=asyncio.FIRST_COMPLETED)

    async def close(self) -> None:
        """Listen no more."""
        for task in self._asked.values():
            task.cancel()
        await asyncio.gather(*self._asked.values(), return_exceptions=True)

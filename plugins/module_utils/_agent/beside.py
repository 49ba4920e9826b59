# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""A negotiation that runs while the tunnel in use goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from .brokers import Answer


class Beside:
    """why: what it was begun for. woken: set when it is over."""

    def __init__(self, why: str, work: Awaitable[Answer], woken: asyncio.Event) -> None:
        self.why = why
        self._task = asyncio.ensure_future(work)
        self._task.add_done_callback(lambda _task: woken.set())

    @property
    def done(self) -> bool:
        """Whether there is a result, or an error."""
        return self._task.done()

    def result(self) -> Answer:
        """Raises TspError."""
        return self._task.result()

    async def cancel(self) -> None:
        """It is not wanted any more: whatever it may have brought is closed."""
        self._task.cancel()
        done = await asyncio.gather(self._task, return_exceptions=True)
        if isinstance(done[0], tuple) and done[0][1] is not None:
            done[0][1].close()

# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""How far brokers are: ECHO REQUEST to many at once over UDP, all of it within a few seconds (tsp-protocol.md section 6)."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Sequence

from .._tsp.errors import TspError
from .._tsp.rudp import FIRST_SEQUENCE, HEADER, HEADER_SIZE
from .options import Address, Broker
from .resolve import Lookup, resolve
from .source import Source
from .udp import UdpLink

REQUEST = b"ECHO REQUEST"
"""No line end (tsp-protocol.md section 1.5)."""
SENDS = 3
MOST_SENDS, QUICK = 12, 0.3
"""Of a request that is only to show whether somebody is there, and the seconds between two of them."""
MOST_AT_ONCE = 50
"""Entries of a redirect list (tsp-protocol.md section 6)."""


class _Probe:
    """One request and the wait for `200` under the same sequence number."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._sent: dict[int, float] = {}
        self.distance: asyncio.Future[float | None] = self._loop.create_future()
        self.answered = False
        """Whether any datagram came back."""

    def request(self) -> bytes:
        """The next datagram: same sequence and text, another time stamp."""
        now = self._loop.time()
        start = next(iter(self._sent.values()), now)
        # The stamp only tells our own sends apart, so two within a millisecond must differ as well.
        stamp = int((now - start) * 1000) + len(self._sent)
        self._sent[stamp] = now
        return HEADER.pack(FIRST_SEQUENCE, stamp) + REQUEST

    def data_received(self, data: bytes) -> None:
        self.answered = True
        if len(data) < HEADER_SIZE or self.distance.done():
            return
        sequence, stamp = HEADER.unpack_from(data)
        if sequence != FIRST_SEQUENCE:
            return
        if not _is_success(data[HEADER_SIZE:]):
            self.distance.set_result(None)  # alive, but does not know the request: as good as unknown distance
            return
        # a server that does not return the stamp is measured from the first send: rather too far than too near
        sent = self._sent.get(stamp, next(iter(self._sent.values())))
        self.distance.set_result((self._loop.time() - sent) * 1000.0)

    def eof_received(self) -> None:
        """Does not happen on UDP."""

    def link_lost(self, error: TspError) -> None:
        if not self.distance.done():
            self.distance.set_result(None)


def _is_success(text: bytes) -> bool:
    return text[:3] == b"200" and (len(text) == 3 or text[3:4] in (b" ", b"\r", b"\n", b"\0"))


async def distance(address: Address, port: int, source: Source, timeout: float) -> float | None:
    """Milliseconds to one broker and back; None when it does not answer within `timeout` seconds, refuses, or answers no 200."""
    probe = _Probe()
    loop = asyncio.get_running_loop()
    try:
        # many probes run at once, so they cannot share the one local port that the tunnel may be bound to
        link = UdpLink.open(address, port, Source(source.address, source.interface), probe)
    except TspError:
        return None
    end = loop.time() + timeout
    try:
        for left in range(SENDS, 0, -1):
            with contextlib.suppress(TspError):
                link.send(probe.request())
            pause = (end - loop.time()) / left
            if pause <= 0:
                break
            with contextlib.suppress(asyncio.TimeoutError):
                return await asyncio.wait_for(asyncio.shield(probe.distance), pause)
        return None
    finally:
        link.abort()


async def answers(broker: Broker, family: int, source: Source, timeout: float, lookup: Lookup) -> bool:
    """Whether anything comes back from a broker within `timeout` seconds, even that it does not know the request. Asked often, for a lost
    packet must not pass for a dead broker. Never raises."""
    loop = asyncio.get_running_loop()
    end = loop.time() + timeout
    probe = _Probe()
    try:
        addresses = await resolve(broker, family, timeout, lookup)
        link = UdpLink.open(addresses[0], broker.port, Source(source.address, source.interface), probe)
    except TspError:
        return False
    try:
        for _send in range(MOST_SENDS):
            with contextlib.suppress(TspError):
                link.send(probe.request())
            await asyncio.wait({probe.distance}, timeout=max(0.0, min(QUICK, end - loop.time())))
            if probe.answered or loop.time() >= end:
                break
        return probe.answered
    finally:
        link.abort()


async def distances(brokers: Sequence[Broker], family: int, source: Source, timeout: float, lookup: Lookup,
                    grace: float = math.inf) -> dict[Broker, float | None]:
    """Milliseconds to each of `brokers` (the first MOST_AT_ONCE), all asked in parallel, names resolved first, within `timeout` seconds
    in all, and once one has answered within `grace`: whoever takes so much longer is not near. None: unreachable, of the wrong family,
    no name, or too late. Never raises."""

    async def one(broker: Broker) -> float | None:
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout
        try:
            addresses = await resolve(broker, family, timeout, lookup)
        except TspError:
            return None
        return await distance(addresses[0], broker.port, source, max(0.0, end - loop.time()))

    asked = list(dict.fromkeys(brokers))[:MOST_AT_ONCE]
    tasks = {asyncio.ensure_future(one(broker)): broker for broker in asked}
    left = set(tasks)
    measured: dict[Broker, float | None] = dict.fromkeys(brokers)
    until = math.inf
    loop = asyncio.get_running_loop()
    try:
        while left and (loop.time() < until):
            done, left = await asyncio.wait(left, timeout=None if until == math.inf else until - loop.time(),
                                            return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                measured[tasks[task]] = task.result()
                if task.result() is not None and until == math.inf:
                    until = loop.time() + grace
    finally:
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
    return measured

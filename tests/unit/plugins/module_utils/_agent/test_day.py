# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A day in the life of an agent behind a NAT, in some seconds: the NAT forgets, the broker dies and is busy, the host moves, its clock is
set, its user is impatient. Seen every ten seconds, from outside."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent.core import Agent
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.errors import NetworkError, RemoteError
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.lease import Lease
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._agent._stage import FakeBroker, Stage, make_lease, up

HOUR = 3600.0
LOOK = 10.0
LIFETIME = 1200
INTERVAL = 25.0
LOSS = INTERVAL + 3 * 5.0 + 2.0
"""Seconds within which a lost mapping is a tunnel again: a ping's interval, three answers waited for, and two more."""


class Broker(FakeBroker):
    """ill: what it answers instead of a lease. granted: when it gave one."""

    ill: Exception | None = None

    def __init__(self, lease: Lease) -> None:
        super().__init__(lease)
        self.granted: list[float] = []

    async def negotiate(self, *args: Any, **said: Any) -> tuple[Lease, None, list[str]]:
        answer = await super().negotiate(*args, **said)
        if self.ill is not None:
            raise self.ill
        self.granted.append(asyncio.get_running_loop().time())
        return answer


class Day:
    """What was seen, as (second, state, age of the lease in use, tasks)."""

    def __init__(self, stage: Stage, broker: Broker) -> None:
        self.stage, self.broker = stage, broker
        self.seen: list[tuple[float, str, float, int]] = []
        self.excused: list[tuple[float, float]] = []
        """From when to when nobody could have had a tunnel."""
        self.back: list[float] = []
        """Seconds from each mapping that was lost to the tunnel again."""
        self.began = 0.0

    def now(self) -> float:
        return asyncio.get_running_loop().time() - self.began

    def rest(self, seconds: float) -> list[Any]:
        def look(agent: Agent) -> None:
            age = asyncio.get_running_loop().time() - self.broker.granted[-1] if self.broker.granted else 0.0
            self.seen.append((self.now(), agent.state, age, len(asyncio.all_tasks())))
        return [part for _turn in range(int(seconds / LOOK)) for part in (LOOK, look)]

    @staticmethod
    def act(work: Callable[[Agent], Any]) -> Callable[[Agent], None]:
        """A step that is no condition."""
        def done(agent: Agent) -> None:
            work(agent)
        return done

    def forget(self) -> list[Any]:
        at: list[float] = []

        def lose(_agent: Agent) -> None:
            self.stage.tunnel._forgotten = True
            at.append(self.now())
            self.excused.append((at[0], at[0] + LOSS))
        return [lose, lambda agent: not self.stage.tunnel._forgotten and agent.state == "up",
                self.act(lambda agent: self.back.append(self.now() - at[0]))]

    def ill(self, error: Exception, seconds: float, longest_wait: float) -> list[Any]:
        """The broker's end is silent, and it answers all questions so. longest_wait: for which the agent may rest afterwards."""
        def begin(_agent: Agent) -> None:
            self.broker.ill, self.stage.tunnel.alive = error, False
            self.excused.append((self.now(), self.now() + seconds + longest_wait + LOSS))

        def end(_agent: Agent) -> None:
            self.broker.ill, self.stage.tunnel.alive = None, True
        return [begin, *self.rest(seconds), end, up]

    def set_clock(self, hours: float) -> list[Any]:
        def work(_agent: Agent) -> None:
            self.stage.wall += timedelta(hours=hours)
        return [work]


@pytest.mark.parametrize("seed", range(3))
def test_a_day(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    lease = make_lease("v6udpv4", LIFETIME, local="10.0.0.5", ipv4="192.0.2.20")
    stage = Stage(tmp_path, lease)
    stage.fresh = True
    broker = stage.broker = Broker(lease)
    day = Day(stage, broker)
    silent = NetworkError("no_answer", "The broker is silent.", "Wait.")
    busy = RemoteError("busy", "The broker is too busy.", "Wait.", status=530)
    events: list[Callable[[], list[Any]]] = [
        day.forget, day.forget, day.forget, lambda: day.ill(silent, chance.uniform(60, 1500), 400), lambda: day.ill(busy, 600, 3700),
        lambda: [stage.move(f"10.0.{chance.randrange(200)}.{chance.randrange(1, 250)}")],
        lambda: [stage.move(None), 30, stage.move("10.0.0.5")],
        lambda: day.set_clock(3), lambda: day.set_clock(-5), lambda: [day.act(lambda agent: agent.renegotiate())]]

    def begin(_agent: Agent) -> None:
        day.began = asyncio.get_running_loop().time()
    steps: list[Any] = [up, begin]
    for _hour in range(24):
        steps += [*day.rest(chance.uniform(300, HOUR - 600)), *chance.choice(events)(), *day.rest(300)]
    steps += [*day.forget(), up]
    agent = stage.play(*steps, patience=80 * HOUR)

    assert day.seen[-1][0] > 12 * HOUR
    for second, state, age, _tasks in day.seen:
        excuse = any(begin <= second <= end for begin, end in day.excused)
        assert state == "up" or excuse, f"{state} at {second:.0f} s, for no reason"
        assert age < LIFETIME or excuse, f"at {second:.0f} s the lease is {age:.0f} s old"
    assert day.back and max(day.back) <= LOSS, "a lost mapping costs the keepalive's loss and two seconds"
    waits = [later - earlier for earlier, later in zip(broker.at, broker.at[1:])]
    assert min(waits) >= 0.5, "it never asks twice at once"
    assert len(broker.at) <= 24 * 60 / 3, "on average it asks less than once in three minutes, whatever happens"
    assert max(tasks for *_rest, tasks in day.seen) <= 8, "nothing piles up"
    pings = stage.tunnel.pings
    assert len(pings) < day.seen[-1][0] / (INTERVAL / 2), "and it is quiet"
    assert stage.tunnel.numbers is None and agent.state == "stopped"
    assert agent.status()["last_error"] is None and len(agent.status()["counters"]) < 30

# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""An agent with a broker and a tunnel in memory, on a loop whose time passes as soon as nothing else is to be done."""

from __future__ import annotations

import asyncio
import json
import logging
import selectors
from collections.abc import Callable, Coroutine
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent.config import parse
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent.core import Agent
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent.settings import AgentConfig
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.errors import ApplyError
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.lease import Lease

STEP = 0.05
"""Seconds between two looks of a test."""


class _Selector(selectors.SelectSelector):
    """Never waits: what would be waited for is over at once."""

    passed = 0.0

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if not ready and timeout is None:
            raise AssertionError("everybody waits for nothing")
        if not ready and timeout is not None:
            # Nothing takes no time at all: what is due in less than the clock can tell would be waited for without an end.
            self.passed += max(timeout, 0.0) + 1e-9
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """Its clock all but stands still while somebody works. No threads: they would take no time."""

    def __init__(self) -> None:
        self.selector = _Selector()
        super().__init__(self.selector)

    def time(self) -> float:
        return 1000.0 + self.selector.passed


def run_virtual(work: Coroutine[Any, Any, Any]) -> Any:
    loop = VirtualLoop()
    try:
        return loop.run_until_complete(work)
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


class FakeTunnel:
    """Answers pings while `alive`; remembers what it was told."""

    def __init__(self, config: AgentConfig, on_reply: Callable[[int], bool], on_trouble: Callable[[OSError], None]) -> None:
        self.on_reply, self.on_trouble = on_reply, on_trouble
        self.alive = True
        self.ups: list[Lease] = []
        self.events: list[str] = []
        self.pings: list[float] = []
        self.numbers: dict[str, Any] | None = None
        self.fail: Exception | None = None
        self.lost = False
        self.name = config.device
        self.data_plane: str | None = "tun"
        self.data_plane_why = "The test says so."
        self.refuses: set[str] = set()
        self.forgets_after = float("inf")
        """Seconds of silence after which the NAT has forgotten us: from then on nothing is answered until the next `up`."""
        self.passed = (0, 0)

    async def recover(self) -> bool:
        return False

    async def up(self, lease: Lease, sock: Any) -> list[str]:
        if self.fail is not None:
            self.numbers = None
            raise self.fail
        if lease.grant.mode in self.refuses:
            self.events.append("refused")
            raise ApplyError("tunnel_refused", "ip link add failed: Unknown device type.")
        if sock is not None:
            sock.close()
        self.ups.append(lease)
        self.events.append("up")
        self.numbers = {"mtu": 1472}
        self._fresh = True
        return []

    def ping(self, sequence: int) -> None:
        loop = asyncio.get_running_loop()
        self.events.append("ping")
        silent = 0.0 if self._fresh or not self.pings else loop.time() - self.pings[-1]
        self.pings.append(loop.time())
        if silent > self.forgets_after:
            self._forgotten = True
        if self._fresh:
            self._fresh = self._forgotten = False
        if self.alive and not self._forgotten:
            loop.call_soon(self.on_reply, sequence)

    _fresh = _forgotten = False

    def traffic(self) -> tuple[int, int]:
        return self.passed

    def counters(self) -> dict[str, int]:
        return {}

    async def disconnect(self) -> None:
        self.events.append("disconnect")

    async def down(self) -> list[str]:
        self.events.append("down")
        self.numbers = None
        self.lost = False
        return []


class FakeBroker:
    """Gives leases, or raises what stands next in `answers`. said: what was said by name in each exchange."""

    def __init__(self, lease: Lease) -> None:
        self.lease = lease
        self.answers: list[Any] = []
        self.asked: list[tuple[Lease | None, int | None]] = []
        self.at: list[float] = []
        self.modes: list[str | None] = []
        self.said: list[dict[str, Any]] = []
        self.gate: asyncio.Event | None = None
        self.clock: Callable[[], datetime] | None = None
        """When leases are granted; None: when they say."""

    async def negotiate(self, last: Lease | None, source_port: int | None, mode: str | None = None,
                        **said: Any) -> tuple[Lease, None, list[str]]:
        self.modes.append(mode)
        self.said.append(said)
        self.asked.append((last, source_port))
        self.at.append(asyncio.get_running_loop().time())
        if self.gate is not None:
            await self.gate.wait()
        if self.answers and isinstance(self.answers[0], Exception):
            raise self.answers.pop(0)
        answer = self.answers.pop(0) if self.answers else None
        lease = answer or self.lease
        return lease if self.clock is None else replace(lease, obtained_at=self.clock().replace(microsecond=0)), None, []


def make_lease(mode: str = "v6v4", lifetime: int | None = 3600, obtained: datetime | None = None, broker: str = "192.0.2.1",
               local: str | None = None, interval: int = 30, **client: Any) -> Lease:
    return Lease.from_dict({
        "schema": 1, "broker": broker, "transport": "udp", "protocol_version": "2.0.2", "auth_method": "anonymous",
        "username": None, "mode": mode, "client": {"ipv4": "192.0.2.20", "ipv6": "2001:db8:f::2", "udp_port": 40000, **client},
        "server": {"ipv4": "192.0.2.1", "ipv6": "2001:db8:f::1", "udp_port": 3653}, "prefix": None, "dns_servers": [],
        "keepalive": {"interval": interval, "address": None}, "lifetime": lifetime, "local_address": local,
        "obtained_at": (obtained or datetime.now(timezone.utc)).strftime("%Y-%m-%dT%H:%M:%SZ"), "request": {"mode": "v6anyv4"}})


class FakeWatch:
    """Tells of a change when the test says so."""

    def __init__(self) -> None:
        self.event = asyncio.Event()
        self.closed = False

    async def changed(self) -> str:
        await self.event.wait()
        self.event.clear()
        return "an address"

    def close(self) -> None:
        self.closed = True


class Stage:
    """An agent in a folder of the test, driven until something is seen."""

    def __init__(self, folder: Path, lease: Lease | None = None) -> None:
        self.folder = folder
        self.config = parse({
            "request": {"mode": "v6anyv4"}, "broker": {"brokers": ["192.0.2.1"], "auth_method": "anonymous"},
            "lease_file": str(folder / "lease"), "state_dir": str(folder), "runtime_dir": str(folder)})
        self.broker = FakeBroker(lease or make_lease())
        self.alive = True
        self.fresh = False
        """Whether leases begin when they are granted."""
        self.forgets_after = float("inf")
        self.refuses: set[str] = set()
        self.wall = datetime.now(timezone.utc)
        """What the wall clock says at the beginning; a test that changes it sets the clock."""
        self.address: str | None = "10.0.0.5"
        """Where this host would send to the broker from."""
        self.log = logging.getLogger(f"test-{folder}")
        self.log.setLevel(logging.DEBUG)
        self.states: list[str] = []

    def retry(self, **changes: Any) -> None:
        self.config = replace(self.config, retry=replace(self.config.retry, **changes))

    def agent(self) -> Agent:
        def tunnel(*args: Any, **kwargs: Any) -> FakeTunnel:
            self.tunnel = FakeTunnel(*args, **kwargs)
            self.tunnel.alive = self.alive
            self.tunnel.refuses = self.refuses
            self.tunnel.forgets_after = self.forgets_after
            return self.tunnel

        def watch(_family: int) -> FakeWatch:
            self.watch = FakeWatch()
            return self.watch

        loop = asyncio.get_running_loop()
        began = loop.time()

        def wall() -> datetime:
            return self.wall + timedelta(seconds=loop.time() - began)

        if self.fresh:
            self.broker.clock = wall
        return Agent(self.config, self.broker, tunnel, log=self.log, jitter=lambda: 0.5, watch=watch,
                     where=lambda _peer, _source: None if self.address is None else ip_address(self.address), wall=wall)

    def move(self, address: str | None) -> Callable[[Agent], None]:
        """A step: the host gets another address, or none."""
        def act(_agent: Agent) -> None:
            self.address = address
            self.watch.event.set()
        return act

    def play(self, *steps: Callable[[Agent], Any] | float, patience: float = 20000.0) -> Agent:
        """Run the agent; each step is a condition to wait for (returns true or false), an act (returns None), or seconds. Then stop."""
        async def run() -> Agent:
            agent = self.agent()
            running = asyncio.ensure_future(agent.run())

            async def script() -> None:
                for step in steps:
                    if isinstance(step, (int, float)):
                        await asyncio.sleep(step)
                        continue
                    while (value := step(agent)) is not None and not value:
                        assert not running.done(), running
                        if not self.states or self.states[-1] != agent.state:
                            self.states.append(agent.state)
                        await asyncio.sleep(STEP)
            try:
                await asyncio.wait_for(script(), patience)
            finally:
                agent.stop()
                await asyncio.wait_for(running, 30)
            return agent
        return run_virtual(run())

    def status(self) -> dict[str, Any]:
        return json.loads((self.folder / "tsp.status.json").read_text())


def up(agent: Agent) -> bool:
    return agent.state == "up"


def waiting(agent: Agent) -> bool:
    return agent.state == "waiting"

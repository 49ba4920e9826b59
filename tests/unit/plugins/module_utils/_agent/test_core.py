# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The agent's decisions, with a broker and a tunnel in memory: what it asks when, and what it keeps."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent import core
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent.config import parse
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent.core import Agent
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent.settings import AgentConfig
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._exchange.negotiate import ExchangeResult
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._exchange.source import Source
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._module import leasestore
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.errors import ApplyError, NetworkError, RemoteError
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.lease import Lease


class FakeTunnel:
    """Answers pings while `alive`; remembers what it was told."""

    def __init__(self, config: AgentConfig, on_reply: Callable[[int], bool], on_trouble: Callable[[OSError], None]) -> None:
        self.on_reply, self.on_trouble = on_reply, on_trouble
        self.alive = True
        self.ups: list[Lease] = []
        self.events: list[str] = []
        self.numbers: dict[str, Any] | None = None
        self.fail: Exception | None = None
        self.lost = False
        self.data_plane: str | None = "tun"
        self.data_plane_why = "The test says so."
        self.refuses: set[str] = set()

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
        return []

    def ping(self, sequence: int) -> None:
        self.events.append("ping")
        if self.alive:
            asyncio.get_running_loop().call_soon(self.on_reply, sequence)

    def traffic(self) -> tuple[int, int]:
        return 0, 0

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
    """Gives leases, or raises what stands next in `answers`."""

    def __init__(self, lease: Lease) -> None:
        self.lease = lease
        self.answers: list[Any] = []
        self.asked: list[tuple[Lease | None, int | None]] = []
        self.modes: list[str | None] = []
        self.gate: asyncio.Event | None = None

    async def negotiate(self, last: Lease | None, source_port: int | None, mode: str | None = None) -> tuple[Lease, None, list[str]]:
        self.modes.append(mode)
        self.asked.append((last, source_port))
        if self.gate is not None:
            await self.gate.wait()
        if self.answers and isinstance(self.answers[0], Exception):
            raise self.answers.pop(0)
        answer = self.answers.pop(0) if self.answers else None
        return answer or self.lease, None, []


def make_lease(mode: str = "v6v4", lifetime: int | None = 3600, obtained: datetime | None = None, **client: Any) -> Lease:
    return Lease.from_dict({
        "schema": 1, "broker": "192.0.2.1", "transport": "udp", "protocol_version": "2.0.2", "auth_method": "anonymous",
        "username": None, "mode": mode, "client": {"ipv4": "192.0.2.20", "ipv6": "2001:db8:f::2", "udp_port": 40000, **client},
        "server": {"ipv4": "192.0.2.1", "ipv6": "2001:db8:f::1", "udp_port": 3653}, "prefix": None, "dns_servers": [],
        "keepalive": {"interval": 30, "address": None}, "lifetime": lifetime,
        "obtained_at": (obtained or datetime.now(timezone.utc)).strftime("%Y-%m-%dT%H:%M:%SZ"), "request": {"mode": "v6anyv4"}})


class Stage:
    """An agent in a folder of the test, driven until something is seen."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, lease: Lease | None = None) -> None:
        self.folder = folder
        monkeypatch.setattr(core, "PROVING_WAIT", 0.02)
        monkeypatch.setattr(core, "FIRST_DELAY", 0.01)
        monkeypatch.setattr(core, "HOUSEKEEPING", 0.02)
        self.config = parse({
            "request": {"mode": "v6anyv4"}, "broker": {"brokers": ["192.0.2.1"], "auth_method": "anonymous"},
            "lease_file": str(folder / "lease"), "state_dir": str(folder), "runtime_dir": str(folder)})
        self.broker = FakeBroker(lease or make_lease())
        self.alive = True
        self.refuses: set[str] = set()
        self.wall = datetime.now(timezone.utc)
        self.log = logging.getLogger(f"test-{folder}")

    def agent(self) -> Agent:
        def tunnel(*args: Any, **kwargs: Any) -> FakeTunnel:
            self.tunnel = FakeTunnel(*args, **kwargs)
            self.tunnel.alive = self.alive
            self.tunnel.refuses = self.refuses
            return self.tunnel
        return Agent(self.config, self.broker, tunnel, log=self.log, jitter=lambda: 0.5, wall=lambda: self.wall)

    def play(self, *steps: Callable[[Agent], Any]) -> Agent:
        """Run the agent; each step is a condition to wait for (returns true) or an act (returns None). Then stop."""
        async def run() -> Agent:
            agent = self.agent()
            running = asyncio.ensure_future(agent.run())

            async def script() -> None:
                for step in steps:
                    while (value := step(agent)) is not None and not value:
                        assert not running.done(), running
                        await asyncio.sleep(0.002)
            try:
                await asyncio.wait_for(script(), 30)
            finally:
                agent.stop()
                await asyncio.wait_for(running, 30)
            return agent
        return asyncio.run(run())

    def status(self) -> dict[str, Any]:
        return json.loads((self.folder / "tsp.status.json").read_text())


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    return Stage(tmp_path, monkeypatch)


def up(agent: Agent) -> bool:
    return agent.state == "up"


def test_without_a_lease_the_broker_is_asked_and_the_lease_kept(stage: Stage) -> None:
    stage.play(up, lambda agent: stage.status()["last_rtt_ms"] is not None)
    assert stage.broker.asked == [(None, None)]
    assert leasestore.load(str(stage.folder / "lease")) == stage.broker.lease
    assert (stage.folder / "lease").stat().st_mode & 0o777 == 0o600
    assert stage.tunnel.events[-1] == "down"
    assert stage.status()["state"] == "stopped"


def test_a_stored_lease_that_answers_is_enough(stage: Stage) -> None:
    leasestore.save(str(stage.folder / "lease"), make_lease())
    stage.play(up)
    assert stage.broker.asked == [] and stage.tunnel.events[:2] == ["disconnect", "up"]


def test_a_stored_lease_that_does_not_answer_is_asked_for_again(stage: Stage) -> None:
    leasestore.save(str(stage.folder / "lease"), make_lease())
    stage.alive = False
    stage.play(up)
    assert len(stage.broker.asked) == 1
    assert stage.broker.asked[0][0] == make_lease() or stage.broker.asked[0][0].broker == "192.0.2.1"


def test_a_device_that_is_gone_is_made_again_without_asking_the_broker(stage: Stage) -> None:
    """The keepalive does not notice: it travels beside the device."""
    seen: list[str] = []

    def lose(agent: Agent) -> None:
        stage.tunnel.lost = True
        stage.tunnel.on_trouble(OSError(5, "Input/output error"))

    stage.play(up, lose, lambda agent: seen.append(agent.state) or "waiting" in seen, up)
    told = [event for event in stage.tunnel.events if event != "ping"]
    assert told == ["disconnect", "up", "down", "disconnect", "up", "down"] and len(stage.broker.asked) == 1


@pytest.mark.parametrize("broken", ["{", "expired", "other request", "other user"])
def test_a_lease_that_cannot_be_used_is_not(stage: Stage, broken: str) -> None:
    path = stage.folder / "lease"
    lease = make_lease()
    if broken == "expired":
        lease = replace(lease, obtained_at=lease.obtained_at - timedelta(hours=2))
    elif broken == "other request":
        lease = replace(lease, request=replace(lease.request, keepalive_interval=77))
    elif broken == "other user":
        lease = replace(lease, username="alice")
    leasestore.save(str(path), lease)
    if broken == "{":
        path.write_text("{")
    stage.play(up)
    assert len(stage.broker.asked) == 1


def test_loss_leads_to_the_same_broker_from_the_same_port(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "Keepalive", lambda interval, now, jitter, misses=3, wait=0.01: real(0.01, now, jitter, misses, 0.01))
    from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent.keepalive import Keepalive as real
    stage.play(up, lambda agent: setattr(stage.tunnel, "alive", False), lambda agent: len(stage.broker.asked) == 2,
               lambda agent: setattr(stage.tunnel, "alive", True), up)
    last, port = stage.broker.asked[1]
    assert last is not None and last.broker == "192.0.2.1" and port == 40000
    assert "down" not in stage.tunnel.events[:-1], "the device stays while the broker is asked"


def test_failures_are_told_and_tried_again_from_another_port(stage: Stage) -> None:
    stage.broker.answers = [NetworkError("silent", "The broker is silent."), NetworkError("silent", "The broker is silent.")]
    told: list[dict[str, Any]] = []
    stage.play(lambda agent: agent.state == "waiting" and (told.append(stage.status()) or True), up)
    assert len(stage.broker.asked) == 3 and told[0]["last_error"]["code"] == "silent"
    assert stage.status()["last_error"] is None


def test_hopeless_failures_wait_long_and_hangup_ends_the_wait(stage: Stage) -> None:
    stage.broker.answers = [RemoteError("auth_failed", "The broker refused.", "Check it.", 300)]
    agent = stage.play(lambda agent: agent.state == "waiting", lambda agent: agent.renegotiate(), up)
    assert len(stage.broker.asked) == 2
    assert agent._delay(RemoteError("auth_failed", "", "")) >= 225


def test_backoff_grows_to_a_bound(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "FIRST_DELAY", 1.0)

    async def run() -> list[float]:
        agent = stage.agent()
        delays = []
        for failures in range(1, 15):
            agent._failures = failures
            delays.append(agent._delay(NetworkError("silent", "")))
        return delays
    delays = asyncio.run(run())
    assert delays[:4] == [1, 2, 4, 8] and delays[-1] == 300
    error = NetworkError("too_soon", "")
    error.retry_after = 1000.0
    agent_delay = asyncio.run(_delay_of(stage, error))
    assert agent_delay == 1000


async def _delay_of(stage: Stage, error: Exception) -> float:
    agent = stage.agent()
    agent._failures = 1
    return agent._delay(error)


def test_renewal_happens_beside_the_tunnel(stage: Stage) -> None:
    later = stage.wall + timedelta(minutes=55)
    renewed = make_lease(ipv6="2001:db8:f::9", obtained=later)
    stage.play(up, lambda agent: stage.broker.answers.append(renewed), lambda agent: setattr(stage, "wall", later),
               lambda agent: len(stage.tunnel.ups) == 2, up)
    assert stage.tunnel.ups[1] == renewed
    assert "disconnect" not in stage.tunnel.events[stage.tunnel.events.index("up"):], "the old one carried on until the new one was there"
    assert stage.broker.asked[1][1] is None, "from a port of its own"


def test_a_lease_that_hardly_lasts_does_not_make_the_agent_hammer_the_broker() -> None:
    obtained = datetime(2026, 5, 4, 3, 2, 1, tzinfo=timezone.utc)
    assert [core._renewal(make_lease(lifetime=lifetime, obtained=obtained)) for lifetime in (1, 3600, 604800, None)] == [
        obtained + timedelta(seconds=30), obtained + timedelta(minutes=54), obtained + timedelta(days=7, hours=-1), None]


def test_a_renewal_that_fails_keeps_the_tunnel(stage: Stage) -> None:
    stage.play(up, lambda agent: stage.broker.answers.append(NetworkError("silent", "The broker is silent.")),
               lambda agent: agent.renegotiate(), lambda agent: len(stage.broker.asked) == 2 and agent.state == "up")
    assert len(stage.tunnel.ups) == 1 and stage.tunnel.events.count("down") == 1


def test_a_lease_changed_by_somebody_else_is_taken_over(stage: Stage) -> None:
    other = make_lease(ipv6="2001:db8:f::7")
    stage.play(up, lambda agent: leasestore.save(str(stage.folder / "lease"), other), lambda agent: stage.tunnel.ups[-1] == other, up)
    assert len(stage.broker.asked) == 1


def test_a_host_that_refuses_is_tried_again_with_the_lease_in_hand(stage: Stage) -> None:
    def heal(agent: Agent) -> None:
        stage.tunnel.fail = None

    def refuse(agent: Agent) -> None:
        stage.tunnel.fail = ApplyError("link_failed", "ip failed: no such device.")
    stage.play(refuse, lambda agent: agent.state == "waiting", heal, up)
    assert len(stage.broker.asked) == 1, "the broker has nothing to do with it"


@pytest.mark.parametrize("stored", [False, True])
def test_a_host_without_sit_asks_for_udp_once_and_remembers(stage: Stage, stored: bool) -> None:
    """Any tunnel was asked for, and one was granted that this host cannot make."""
    stage.refuses = {"v6v4"}
    udp = make_lease("v6udpv4")
    stage.broker.answers = [udp] if stored else [make_lease("v6v4"), udp]
    if stored:
        leasestore.save(str(stage.folder / "lease"), make_lease("v6v4"))
    stage.play(up)
    assert stage.broker.modes == (["v6udpv4"] if stored else [None, "v6udpv4"])
    assert stage.tunnel.ups == [udp] and stage.tunnel.events.count("refused") == 1
    assert "Unknown device type" in stage.status()["mode_why"]
    assert leasestore.load(str(stage.folder / "lease")) == udp, "and the next start begins with that"


def test_a_host_that_cannot_make_what_it_must_ask_for_waits_long(stage: Stage) -> None:
    stage.refuses = {"v6v4"}
    stage.config = replace(stage.config, request=replace(stage.config.request, mode="v6v4"))
    agent = stage.play(lambda agent: agent.state == "waiting")
    assert stage.broker.modes == [None] and agent._delay(ApplyError("tunnel_refused", "")) >= 225


def test_told_to_stop_while_it_asks_it_stops(stage: Stage) -> None:
    async def run() -> None:
        stage.broker.gate = asyncio.Event()
        agent = stage.agent()
        running = asyncio.ensure_future(agent.run())
        while not stage.broker.asked:
            await asyncio.sleep(0.002)
        agent.stop()
        await asyncio.wait_for(running, 30)
    asyncio.run(run())
    assert stage.tunnel.ups == [] and stage.tunnel.events[-1] == "down"


def test_a_lease_that_cannot_be_stored_does_not_stop_the_tunnel(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.config = replace(stage.config, lease_file="/proc/nothing/lease")
    stage.play(up)
    assert len(stage.tunnel.ups) == 1


def test_status_is_for_everybody_and_holds_no_secret(stage: Stage) -> None:
    stage.play(up)
    path = stage.folder / "tsp.status.json"
    assert path.stat().st_mode & 0o777 == 0o644
    assert set(stage.status()) == {"schema", "name", "device", "pid", "state", "since", "updated_at", "lease", "mtu", "last_rtt_ms",
                                   "data_plane", "data_plane_why", "mode_why",
                                   "missed", "negotiations", "failures", "counters", "last_error"}
    assert not [name for name in os.listdir(stage.folder) if name.endswith(".new")]


def test_a_new_lease_comes_with_the_mtu_of_the_path(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is measured from where this tunnel leaves, to where it ends; the tunnel's MTU follows from it."""
    asked = []

    async def granted(*_words: Any, **_options: Any) -> ExchangeResult:
        return ExchangeResult(make_lease())

    def measure(peer: Any, source: Source) -> int:
        asked.append((str(peer), source))
        return 1400

    monkeypatch.setattr(core, "negotiate", granted)
    lease, _sock, _warnings = asyncio.run(core.BrokerNegotiator(stage.config, str, measure).negotiate(None, None))
    assert lease.path_mtu == 1400
    assert asked == [(str(make_lease().grant.server.ipv4), Source.of(stage.config.options))]

# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The agent's decisions, with a broker and a tunnel in memory: what it asks when, and what it keeps."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent import brokers
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent.core import Agent
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent.pace import Pace, renewal
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._exchange.negotiate import ExchangeResult
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._exchange.source import Source
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._module import leasestore
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.errors import ApplyError, NetworkError, RemoteError
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._agent._stage import (
    FakeBroker,
    FakeTunnel,
    Stage,
    make_lease,
    run_virtual,
    up,
    waiting,
)

__all__ = ["FakeBroker", "FakeTunnel"]


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


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
    def lose(agent: Agent) -> None:
        stage.tunnel.lost = True
        stage.tunnel.on_trouble(OSError(5, "Input/output error"))

    stage.play(up, lose, waiting, up)
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


def test_loss_leads_to_the_same_broker_from_the_same_port(stage: Stage) -> None:
    agent = stage.play(up, lambda agent: setattr(stage.tunnel, "alive", False), lambda agent: len(stage.broker.asked) == 2,
                       lambda agent: setattr(stage.tunnel, "alive", True), up)
    last, port = stage.broker.asked[1]
    assert last is not None and last.broker == "192.0.2.1" and port == 40000
    assert "down" not in stage.tunnel.events[:-1], "the device stays while the broker is asked"
    assert agent.lost_count == 1


@pytest.mark.parametrize("misses", [2, 5])
def test_how_many_misses_are_a_loss_is_configurable(stage: Stage, misses: int) -> None:
    stage.config = replace(stage.config, keepalive=replace(stage.config.keepalive, misses=misses))
    stage.play(up, lambda agent: agent.keepalive.last_rtt is not None, lambda agent: setattr(stage.tunnel, "alive", False),
               lambda agent: len(stage.broker.asked) == 2)
    before = stage.tunnel.events[:stage.tunnel.events.index("disconnect", 1)]
    assert before.count("ping") == 1 + misses


def test_failures_are_told_and_tried_again_from_another_port(stage: Stage) -> None:
    stage.broker.answers = [NetworkError("silent", "The broker is silent."), NetworkError("silent", "The broker is silent.")]
    told: list[dict[str, Any]] = []
    stage.play(lambda agent: agent.state == "waiting" and (told.append(stage.status()) or True), up)
    assert len(stage.broker.asked) == 3 and told[0]["last_error"]["code"] == "silent"
    assert stage.status()["last_error"] is None


def test_a_refusal_waits_long_and_hangup_ends_the_wait(stage: Stage) -> None:
    stage.broker.answers = [RemoteError("auth_failed", "The broker refused.", "Check it.", 300)]
    stage.play(waiting, 200, waiting, lambda agent: agent.renegotiate(), up)
    assert len(stage.broker.asked) == 2


def test_refused_several_times_it_stops_asking_until_told(stage: Stage) -> None:
    stage.broker.answers = [RemoteError("auth_failed", "The broker refused.", "Check it.", 300) for _turn in range(3)]
    told: list[dict[str, Any]] = []
    stage.play(lambda agent: agent.state == "refused", lambda agent: told.append(stage.status()), 6000,
               lambda agent: agent.state == "refused", lambda agent: agent.renegotiate(), up)
    assert len(stage.broker.asked) == 4, "three tries, and the one that was asked for"
    assert stage.broker.at[2] - stage.broker.at[0] >= 450, "and those not in a row"
    assert told[0]["last_error"]["code"] == "auth_failed" and "SIGHUP" in told[0]["last_error"]["hint"]


def test_refused_it_takes_a_lease_that_somebody_else_got(stage: Stage) -> None:
    stage.broker.answers = [RemoteError("auth_failed", "The broker refused.", "Check it.", 300)] * 3
    other = make_lease(ipv6="2001:db8:f::7")
    stage.play(lambda agent: agent.state == "refused", lambda agent: leasestore.save(str(stage.folder / "lease"), other), up)
    assert stage.tunnel.ups == [other] and len(stage.broker.asked) == 3


def test_a_network_failure_between_refusals_does_not_forgive_them(stage: Stage) -> None:
    refusal = RemoteError("auth_failed", "The broker refused.", "Check it.", 300)
    stage.broker.answers = [refusal, NetworkError("silent", "The broker is silent."), refusal, refusal]
    stage.play(lambda agent: agent.state == "refused")
    assert len(stage.broker.asked) == 4


def test_a_refused_renewal_keeps_the_tunnel_and_is_not_tried_for_ever(stage: Stage) -> None:
    stage.play(up, lambda agent: stage.broker.answers.extend([RemoteError("auth_failed", "No.", "", 300)] * 9),
               lambda agent: agent.renegotiate(), 3000, up)
    assert len(stage.broker.asked) == 1 + 3 and len(stage.tunnel.ups) == 1


def test_without_reconnecting_a_loss_is_the_end(stage: Stage) -> None:
    stage.retry(reconnect=False)

    async def run() -> NetworkError:
        agent = stage.agent()
        running = asyncio.ensure_future(agent.run())
        while agent.state != "up":
            await asyncio.sleep(0.05)
        stage.tunnel.alive = False
        with pytest.raises(NetworkError) as caught:
            await running
        return caught.value
    error = run_virtual(run())
    assert error.code == "tunnel_lost" and "ends" in error.hint
    assert len(stage.broker.asked) == 1 and stage.tunnel.events[-1] == "down"


def test_backoff_grows_to_a_bound(stage: Stage) -> None:
    pace = Pace(stage.config.retry, lambda: 0.5)
    delays = []
    for _turn in range(14):
        pace.failed(NetworkError("silent", ""))
        delays.append(pace.delay(NetworkError("silent", "")))
    assert delays[:4] == [1, 2, 4, 8] and delays[-1] == 300
    error = NetworkError("too_soon", "")
    error.retry_after = 1000.0
    assert pace.delay(error) == 1000
    assert {Pace(stage.config.retry, lambda j=j: j).delay(RemoteError("auth_failed", "")) for j in (0.0, 0.5)} == {225, 300}


def test_renewal_happens_beside_the_tunnel(stage: Stage) -> None:
    later = stage.wall + timedelta(minutes=55)
    renewed = make_lease(ipv6="2001:db8:f::9", obtained=later)
    stage.play(up, lambda agent: stage.broker.answers.append(renewed), lambda agent: setattr(stage, "wall", later),
               lambda agent: len(stage.tunnel.ups) == 2, up)
    assert stage.tunnel.ups[1] == renewed
    assert "disconnect" not in stage.tunnel.events[stage.tunnel.events.index("up"):], "the old one carried on until the new one was there"
    assert stage.broker.asked[1][1] is None, "from a port of its own"


@pytest.mark.parametrize("jitter", [0.0, 0.99])
def test_a_lease_is_renewed_after_four_fifths_of_its_life_and_a_fleet_not_in_step(jitter: float) -> None:
    obtained = datetime(2026, 5, 4, 3, 2, 1, tzinfo=timezone.utc)

    def share(lifetime: int, wanted: float = 0.8) -> float:
        at = renewal(make_lease(lifetime=lifetime, obtained=obtained), wanted, jitter)
        assert at is not None
        return (at - obtained).total_seconds() / lifetime
    assert share(3600) == share(604800) == pytest.approx(0.8 + 0.05 * jitter)
    assert share(3600, 0.94) <= 0.95, "never too late"
    assert share(1) == 30, "a lease that hardly lasts does not make the agent hammer the broker"
    assert renewal(make_lease(lifetime=None), 0.8, jitter) is None


def test_a_lease_is_renewed_in_its_time_for_ever(stage: Stage) -> None:
    stage.fresh = True
    agent = stage.play(up, 15000, up)
    pauses = [after - before for before, after in zip(stage.broker.at, stage.broker.at[1:])]
    assert pauses == pytest.approx([3600 * 0.825] * 5, abs=6)
    assert stage.tunnel.events.count("down") == 1 and agent.lost_count == 0


def test_a_lease_that_has_ended_when_it_is_granted_does_not_make_it_ask_without_end(stage: Stage) -> None:
    """A broker, or a clock, that errs."""
    stage.broker.lease = make_lease(lifetime=1)
    stage.play(up, 600, up)
    assert len(stage.broker.asked) <= 21


@pytest.mark.parametrize("jump", [timedelta(days=-400), timedelta(minutes=30), timedelta(seconds=-3)])
def test_a_clock_that_is_set_does_not_drop_a_healthy_tunnel_nor_the_renewal(stage: Stage, jump: timedelta) -> None:
    stage.fresh = True
    agent = stage.play(up, 60, lambda agent: setattr(stage, "wall", stage.wall + jump), 3600)
    assert len(stage.broker.asked) >= 2, "renewed all the same"
    assert stage.broker.at[1] - stage.broker.at[0] <= 3600 * 0.825 + 6
    assert stage.tunnel.events.count("down") == 1 and agent.lost_count == 0


def test_a_tunnel_that_answers_is_kept_beyond_the_end_of_its_lease(stage: Stage) -> None:
    stage.broker.lease = make_lease(lifetime=600)
    stage.play(up, lambda agent: stage.broker.answers.extend([NetworkError("silent", "The broker is silent.")] * 100), 4000, up)
    assert len(stage.tunnel.ups) == 1 and 5 <= len(stage.broker.asked) < 40


def test_the_keepalive_goes_on_while_the_broker_is_asked_for_a_renewal(stage: Stage) -> None:
    """A broker that keeps us waiting must not cost the NAT's memory."""
    def shut(_agent: Agent) -> None:
        stage.broker.gate = asyncio.Event()
    stage.play(up, shut, lambda agent: agent.renegotiate(), lambda agent: len(stage.broker.asked) == 2,
               lambda agent: stage.tunnel.events.clear(), 300, up)
    assert stage.tunnel.events.count("ping") >= 9


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
    stage.play(waiting, 200, waiting)
    assert stage.broker.modes == [None] and stage.tunnel.events.count("refused") == 1


def test_told_to_stop_while_it_asks_it_stops(stage: Stage) -> None:
    async def run() -> None:
        stage.broker.gate = asyncio.Event()
        agent = stage.agent()
        running = asyncio.ensure_future(agent.run())
        while not stage.broker.asked:
            await asyncio.sleep(0.05)
        agent.stop()
        await asyncio.wait_for(running, 30)
    run_virtual(run())
    assert stage.tunnel.ups == [] and stage.tunnel.events[-1] == "down"


def test_a_lease_that_cannot_be_stored_does_not_stop_the_tunnel(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.config = replace(stage.config, lease_file="/proc/nothing/lease")
    stage.play(up)
    assert len(stage.tunnel.ups) == 1


def test_status_is_for_everybody_and_holds_no_secret(stage: Stage) -> None:
    stage.play(up)
    path = stage.folder / "tsp.status.json"
    assert path.stat().st_mode & 0o777 == 0o644
    assert stage.status()["schema"] == 2 and stage.status()["lease"]["broker"] == "192.0.2.1"
    assert not [name for name in os.listdir(stage.folder) if name.endswith(".new")]


def test_a_new_lease_comes_with_the_mtu_of_the_path(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is measured from where this tunnel leaves, to where it ends; the tunnel's MTU follows from it."""
    asked = []

    async def granted(*_words: Any, **_options: Any) -> ExchangeResult:
        return ExchangeResult(make_lease())

    def measure(peer: Any, source: Source) -> int:
        asked.append((str(peer), source))
        return 1400

    monkeypatch.setattr(brokers, "negotiate", granted)
    lease, _sock, _warnings = asyncio.run(brokers.BrokerNegotiator(stage.config, str, measure).negotiate(None, None))
    assert lease.path_mtu == 1400
    assert asked == [(str(make_lease().grant.server.ipv4), Source.of(stage.config.options))]


@pytest.mark.parametrize("alive", [True, False])
def test_with_one_port_alone_a_renewal_that_failed_gives_it_back_to_the_tunnel(
        stage: Stage, alive: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The port is needed for asking, too. If the tunnel is dead afterwards, the broker is asked again."""
    from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent import core

    monkeypatch.setattr(core, "stored_socket", lambda config, lease: None)
    stage.config = replace(stage.config, options=replace(stage.config.options, source_port=40000))
    stage.broker.lease = make_lease("v6udpv4")
    stage.play(up, lambda agent: stage.broker.answers.append(NetworkError("no_answer", "The broker is silent.")),
               lambda agent: setattr(stage.tunnel, "alive", alive), lambda agent: agent.renegotiate(),
               lambda agent: len(stage.tunnel.ups) == 2, lambda agent: len(stage.broker.asked) == 3,
               lambda agent: setattr(stage.tunnel, "alive", True), up)
    told = [event for event in stage.tunnel.events if event != "ping"]
    assert told[:5] == ["disconnect", "up", "disconnect", "disconnect", "up"], "down only while it asked"

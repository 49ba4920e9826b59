# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How long the NAT remembers: the search by itself, and an agent behind NATs of all kinds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent.core import Agent
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent.natprobe import NatProbe, memory_file
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._agent._stage import Stage, make_lease, up
from hypothesis import given
from hypothesis import strategies as st

BEHIND = {"local": "10.0.0.5", "interval": 120}


def search(probe: NatProbe, lifetime: float) -> int:
    """Answer as a NAT with this lifetime would; how many silences were tried."""
    tried = 0
    while (idle := probe.wanted()) is not None:
        (probe.survived if idle <= lifetime else probe.failed)(idle)
        tried += 1
        assert tried < 40
    return tried


@given(st.floats(2.5, 5000), st.floats(5, 600))
def test_what_it_finds_is_safe_and_close(lifetime: float, longest: float) -> None:
    probe = NatProbe(longest)
    search(probe, lifetime)
    assert probe.interval is not None and probe.interval <= min(lifetime, longest)
    assert probe.interval >= 0.6 * min(lifetime, longest), "0.8 of a silence that is at most 1.2 times too short"


@given(st.floats(2.5, 600))
def test_few_failures_are_enough(lifetime: float) -> None:
    probe = NatProbe(300.0)
    failures = 0
    while (idle := probe.wanted()) is not None:
        failures += idle > lifetime
        (probe.survived if idle <= lifetime else probe.failed)(idle)
    assert failures <= 8, "each may cost a negotiation"


def test_a_lost_packet_is_not_believed() -> None:
    probe = NatProbe(120.0)
    probe.survived(10)
    idle = probe.wanted()
    assert idle == 16
    probe.failed(16)
    assert probe.wanted() == 16 and probe.bad is None, "tried again"
    probe.survived(16)
    assert probe.wanted() == pytest.approx(25.6)


def test_a_nat_that_forgets_at_once_is_told() -> None:
    probe = NatProbe(30.0)
    search(probe, 0.5)
    assert probe.found and "forgets" in probe.said


def test_the_result_is_kept_and_believed_until_the_tunnel_is_lost_all_the_same(tmp_path: Path) -> None:
    path = str(tmp_path / "nat.json")
    said: list[str] = []
    search(NatProbe(120.0, path, said.append), 45)
    assert len(said) == 1 and "forgets the tunnel after" in said[0]
    again = NatProbe(120.0, path, said.append)
    assert again.found and again.wanted() is None and 27 <= (again.interval or 0) <= 45
    for _turn in range(3):
        again.lost_anyway()
    assert not again.found and again.wanted() == 10


@pytest.mark.parametrize("content", ["", "{", "[]", '{"good": "x", "bad": null}', '{"good": 9, "bad": 3}', '{"good": -1, "bad": null}',
                                     '{"good": NaN, "bad": null}', '{"good": 1e999, "bad": null}'])
def test_a_file_that_cannot_be_ours_is_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "nat.json").write_text(content)
    assert NatProbe(120.0, str(tmp_path / "nat.json")).wanted() == 10


def test_each_path_has_its_own_result() -> None:
    files = {memory_file("/x", lease) for lease in (
        make_lease(**BEHIND), make_lease(local="10.0.0.6"), make_lease(local="10.0.0.5", ipv4="192.0.2.99"))}
    assert len(files) == 3


# an agent


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    stage = Stage(tmp_path, make_lease("v6udpv4", None, **BEHIND))
    stage.config = replace(stage.config, keepalive=replace(stage.config.keepalive, probe_nat=True))
    return stage


def known(agent: Agent) -> bool:
    return agent.nat is not None and "Not known yet" not in agent.nat["said"]


@pytest.mark.parametrize("lifetime", [5.0, 32.0, 100.0])
def test_the_agent_finds_out_and_then_the_tunnel_is_lost_no_more(stage: Stage, lifetime: float) -> None:
    stage.forgets_after = lifetime
    lost: list[int] = []
    agent = stage.play(up, known, up, 100, lambda agent: lost.append(agent.lost_count), 3600, up)
    assert agent.lost_count == lost[0] <= 8, "not one more in an hour"
    assert agent.nat is not None and agent.nat["behind"] and agent.nat["lifetime"] <= lifetime + 0.1 <= agent.nat["lifetime"] * 1.3
    late = [after - before for before, after in zip(stage.tunnel.pings[-20:], stage.tunnel.pings[-19:])]
    assert max(late) <= 0.85 * lifetime, "with something to spare"
    assert stage.status()["nat"]["said"] == agent.nat["said"]
    assert len([name for name in stage.folder.iterdir() if name.name.startswith("nat-")]) == 1


def test_a_nat_that_outlasts_the_brokers_interval_costs_nothing(stage: Stage) -> None:
    agent = stage.play(up, known, 3600, up)
    assert agent.lost_count == 0 and agent.nat is not None and agent.nat["lifetime"] is None and "120 s" in agent.nat["said"]
    assert agent.keepalive is not None and agent.keepalive.interval == 120


def test_user_traffic_breaks_the_silence_and_nothing_is_learnt_from_it(stage: Stage) -> None:
    stage.forgets_after = 32.0

    def talk(agent: Agent) -> bool:
        stage.tunnel.passed = (stage.tunnel.passed[0] + 1, stage.tunnel.passed[1])
        return len(stage.tunnel.pings) > 40
    agent = stage.play(up, talk, up)
    assert agent.nat is not None and not known(agent) and agent.lost_count == 0


def test_without_a_nat_there_is_nothing_to_find(stage: Stage) -> None:
    stage.broker.lease = make_lease("v6udpv4", None, local="192.0.2.20")
    agent = stage.play(up, 600, up)
    assert agent.nat is not None and not agent.nat["behind"]
    assert not [name for name in stage.folder.iterdir() if name.name.startswith("nat-")]


def test_without_being_told_to_nobody_probes(stage: Stage) -> None:
    stage.config = replace(stage.config, keepalive=replace(stage.config.keepalive, probe_nat=False))
    agent = stage.play(up, 600, up)
    assert agent.nat == {"behind": True, "lifetime": None, "said": "The broker sees another address than this host's own."}
    assert max(after - before for before, after in zip(stage.tunnel.pings, stage.tunnel.pings[1:])) <= 25
    assert json.loads((stage.folder / "tsp.status.json").read_text())["keepalive_interval"] == 25

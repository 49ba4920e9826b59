# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Tunnels on hosts of each configuration system, from their making to their end: predicted, made, carried across reboots, changed to
another kind, and gone as if they had never been.

Each run has two tunnels and a reboot for each of three hosts. TSP_MACHINES=whole, which `make lab` sets, has every host, every mode, more
reboots, and looks closer at every change: that takes five times as long.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
from ansible_collections.tunnelbroker.tsp.tests.lab import Lab
from ansible_collections.tunnelbroker.tsp.tests.lab.vm import why_not
from ansible_collections.tunnelbroker.tsp.tests.machines._backends import INSIDE, MTU, SIT, UDP, World, differences, prediction

WHY_NOT = why_not()
pytestmark = [pytest.mark.root, pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))]


TITLES = {"networkd": "systemd-networkd", "netplan": "netplan", "networkmanager": "NetworkManager", "ifupdown": "ifupdown"}
NO_UDP = {"netplan": "netplan has no key for a tunnel over UDP", "networkmanager": "NetworkManager has no property for a tunnel over UDP"}
WHOLE = os.environ.get("TSP_MACHINES") == "whole"


class Turn(NamedTuple):
    """A tunnel that a host has for a while. always: in each run, not only with TSP_MACHINES=whole."""

    lease: dict[str, Any]
    route: str
    always: bool = False
    reboot: bool = False


PLANS = {
    "networkd": [Turn(SIT, "source", always=True, reboot=True), Turn(UDP, "metric", always=True), Turn(INSIDE, "none"),
                 Turn(INSIDE, "replace", reboot=True)],
    "netplan": [Turn(SIT, "metric"), Turn(UDP, "replace", reboot=True), Turn(SIT, "replace", always=True, reboot=True),
                Turn(INSIDE, "source", always=True)],
    "networkmanager": [Turn(SIT, "replace", always=True, reboot=True), Turn(UDP, "none", always=True),
                       Turn(INSIDE, "source", reboot=True)],
    "ifupdown": [Turn(SIT, "none"), Turn(UDP, "source", always=True, reboot=True), Turn(INSIDE, "metric", always=True),
                 Turn(INSIDE, "replace", reboot=True)],
    "none": [Turn(SIT, "source", always=True), Turn(UDP, "metric", reboot=True), Turn(INSIDE, "replace", always=True, reboot=True)],
}
"""Governor to the tunnels of its host, one after the other."""
ALWAYS = ("networkd", "netplan", "networkmanager")
"""Governors that there is time for in each run."""
GUARDED = {"linux_firewall": True, "linux_mss_clamp": True}


@dataclass(frozen=True)
class Stage:
    """What is asked for in a turn, and what is to come of it.

    backend: who keeps it then. asked: linux_backend. why: words of the facts. cannot: what the host's own system says when it is named.
    """

    turn: Turn
    guarded: bool
    backend: str
    asked: str = "auto"
    why: str = ""
    cannot: str = ""

    @property
    def variables(self) -> dict[str, Any]:
        return {"linux_backend": self.asked, "linux_default_route": self.turn.route, **(GUARDED if self.guarded else {})}


def stage_of(governor: str, turn: Turn, guarded: bool) -> Stage:
    """What the table in docs/linux.md says: `auto` takes the host's own system where that can express it, and else the script."""
    if turn.lease is UDP:  # by name: `auto` takes the agent
        backend = "script" if governor in ("none", *NO_UDP) else governor
        return Stage(turn, guarded, backend, backend, "as asked", NO_UDP.get(governor, ""))
    if governor == "none":
        return Stage(turn, guarded, "script", why="No configuration system governs wan")
    if turn.lease is INSIDE and turn.route == "replace" and governor != "networkmanager":
        # The native default route of IPv4 has the metric 0.
        return Stage(turn, guarded, "script", why=f"{TITLES[governor]} governs wan, but cannot keep this tunnel: It cannot keep away")
    return Stage(turn, guarded, governor, why=f"{TITLES[governor]} governs wan, and keeps the tunnel")


LEAVES = {"none": {"native": "wan", "tunnel": "wan", "lan": "wan"}, "metric": {"native": "wan", "tunnel": "wan", "lan": "wan"},
          "source": {"native": "wan", "tunnel": "tsp0", "lan": "tsp0"}, "replace": {"native": "tsp0", "tunnel": "tsp0", "lan": "tsp0"}}
"""Choice of a default route to the device by which packets leave for somewhere else."""


@pytest.fixture(scope="module")
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    with Lab(f"backends-{request.param}", lambda: request.session.testsfailed) as lab:
        yield World(lab, request.param)


@pytest.mark.parametrize("world", list(PLANS) if WHOLE else list(ALWAYS), indirect=True, scope="module")
def test_a_tunnel_from_its_making_to_its_end(world: World) -> None:
    before, native = world.picture(), world.default_routes()
    assert len(native) == 2, native
    turns = [turn for turn in PLANS[world.governor] if turn.always or WHOLE]
    for number, turn in enumerate(turns):
        stage = stage_of(world.governor, turn, guarded=number == 0)
        _made(world, stage, first=number == 0)
        if turn.reboot:
            world.host.reboot()
            _is_there(world, stage)
            assert _steps(world, stage) == [], "a reboot changed something"
        if WHOLE and number == 0:
            # What somebody took away comes back.
            world.host.run("ip link delete tsp0")
            assert _steps(world, stage)
            _is_there(world, stage)

    if WHOLE:
        now = world.picture()
        predicted = world.play(None, "--check")
        assert differences(now, world.picture()) == []
        assert prediction(world.play(None)) == prediction(predicted)
    else:
        assert world.play(None)["changed"]
    world.load_modules()
    assert differences(before, world.picture()) == [] and world.default_routes() == native
    assert not world.play(None)["changed"]


def _made(world: World, stage: Stage, first: bool) -> None:
    """The change to a tunnel: refused where it cannot be, predicted, made as predicted; and made once."""
    given = stage.turn.lease
    if stage.cannot and WHOLE:
        run, _result = world.try_play(given, **{**stage.variables, "linux_backend": world.governor})
        assert run.returncode and stage.cannot in run.output, run.output
    predicted = None
    if first or WHOLE:
        before = world.picture()
        predicted = world.play(given, "--check", **stage.variables)
        assert differences(before, world.picture()) == []
    # The first one with somebody who comes back and confirms it; the others without, to save time.
    done = world.play(given, **stage.variables, **({} if first else {"linux_confirm_timeout": 0}))
    assert done["changed"] and (predicted is None or prediction(done) == prediction(predicted))
    facts = done["ansible_facts"]["tunnel_setup"]
    assert (facts["backend"], facts["mode"], facts["mtu"]) == (stage.backend, given["mode"], MTU[given["mode"]])
    assert stage.why in " ".join(facts["why"])
    _is_there(world, stage)
    if first or WHOLE:
        assert _steps(world, stage) == []


def _steps(world: World, stage: Stage) -> list[str]:
    """What a run does."""
    result = world.play(stage.turn.lease, **stage.variables)
    assert bool(result["steps"]) == result["changed"]
    steps: list[str] = result["steps"]
    return steps


def _is_there(world: World, stage: Stage) -> None:
    world.carries(stage.turn.lease)
    assert world.ways(stage.turn.lease) == LEAVES[stage.turn.route]
    rules = world.host.run("nft list ruleset").stdout
    assert ("table inet tsp_tsp" in rules) == stage.guarded, rules
    ports = world.host.run("ip fou show 2>&1; true").stdout
    assert ("port 40000" in ports) == (stage.turn.lease is UDP), ports


@pytest.mark.parametrize("world", list(PLANS) if WHOLE else ["networkd", "netplan"], indirect=True, scope="module")
def test_the_uplink_is_not_disturbed(world: World) -> None:
    """Neither addresses nor routes of the uplink go away, not even for a moment.

    Without the timer of confirm_timeout, since systemd has netplan write its files anew when that is set, and networkd takes notice.
    """
    if world.governor in ("networkd", "netplan"):
        world.host.run("networkctl reload")
    world.picture()
    world.host.run("ip monitor address route dev wan >/run/monitor 2>&1 & echo $! >/run/monitor.pid")
    world.play(SIT, linux_confirm_timeout=0)
    world.carries(SIT)
    seen = world.host.run("kill $(cat /run/monitor.pid); cat /run/monitor").stdout
    # The anycast addresses of routers come and go with forwarding.
    assert not [line for line in seen.splitlines() if "Deleted" in line and "anycast" not in line], seen
    world.play(None)

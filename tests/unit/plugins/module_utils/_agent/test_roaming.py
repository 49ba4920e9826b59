# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A host that goes elsewhere, is cut off, or sleeps; and who goes back to the broker it prefers."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent import roaming, watch
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent.core import Agent
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent.foreign import check_ours
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent.roaming import Standstill
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.errors import NetworkError, RemoteError
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._agent._stage import Stage, make_lease, up, waiting

SILENT = NetworkError("no_answer", "The broker is silent.")


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def now() -> float:
    return asyncio.get_running_loop().time()


def test_another_address_leads_to_another_negotiation_within_two_seconds(stage: Stage) -> None:
    at: list[float] = []
    stage.play(up, 40, lambda agent: at.append(now()), stage.move("10.9.9.9"), lambda agent: len(stage.tunnel.ups) == 2, up)
    assert stage.broker.at[1] - at[0] <= 1.0
    assert stage.broker.said[1] == {"moved": True} and stage.broker.asked[1][0] is not None, "the same broker first"
    assert "down" not in stage.tunnel.events[:-1]


def test_whatever_does_not_change_the_way_to_the_broker_changes_nothing(stage: Stage) -> None:
    stage.play(up, 1, stage.move("10.0.0.5"), 100, stage.move("10.0.0.5"), 100, up)
    assert len(stage.broker.asked) == 1


def test_many_changes_at_once_are_one(stage: Stage) -> None:
    stage.play(up, 1, stage.move("10.0.0.6"), 0.05, stage.move("10.0.0.7"), 0.1, stage.move("10.0.0.8"), 20, up)
    assert len(stage.broker.asked) == 2


def test_elsewhere_the_encapsulation_is_chosen_anew(stage: Stage) -> None:
    """At home the host could not have v6v4, and the fallback was remembered."""
    stage.refuses = {"v6v4"}
    stage.broker.answers = [make_lease("v6v4"), make_lease("v6udpv4")]
    agent = stage.play(up, lambda agent: stage.refuses.clear(), stage.move("10.9.9.9"), lambda agent: len(stage.broker.asked) == 3, up)
    assert stage.broker.modes == [None, "v6udpv4", None]
    assert stage.tunnel.ups[-1].grant.mode == "v6v4" and agent.mode_why == ""


def test_cut_off_it_does_not_hammer_and_back_again_it_is_quick(stage: Stage) -> None:
    def cut(agent: Agent) -> None:
        stage.tunnel.alive = False
        stage.broker.answers = [NetworkError("unreachable", "There is no way there from this machine.")] * 50

    def mend(agent: Agent) -> None:
        at.append(now())
        stage.broker.answers.clear()
        stage.tunnel.alive = True
    at: list[float] = []
    stage.play(up, 30, cut, stage.move(None), waiting, 3600, lambda agent: at.append(len(stage.broker.asked)), waiting, mend,
               stage.move("10.0.0.5"), up)
    assert at[0] <= 25, "attempts in an hour"
    assert stage.broker.at[-1] - at[1] <= 1.0 and stage.broker.said[-1] == {"moved": True}


def test_the_same_address_again_is_proved_and_not_negotiated(stage: Stage) -> None:
    stage.play(up, 30, stage.move(None), 1, stage.move("10.0.0.5"), 3, up)
    assert len(stage.broker.asked) == 1


def test_the_same_address_in_another_network_is_found_out_at_once(stage: Stage) -> None:
    """Two home networks may hand out the same address; the NAT is another one."""
    at: list[float] = []

    def elsewhere(agent: Agent) -> None:
        stage.tunnel.alive = False
        at.append(now())
    stage.play(up, 30, stage.move(None), elsewhere, 1, stage.move("10.0.0.5"), lambda agent: len(stage.broker.asked) == 2)
    assert stage.broker.at[1] - at[0] <= 6


def test_a_negotiation_from_an_address_that_is_gone_is_begun_again(stage: Stage) -> None:
    gates: list[asyncio.Event] = []

    def shut(agent: Agent) -> None:
        gates.append(asyncio.Event())
        stage.broker.gate = gates[0]

    def open_for_the_next(agent: Agent) -> None:
        stage.broker.gate = None
    stage.play(shut, lambda agent: len(stage.broker.asked) == 1, open_for_the_next, stage.move("10.9.9.9"), up)
    assert len(stage.broker.asked) == 2 and stage.broker.at[1] - stage.broker.at[0] <= 1.0


def test_a_broker_that_does_not_answer_from_there_is_asked_again_beside_the_tunnel(stage: Stage) -> None:
    stage.play(up, lambda agent: stage.broker.answers.extend([SILENT, SILENT]), stage.move("10.9.9.9"),
               lambda agent: len(stage.broker.asked) == 4, up)
    assert stage.broker.at[3] - stage.broker.at[1] <= 5 and len(stage.tunnel.ups) == 2


def test_roaming_can_be_switched_off(stage: Stage) -> None:
    stage.config = replace(stage.config, roaming=False)
    stage.play(up, 10, up)
    assert not hasattr(stage, "watch")


def test_the_watch_ends_with_the_agent(stage: Stage) -> None:
    stage.play(up)
    assert stage.watch.closed


# sleep


def test_awake_again_the_tunnel_is_proved_at_once(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    slept = [0.0]
    monkeypatch.setattr(Standstill, "slept", lambda self: slept.pop() if slept else 0.0)
    at: list[float] = []

    def sleep(agent: Agent) -> None:
        slept.append(3600.0)
        stage.tunnel.alive = False
        at.append(now())
    stage.play(up, 31, sleep, lambda agent: len(stage.broker.asked) == 2)
    assert stage.broker.at[1] - at[0] <= 5 + 3 + 1


def test_awake_again_a_tunnel_that_answers_stays_unless_its_lease_is_to_be_renewed(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    slept = [0.0]
    monkeypatch.setattr(Standstill, "slept", lambda self: slept.pop() if slept else 0.0)
    stage.play(up, 31, lambda agent: slept.append(600.0), 60, lambda agent: len(stage.broker.asked) == 1,
               lambda agent: slept.append(3600.0), 10, lambda agent: len(stage.broker.asked) == 2, up)
    assert stage.tunnel.events.count("down") == 1


@pytest.mark.parametrize("ahead, slept", [(3600.0, 3600.0), (5.0, 0.0), (-3600.0, 0.0)])
def test_where_the_system_does_not_tell_its_sleep_the_clocks_do(ahead: float, slept: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(roaming.time, "CLOCK_BOOTTIME", raising=False)
    seconds = {"wall": 1000.0, "steady": 7.0}
    standstill = Standstill(lambda: datetime.fromtimestamp(seconds["wall"], timezone.utc), lambda: seconds["steady"])
    seconds["wall"] += 30
    seconds["steady"] += 30
    assert standstill.slept() == 0
    seconds["wall"] += ahead
    assert standstill.slept() == pytest.approx(slept) and standstill.slept() == 0


# the preferred broker

HOME, NEIGHBOUR = "192.0.2.1", "192.0.2.77"


def away(stage: Stage, **changes: Any) -> None:
    """HOME is preferred, and the neighbour gave the tunnel."""
    stage.config = replace(stage.config, preferred=HOME, options=replace(stage.config.options, brokers=(HOME, NEIGHBOUR)), **changes)
    stage.broker.answers = [make_lease(broker=NEIGHBOUR)]


def test_it_goes_back_to_the_preferred_broker_beside_the_tunnel_in_use(stage: Stage) -> None:
    away(stage, return_after=300.0)
    stage.play(up, lambda agent: stage.broker.answers.extend([SILENT, None]), lambda agent: len(stage.broker.asked) == 2, up,
               lambda agent: stage.tunnel.ups[-1].broker == HOME, up, 1000)
    assert stage.broker.said[1:] == [{"brokers": (HOME,)}, {"brokers": (HOME,)}], "and there it stays"
    assert all(pause >= 300 for pause in (stage.broker.at[1] - stage.broker.at[0], stage.broker.at[2] - stage.broker.at[1]))
    assert [event for event in stage.tunnel.events if event != "ping"] == ["disconnect", "up", "up", "down"]


def test_a_preferred_broker_that_is_not_back_is_no_error_of_the_tunnel(stage: Stage) -> None:
    away(stage, return_after=300.0)
    stage.play(up, lambda agent: stage.broker.answers.append(SILENT), 400, up)
    assert len(stage.broker.asked) == 2 and stage.status()["failures"] == 0


def test_without_being_told_when_only_a_hangup_leads_back(stage: Stage) -> None:
    away(stage)
    stage.play(up, 2000, lambda agent: len(stage.broker.asked) == 1, lambda agent: agent.renegotiate(),
               lambda agent: len(stage.tunnel.ups) == 2, up)
    assert stage.broker.said[1] == {"brokers": (HOME, NEIGHBOUR)}


def test_lost_it_asks_who_gave_the_lease_first(stage: Stage) -> None:
    away(stage)
    stage.play(up, lambda agent: setattr(stage.tunnel, "alive", False), lambda agent: len(stage.broker.asked) == 2)
    assert "brokers" not in stage.broker.said[1] and stage.broker.asked[1][0] is not None and stage.broker.asked[1][0].broker == NEIGHBOUR


# somebody else's lease


def test_an_address_that_this_host_has_already_is_not_made_a_tunnel_of(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent import core

    monkeypatch.setattr(core, "check_ours", lambda lease, in_use: check_ours(lease, in_use, lambda address: str(address).endswith("::9")))
    other = make_lease(ipv6="2001:db8:f::9")
    stage.play(up, lambda agent: stage.broker.answers.append(other), lambda agent: agent.renegotiate(),
               lambda agent: agent.last_error is not None, up)
    assert stage.status()["last_error"]["code"] == "foreign_grant" and len(stage.tunnel.ups) == 1, "the tunnel in use stays"


def test_whose_address_it_is() -> None:
    lease = make_lease()

    def ours(address: Any) -> bool:
        return address == lease.grant.client.ipv6
    check_ours(lease, None, lambda address: False)
    check_ours(lease, lease, ours)
    check_ours(lease, None, lambda address: True)  # a host that may bind any address cannot tell
    with pytest.raises(RemoteError) as caught:
        check_ours(lease, None, ours)
    assert caught.value.code == "foreign_grant" and "2001:db8:f::2" in caught.value.message


# the sockets of the system


def test_a_socket_of_the_kernel_wakes_who_waits() -> None:
    async def run() -> tuple[str, bool]:
        ours, kernels = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        ours.setblocking(False)
        listening = watch.Listening(ours, True)
        waiting = asyncio.ensure_future(listening.changed())
        await asyncio.sleep(0)
        before = waiting.done()
        for _turn in range(3):
            kernels.send(b"\x10\0\0\0\x14\0\0\0" + bytes(8))  # RTM_NEWADDR
        what = await asyncio.wait_for(waiting, 10)
        listening.close()
        kernels.close()
        return what, before
    assert asyncio.run(run()) == ("an address", False)


def test_a_system_that_does_not_tell_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_args: Any) -> None:
        raise PermissionError(1, "Operation not permitted")
    monkeypatch.setattr(watch.socket, "socket", forbidden)
    assert isinstance(watch.open_watch(socket.AF_INET), watch.Polling)

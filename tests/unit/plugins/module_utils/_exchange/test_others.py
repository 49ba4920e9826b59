# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A black hole among several brokers, and which of several is asked first."""

from __future__ import annotations

import asyncio

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._exchange import others
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._exchange.sync import run_sync
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.rudp import RudpConfig
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._exchange._brokers import FakeBroker, Talk
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._exchange._run import World, ask, fails


def patient() -> World:
    """The old client's time for a silent broker: six seconds."""
    return World(rudp=RudpConfig())


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(others, "SILENCE", 0.05)
    monkeypatch.setattr(others, "GIVE_UP", 0.3)


def test_the_times_add_up_to_less_than_three_seconds(monkeypatch):
    monkeypatch.undo()
    assert others.GIVE_UP + others.FEW_SECONDS < 3


@pytest.mark.parametrize("echo", [b"200 Success\r\n", b"302 Unsupported client version\r\n"])
@pytest.mark.parametrize("mode", ["v6udpv4", "v6v4"])
def test_a_silent_broker_is_left_for_one_that_is_there(mode, echo):
    async def scenario():
        async with FakeBroker(udp="silent", tcp="refuse") as hole, FakeBroker(udp="silent", tcp="refuse") as hole2, \
                FakeBroker(Talk(echo=echo)) as good, FakeBroker(Talk(echo=echo)) as spare:
            result = await ask(hole, hole2, good, spare, mode=mode, world=patient())
            tried = [attempt["broker"] for attempt in result.attempts]
            assert set(tried[:-1]) == {hole.name} and tried[-1] == result.lease.broker, "the second hole is not even tried"
            assert result.attempts[0]["error"]["code"] == "no_answer"
            return result.lease.broker in (good.name, spare.name), b"VERSION=2.0.2" in spare.said("udp")

    good, spare_was_asked = run_sync(scenario)
    assert good and not spare_was_asked


def test_nobody_is_disturbed_while_the_first_one_answers():
    async def scenario():
        async with FakeBroker() as good, FakeBroker() as spare:
            result = await ask(good, spare, mode="v6v4", world=patient())
            return result.lease.broker == good.name, spare.log

    assert run_sync(scenario) == (True, [])


def test_a_slow_broker_that_is_there_is_waited_for():
    """Its first answer was lost; its ECHO shows that it lives, so address and prefix stay."""
    async def scenario():
        lost = []

        def forgetful(message, header, send):
            if message.startswith(b"VERSION") and not lost:
                lost.append(message)
                return
            reply = script(message, "peer", "udp")
            if reply is not None:
                send(header + reply)

        script = Talk()
        async with FakeBroker(on_udp=forgetful) as slow, FakeBroker() as spare:
            world = World(rudp=RudpConfig(rto_initial=0.8, rto_min=0.8))
            result = await ask(slow, spare, mode="v6v4", world=world)
            return result.lease.broker == slow.name, spare.said("udp")

    assert run_sync(scenario) == (True, [b"ECHO REQUEST"])


def test_where_everybody_is_silent_nobody_is_given_up_early():
    async def scenario():
        async with FakeBroker(udp="silent", tcp="refuse") as one, FakeBroker(udp="silent", tcp="refuse") as two:
            error = await fails(one, two, mode="v6udpv4", world=World(rudp=RudpConfig(rto_initial=0.3, rto_min=0.3, rto_max=0.3)))
            return [(attempt["broker"] == one.name, attempt["ms"] > 800) for attempt in error.attempts]

    assert run_sync(scenario) == [(True, True), (False, True)]


def test_a_broker_over_tcp_alone_is_found_although_others_answer():
    async def scenario():
        async with FakeBroker(udp="silent") as tcp_only, FakeBroker() as spare:
            result = await ask(tcp_only, spare, mode="v6v4", world=patient())
            return result.lease.broker == tcp_only.name, result.lease.transport

    assert run_sync(scenario) == (True, "tcp")


def test_the_nearest_is_asked_first_when_that_was_chosen():
    async def scenario():
        def far(message, header, send):
            reply = script(message, "peer", "udp")
            if reply is not None:
                asyncio.get_running_loop().call_later(0.2, send, header + reply)

        script = Talk()
        async with FakeBroker(on_udp=far) as distant, FakeBroker() as near:
            return [(await ask(distant, near, mode="v6v4", choose=choose)).lease.broker == near.name for choose in ("order", "nearest")]

    assert run_sync(scenario) == [False, True]


def test_elsewhere_what_the_network_had_done_is_forgotten_and_what_a_broker_said_is_not(tmp_path):
    async def scenario():
        world = World()
        kwargs = {"mode": "v6udpv4", "state_dir": str(tmp_path), "world": world}
        async with FakeBroker(udp="refuse", tcp="refuse") as broker:
            name = broker.name
            assert (await fails(name, **kwargs)).code == "refused"
            assert (await fails(name, **kwargs)).code == "refused" and world.slept == [2]
            assert (await fails(name, moved=True, **kwargs)).code == "refused" and world.slept == [2]
        async with FakeBroker(Talk(version=b"530 Server too busy\r\n")) as busy:
            assert (await fails(busy, **kwargs)).code == "busy"
            return (await fails(busy, moved=True, deadline=10, **kwargs)).code

    assert run_sync(scenario) == "too_soon"

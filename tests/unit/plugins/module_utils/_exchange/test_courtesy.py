# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Brokers are not hammered, across restarts, and the user is told how long to wait."""

from __future__ import annotations

from ansible_collections.tunnelbroker.tsp.plugins.module_utils._exchange.backoff import TooSoonError
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._exchange.memory import forget
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._exchange.options import ExchangeOptions
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._exchange.sync import run_sync
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._exchange._brokers import FakeBroker, Talk
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._exchange._run import ALICE, World, ask, fails

BUSY = Talk(version=b"530 Server too busy\r\n")


def test_a_busy_broker_is_asked_again_only_after_the_wait(tmp_path):
    async def scenario():
        world = World()
        async with FakeBroker(BUSY) as broker:
            kwargs = {"mode": "v6v4", "state_dir": str(tmp_path), "world": world}
            assert (await fails(broker, **kwargs)).code == "busy"
            too_soon = await fails(broker, deadline=10, **kwargs)
            assert len(broker.log) == 1 and world.slept == []
            broker.script = Talk()
            said = []
            await ask(broker, deadline=60, progress=said.append, **kwargs)
            return too_soon, world.slept, said

    error, slept, said = run_sync(scenario)
    assert isinstance(error, TooSoonError) and error.kind == "network" and error.code == "too_soon"
    assert error.retry_after == 30 and "30 s" in error.message and "busy" in error.message and error.hint
    assert slept == [30] and any("waiting 30.0 s" in sentence and "busy" in sentence for sentence in said)


def test_while_one_broker_is_left_alone_another_is_asked_without_waiting(tmp_path):
    async def scenario():
        world = World()
        async with FakeBroker(BUSY) as busy, FakeBroker() as good:
            kwargs = {"mode": "v6v4", "state_dir": str(tmp_path), "world": world}
            await ask(busy, good, **kwargs)
            world.now += 20
            second = await ask(busy, good, **kwargs)
            return second.lease.broker == good.name, len(busy.log), world.slept
    assert run_sync(scenario) == (True, 1, [])


def test_the_minimum_interval_holds_between_two_tunnels_and_keeps_to_the_same_broker(tmp_path):
    async def scenario():
        world = World()
        async with FakeBroker() as broker, FakeBroker() as other:
            kwargs = {"mode": "v6v4", "state_dir": str(tmp_path), "world": world, "min_interval": 7}
            await ask(broker, other, **kwargs)
            world.now += 2
            await ask(broker, other, **kwargs)
            return world.slept, len(other.log)
    assert run_sync(scenario) == ([5], 0)


def test_devices_behind_one_controller_do_not_wait_for_each_other(tmp_path):
    async def scenario():
        world = World()
        async with FakeBroker() as broker:
            for device in ("r1", "r2", "r3"):
                await ask(broker, mode="v6v4", state_dir=str(tmp_path), world=world, identity=device)
            return world.slept
    assert run_sync(scenario) == []


def test_users_are_counted_apart(tmp_path):
    async def scenario():
        world = World()
        async with FakeBroker(Talk(users={})) as broker:
            kwargs = {"mode": "v6v4", "state_dir": str(tmp_path), "world": world}
            assert (await fails(broker, auth_method="plain", credentials=ALICE, **kwargs)).code == "auth_failed"
            await ask(broker, **kwargs)
            return world.slept
    assert run_sync(scenario) == []


def test_a_memory_that_cannot_be_kept_is_a_warning(tmp_path):
    (tmp_path / "state").write_text("not a folder")

    async def scenario():
        async with FakeBroker() as broker:
            return await ask(broker, mode="v6v4", state_dir=str(tmp_path / "state"))
    result = run_sync(scenario)
    assert result.lease.grant.mode == "v6v4" and result.warnings
    assert all(str(tmp_path / "state") in warning for warning in result.warnings)


def test_nothing_of_the_memory_is_secret(tmp_path):
    async def scenario():
        async with FakeBroker(Talk(users={})) as broker:
            await fails(broker, mode="v6v4", auth_method="plain", credentials=ALICE, state_dir=str(tmp_path))
    run_sync(scenario)
    assert tmp_path.iterdir() and not any("horse" in path.read_text() for path in tmp_path.iterdir())


def test_nothing_of_a_tunnel_that_was_given_back_is_remembered(tmp_path):
    async def scenario():
        async with FakeBroker() as broker:
            return (await ask(broker, mode="v6v4", state_dir=str(tmp_path / "state"))).lease
    lease = run_sync(scenario)
    assert sorted(path.name.partition("-")[0] for path in (tmp_path / "state").iterdir()) == ["backoff", "tsp"]
    forget(lease, ExchangeOptions(auth_method="anonymous", state_dir=str(tmp_path / "state")))
    assert not (tmp_path / "state").exists()


def test_what_others_remember_stays(tmp_path):
    async def scenario():
        async with FakeBroker() as broker:
            return (await ask(broker, mode="v6v4", state_dir=str(tmp_path))).lease
    lease = run_sync(scenario)
    (tmp_path / "tsp-last-server.txt").write_text("198.51.100.1\n")
    forget(lease, ExchangeOptions(auth_method="anonymous", identity="another", state_dir=str(tmp_path)))
    assert sorted(path.name.partition("-")[0] for path in tmp_path.iterdir()) == ["backoff", "tsp"]
    forget(lease, ExchangeOptions(auth_method="anonymous", state_dir=str(tmp_path)))
    assert [path.name for path in tmp_path.iterdir()] == ["tsp-last-server.txt"]

# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Redirects at every step: followed to the nearest, never in circles."""

from __future__ import annotations

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._exchange.sync import run_sync
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._exchange._brokers import FakeBroker, Talk, framed, redirect
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._exchange._run import ALICE, ask, fails


def at(step, *brokers, status=1200):
    """The talk of a broker that redirects at this step."""
    listed = redirect(*brokers, status=status)
    return Talk(**{step: framed(listed.decode()) if step == "create" else listed})


@pytest.mark.parametrize("transport", ["udp", "tcp"])
@pytest.mark.parametrize("step", ["version", "auth", "create"])
def test_one_broker_is_gone_to_at_once(step, transport, tmp_path):
    async def scenario():
        async with FakeBroker() as target, FakeBroker() as first:
            first.script = at(step, target.name)
            result = await ask(first, mode="v6v4", transports=transport, state_dir=str(tmp_path))
            assert (transport, b"ECHO REQUEST") not in target.log
            return result, first.name, target.name

    result, first, target = run_sync(scenario)
    assert (result.lease.broker, result.lease.via) == (target, first)
    assert [a["result"] for a in result.attempts] == ["redirected", "granted"]
    assert not (tmp_path / "tsp-broker-list.txt").exists()
    assert (tmp_path / "tsp-last-server.txt").read_text() == target + "\n"


def test_of_several_the_nearest_is_asked_first_and_the_list_is_kept(tmp_path):
    async def scenario():
        async with FakeBroker(udp="silent", tcp="refuse") as silent, FakeBroker() as good, FakeBroker() as first:
            first.script = at("version", silent.name, "[2001:db8::1]", good.name)
            result = await ask(first, mode="v6v4", state_dir=str(tmp_path))
            return result, silent.name, good.name, first.name

    result, silent, good, first = run_sync(scenario)
    assert result.lease.broker == good and len(result.attempts) == 2
    assert (tmp_path / "tsp-broker-list.txt").read_text().splitlines() == [f"# from {first}", good, silent, "[2001:db8::1]"]


def test_when_the_nearest_cannot_be_had_the_next_one_is_asked():
    async def scenario():
        async with FakeBroker(Talk(version=b"530 Server too busy\r\n")) as busy, FakeBroker(Talk(echo=None)) as far, FakeBroker() as first:
            first.script = at("version", far.name, busy.name)
            return (await ask(first, mode="v6v4")).lease.broker == far.name
    assert run_sync(scenario)


def test_any_status_above_1000_redirects_and_1000_itself_does_not():
    async def scenario():
        async with FakeBroker() as target, FakeBroker() as first:
            first.script = at("version", target.name, status=1302)
            followed = (await ask(first, mode="v6v4")).lease.broker == target.name
            first.script = at("version", target.name, status=1000)
            return followed, await fails(first, mode="v6v4", transports="udp"), first.name

    followed, error, first = run_sync(scenario)
    assert followed and error.kind == "remote" and first in error.message


def test_a_broker_that_redirects_to_itself_is_asked_once():
    async def scenario():
        async with FakeBroker() as first:
            first.script = at("version", first.name)
            return await fails(first, mode="v6v4"), len(first.log)
    error, messages = run_sync(scenario)
    assert (error.code, messages) == ("redirect_loop", 1)


def test_two_brokers_that_redirect_to_each_other_are_asked_once_each():
    async def scenario():
        async with FakeBroker() as one, FakeBroker() as two:
            one.script, two.script = at("version", two.name), at("create", one.name)
            error = await fails(one, mode="v6v4")
            return error, [m for m in one.said() + two.said() if m.startswith(b"VERSION")]
    error, versions = run_sync(scenario)
    assert error.code == "redirect_loop" and len(versions) == 2


def test_a_chain_ends_after_five_hops():
    async def scenario():
        brokers = [FakeBroker() for _n in range(8)]
        for broker in brokers:
            await broker.__aenter__()
        try:
            for here, there in zip(brokers, brokers[1:]):
                here.script = at("version", there.name)
            error = await fails(brokers[0], mode="v6v4")
            asked = [len(broker.log) for broker in brokers]
            brokers[5].script = Talk()
            return error, asked, (await ask(brokers[0], mode="v6v4")).lease.broker == brokers[5].name
        finally:
            for broker in brokers:
                await broker.stop()
    error, asked, reached = run_sync(scenario)
    assert error.code == "redirect_limit" and asked == [1, 1, 1, 1, 1, 1, 0, 0] and reached


def test_a_list_that_names_nobody_usable_is_the_brokers_error():
    async def scenario():
        async with FakeBroker() as first:
            first.script = at("version")
            empty = await fails(first, mode="v6v4", transports="udp")
            first.script = at("version", "0.0.0.0", "x y", "224.0.0.1")
            return empty, await fails(first, mode="v6v4", transports="udp")
    for error in run_sync(scenario):
        assert error.kind == "remote" and "127.0.0.1" in error.message


def test_after_a_redirect_into_the_void_the_next_configured_broker_is_asked():
    async def scenario():
        async with FakeBroker(udp="refuse", tcp="refuse") as dead, FakeBroker() as first, FakeBroker() as second:
            first.script = at("version", dead.name)
            return (await ask(first, second, mode="v6v4")).lease.broker == second.name
    assert run_sync(scenario)


def test_who_redirected_into_the_void_is_named(tmp_path):
    async def scenario():
        async with FakeBroker(udp="refuse", tcp="refuse") as dead, FakeBroker() as first, FakeBroker(udp="refuse", tcp="refuse") as other:
            first.script = at("version", dead.name)
            return await fails(first, mode="v6v4"), await fails(first, other, mode="v6v4"), await fails(other, mode="v6v4"), first.name
    alone, with_other, unled, name = run_sync(scenario)
    assert f"udp {name} had redirected there." in alone.message and f"udp {name} had redirected there." in with_other.message
    assert "redirected" not in unled.message


def test_the_saved_list_is_used_when_no_configured_broker_can_be_reached(tmp_path):
    async def scenario():
        async with FakeBroker(udp="refuse", tcp="refuse") as dead, FakeBroker() as good:
            (tmp_path / "tsp-broker-list.txt").write_text(f"{dead.name}\n{good.name}\n")
            result = await ask(dead, mode="v6v4", state_dir=str(tmp_path))
            assert len(result.attempts) == 3, "the dead one is not asked again"
            return (result.lease.broker, result.lease.via) == (good.name, dead.name)
    assert run_sync(scenario)


def test_the_list_of_one_broker_is_not_for_those_who_ask_another(tmp_path):
    async def scenario():
        async with FakeBroker(udp="refuse", tcp="refuse") as dead, FakeBroker() as one, FakeBroker() as two, FakeBroker() as first:
            first.script = at("version", one.name, two.name)
            kwargs = {"mode": "v6v4", "state_dir": str(tmp_path), "auth_method": "digest-md5", "credentials": ALICE, "min_interval": 0}
            granted = (await ask(first, **kwargs)).lease.broker
            await first.stop()
            seen = len(one.log) + len(two.log)
            assert (await fails(dead, **kwargs)).code == "refused" and len(one.log) + len(two.log) == seen
            assert (await ask(dead, first, **kwargs)).lease.broker == granted
    run_sync(scenario)


def test_always_the_same_server_means_only_that_one(tmp_path):
    async def scenario():
        async with FakeBroker(udp="refuse", tcp="refuse") as last, FakeBroker() as other:
            (tmp_path / "tsp-last-server.txt").write_text(f"# kept\n{last.name}\n")
            (tmp_path / "tsp-broker-list.txt").write_text(f"{other.name}\n")
            kwargs = {"mode": "v6v4", "state_dir": str(tmp_path)}
            error = await fails(other, always_use_same_server=True, **kwargs)
            assert not other.log and [a["broker"] for a in error.attempts] == [last.name, last.name]
            assert (await ask(other, **kwargs)).lease.broker == other.name
            assert (tmp_path / "tsp-last-server.txt").read_text() == f"{other.name}\n"
            assert (await ask("192.0.2.1", always_use_same_server=True, min_interval=0, **kwargs)).lease.broker == other.name
            (tmp_path / "tsp-last-server.txt").unlink()
            return (await ask(other, always_use_same_server=True, min_interval=0, **kwargs)).lease.broker == other.name
    assert run_sync(scenario)

# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Taking a tunnel back, and asking what a broker offers."""

from __future__ import annotations

import asyncio
import json
import socket

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._exchange.negotiate import broker_info, delete
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._exchange.options import ExchangeOptions
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._exchange.sync import run_sync
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.errors import LocalError, NetworkError, RemoteError
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.request import TunnelRequest
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._exchange._brokers import FakeBroker, Talk, framed, redirect
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._exchange._run import World, ask

ANONYMOUS = ExchangeOptions(auth_method="anonymous", deadline=20.0)


@pytest.mark.parametrize("udp", ["answer", "refuse"])
def test_a_lease_is_deleted_at_the_broker_that_gave_it(udp):
    async def scenario():
        async with FakeBroker(udp=udp) as broker:
            lease = (await ask(broker, mode="v6v4")).lease
            attempts = await delete(lease, ExchangeOptions(brokers=("192.0.2.1",), auth_method="anonymous"), runtime=World().runtime)
            return [m for _t, m in broker.log if b'action="delete"' in m], attempts

    messages, attempts = run_sync(scenario)
    assert len(messages) == 1 and attempts[-1]["result"] == "deleted"


def test_a_request_is_deleted_at_the_configured_brokers():
    async def scenario():
        async with FakeBroker() as broker:
            options = ExchangeOptions(brokers=(broker.name,), auth_method="anonymous")
            await delete(TunnelRequest(mode="v6udpv4"), options, runtime=World().runtime)
            return broker.said()
    assert any(line.startswith(b"Content-length") for line in run_sync(scenario))


@pytest.mark.parametrize(("answer", "status"), [
    (b"310 Server side error\r\n", 310), (framed("500 Invalid request format\r\n"), 500), (framed("310 TSP status error\r\n"), 310)])
def test_a_broker_that_cannot_delete_says_so_with_its_status(answer, status):
    async def scenario():
        async with FakeBroker(Talk(delete=answer)) as broker:
            lease = (await ask(broker, mode="v6v4")).lease
            with pytest.raises(RemoteError) as caught:
                await delete(lease, ANONYMOUS, runtime=World().runtime)
            return caught.value
    error = run_sync(scenario)
    assert error.status == status and error.attempts


def test_deleting_at_a_broker_that_is_gone_is_a_network_error_and_is_not_counted_against_it(tmp_path):
    async def scenario():
        async with FakeBroker() as broker:
            lease = (await ask(broker, mode="v6v4")).lease
        with pytest.raises(NetworkError) as caught:
            await delete(lease, ExchangeOptions(auth_method="anonymous", state_dir=str(tmp_path)), runtime=World().runtime)
        return caught.value.code
    assert run_sync(scenario) == "refused" and not list(tmp_path.iterdir())


def info_of(*brokers, **options):
    names = tuple(broker if isinstance(broker, str) else broker.name for broker in brokers)
    return broker_info(ExchangeOptions(brokers=names, **{"deadline": 20.0, **options}), runtime=World().runtime)


def test_what_a_broker_offers_is_asked_over_both_transports_and_nothing_else_is():
    async def scenario():
        async with FakeBroker() as broker:
            return await info_of(broker), broker.name, broker.port, broker.said()

    (info,), name, port, said = run_sync(scenario)
    assert set(said) == {b"VERSION=2.0.2", b"ECHO REQUEST"}
    assert (info["broker"], info["reachable"], info["version"], info["error"], info["redirect"]) == (name, True, "2.0.2", None, [])
    assert info["tunnels"] == ["v4v6", "v6udpv4", "v6v4"] and info["auth_methods"] == ["anonymous", "digest-md5", "plain"]
    assert info["echo_ms"] >= 0
    assert [(row["transport"], row["address"], row["port"], row["reachable"], row["version"]) for row in info["transports"]] == [
        ("udp", "127.0.0.1", port, True, "2.0.2"), ("tcp", "127.0.0.1", port, True, "2.0.2")]
    assert json.loads(json.dumps(info)) == info


def test_brokers_in_every_condition_are_told_apart_in_one_go():
    async def scenario():
        old = Talk(version=lambda m: b"CAPABILITY TUNNEL=V6V4 AUTH=PLAIN\r\n" if b"=1.0.1" in m else b"302 Unsupported client version\r\n",
                   echo=b"302 What?\r\n")
        async with FakeBroker(udp="refuse", tcp="refuse") as dead, FakeBroker(udp="silent") as tcp_only, FakeBroker(old) as old_one, \
                FakeBroker(Talk(version=redirect("192.0.2.5", "[2001:db8::5]:77"))) as elsewhere, \
                FakeBroker(Talk(version=b"rubbish\r\n")) as rubbish:
            began = asyncio.get_running_loop().time()
            found = await info_of(dead, tcp_only, old_one, elsewhere, rubbish, "nobody.example")
            return found, asyncio.get_running_loop().time() - began

    (dead, tcp_only, old_one, elsewhere, rubbish, nobody), took = run_sync(scenario)
    assert (dead["reachable"], dead["echo_ms"], dead["error"]["code"]) == (False, None, "refused")
    assert (tcp_only["reachable"], tcp_only["version"], tcp_only["error"]) == (True, "2.0.2", None)
    assert [row["error"] and row["error"]["code"] for row in tcp_only["transports"]] == ["no_answer", None]
    assert (old_one["version"], old_one["tunnels"], old_one["auth_methods"], old_one["echo_ms"]) == ("1.0.1", ["v6v4"], ["plain"], None)
    assert elsewhere["redirect"] == ["192.0.2.5", "[2001:db8::5]:77"] and elsewhere["error"] is None
    assert (rubbish["reachable"], rubbish["version"], rubbish["error"]["kind"]) == (True, None, "remote")
    assert (nobody["reachable"], nobody["error"]["code"], nobody["transports"]) == (False, "name_not_resolved", [])
    assert took < 15


def test_a_name_with_both_families_is_asked_over_both():
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6")

    async def scenario():
        world = World()
        world.names["broker.example"] = ["::1", "127.0.0.1"]
        async with FakeBroker() as broker:
            options = ExchangeOptions(brokers=(f"broker.example:{broker.port}",), deadline=20.0, transports="udp")
            return await broker_info(options, runtime=world.runtime)
    (info,) = run_sync(scenario)
    assert [(row["transport"], row["reachable"]) for row in info["transports"]] == [("udp", True), ("udp6", False)]
    assert info["reachable"] and info["error"] is None


def test_information_needs_a_broker_and_a_usable_source():
    for options in ({}, {"brokers": ("127.0.0.1",), "source_address": "192.0.2.77"}):
        with pytest.raises(LocalError):
            run_sync(lambda options=options: broker_info(ExchangeOptions(**options), runtime=World().runtime))

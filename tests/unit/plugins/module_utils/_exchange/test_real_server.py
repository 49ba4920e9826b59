# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Our exchange with our own broker core over real sockets: every mechanism, both transports, and what each costs on the wire."""

from __future__ import annotations

import asyncio

import pytest

pytest.importorskip("cryptography")

from ansible_collections.tunnelbroker.tsp.plugins.module_utils._exchange.negotiate import broker_info, delete  # noqa: E402
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._exchange.options import ExchangeOptions  # noqa: E402
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._exchange.sync import run_sync  # noqa: E402
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.client import Credentials  # noqa: E402
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.dsakey import generate_dsa_key  # noqa: E402
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.events import BrokerAddress  # noqa: E402
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.request import TunnelRequest  # noqa: E402
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.rudp import RudpConfig  # noqa: E402
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._exchange._real import RealBroker  # noqa: E402
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._exchange._run import World, ask, fails  # noqa: E402
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._tsp._pair import FakeBackend  # noqa: E402

USER = {"credentials": Credentials("alice", "secret1"), "server_key_policy": "accept_new"}


@pytest.fixture(scope="module")
def dsa_key():
    return generate_dsa_key()


@pytest.mark.parametrize(("method", "pairs"), [("anonymous", 4), ("plain", 5), ("digest-md5", 6), ("passdss-3des-1", 6)])
def test_datagram_pairs_of_a_whole_exchange(method, pairs, dsa_key):
    async def scenario():
        async with RealBroker(dsa_key=dsa_key) as broker:
            lease = (await ask(broker, mode="v6udpv4", auth_method=method, world=World(rudp=RudpConfig()), **USER)).lease
            return lease, broker.datagrams, broker.backend.calls

    lease, datagrams, calls = run_sync(scenario)
    assert (lease.auth_method, lease.grant.mode, lease.quirks) == (method, "v6udpv4", {})
    assert datagrams == pairs and calls[-1] == "accept"


@pytest.mark.parametrize(("method", "writes"), [("anonymous", 4), ("plain", 4), ("digest-md5", 5), ("passdss-3des-1", 5)])
def test_tcp_takes_one_write_a_round_trip_so_that_nothing_waits_for_an_acknowledgement(method, writes, dsa_key):
    async def scenario():
        async with RealBroker(dsa_key=dsa_key) as broker:
            lease = (await ask(broker, mode="v6v4", transports="tcp", auth_method=method, **USER)).lease
            while broker.connections:  # the accept and the close are on their way
                await asyncio.sleep(0)
            return lease, broker.segments, broker.backend.calls

    lease, segments, calls = run_sync(scenario)
    assert (lease.auth_method, lease.transport, lease.quirks) == (method, "tcp", {})
    assert segments == writes and calls[-1] == "accept"


@pytest.mark.parametrize("method", ["plain", "digest-md5", "passdss-3des-1"])
def test_a_wrong_password(method, dsa_key):
    async def scenario():
        async with RealBroker(dsa_key=dsa_key) as broker:
            options = {**USER, "credentials": Credentials("alice", "wrong-password")}
            return [await fails(broker, mode="v6v4", transports=t, auth_method=method, **options) for t in ("udp", "tcp")]
    for error in run_sync(scenario):
        assert (error.code, error.status) == ("auth_failed", 300) and "wrong-password" not in str(error)


def test_the_brokers_key_is_remembered_and_a_changed_one_refused(tmp_path, dsa_key):
    path = tmp_path / "gw6ckeys.pub"

    async def scenario():
        async with RealBroker(dsa_key=dsa_key) as broker:
            options = {**USER, "auth_method": "passdss-3des-1", "mode": "v6v4", "known_keys_file": str(path)}
            unknown = await fails(broker, **{**options, "server_key_policy": "reject"})
            assert not path.exists()
            first = await ask(broker, **options)
            known = await ask(broker, **{**options, "server_key_policy": "reject"})
            broker.config = type(broker.config)(rng=broker.config.rng, dsa_key=generate_dsa_key())
            changed = await fails(broker, **options)
            return unknown, first, known, changed

    unknown, first, known, changed = run_sync(scenario)
    assert unknown.code == "server_key_unknown" and "ssh-dss" in unknown.hint
    assert any("was new" in warning for warning in first.warnings) and not known.warnings
    assert changed.code == "server_key_changed" and len(path.read_text().splitlines()) == 1


@pytest.mark.parametrize(("options", "chosen"), [
    ({"server_key_policy": "accept_new"}, "passdss-3des-1"), ({"server_key_policy": "reject"}, "digest-md5")])
def test_any_takes_the_strongest_that_can_work(options, chosen, dsa_key):
    async def scenario():
        async with RealBroker(dsa_key=dsa_key) as broker:
            return (await ask(broker, mode="v6v4", auth_method="any", **{**USER, **options})).lease.auth_method
    assert run_sync(scenario) == chosen


def test_any_never_uses_plain_unless_it_may():
    async def scenario():
        async with RealBroker(FakeBackend(auths="PLAIN ANONYMOUS")) as broker:
            error = await fails(broker, mode="v6v4", auth_method="any", **USER)
            assert "authenticated" not in broker.backend.calls
            return error, (await ask(broker, mode="v6v4", auth_method="any", allow_plaintext=True, **USER)).lease.auth_method
    error, method = run_sync(scenario)
    assert (error.code, method) == ("no_common_mechanism", "plain")


def test_a_mode_that_is_not_offered_is_asked_over_tcp_as_well_and_then_told():
    async def scenario():
        async with RealBroker(FakeBackend(tunnels="V6UDPV4")) as broker:
            return await fails(broker, mode="v6v4")
    error = run_sync(scenario)
    assert error.code == "mode_not_offered" and "v6udpv4" in str(error) and [a["transport"] for a in error.attempts] == ["udp", "tcp"]


@pytest.mark.parametrize("step", ["version", "authenticate", "create"])
@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_a_redirect_of_our_own_broker_is_followed(step, transport):
    async def scenario():
        async with RealBroker() as target, RealBroker() as first:
            first.backend.redirects[step] = (BrokerAddress("ipv4", "127.0.0.1", target.port),)
            return (await ask(first, mode="v6v4", transports=transport)).lease.broker == target.name
    assert run_sync(scenario)


def test_delete_and_capabilities_and_echo():
    async def scenario():
        async with RealBroker() as broker:
            lease = (await ask(broker, mode="v6v4")).lease
            await delete(lease, ExchangeOptions(auth_method="anonymous"), runtime=World().runtime)
            (info,) = await broker_info(ExchangeOptions(brokers=(broker.name,)), runtime=World().runtime)
            return broker.backend.calls, info
    calls, info = run_sync(scenario)
    assert "delete" in calls and info["echo_ms"] is not None and info["tunnels"] == ["v4v6", "v6udpv4", "v6v4"]


def test_a_router_gets_its_prefix():
    async def scenario():
        async with RealBroker() as broker:
            request = TunnelRequest(mode="v6v4", host_type="router", prefix_length=56, dns_servers=("ns.example",))
            return (await ask(broker, request=request)).lease
    lease = run_sync(scenario)
    assert str(lease.grant.prefix) == "2001:db8:4100::/56" and not lease.warnings

# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Order and fallbacks of an exchange, against brokers that behave, refuse, or keep silent."""

from __future__ import annotations

import asyncio
import socket
from ipaddress import ip_address

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._exchange import tcp, udp
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._exchange.negotiate import negotiate_sync
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._exchange.options import ExchangeOptions
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._exchange.sync import run_sync
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.errors import LocalError
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.request import TunnelRequest
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._exchange._brokers import (
    CAPABILITY,
    SUCCESS,
    FakeBroker,
    Talk,
    framed,
    info,
)
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._exchange._run import ALICE, World, ask, fails


def has_ipv6():
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.bind(("::1", 0))
        return True
    except OSError:
        return False


def tried(result):
    return [(a["transport"], a["version"], a["result"]) for a in result.attempts]


# what is granted


@pytest.mark.parametrize(("mode", "granted"), [("v6anyv4", "v6udpv4"), ("v6udpv4", "v6udpv4"), ("v6v4", "v6v4")])
def test_udp_comes_first_and_the_lease_says_who_granted_what(mode, granted):
    async def scenario():
        async with FakeBroker() as broker:
            result = await ask(broker, mode=mode)
            assert broker.connections == 0
            return result, broker.name, broker.port, broker.peers[0][1], broker.said("udp")

    result, name, port, client_port, said = run_sync(scenario)
    lease = result.lease
    assert said[:2] == [b"VERSION=2.0.2", b"AUTHENTICATE ANONYMOUS"]
    assert (lease.broker, lease.via, lease.transport, lease.protocol_version) == (name, None, "udp", "2.0.2")
    assert (lease.auth_method, lease.username, lease.grant.mode) == ("anonymous", None, granted)
    ports = (lease.grant.client.udp_port, lease.grant.server.udp_port)
    assert ports == ((client_port, port) if granted == "v6udpv4" else (None, None))
    assert tried(result) == [("udp", "2.0.2", "granted")] and result.socket is None and not result.warnings
    assert type(lease).from_dict(lease.to_dict()) == lease


@pytest.mark.parametrize("client, own", [("127.0.0.5", "127.0.0.5"), ("198.51.100.7", "127.0.0.1")])
def test_the_lease_says_at_which_address_of_the_host_the_tunnel_ends(client, own):
    async def scenario():
        async with FakeBroker(Talk(create=info("v6v4", client4=client))) as broker:
            proxy = TunnelRequest(mode="v6v4", proxy=True, client_ipv4=ip_address("198.51.100.7"))
            return (await ask(broker, mode="v6v4")).lease, (await ask(broker, request=proxy)).lease
    direct, by_proxy = run_sync(scenario)
    assert str(direct.local_address) == own and by_proxy.local_address is None
    assert type(direct).from_dict(direct.to_dict()) == direct


@pytest.mark.parametrize("transport", ["udp", "tcp"])
@pytest.mark.parametrize("method", ["plain", "digest-md5", "any"])
def test_a_user_proves_who_he_is(method, transport):
    async def scenario():
        async with FakeBroker() as broker:
            return (await ask(broker, mode="v6v4", auth_method=method, credentials=ALICE, transports=transport)).lease

    lease = run_sync(scenario)
    assert (lease.username, lease.auth_method) == ("alice", "digest-md5" if method == "any" else method)
    assert lease.transport == transport


def test_the_socket_is_handed_over_open_and_connected():
    async def scenario():
        async with FakeBroker() as broker:
            result = await ask(broker, mode="v6udpv4", keep_socket=True)
            assert result.socket is not None
            with result.socket as sock:
                assert sock.getpeername() == ("127.0.0.1", broker.port)
                assert sock.getsockname()[1] == result.lease.grant.client.udp_port == broker.peers[0][1]
                assert sock.getblocking() is False
                broker._socket.sendto(b"\x60data", sock.getsockname())
                assert await asyncio.get_running_loop().sock_recv(sock, 100) == b"\x60data"
            assert (await ask(broker, mode="v6v4", keep_socket=True)).socket is None, "there is nothing to keep with v6v4"

    run_sync(scenario)


def test_v4v6_goes_over_ipv6():
    if not has_ipv6():
        pytest.skip("this machine has no IPv6")

    async def scenario():
        async with FakeBroker(Talk(create=info("v4v6")), host="::1") as broker:
            request = TunnelRequest(mode="v4v6")
            result = await ask(broker, request=request)
            over_tcp = await ask(broker, request=request, transports="tcp")
            return result.lease.transport, over_tcp.lease.transport

    assert run_sync(scenario) == ("udp6", "tcp6")


def test_the_form_for_callers_without_a_loop_works_inside_a_running_loop_too():
    async def scenario():
        async with FakeBroker() as broker:
            options = ExchangeOptions(brokers=(broker.name,), auth_method="anonymous")

            def call():
                return negotiate_sync(TunnelRequest(mode="v6v4"), options).lease.grant.mode

            elsewhere = await asyncio.get_running_loop().run_in_executor(None, call)

            async def inside():
                return call()

            nested = await asyncio.get_running_loop().run_in_executor(None, lambda: run_sync(inside))
            return elsewhere, nested

    assert run_sync(scenario) == ("v6v4", "v6v4")


def test_people_are_told_what_happens_and_never_a_secret():
    said = []

    async def scenario():
        async with FakeBroker(udp="refuse") as broker:
            await ask(broker, mode="v6v4", auth_method="plain", credentials=ALICE, progress=said.append)
            return broker.port

    port = run_sync(scenario)
    assert said[0] == f"udp 127.0.0.1:{port}: asking for v6v4"
    assert said[-1] == f"tcp 127.0.0.1:{port}: asking for v6v4"
    assert any("refused" in sentence for sentence in said)
    assert not any("horse" in sentence for sentence in said)


# transports


@pytest.mark.parametrize("mode", ["v6anyv4", "v6v4"])
@pytest.mark.parametrize("udp", ["refuse", "silent"])
def test_udp_that_refuses_or_keeps_silent_leads_to_tcp(udp, mode):
    async def scenario():
        async with FakeBroker(udp=udp) as broker:
            result = await ask(broker, mode=mode)
            return result, broker.datagrams

    result, datagrams = run_sync(scenario)
    assert [(t, r) for t, _v, r in tried(result)] == [("udp", "failed"), ("tcp", "granted")]
    assert result.lease.transport == "tcp" and result.lease.grant.mode == "v6v4"
    assert result.lease.grant.client.udp_port is None
    assert result.attempts[0]["error"]["kind"] == "network"
    if udp == "silent":
        assert datagrams == 3, "three sends, then the broker is given up"


def test_v6udpv4_never_goes_over_tcp():
    async def scenario():
        async with FakeBroker(udp="silent") as broker:
            error = await fails(broker, mode="v6udpv4")
            return error, broker.connections

    error, connections = run_sync(scenario)
    assert connections == 0 and error.kind == "network" and [a["transport"] for a in error.attempts] == ["udp"]
    with pytest.raises(LocalError) as caught:
        run_sync(lambda: ask("192.0.2.1", mode="v6udpv4", transports="tcp"))
    assert caught.value.code == "invalid_option"


def test_transports_can_be_restricted():
    async def scenario():
        async with FakeBroker() as broker:
            only_tcp = await ask(broker, transports="tcp")
            seen = broker.datagrams
            async with FakeBroker(udp="silent") as silent:
                error = await fails(silent, transports="udp")
                return tried(only_tcp), seen, len(error.attempts), silent.connections

    assert run_sync(scenario) == ([("tcp", "2.0.2", "granted")], 0, 1, 0)


def test_each_attempt_has_a_new_socket_and_the_first_local_address_stays_the_tunnels_end():
    async def scenario():
        async with FakeBroker(Talk(version=lambda m: CAPABILITY if b"2.0.0" in m else b"302 Unsupported client version\r\n")) as broker:
            await ask(broker, mode="v6v4")
            return broker.peers, [m for _t, m in broker.log if b"create" in m]

    peers, creates = run_sync(scenario)
    assert len({port for _host, port in peers}) == 3
    assert b'<address type="ipv4">127.0.0.1</address>' in creates[0]


def test_later_attempts_name_the_first_local_address(monkeypatch):
    """Another socket may leave from another address; the tunnel's end is meant to stay."""
    here = iter(range(1, 99))

    def ends(sock):
        return ip_address(f"192.0.2.{next(here)}"), sock.getsockname()[1]

    monkeypatch.setattr(udp, "local_end", ends)
    monkeypatch.setattr(tcp, "local_end", ends)

    async def scenario():
        async with FakeBroker(udp="silent") as broker:
            await ask(broker, mode="v6v4")
            return [message for transport, message in broker.log if transport == "tcp" and b"create" in message]

    assert b'<address type="ipv4">192.0.2.1</address>' in run_sync(scenario)[0]


def test_an_exchange_leaves_from_the_source_address_and_port():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.3", 0))
        port = probe.getsockname()[1]

    async def scenario():
        async with FakeBroker() as broker:
            result = await ask(broker, mode="v6udpv4", source_address="127.0.0.3", source_port=port)
            tcp = await ask(broker, mode="v6v4", transports="tcp", source_address="127.0.0.3")
            assert tcp.lease.transport == "tcp"
            return broker.peers[0], result.lease.grant.client.udp_port

    assert run_sync(scenario) == (("127.0.0.3", port), port)


def test_a_source_that_cannot_be_used_ends_at_once_and_is_the_callers_error():
    async def scenario():
        async with FakeBroker() as broker:
            error = await fails(broker, source_address="192.0.2.77")
            return error, broker.datagrams + broker.connections

    error, seen = run_sync(scenario)
    assert (error.kind, error.code, seen) == ("local", "source_address_unusable", 0)


# versions


@pytest.mark.parametrize("spoken", [["1.0.1"], ["1.0.1", "1.0.0"]])
def test_older_versions_are_tried_one_after_the_other_and_the_oldest_on_tcp_only(spoken):
    async def scenario():
        last = f"={spoken[-1]}".encode()
        async with FakeBroker(Talk(version=lambda m: CAPABILITY if last in m else b"302 Unsupported client version\r\n")) as broker:
            result = await ask(broker, mode="v6v4")
            return result, broker.said("udp"), broker.said("tcp")

    result, udp, tcp = run_sync(scenario)
    assert udp == [b"VERSION=2.0.2", b"VERSION=2.0.1", b"VERSION=2.0.0"]
    assert [line.decode() for line in tcp if line.startswith(b"VERSION")] == [f"VERSION={version}" for version in spoken]
    assert result.lease.protocol_version == spoken[-1]
    assert tried(result)[-1] == ("tcp", spoken[-1], "granted")


@pytest.mark.parametrize(("mode", "asked"), [("v6udpv4", 3), ("v6v4", 5)])
def test_a_broker_that_speaks_no_version_is_told_apart_and_not_asked_for_ever(mode, asked):
    async def scenario():
        async with FakeBroker(Talk(version=b"302 Unsupported client version\r\n")) as broker:
            error = await fails(broker, mode=mode)
            return error, len(broker.log)

    error, messages = run_sync(scenario)
    assert (error.code, error.status, messages) == ("version_unsupported", 302, asked)


# several brokers


def test_brokers_are_tried_in_order_when_the_first_cannot_be_reached_is_busy_or_broken():
    async def scenario():
        async with FakeBroker(udp="refuse", tcp="refuse") as dead, FakeBroker(Talk(version=b"530 Server too busy\r\n")) as busy, \
                FakeBroker(Talk(create=framed("310 Server side error\r\n"))) as broken, FakeBroker() as good, FakeBroker() as never:
            result = await ask(dead, "nobody.example", busy, broken, good, never)
            assert not never.log
            assert busy.connections == broken.connections == 0, "who is overloaded is not asked again over TCP"
            return result.lease.broker == good.name, [a["error"] and a["error"]["code"] for a in result.attempts]

    assert run_sync(scenario) == (True, ["refused", "refused", "name_not_resolved", "busy", "server_error", None])


@pytest.mark.parametrize(("talk", "code", "status"), [
    (Talk(auth=b"300 Authentication failed\r\n"), "auth_failed", 300),
    (Talk(create=framed("303 Unsupported tunnel type\r\n")), "mode_refused", 303),
    (Talk(create=framed("507 Requested prefix length cannot be assigned\r\n")), "prefix_unavailable", 507),
    (Talk(create=b"500 Invalid request format\r\n"), "request_rejected", 500),
    (Talk(create=framed("777 Whatever\r\n")), "refused", 777),
])
def test_a_refusal_is_final_other_brokers_are_not_asked(talk, code, status):
    async def scenario():
        async with FakeBroker(talk) as refusing, FakeBroker() as other:
            error = await fails(refusing, other)
            assert not other.log and refusing.connections == 0
            return error, refusing.name

    error, name = run_sync(scenario)
    assert (error.code, error.status) == (code, status)
    assert name in error.message and error.hint


@pytest.mark.parametrize("method", ["plain", "digest-md5"])
@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_a_wrong_password_is_told_and_not_shown(method, transport):
    async def scenario():
        async with FakeBroker(Talk(users={"alice": "something else"})) as broker:
            return await fails(broker, mode="v6v4", auth_method=method, credentials=ALICE, transports=transport, transcript=True)

    error = run_sync(scenario)
    assert (error.code, error.status) == ("auth_failed", 300)
    assert error.transcript and "horse" not in str(error) + repr(error.attempts) + repr(error.transcript)


def test_a_broker_that_repeats_the_password_in_its_refusal_does_not_get_it_into_the_error():
    async def scenario():
        async with FakeBroker(Talk(create=framed("500 correct horse is bad\r\n"))) as broker:
            return await fails(broker, auth_method="plain", credentials=ALICE, mode="v6v4")

    error = run_sync(scenario)
    assert "is bad" in error.message and "horse" not in str(error) + repr(error.attempts) + repr(error.args)


def test_when_all_fail_the_most_telling_failure_comes_first_and_all_are_listed():
    async def scenario():
        async with FakeBroker(udp="refuse", tcp="refuse") as dead, FakeBroker(Talk(version=b"530 Server too busy\r\n")) as busy:
            return await fails(dead, busy, "nobody.example"), dead, busy

    error, dead, busy = run_sync(scenario)
    assert (error.code, error.status) == ("busy", 530)
    assert error.message.startswith(f"udp {busy.name}: ")
    assert f"udp {dead.name}: refused" in error.message and f"tcp {dead.name}: refused" in error.message
    assert "nobody.example: name_not_resolved" in error.message
    assert [a["broker"] for a in error.attempts] == [dead.name, dead.name, busy.name, "nobody.example"]


def test_a_name_is_resolved_for_every_attempt_and_its_addresses_are_tried_in_turn():
    world = World()

    async def scenario():
        async with FakeBroker(host="127.0.0.5") as broker:
            world.names["broker.example"] = ["127.0.0.4", "127.0.0.5"]
            name = f"broker.example:{broker.port}"
            first = await ask(name, mode="v6v4", world=world)
            world.names["broker.example"] = ["127.0.0.5"]
            second = await ask(name, mode="v6v4", world=world)
            return name, first, second

    name, first, second = run_sync(scenario)
    assert first.lease.broker == second.lease.broker == name
    assert [(a["transport"], a["result"]) for a in first.attempts] == [("udp", "failed"), ("tcp", "failed"), ("udp", "granted")]
    assert len(second.attempts) == 1 and world.lookups == ["broker.example", "broker.example"]


def test_without_a_broker_nothing_can_be_asked():
    with pytest.raises(LocalError) as caught:
        run_sync(ask)
    assert caught.value.code == "invalid_option"


def test_a_method_that_needs_a_password_is_refused_before_anything_is_sent():
    async def scenario():
        async with FakeBroker() as broker:
            return await fails(broker, auth_method="any"), broker.datagrams

    error, seen = run_sync(scenario)
    assert (error.code, seen) == ("credentials_missing", 0)


def test_cancelling_closes_everything():
    async def scenario():
        async with FakeBroker(udp="silent") as broker:
            task = asyncio.ensure_future(ask(broker, mode="v6v4", world=World(rudp=None or World().runtime.rudp)))
            while not broker.datagrams:
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        return len(asyncio.all_tasks())

    assert run_sync(scenario) == 1


def test_the_record_shows_the_whole_exchange():
    async def scenario():
        async with FakeBroker(udp="refuse") as broker:
            return await ask(broker, mode="v6v4", auth_method="digest-md5", credentials=ALICE, transcript=True)

    result = run_sync(scenario)
    texts = [record["text"] for record in result.transcript]
    assert "VERSION=2.0.2\r\n" in texts and SUCCESS.decode() in "".join(texts)
    assert any('action="create"' in text for text in texts) and any('action="info"' in text for text in texts)
    assert any('action="accept"' in text for text in texts)
    assert "alice" not in "".join(texts) and not any(len(text) > 60 and "struck" not in text and "=" == text[-3] for text in texts)

# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Brokers that break off, talk nonsense, drip, flood or lie: each ends in one clear error, soon."""

from __future__ import annotations

import asyncio
import threading

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._exchange.sync import run_sync
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.request import TunnelRequest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.rudp import RudpConfig
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._exchange._brokers import (
    CAPABILITY,
    FakeBroker,
    Talk,
    framed,
    info,
)
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._exchange._run import ALICE, World, ask, fails, impatient

KINDS = {"remote", "network"}


def judged(error, port=None):
    """What every failure must have: a place, a sentence, a hint, no traceback."""
    assert error.kind in KINDS and error.code and error.hint and error.attempts
    assert "127.0.0.1" in error.message and "Traceback" not in str(error)
    return error


def test_a_defect_of_ours_ends_the_exchange_at_once_and_is_not_swallowed(monkeypatch):
    def broken(_self, _data, _now):
        raise ZeroDivisionError

    monkeypatch.setattr("ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.client.TspClient.receive", broken)

    async def scenario():
        async with FakeBroker() as broker:
            await fails(broker)
    with pytest.raises(ZeroDivisionError):
        run_sync(scenario)


# over TCP


def over_tcp(on_tcp, **kwargs):
    async def scenario():
        async with FakeBroker(udp="refuse", on_tcp=on_tcp) as broker:
            return await fails(broker, mode="v6v4", transports="tcp", **kwargs)
    return judged(run_sync(scenario))


def test_tcp_that_connects_and_says_nothing():
    async def scenario():
        async with FakeBroker(udp="refuse", tcp="silent") as broker:
            return await fails(broker, mode="v6v4", world=impatient())
    error = judged(run_sync(scenario))
    assert error.code == "no_answer" and [a["transport"] for a in error.attempts] == ["udp", "tcp"]


def test_tcp_that_closes_at_once():
    async def close(_reader, writer):
        writer.close()
    assert over_tcp(close).code in ("connection_closed", "connection_lost")


def test_tcp_that_resets():
    async def reset(reader, writer):
        await reader.read(100)
        writer.transport.abort()
    assert over_tcp(reset).code in ("connection_closed", "connection_lost")


def test_tcp_that_closes_in_the_middle_of_the_grant():
    async def half(reader, writer):
        talk = Talk()
        for _message in range(2):
            writer.write(talk(await reader.read(4096), "peer", "tcp"))
        await reader.read(4096)
        writer.write(info("v6v4")[:200])
        await writer.drain()
        writer.close()
    error = over_tcp(half)
    assert error.code in ("connection_closed", "protocol_error")


def test_tcp_that_drips_a_byte_now_and_then_is_bounded_by_the_time_for_one_answer():
    async def drip(reader, writer):
        await reader.read(100)
        for byte in CAPABILITY * 100:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0.02)

    error = over_tcp(drip, world=impatient())
    assert error.code in ("no_answer", "went_silent")


def test_tcp_that_drips_is_bounded_by_the_deadline_as_well():
    async def drip(reader, writer):
        await reader.read(100)
        while True:
            writer.write(b"C")
            await writer.drain()
            await asyncio.sleep(0.01)

    async def scenario():
        async with FakeBroker(udp="refuse", on_tcp=drip) as broker:
            loop = asyncio.get_running_loop()
            began = loop.time()
            error = await fails(broker, mode="v6v4", transports="tcp", deadline=0.3, world=World(reply_timeout=60.0))
            return error, loop.time() - began

    error, took = run_sync(scenario)
    assert judged(error).code == "deadline" and took < 10


@pytest.mark.parametrize("nonsense", [
    b"\0" * 50000, b"\xff" * 50000, b"A" * 200000, b"HTTP/1.1 400 Bad Request\r\nServer: x\r\n\r\n<html></html>",
    b"SSH-2.0-OpenSSH_9.2\r\n", b"\r\n" * 5000, b"999999999999\r\n", b"CAPABILITY\r\n", b"VERSION=2.0.2\r\n", b"-1 x\r\n",
])
@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_nonsense_instead_of_capabilities(nonsense, transport):
    nonsense = nonsense[:60000] if transport == "udp" else nonsense

    async def scenario():
        async with FakeBroker(Talk(version=nonsense)) as broker:
            error = await fails(broker, mode="v6v4", transports=transport, world=impatient())
            return error
    error = judged(run_sync(scenario))
    assert len(str(error)) < 2000


def test_nonsense_over_udp_still_lets_tcp_try():
    async def scenario():
        async with FakeBroker() as broker:
            good = broker.script
            broker.script = lambda m, p, t: b"\xff\xff" if t == "udp" else good(m, p, t)
            return (await ask(broker, mode="v6v4")).lease.transport
    assert run_sync(scenario) == "tcp"


# over UDP


def test_udp_that_falls_silent_in_the_middle_is_given_up_after_eight_sends():
    async def scenario():
        async with FakeBroker(Talk(auth=None)) as broker:
            return await fails(broker, mode="v6udpv4"), [line for line in broker.said("udp") if line.startswith(b"AUTH")]
    error, sends = run_sync(scenario)
    assert judged(error).code == "went_silent" and len(sends) == 8


def test_udp_that_is_shut_down_in_the_middle_is_noticed_with_the_next_datagram():
    async def scenario():
        async with FakeBroker() as broker:
            def stop(_message):
                asyncio.get_running_loop().remove_reader(broker._socket.fileno())
                broker._socket.close()

            broker.script = Talk(auth=stop)
            return await fails(broker, mode="v6udpv4")
    assert judged(run_sync(scenario)).code == "refused"


@pytest.mark.parametrize("seconds, transports, told", [
    (10, "auto", "granted over udp"), (31, "auto", "granted over tcp"), (31, "udp", "granted over udp"), (61, "udp", "deadline"),
])
def test_udp_that_falls_silent_in_the_middle_leaves_tcp_half_of_the_time(seconds, transports, told):
    """Of the 60 that there are; the broker says nothing for so long, on the clock of the loop, and then answers the copies."""
    async def scenario():
        loop, talk, silent = asyncio.get_running_loop(), Talk(), []
        real, lost = loop.time, [0.0]
        loop.time = lambda: real() + lost[0]

        def script(message, peer, transport):
            if transport == "udp" and message.startswith(b"AUTH") and not silent:
                silent.append(peer)
                lost[0] = float(seconds)
                return None
            return talk(message, peer, transport)

        async with FakeBroker(script) as broker:
            kwargs = {"mode": "v6v4", "deadline": 60.0, "transports": transports, "world": World(rudp=RudpConfig())}
            if told == "deadline":
                return (await fails(broker, **kwargs)).code
            result = await ask(broker, **kwargs)
            assert [(a["transport"], a["error"]["code"]) for a in result.attempts[:-1]] == (
                [("udp", "went_silent")] if told.endswith("tcp") else [])
            return f"granted over {result.lease.transport}"
    assert run_sync(scenario) == told


def test_datagrams_that_are_no_answer_are_passed_over():
    async def scenario():
        talk = Talk()

        def noisy(message, header, send):
            send(b"")
            send(b"\x60" + b"x" * 40)
            send(header[:7])
            send(b"\xf0\0\0\1" + header[4:] + b"300 Authentication failed\r\n")
            send(header + talk(message, "peer", "udp"))
            send(header + talk(message, "peer", "udp"))

        async with FakeBroker(on_udp=noisy) as broker:
            return (await ask(broker, mode="v6udpv4")).lease

    lease = run_sync(scenario)
    assert lease.grant.mode == "v6udpv4" and lease.quirks.get("stray_datagram", 0) >= 1


@pytest.mark.parametrize("lost, granted, said", [
    (3, True, b"300 Authentication failed\r\n"), (4, False, b"300 Authentication failed\r\n"),
    (4, False, b"302 Unsupported client version\r\n"),
])
def test_a_broker_that_takes_copies_for_the_next_message_is_asked_again_a_few_times(lost, granted, said):
    """tsps: the answer to PLAIN's credentials is lost, and their copy is no tunnel request (tsp-protocol.md section 11)."""
    async def scenario():
        talk, seen = Talk(), set()

        def script(message, peer, transport):
            if not message.startswith(b"\0alice"):
                return talk(message, peer, transport)
            if peer in seen:
                return said
            seen.add(peer)
            return None if len(seen) <= lost else talk(message, peer, transport)

        async with FakeBroker(script, tcp="refuse") as broker:
            kwargs = {"mode": "v6udpv4", "auth_method": "plain", "credentials": ALICE}
            return (await ask(broker, **kwargs)).lease.grant.mode if granted else (await fails(broker, **kwargs)).code
    assert run_sync(scenario) == ("v6udpv4" if granted else "answer_lost")


@pytest.mark.parametrize("method, first, said, told", [
    ("plain", b"\0alice", b"300 Authentication failed\r\n", "300 Authentication failed"),
    ("digest-md5", b"Y2hhcnNldD", b"200 Success\r\n", "did not prove that it knows the password"),
])
def test_what_a_broker_says_to_a_copy_is_no_verdict_on_the_password(method, first, said, told):
    """tsps again, and then the way is dead: nobody is sent to look for another password."""
    async def scenario():
        talk, peers, sent = Talk(), [], []

        def script(message, peer, transport):
            peers.append(peer)
            if peer != peers[0]:
                return None
            if not message.startswith(first):
                return talk(message, peer, transport)
            sent.append(message)
            return said if len(sent) > 1 else None

        async with FakeBroker(script, tcp="refuse") as broker:
            return await fails(broker, mode="v6udpv4", auth_method=method, credentials=ALICE)
    error = run_sync(scenario)
    assert error.kind == "network" and error.code == "answer_lost" and told in error.message


def test_a_late_answer_is_no_reason_to_believe_what_follows():
    """tsps: the answer to VERSION comes when a copy is on its way. The copy ends the session, and the next message hears 302."""
    async def scenario():
        talk, heard = Talk(), []

        def script(message, peer, transport):
            heard.append((message[:4], peer))
            if peer != heard[0][1]:
                return talk(message, peer, transport)
            if message.startswith(b"VERS"):
                return None if len(heard) == 1 else talk(message, peer, transport)
            return b"302 Unsupported client version\r\n"

        async with FakeBroker(script, tcp="refuse") as broker:
            return (await ask(broker, mode="v6udpv4", auth_method="plain", credentials=ALICE)).lease
    lease = run_sync(scenario)
    assert lease.grant.mode == "v6udpv4" and lease.protocol_version == "2.0.2"


def test_a_lost_answer_costs_one_retransmission():
    async def scenario():
        talk, seen = Talk(), []

        def lossy(message, header, send):
            seen.append(header[:4])
            if seen.count(header[:4]) > 1 or len(seen) % 2:
                send(header + talk(message, "peer", "udp"))

        async with FakeBroker(on_udp=lossy) as broker:
            return (await ask(broker, mode="v6udpv4")).lease.grant.mode, len(seen)

    mode, seen = run_sync(scenario)
    assert mode == "v6udpv4" and seen >= 7, "three answers of seven were lost"


# what is granted


@pytest.mark.parametrize("answer", [
    info("v6udpv4", client4="224.0.0.1"), info("v6udpv4", server4="0.0.0.0"), info("v4v6"),
    info("v6udpv4", prefix="127.0.0.0/8"), info("v6udpv4", prefix="2001:db8::/129"), info("v6udpv4", prefix="ff00::/8"),
    info("v6udpv4", extra='  <address type="dn">x;reboot</address>\r\n'),
    info("v6udpv4", extra='  <address type="dn">$(reboot)</address>\r\n'),
    info("v6udpv4", extra='  <address type="dn">a\nb</address>\r\n'),
    framed("200 Success\r\n<tunnel"), framed("200 Success\r\n"), framed("200 Success\r\n<!DOCTYPE x [<!ENTITY a 'b'>]><tunnel/>\r\n"),
], ids=lambda value: None)
@pytest.mark.parametrize("transport", ["udp"])
def test_a_grant_that_cannot_be_used_is_refused_and_rejected(answer, transport):
    async def scenario():
        async with FakeBroker(Talk(create=answer)) as broker:
            return await fails(broker, mode="v6udpv4"), [m for _t, m in broker.log if b'action="accept"' in m]
    error, accepted = run_sync(scenario)
    assert judged(error).code in ("bad_grant", "protocol_error") and not accepted
    assert "reboot" not in str(error)


def test_a_router_gets_what_it_asked_for_or_a_warning_or_with_strict_an_error():
    async def scenario():
        request = TunnelRequest(mode="v6udpv4", host_type="router", prefix_length=48)
        async with FakeBroker(Talk(create=info("v6udpv4", prefix="2001:db8:1:0::/64"))) as broker:
            lease = (await ask(broker, request=request)).lease
            error = await fails(broker, request=request, strict=True)
            return lease, error
    lease, error = run_sync(scenario)
    assert str(lease.grant.prefix) == "2001:db8:1::/64" and len(lease.warnings) == 1
    assert judged(error).kind == "remote"


def test_the_deadline_bounds_everything():
    world = World(rudp=type(World().runtime.rudp)())  # real times: each silent broker would take six seconds

    async def scenario():
        async with FakeBroker(udp="silent", tcp="silent") as one, FakeBroker(udp="silent", tcp="silent") as two:
            loop = asyncio.get_running_loop()
            began = loop.time()
            error = await fails(one, two, mode="v6v4", deadline=0.3, world=world)
            return error, loop.time() - began
    error, took = run_sync(scenario)
    assert judged(error).code == "deadline" and took < 5


def test_a_name_that_takes_too_long_ends_with_the_deadline():
    release = threading.Event()
    world = World(lookup=lambda *_args: release.wait(30) and [])

    async def scenario():
        loop = asyncio.get_running_loop()
        began = loop.time()
        error = await fails("broker.example", deadline=0.2, world=world)
        return error, loop.time() - began
    error, took = run_sync(scenario)
    release.set()
    assert error.code in ("name_lookup_timeout", "deadline") and took < 5

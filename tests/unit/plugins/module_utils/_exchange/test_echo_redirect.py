# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Redirects: who is nearest, and how a loop is refused."""

from __future__ import annotations

import asyncio
import socket

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._exchange.echo import distances
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._exchange.options import parse_broker
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._exchange.redirect import Visited, by_distance, candidates
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._exchange.source import Source
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._exchange.sync import run_sync
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.errors import RemoteError
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.events import BrokerAddress, Redirected
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._exchange._brokers import FakeBroker, Talk


def measure(brokers, family=socket.AF_INET, timeout=0.6, lookup=None):
    def nobody(*_args):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    return distances(brokers, family, Source(), timeout, lookup or nobody)


def test_many_brokers_are_measured_at_once_and_silent_ones_cost_the_cap_once():
    async def scenario():
        async with FakeBroker() as good, FakeBroker(udp="refuse") as refusing, FakeBroker(Talk(echo=b"302 What?\r\n")) as old, \
                FakeBroker(udp="silent") as silent, FakeBroker(udp="silent") as silent2:
            names = {kind: parse_broker(broker.name) for kind, broker in
                     (("good", good), ("refusing", refusing), ("old", old), ("silent", silent), ("silent2", silent2))}
            names |= {"family": parse_broker("[2001:db8::1]"), "nameless": parse_broker("nobody.example")}
            began = asyncio.get_running_loop().time()
            measured = await measure(list(names.values()))
            took = asyncio.get_running_loop().time() - began
            assert good.log == [("udp", b"ECHO REQUEST")]
            assert 1 <= silent.datagrams <= 3
            return {kind: measured[name] for kind, name in names.items()}, took

    measured, took = run_sync(scenario)
    assert measured["good"] is not None and 0 <= measured["good"] < 600
    assert [kind for kind, value in measured.items() if value is not None] == ["good"]
    assert took < 10, "they are asked in parallel"


def test_only_a_200_under_the_same_sequence_counts():
    async def scenario():
        def confused(message, header, send):
            send(b"\xf0\0\0\1" + header[4:] + b"200 OK\r\n")
            send(b"\x60garbage")
            send(b"")
            send(header + b"2000 no\r\n")

        async with FakeBroker(on_udp=confused) as broker:
            name = parse_broker(broker.name)
            return (await measure([name]))[name]

    assert run_sync(scenario) is None


def test_a_lost_datagram_is_sent_again():
    async def scenario():
        seen = []

        def forgetful(message, header, send):
            seen.append(header)
            if len(seen) == 2:
                send(header + b"200 Success\r\n")

        async with FakeBroker(on_udp=forgetful) as broker:
            name = parse_broker(broker.name)
            measured = (await measure([name], timeout=3.0))[name]
        assert seen[0][:4] == seen[1][:4] and seen[0] != seen[1]
        return measured

    measured = run_sync(scenario)
    assert measured is not None and measured < 1000, "measured from the send that was answered"


def test_nearest_first_and_unmeasured_last_in_their_order():
    a, b, c, d = (parse_broker(f"192.0.2.{n}") for n in range(1, 5))
    assert by_distance([a, b, c, d], {a: None, b: 7.0, c: 0.0, d: None}) == [c, b, a, d]


def redirected(*entries):
    return Redirected(1200, tuple(BrokerAddress("ipv4", *entry) for entry in entries))


def test_a_broker_is_never_asked_twice_under_whatever_name():
    visited = Visited()
    assert visited.enter(parse_broker("broker.example"))
    assert visited.enter_address(parse_broker("broker.example"), parse_broker("192.0.2.1").address)
    assert not visited.enter(parse_broker("Broker.Example:3653"))
    assert not visited.enter_address(parse_broker("alias.example"), parse_broker("192.0.2.1").address)
    assert candidates(redirected(("192.0.2.1",), ("192.0.2.2",), ("192.0.2.2", 3653)), visited, 1) == [parse_broker("192.0.2.2")]
    assert candidates(redirected(("192.0.2.1", 5000)), visited, 1) == [parse_broker("192.0.2.1:5000")]
    with pytest.raises(RemoteError) as caught:
        candidates(redirected(("192.0.2.1",)), visited, 1)
    assert caught.value.code == "redirect_loop"


def test_redirects_end_after_five_hops():
    assert candidates(redirected(("192.0.2.1",)), Visited(), 5)
    with pytest.raises(RemoteError) as caught:
        candidates(redirected(("192.0.2.1",)), Visited(), 6)
    assert caught.value.code == "redirect_limit"

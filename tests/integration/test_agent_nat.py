# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The agent behind a NAT that forgets, restarts, gets another address, or is cut off; and packets that are lost on the way."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

import pytest
from ansible_collections.tunnelbroker.tsp.tests.integration._agent_net import PASSWORD, Net, Stream, wait_for
from ansible_collections.tunnelbroker.tsp.tests.interop.tsps_like import OUTER, OWN, TspsLike
from ansible_collections.tunnelbroker.tsp.tests.lab import Lab
from ansible_collections.tunnelbroker.tsp.tests.lab.namespace import Namespace

pytestmark = pytest.mark.root
FORGETS = 3
"""Seconds of silence after which the NAT forgets a flow."""


@pytest.fixture(scope="module")
def shared() -> Iterator[Net]:
    with Lab("agent-nat") as lab:
        made = Net(lab, udp_timeout=FORGETS)
        made.start_broker()
        yield made


@pytest.fixture
def net(request: pytest.FixtureRequest, shared: Net) -> Iterator[Net]:
    failed = request.session.testsfailed
    yield shared
    if request.session.testsfailed > failed:
        shared.lab.keep()


def ping(host: Namespace, target: str) -> bool:
    return host.run("ping", "-6", "-c1", "-W2", target, check=False).returncode == 0


def move(net: Net, old: str, new: str) -> None:
    """The NAT's provider gives it another public address, and it knows nothing of its old flows."""
    net.nat_host.ip(f"addr del {old}/24 dev wan", f"addr add {new}/24 dev wan")
    net.nat.forget()


def test_a_ping_in_time_keeps_the_way_in_open(net: Net) -> None:
    with net.agent(keepalive={"longest_interval": 1}) as agent:
        before = agent.wait_up()
        began = time.monotonic()
        wait_for("three times the NAT's memory has passed", lambda: time.monotonic() - began > 3 * FORGETS)
        assert ping(net.broker, agent.address), "reached from outside, nothing but keepalives went out"
        assert agent.status()["negotiations"] == before["negotiations"]


def test_without_one_the_way_in_closes_and_comes_back_by_itself(net: Net) -> None:
    """The broker is told a new port with each ping of ours, for the NAT has forgotten the last; neither side gives up."""
    with net.agent(keepalive={"longest_interval": 9}, request={"keepalive_interval": 9}) as agent:
        address = agent.wait_up()["lease"]["client"]["ipv6"]
        net.nat.forget()
        assert not ping(net.broker, address), "the NAT has forgotten"
        wait_for("reached from outside again", lambda: ping(net.broker, address))
        assert agent.wait_up()["lease"]["client"]["ipv6"] == address


def test_another_public_address_costs_neither_address_nor_connections(net: Net) -> None:
    """No broker follows a client to another outer address by its packets: the agent has to ask again, and gets what it had."""
    with net.agent(keepalive={"longest_interval": 1}) as agent:
        before = agent.wait_up()
        stream = Stream(agent, net.brokers[0])
        stream.goes_on()
        move(net, "192.0.2.20", "192.0.2.21")
        try:
            after = agent.wait_up(negotiations=before["negotiations"] + 1)
            client = after["lease"]["client"]
            assert client["ipv4"] == "192.0.2.21" and client["ipv6"] == before["lease"]["client"]["ipv6"]
            assert after["lease"]["prefix"] == before["lease"]["prefix"]
            assert ping(net.broker, agent.address) and ping(agent.host, "2001:db8:f::1")
            stream.goes_on()
            stream.close()
            assert after["last_error"] is None
        finally:
            move(net, "192.0.2.21", "192.0.2.20")


def test_a_cut_wire_is_waited_for(net: Net) -> None:
    with net.agent(keepalive={"longest_interval": 1}) as agent:
        before = agent.wait_up()
        net.nat_host.ip("link set wan down")
        wait_for("the loss is noticed", lambda: agent.status().get("state") in ("lost", "negotiating", "waiting"))
        assert agent.host.ip_json("addr show dev tsp0")[0]["addr_info"], "the addresses stay meanwhile"
        assert agent.status()["last_error"]["hint"]
        net.nat_host.ip("link set wan up")
        after = agent.wait_up()
        assert after["lease"]["client"]["ipv6"] == before["lease"]["client"]["ipv6"]
        assert after["lease"]["prefix"] == before["lease"]["prefix"]
        assert ping(net.broker, agent.address)


def test_a_third_of_the_packets_lost_both_ways(net: Net) -> None:
    """The exchange gets through with what is sent again, and the tunnel is not given up for single pings that were lost."""
    net.nat_host.nft("table ip lossy { chain pass { type filter hook forward priority -10; numgen random mod 10 < 3 drop; }; }")
    try:
        with net.agent(keepalive={"longest_interval": 1}, broker={"deadline": 120}, lease_file="/tmp/lossy/tsp.fact") as agent:
            agent.wait_up()
            assert any(ping(agent.host, "2001:db8:f::1") for _again in range(20))
    finally:
        net.nat_host.nft("delete table ip lossy")


def test_stopped_for_a_while_as_in_a_suspended_computer(net: Net) -> None:
    """The NAT has forgotten us when the agent wakes up. Nothing was lost but the time."""
    with net.agent(keepalive={"longest_interval": 1}) as agent:
        before = agent.wait_up()
        stream = Stream(agent, net.brokers[0], port=7071)
        stream.goes_on()
        agent.host.run("kill", f"-{int(signal.SIGSTOP)}", *agent.pids())
        began = time.monotonic()
        wait_for("some multiple of every interval has passed", lambda: time.monotonic() - began > 20)
        move(net, "192.0.2.20", "192.0.2.22")
        try:
            agent.host.run("kill", f"-{int(signal.SIGCONT)}", *agent.pids())
            stream.goes_on()
            stream.close()
            after = agent.wait_up()
            assert after["lease"]["client"]["ipv6"] == before["lease"]["client"]["ipv6"]
            assert ping(net.broker, agent.address)
        finally:
            move(net, "192.0.2.22", "192.0.2.20")


def test_it_finds_out_how_long_the_nat_remembers(net: Net) -> None:
    """With a server that follows nobody to another port. What is found is told, kept, and enough from then on."""
    space = net.lab.namespace("tsps")
    net.internet.attach(space, "eth0", f"{OUTER}/24")
    settings = {"broker": {"brokers": [OUTER]}, "request": {"host_type": "host", "prefix_length": None, "keepalive_interval": 30},
                "link": {"lan_interfaces": []}, "keepalive": {"probe_nat": True}, "lease_file": "/tmp/probe/tsp.fact"}
    net.nat.set_udp_timeout(5)
    try:
        with TspsLike(space.network, passwords={"alice": PASSWORD}) as server, net.agent(**settings) as agent:
            agent.wait_up()
            nat = wait_for("it is found", lambda: (s := agent.status().get("nat") or {}).get("lifetime") and s, 300)
            assert 3 <= nat["lifetime"] <= 6 and nat["behind"] is True
            agent.said("The NAT forgets the tunnel after")
            asked = agent.wait_up()["negotiations"]
            began = time.monotonic()
            wait_for("three times the NAT's memory has passed", lambda: time.monotonic() - began > 15)
            assert agent.wait_up()["negotiations"] == asked, "pinged in time, the tunnel stays"
            assert agent.end() == 0
            agent.process = agent.start()
            assert agent.wait_up()["nat"]["lifetime"] == nat["lifetime"], "known from the start"
            assert ping(agent.host, str(OWN)) and server.established()
    finally:
        net.nat.set_udp_timeout(FORGETS)

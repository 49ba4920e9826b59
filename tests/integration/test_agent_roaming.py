# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A host that moves: another address, another uplink, behind a NAT and out of it, cut off and back. The keepalive alone would notice none
of it within the test: it is too slow. Address, prefix and connections stay."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from ansible_collections.tunnelbroker.tsp.tests.integration._agent_net import Agent, Net, Stream, wait_for
from ansible_collections.tunnelbroker.tsp.tests.lab import Lab
from ansible_collections.tunnelbroker.tsp.tests.lab.namespace import Namespace

pytestmark = pytest.mark.root
SLOW = 500
"""Seconds between pings."""
ROAMING: dict[str, Any] = {"request": {"keepalive_interval": SLOW}, "keepalive": {"longest_interval": SLOW}, "log_level": "info"}
PUBLIC = "192.0.2.50"


@pytest.fixture
def net(request: pytest.FixtureRequest) -> Iterator[Net]:
    with Lab("agent-roaming", lambda: request.session.testsfailed) as lab:
        made = Net(lab, keepalive=SLOW, udp_timeout=120)
        made.start_broker()
        yield made


def ping(host: Namespace, target: str) -> bool:
    return host.run("ping", "-6", "-c1", "-W2", target, check=False).returncode == 0


def follows(agent: Agent, before: dict[str, Any], *, nat: bool) -> dict[str, Any]:
    """The agent asks anew by itself, and is reached as before."""
    def there() -> dict[str, Any] | None:
        status = agent.status()
        asked = status.get("negotiations", 0) > before["negotiations"]
        return status if asked and status["state"] == "up" and status["lease"]["obtained_at"] >= before["lease"]["obtained_at"] else None
    status: dict[str, Any] = wait_for("the agent asks again", there)
    wait_for("reached from outside", lambda: ping(agent.net.broker, before["lease"]["client"]["ipv6"]))
    status = wait_for("the status is of the new tunnel", lambda: (s := agent.status())["nat"]["behind"] is nat and s)
    assert status["lease"]["client"]["ipv6"] == before["lease"]["client"]["ipv6"] and status["lease"]["prefix"] == before["lease"]["prefix"]
    return status


def test_another_address_behind_the_same_nat(net: Net) -> None:
    with net.agent(**ROAMING) as agent:
        before = agent.wait_up()
        stream = Stream(agent, net.brokers[0])
        stream.goes_on()
        net.host.ip("addr del 10.0.0.2/24 dev eth0", "addr add 10.0.0.7/24 dev eth0", "route replace default via 10.0.0.1")
        follows(agent, before, nat=True)
        stream.goes_on()
        stream.close()
        assert "10.0.0.7" in agent.log(), "what happened is told"


def test_out_of_the_nat_and_behind_it_again(net: Net) -> None:
    """The uplink changes: first one with a public address, then the one behind the NAT."""
    net.internet.attach(net.host, "eth2", f"{PUBLIC}/24")
    net.host.ip("addr flush dev eth2")  # attached, without an address as yet
    with net.agent(**ROAMING) as agent:
        first = agent.wait_up()
        stream = Stream(agent, net.brokers[0])
        stream.goes_on()
        net.host.ip(f"addr add {PUBLIC}/24 dev eth2")
        second = follows(agent, first, nat=False)
        assert second["lease"]["client"]["ipv4"] == PUBLIC
        net.host.ip(f"addr del {PUBLIC}/24 dev eth2")
        third = follows(agent, second, nat=True)
        assert third["lease"]["client"]["ipv4"] == "192.0.2.20"
        stream.goes_on()
        stream.close()


def test_the_default_route_goes_and_comes_back(net: Net) -> None:
    """Nothing is hammered meanwhile, and the tunnel stays on the host; when the route is back, the tunnel is there at once."""
    with net.agent(**ROAMING) as agent:
        before = agent.wait_up()
        net.host.ip("route del default")
        agent.said("no way to the broker any more")
        assert net.host.ip_json("addr show dev tsp0")[0]["addr_info"]
        net.host.ip("route add default via 10.0.0.1")
        wait_for("reached from outside", lambda: ping(net.broker, before["lease"]["client"]["ipv6"]))
        after = agent.wait_up()
        assert after["lease"]["client"]["ipv6"] == before["lease"]["client"]["ipv6"]
        assert after["negotiations"] <= before["negotiations"] + 2


def test_two_uplinks(net: Net) -> None:
    """The preferred default route disappears with its interface: the other one is taken, through another NAT with another address."""
    other = net.lab.namespace("nat2")
    net.internet.attach(other, "wan", "192.0.2.30/24")
    net.lab.veth(net.host, "eth3", other, "lan")
    other.ip("addr add 10.0.1.1/24 dev lan")
    net.lab.nat(other, "lan", "wan", udp_timeout=120)
    net.host.ip("addr add 10.0.1.2/24 dev eth3", "route add default via 10.0.1.1 metric 500")
    with net.agent(**ROAMING) as agent:
        before = agent.wait_up()
        assert before["lease"]["client"]["ipv4"] == "192.0.2.20"
        net.host.ip("link set eth0 down")
        after = follows(agent, before, nat=True)
        assert after["lease"]["client"]["ipv4"] == "192.0.2.30"
        net.host.ip("link set eth0 up", "route add default via 10.0.0.1")
        assert follows(agent, after, nat=True)["lease"]["client"]["ipv4"] == "192.0.2.20"


def test_what_is_not_our_way_is_nothing_to_us(net: Net) -> None:
    """Addresses and routes of other interfaces, and those of the tunnel itself, come and go: nobody is asked."""
    with net.agent(**ROAMING) as agent:
        before = agent.wait_up()
        for number in range(5):
            name = f"other{number}"
            net.host.ip(f"link add {name} type bridge", f"link set {name} up", f"addr add 10.9.{number}.1/24 dev {name}",
                        f"route add 10.8.{number}.0/24 dev {name}", f"link del {name}")
        net.host.ip("addr add 10.0.0.99/24 dev eth0", "addr del 10.0.0.99/24 dev eth0", "route add 203.0.113.0/24 via 10.0.0.1")
        net.nat.forget()  # what is asked now would come from another port
        net.host.ip("addr add 10.0.0.2/32 dev lo", "addr del 10.0.0.2/32 dev lo")
        net.host.run("kill", "-HUP", agent.pids()[0])
        after = wait_for("asked because we said so", lambda: (s := agent.status())["negotiations"] > before["negotiations"] and s)
        assert after["negotiations"] == before["negotiations"] + 1, agent.log()

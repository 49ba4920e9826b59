# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The agent among several brokers: one dies, is replaced, comes back, does not answer at all, leads to others."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from ansible_collections.tunnelbroker.tsp.tests.integration._agent_net import Agent, Net, wait_for
from ansible_collections.tunnelbroker.tsp.tests.lab import Lab
from ansible_collections.tunnelbroker.tsp.tests.lab.namespace import Namespace

pytestmark = pytest.mark.root
ONE, TWO, THREE = "192.0.2.1", "192.0.2.2", "192.0.2.3"
QUICK: dict[str, Any] = {"keepalive": {"longest_interval": 1}, "lease_file": "/tmp/leases/tsp.fact"}


@pytest.fixture
def net(request: pytest.FixtureRequest) -> Iterator[Net]:
    with Lab("agent-brokers", lambda: request.session.testsfailed) as lab:
        made = Net(lab, brokers=3)
        for broker in made.brokers:
            broker.start()
        yield made


def ping(host: Namespace, target: str) -> bool:
    return host.run("ping", "-6", "-c1", "-W2", target, check=False).returncode == 0


def up_with(agent: Agent, outer: str) -> dict[str, Any]:
    def found() -> dict[str, Any] | None:
        status = agent.wait_up()
        return status if status["lease"]["broker"] == outer else None
    status: dict[str, Any] = wait_for(f"a tunnel with {outer}", found, 120)
    return status


def addresses(host: Namespace) -> list[str]:
    return sorted(a["local"] for link in host.ip_json("-6 addr show scope global") for a in link["addr_info"] if a)


def test_when_one_dies_its_neighbour_takes_over_and_the_preferred_one_is_gone_back_to(net: Net) -> None:
    """Another broker means another address and another prefix: nothing of the old ones stays on the host."""
    with net.agent(broker={"brokers": [ONE, TWO], "preferred": ONE, "return_after": 5}, **QUICK) as agent:
        first = up_with(agent, ONE)
        at_first = addresses(agent.host)
        net.brokers[0].kill()
        second = up_with(agent, TWO)
        assert second["lease"]["prefix"] != first["lease"]["prefix"]
        assert ping(agent.host, net.brokers[1].inner) and ping(net.brokers[1].space, second["lease"]["client"]["ipv6"])
        assert not set(addresses(agent.host)) & set(at_first), "the first broker's address and network are gone"
        routes = json.dumps(agent.host.ip_json("-6 route show table all"))
        assert first["lease"]["prefix"] not in routes and second["lease"]["prefix"] in routes
        net.brokers[0].start()
        third = up_with(agent, ONE)
        assert third["lease"]["prefix"] == first["lease"]["prefix"], "the same user has the same prefix with the same broker"
        assert addresses(agent.host) == at_first
        assert ping(agent.host, net.brokers[0].inner)


def test_one_that_is_replaced_by_another_at_its_address(net: Net) -> None:
    """The new machine knows nothing of the old one's leases: a renumbering."""
    with net.agent(**QUICK) as agent:
        first = up_with(agent, ONE)
        net.brokers[0].kill()
        net.brokers[0].start(store={"path": str(net.folder / "other.db")}, pools={
            "ipv6": "2001:db8:f::/64", "prefixes": [{"network": "2001:db8:c000::/36", "lengths": "48-64", "default": 56}]})
        second = wait_for("the new prefix", lambda: (s := agent.wait_up())["lease"]["prefix"].startswith("2001:db8:c0") and s)
        assert first["lease"]["prefix"] not in json.dumps(agent.host.ip_json("-6 route show table all"))
        assert second["lease"]["prefix"] in json.dumps(agent.host.ip_json("-6 route show table all"))
        assert ping(agent.host, net.brokers[0].inner)


def test_a_black_hole_is_not_waited_for(net: Net) -> None:
    """Five brokers are configured, and what goes to the first is swallowed: it gets two datagrams at most, and no connection is tried."""
    net.host.nft(f"""
        table ip hole {{
            counter seen_udp {{ }}
            counter seen_tcp {{ }}
            chain leave {{
                type filter hook output priority 0;
                ip daddr {THREE} meta l4proto udp counter name seen_udp drop
                ip daddr {THREE} meta l4proto tcp counter name seen_tcp drop
            }}
        }}
    """)
    with net.agent(broker={"brokers": [THREE, TWO, ONE, "192.0.2.8", "192.0.2.9"], "deadline": 60}, **QUICK) as agent:
        assert agent.wait_up()["lease"]["broker"] in (ONE, TWO)
        counted = net.host.run("nft", "list", "counters").stdout
        udp, tcp = (int(re.search(rf"counter seen_{kind} {{\s*packets (\d+)", counted)[1]) for kind in ("udp", "tcp"))  # type: ignore[index]
        assert udp >= 1, "it was asked, as the first of the list"
        assert udp <= 2 and tcp == 0, counted


def test_led_to_another(net: Net) -> None:
    net.brokers[0].kill()
    net.brokers[0].start(redirect={"at": "authenticate", "brokers": [TWO, THREE]})
    with net.agent(broker={"brokers": [ONE]}, **QUICK) as agent:
        found = agent.wait_up()["lease"]["broker"]
        assert found in (TWO, THREE)
        dead, other = (1, THREE) if found == TWO else (2, TWO)
        net.brokers[dead].kill()
        status = up_with(agent, other)
        assert ping(agent.host, net.brokers[3 - dead].inner) and status["last_error"] is None


def test_leading_in_circles_ends(net: Net) -> None:
    """Each sends us to the other. That is an error that says so, and no storm: the brokers are left alone for a while."""
    for broker, other in ((0, TWO), (1, ONE)):
        net.brokers[broker].kill()
        net.brokers[broker].start(redirect={"at": "version", "brokers": [other]})
    with net.agent(broker={"brokers": [ONE]}, **QUICK) as agent:
        wait_for("three attempts have failed", lambda: agent.status().get("failures", 0) >= 3)
        error = agent.status()["last_error"]
        assert "redirect" in (error["code"] + error["message"]).lower() and error["hint"], error
        asked = sum(line.count("VERSION=") for broker in net.brokers for line in broker.log().splitlines())
        assert asked <= 30, "a few for each attempt"
        for broker in (0, 1):
            net.brokers[broker].kill()
            net.brokers[broker].start(redirect={})
        assert agent.wait_up()["lease"]["broker"] in (ONE, TWO), "it goes on by itself when they are repaired"


def test_without_any_broker_it_waits_and_longer_each_time(net: Net) -> None:
    for broker in net.brokers:
        broker.kill()
    with net.agent(broker={"brokers": [ONE, TWO, THREE]}, **QUICK) as agent:
        agent.said("next attempt in", 4)
        delays = [float(found) for found in re.findall(r"next attempt in ([0-9.]+) s", agent.log())]
        assert delays[0] < 3 and delays[3] > 2 * delays[0], delays
        net.brokers[2].start()
        status = up_with(agent, THREE)
        assert status["failures"] == 0 and status["last_error"] is None

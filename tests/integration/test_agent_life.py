# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The agent's ordinary life: leases that are renewed under connections in use, and several tunnels in one process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from ansible_collections.tunnelbroker.tsp.tests.integration._agent_net import Agent, Net, Stream, wait_for
from ansible_collections.tunnelbroker.tsp.tests.lab import Lab
from ansible_collections.tunnelbroker.tsp.tests.lab.namespace import Namespace

pytestmark = pytest.mark.root
LIFETIME = 300
"""Seconds, the least that a broker of ours gives."""


@pytest.fixture(scope="module")
def net(request: pytest.FixtureRequest) -> Iterator[Net]:
    with Lab("agent-life", lambda: request.session.testsfailed) as lab:
        made = Net(lab, brokers=2)
        for broker in made.brokers:
            broker.start(lifetime=LIFETIME)
        yield made


def ping(host: Namespace, target: str) -> bool:
    return host.run("ping", "-6", "-c1", "-W2", target, check=False).returncode == 0


def test_a_lease_is_renewed_before_it_ends_and_nobody_notices(net: Net) -> None:
    """The stored lease is aged, so that its renewal is a few seconds away: a connection through the tunnel goes on, and no packet is lost
    for long."""
    with net.agent(log_level="info") as first:
        first.wait_up()
    lease = json.loads(net.host.run("cat", "/etc/ansible/facts.d/tsp.fact").stdout)
    assert lease["lifetime"] == LIFETIME
    began = datetime.now(timezone.utc) - timedelta(seconds=0.8 * LIFETIME - 6)
    ends = began + timedelta(seconds=LIFETIME)
    aged = {**lease, "obtained_at": f"{began:%Y-%m-%dT%H:%M:%SZ}", "expires_at": f"{ends:%Y-%m-%dT%H:%M:%SZ}"}
    net.host.run("sh", "-c", "cat > /etc/ansible/facts.d/tsp.fact", input=json.dumps(aged))
    with net.agent(log_level="info") as agent:
        before = agent.wait_up()
        assert before["negotiations"] == 0 and before["lease"]["obtained_at"] == aged["obtained_at"]
        stream = Stream(agent, net.brokers[0])
        stream.goes_on()
        after = wait_for("renewed", lambda: (s := agent.status()).get("negotiations") == 1 and s["state"] == "up" and s)
        stream.goes_on()
        stream.close()
        after = agent.wait_up()
        assert after["lease"]["expires_at"] > before["lease"]["expires_at"]
        kept = json.loads(net.host.run("cat", "/etc/ansible/facts.d/tsp.fact").stdout)
        assert kept["obtained_at"] == after["lease"]["obtained_at"] and kept["client"]["ipv6"] == lease["client"]["ipv6"]
        assert kept["prefix"] == lease["prefix"] and ping(net.broker, lease["client"]["ipv6"])
        assert not [line for line in agent.log().splitlines() if " lost" in line or "E: " in line], agent.log()


@pytest.fixture
def both(net: Net) -> Iterator[Agent]:
    """One process with two tunnels, one to each broker, without rights where it reads the network."""
    with net.agent(user="nobody") as template:
        base: dict[str, Any] = template.config
    for number, broker in enumerate(net.brokers, 1):
        name = f"t{number}"
        config = {**base, "name": name, "device": name, "broker": {**base["broker"], "brokers": [broker.outer]},
                  "request": {"mode": "v6udpv4", "host_type": "host"}, "link": {"default_route": "none"},
                  "lease_file": f"/tmp/both/{name}.fact", "state_dir": f"/tmp/both/{name}"}
        net.host.run("sh", "-c", f"mkdir -p /etc/tsp/both && cat > /etc/tsp/both/{name}.json", input=json.dumps(config))
    agent = Agent(net, {}, config_path="/etc/tsp/both")
    try:
        yield agent
    finally:
        agent.end()


def state(agent: Agent, name: str) -> dict[str, Any]:
    done = agent.host.run("cat", f"/run/tsp-tsp/{name}.status.json", check=False)
    try:
        found: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        return {}
    return found


def up(agent: Agent, name: str) -> dict[str, Any]:
    def there() -> dict[str, Any] | None:
        found = state(agent, name)
        return found if found.get("state") == "up" and found.get("last_rtt_ms") is not None else None
    found: dict[str, Any] = wait_for(f"{name} is up", there)
    return found


def test_two_tunnels_in_one_process_do_not_mind_each_other(net: Net, both: Agent) -> None:
    """One broker dies: its tunnel is lost and comes back; the other never noticed. The end leaves nothing of either."""
    one, two = up(both, "t1"), up(both, "t2")
    assert one["pid"] == two["pid"] and len(both.pids()) == 2
    assert ping(both.host, net.brokers[0].inner) and ping(both.host, net.brokers[1].inner)
    net.brokers[0].kill()
    wait_for("the first is lost", lambda: state(both, "t1").get("state") in ("lost", "negotiating", "waiting"))
    assert ping(both.host, net.brokers[1].inner)
    net.brokers[0].start()
    assert up(both, "t1")["lease"]["client"]["ipv6"] == one["lease"]["client"]["ipv6"]
    again = up(both, "t2")
    assert again["negotiations"] == two["negotiations"] and again["since"] == two["since"]
    assert both.end() == 0
    names = {link["ifname"] for link in both.host.ip_json("link show")}
    assert not names & {"t1", "t2"} and not both.pids()
    assert both.host.run("ls", "/run/tsp-tsp", check=False).returncode != 0

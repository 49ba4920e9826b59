# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The agent killed at any moment: before and after each command that changes the host, and at moments of no choice. The next start finds
the host in order, the tunnel comes up, and after its end nothing is left: no device, address, route, setting, process or file."""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Iterator
from typing import Any

import pytest
from ansible_collections.tunnelbroker.tsp.tests.integration._agent_net import Agent, Net, wait_for
from ansible_collections.tunnelbroker.tsp.tests.lab import Lab

pytestmark = pytest.mark.root
IP = """#!/bin/sh
# Runs the real one, and kills the agent at the call whose number stands in /tmp/kill: before it or after it.
echo x >> /tmp/calls
at=$(cat /tmp/kill 2>/dev/null) && [ "$(wc -l < /tmp/calls)" = "${at% *}" ] || exec /usr/sbin/ip "$@"
[ "${at#* }" = before ] || /usr/sbin/ip "$@"
rm /tmp/kill
exec kill -9 $(pgrep -f 'tsp-agent.pyz --config')
"""


@pytest.fixture(scope="module")
def net(request: pytest.FixtureRequest) -> Iterator[Net]:
    with Lab("agent-kill", lambda: request.session.testsfailed) as lab:
        made = Net(lab)
        made.start_broker()
        made.host.run("sh", "-c", "mkdir -p /usr/local/sbin; cat > /usr/local/sbin/ip; chmod 755 /usr/local/sbin/ip", input=IP)
        yield made


def picture(agent: Agent) -> dict[str, Any]:
    """What a user of the host would notice."""
    host = agent.host
    links = host.ip_json("addr show")
    routes = host.ip_json("-4 route show table all") + host.ip_json("-6 route show table all") + host.ip_json("-6 rule show")
    names = ("all", "default", "eth0", "eth1", "lo")
    settings = host.run("sh", "-c", " ".join(f"cat /proc/sys/net/ipv6/conf/{name}/*forwarding;" for name in names), check=False).stdout
    return {"links": [(link["ifname"], link["mtu"], sorted(a["local"] for a in link["addr_info"])) for link in links],
            "routes": sorted(json.dumps(route, sort_keys=True) for route in routes), "settings": settings,
            "run": host.run("ls", "-A", "/run").stdout, "processes": [line for line in host.processes() if "tsp-agent" in line]}


def comes_up_and_leaves_nothing(agent: Agent, clean: dict[str, Any], when: str) -> None:
    agent.process = agent.start()
    status = agent.wait_up()
    assert agent.host.run("ping", "-6", "-c1", "-W2", "2001:db8:f::1", check=False).returncode == 0, when
    lan = [a["local"] for link in agent.host.ip_json("addr show dev eth1") for a in link["addr_info"] if a["scope"] == "global"]
    assert len(lan) == 1 and lan[0].startswith(status["lease"]["prefix"].split("::")[0]), (when, lan)
    assert agent.end() == 0, when
    assert picture(agent) == clean, when


def ended(agent: Agent) -> None:
    agent.process.wait(60)
    wait_for("all its processes have ended", lambda: not agent.pids())


@pytest.fixture
def clean(net: Net) -> dict[str, Any]:
    """The host after an undisturbed life of the agent. /tmp/calls then says how many commands it took."""
    with net.agent() as agent:
        agent.wait_up()
        net.host.run("cp", "/tmp/calls", "/tmp/calls.up")
        assert agent.end() == 0
    return picture(agent)


@pytest.mark.parametrize("moment", ["before", "after"])
def test_at_each_command(net: Net, clean: dict[str, Any], moment: str) -> None:
    """With TSP_KILLS=whole at each, else at every sixth: before one is after another, but for what the agent writes in between."""
    host = net.host
    whole = int(host.run("sh", "-c", "wc -l < /tmp/calls").stdout)
    assert whole >= 3, "the agent's commands pass here"
    first, step = (1, 1) if os.environ.get("TSP_KILLS") == "whole" else (1, 6) if moment == "before" else (3, 6)
    for number in range(first, whole + 1, step):
        host.run("sh", "-c", f"rm -f /tmp/calls; echo {number} {moment} > /tmp/kill")
        when = f"killed {moment} command {number} of {whole}"
        with net.agent() as agent:
            wait_for("killed, or up", lambda agent=agent: agent.process.poll() is not None or agent.status().get("last_rtt_ms"))
            if agent.process.poll() is None:
                agent.end()  # the number is one of the commands that take the tunnel away
            ended(agent)
            host.run("rm", "-f", "/tmp/kill")
            comes_up_and_leaves_nothing(agent, clean, when)


def test_at_moments_of_no_choice(net: Net, clean: dict[str, Any]) -> None:
    """In the middle of the exchange, of setting up, of the first pings; some with the lease of before, some without."""
    net.host.run("rm", "-f", "/tmp/kill")
    chance = random.Random(20261125)
    for turn in range(6):
        if turn % 3 == 0:
            net.host.run("rm", "-f", "/etc/ansible/facts.d/tsp.fact")
        moment = chance.random() * 1.2
        with net.agent() as agent:
            began = time.monotonic()
            wait_for("the moment", lambda began=began, moment=moment: time.monotonic() - began >= moment)
            agent.kill()
            ended(agent)
            comes_up_and_leaves_nothing(agent, clean, f"killed after {moment:.2f} s")


def test_killed_again_and_again_it_still_comes_up(net: Net, clean: dict[str, Any]) -> None:
    """What one start could not clean up, for it was killed as well, the next one does."""
    net.host.run("rm", "-f", "/tmp/kill")
    with net.agent() as agent:
        agent.wait_up()
        agent.kill()
        for number in (1, 1, 2, 3):
            net.host.run("sh", "-c", f"rm -f /tmp/calls; echo {number} before > /tmp/kill")
            agent.process = agent.start()
            ended(agent)
        comes_up_and_leaves_nothing(agent, clean, "killed five times in a row")


@pytest.mark.parametrize("which", ["network", "applier"])
def test_one_of_two_processes_is_killed(net: Net, clean: dict[str, Any], which: str) -> None:
    """The part without rights ends when the other is gone, and the part with them takes away what is left when it is alone."""
    with net.agent(user="nobody") as agent:
        agent.wait_up()
        pids = agent.pids()
        assert len(pids) == 2
        owners = {agent.host.run("stat", "-c", "%U", f"/proc/{pid}").stdout.strip(): pid for pid in pids}
        assert set(owners) == {"root", "nobody"}
        agent.host.run("kill", "-9", owners["nobody" if which == "network" else "root"])
        ended(agent)
        if which == "network":
            left = picture(agent)
            assert [link[0] for link in left["links"]] == [link[0] for link in clean["links"]]
            assert left["routes"] == clean["routes"] and left["settings"] == clean["settings"]
        comes_up_and_leaves_nothing(agent, clean, f"the {which} part was killed")

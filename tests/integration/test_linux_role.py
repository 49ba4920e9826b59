# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The role linux on a host behind a NAT: one play makes a proved tunnel, a second changes nothing, a third takes it all away."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.tunnelbroker.tsp.tests.integration._agent_net import PASSWORD, Net, freeze, wait_for
from ansible_collections.tunnelbroker.tsp.tests.lab import Lab
from ansible_collections.tunnelbroker.tsp.tests.lab.ansible import Ansible, Run

pytestmark = pytest.mark.root

ASK = {"broker": "{{ tunnel_broker }}", "mode": "v6udpv4", "host_type": "router", "prefix_length": 56, "min_interval": 0,
       "username": "{{ tunnel_username }}", "password": "{{ tunnel_password }}"}
SHOWN = "proof: {{ ansible_facts.tunnel_proof | default({}) | to_json }} steps: {{ agent_applied.steps | default([]) | to_json }}"
PLAY: list[dict[str, Any]] = [{
    "hosts": "all", "gather_facts": False,
    "tasks": [
        {"name": "Ask", "tunnelbroker.tsp.tunnel": ASK, "register": "asked", "when": "tunnel_state == 'present'"},
        {"name": "Configure and prove", "ansible.builtin.include_role": {"name": "tunnelbroker.tsp.linux"},
         "vars": {"tunnel_lease": "{{ asked.lease | default({}) }}"}},
        {"name": "Show", "ansible.builtin.debug": {"msg": SHOWN}},
    ]}]


class Playground:
    def __init__(self, net: Net, folder: Path) -> None:
        self.net = net
        other = os.environ.get("TSP_TEST_ANSIBLE")  # the bin folder of another ansible-core than this Python's
        self.ansible = Ansible(folder, **({"PATH": f"{other}:/usr/bin:/bin:/usr/sbin:/sbin"} if other else {}))
        freeze(folder)
        self.inventory = self.ansible.write_inventory({"all": {"hosts": {"branch": {
            "ansible_connection": "lab_ns", "ansible_lab_ns_pid": net.host.pid, "ansible_python_interpreter": sys.executable}},
            "vars": {"tunnel_broker": ["192.0.2.1"], "tunnel_username": "alice", "tunnel_password": PASSWORD, "tunnel_state": "present",
                     "linux_python": sys.executable, "linux_lan_interfaces": ["eth1"], "tunnel_min_interval": 0}}})
        self.book = folder / "play.json"
        self.book.write_text(json.dumps(PLAY))

    def play(self, *words: str, **variables: Any) -> Run:
        return self.ansible.playbook(str(self.book), "-e", json.dumps(variables), *words, inventory=self.inventory)

    def files(self) -> set[str]:
        places = "/etc/tsp /usr/local/lib/tsp /var/lib/tsp-apply /run/tsp-tsp"
        return set(self.net.host.run("sh", "-c", "find /etc /usr/local /var/lib /run -newer /proc/1/cmdline -type f 2>/dev/null; "
                                     f"ls -d {places} 2>/dev/null || true").stdout.split())


@pytest.fixture(scope="module")
def playground(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Playground]:
    with Lab("linux-role", lambda: request.session.testsfailed) as lab:
        net = Net(lab)
        net.start_broker()
        yield Playground(net, tmp_path_factory.mktemp("ansible"))


def agents(net: Net) -> list[str]:
    return [line for line in net.host.run("ps", "-eo", "args").stdout.splitlines() if "tsp-agent.pyz" in line]


def test_the_whole_way(playground: Playground) -> None:
    net = playground.net
    predicted = playground.play("--check", "--diff")
    assert predicted.returncode == 0 and PASSWORD not in predicted.output, predicted.output
    first = playground.play("--diff", "-v")
    assert first.returncode == 0, first.output
    assert '"proved": true' in first.output and first.changed >= 2
    assert PASSWORD not in first.output and "(secret, changed)" in first.output
    assert len(agents(net)) == 2, "the part that reads the network, and the one that changes the host"
    assert not [line for line in agents(net) if PASSWORD in line]
    assert net.host.run("stat", "-c", "%a", "/etc/tsp/tsp.json", "/etc/tsp/tsp.secret").stdout.split() == ["600", "600"]
    lease = json.loads(net.host.run("cat", "/etc/ansible/facts.d/tsp.fact").stdout)
    assert net.broker.run("ping", "-6", "-c1", "-W5", lease["client"]["ipv6"]).returncode == 0

    second = playground.play("-v")
    assert second.returncode == 0 and second.changed == 0, second.output
    assert '"proved": true' in second.output and "steps: []" in second.output

    net.host.run("sh", "-c", "kill -9 $(cat /run/tsp-tsp/tsp.pid)")
    wait_for("the agent is gone", lambda: not agents(net))
    healed = playground.play("-v")
    assert healed.returncode == 0 and healed.changed == 1 and '"proved": true' in healed.output, healed.output


def test_a_new_setting_that_cannot_be_proved_changes_nothing(playground: Playground) -> None:
    before = playground.net.host.run("sh", "-c", "cat /etc/tsp/tsp.json; cat /run/tsp-tsp/tsp.pid | wc -l").stdout
    # What the tunnel carries gets lost, what negotiates it arrives.
    playground.net.broker.nft("table ip deaf { chain in { type filter hook input priority 0; udp dport 3653 @th,64,4 6 drop; }; }")
    try:
        broken = playground.play("-v", linux_probe_timeout=5, linux_log_level="debug")
    finally:
        playground.net.broker.run("nft", "delete", "table", "ip", "deaf")
    assert broken.returncode != 0 and "not_proved" in broken.output, broken.output
    assert playground.net.host.run("sh", "-c", "cat /etc/tsp/tsp.json; cat /run/tsp-tsp/tsp.pid | wc -l").stdout == before
    again = playground.play("-v")
    assert again.returncode == 0 and again.changed == 0, again.output


def test_what_the_host_cannot_do_is_said_before_anything_is_touched(playground: Playground) -> None:
    before = playground.net.host.run("sh", "-c", "cat /etc/tsp/tsp.json /run/tsp-tsp/tsp.pid").stdout
    broken = playground.play("-v", linux_lan_interfaces=["nonesuch0"])
    assert broken.returncode != 0 and "nonesuch0" in broken.output
    assert playground.net.host.run("sh", "-c", "cat /etc/tsp/tsp.json /run/tsp-tsp/tsp.pid").stdout == before


def test_a_stored_lease_that_the_broker_forgot(playground: Playground) -> None:
    """The agent gets another address than the play knew; the tunnel is proved all the same, and known to the next play."""
    net, file = playground.net, "/etc/ansible/facts.d/tsp.fact"
    assert playground.play(tunnel_state="absent").returncode == 0
    address = json.loads(net.host.run("cat", file).stdout)["client"]["ipv6"]
    net.host.run("sed", "-i", f"s/{address}/2001:db8:f::7777/", file)
    run = playground.play("-v")
    assert run.returncode == 0 and '"proved": true' in run.output, run.output
    assert json.loads(net.host.run("cat", file).stdout)["client"]["ipv6"] == address
    again = playground.play("-v")
    assert again.returncode == 0 and again.changed == 0, again.output


def test_away_without_a_trace(playground: Playground) -> None:
    net = playground.net
    gone = playground.play("-v", tunnel_state="absent")
    assert gone.returncode == 0 and gone.changed == 1, gone.output
    assert not agents(net)
    assert not [path for path in playground.files() if "tsp" in path and not path.startswith(("/var/lib/tsp/", "/etc/ansible/facts.d/"))]
    assert net.host.run("ip", "link", "show", "tsp0", check=False).returncode != 0
    assert net.host.run("cat", "/proc/sys/net/ipv6/conf/all/forwarding").stdout.strip() == "0"
    again = playground.play("-v", tunnel_state="absent")
    assert again.returncode == 0 and again.changed == 0, again.output

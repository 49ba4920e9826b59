# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The playbook status, on a host whose agent runs, is killed and comes back; a router; and hosts that are not reached."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.tunnelbroker.tsp.tests.integration._agent_net import PASSWORD, Net, freeze, wait_for
from ansible_collections.tunnelbroker.tsp.tests.lab import Lab
from ansible_collections.tunnelbroker.tsp.tests.lab.ansible import Ansible, Run
from ansible_collections.tunnelbroker.tsp.tests.lab.setting import PYTHON
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._agent._exposition import parse
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._module._leases import lease

LISTEN = "127.0.0.1:9653"
METRICS = "/run/tsp-tsp/tsp.prom"
FETCH = "import sys, urllib.request; sys.stdout.write(urllib.request.urlopen(sys.argv[1], timeout=10).read().decode())"


class Fleet:
    """A host behind a NAT, and an inventory that has more which are not there."""

    def __init__(self, lab: Lab) -> None:
        self.net = net = Net(lab)
        net.start_broker()
        self.ansible = Ansible(lab.folder / "ansible")
        freeze(self.ansible.folder)
        name = self.ansible.folder / "collections/ansible_collections/tunnelbroker/tsp"
        (name / "playbooks").symlink_to(Path(__file__).resolve().parent.parent.parent / "playbooks")
        leases = self.ansible.folder / "kept"
        leases.mkdir()
        (leases / "router.json").write_text(json.dumps(lease("v6v4", "2001:db8:a::/48").to_dict()), encoding="utf-8")
        self.inventory = self.ansible.write_inventory({"all": {"vars": {"tunnel_lease_dir": str(leases)}, "hosts": {
            "home": {"ansible_connection": "lab_ns", "ansible_lab_ns_pid": net.host.pid, "ansible_python_interpreter": PYTHON},
            "router": {"ansible_network_os": "cisco.ios.ios", "ansible_host": "127.0.0.1", "ansible_port": 1},
            "odd": {"ansible_connection": "no_such_plugin"},
            "gone": {"ansible_host": "127.0.0.1", "ansible_port": 1}}}})

    def play(self, *words: str) -> Run:
        run = self.ansible.playbook("tunnelbroker.tsp.status", *words, inventory=self.inventory)
        assert run.returncode == 0 and run.changed in (0, 1, 2), run.output
        assert PASSWORD not in run.output and "Traceback (most recent call last)" not in run.output
        return run

    def report(self, *words: str) -> dict[str, dict[str, Any]]:
        """host -> row, out of the file."""
        folder = self.ansible.folder / "status"
        self.play("-e", f"tunnel_status_dir={folder}", *words)
        text = (folder / "tunnels.json").read_text(encoding="utf-8")
        assert PASSWORD not in text
        return {row["host"]: row for row in json.loads(text)["rows"]}


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with Lab("status") as lab:
        yield Fleet(lab)


def line(run: Run, host: str) -> str:
    return next(text.strip() for text in run.output[run.output.index("host  "):].splitlines() if text.split()[:1] == [host])


@pytest.mark.root
def test_the_state_of_a_fleet(fleet: Fleet) -> None:
    with fleet.net.agent() as agent:
        status = agent.wait_up()
        run = fleet.play()
        assert run.changed == 0
        shown = line(run, "home").split()
        assert shown[:6] == ["home", "tsp", "up", "v6udpv4", "192.0.2.1", agent.address] and shown[6].endswith("/56")
        assert shown[8] == "ms" and float(shown[7]) > 0
        assert line(run, "router").split()[:7] == ["router", "tsp", "native", "v6v4", "broker.example", "2001:db8:f00::2",
                                                   "2001:db8:a::/48"]
        assert line(run, "gone").split()[:3] == ["gone", "-", "unreachable"] and "refused" in line(run, "gone")
        assert line(run, "odd").split()[:3] == ["odd", "-", "unknown"] and "no_such_plugin" in line(run, "odd")

        # in check mode the same is shown, and nothing is written; one host alone can be looked at
        folder = fleet.ansible.folder / "status"
        run = fleet.play("--check", "--limit", "home", "-e", f"tunnel_status_dir={folder}")
        assert line(run, "home").split()[2] == "up" and "router" not in run.output and not folder.exists()

        row = fleet.report()["home"]
        assert row["connected"] is True and row["status"]["pid"] == status["pid"] and row["lease_seconds_left"] > 0
        assert os.stat(folder / "tunnels.json").st_mode & 0o777 == 0o644

        # killed; what the other half took away is put back, as after a power cut: its last word still says that it is up
        said = json.dumps(agent.status())
        fleet.net.host.run("kill", "-9", str(status["pid"]))
        agent.process.wait(30)
        wait_for("the other half has cleaned up", lambda: not agent.status())
        fleet.net.host.run("sh", "-c", "mkdir -p /run/tsp-tsp && cat > /run/tsp-tsp/tsp.status.json", input=said)
        row = fleet.report()["home"]
        assert row["state"] == "stale" and row["connected"] is False and "is gone without a word" in row["problem"]

        agent.process = agent.start()
        agent.wait_up()
        assert fleet.report("--limit", "home")["home"]["state"] == "up"
        assert agent.end() == 0

    # without an agent there is a lease, and no device
    row = fleet.report()["home"]
    assert row["state"] == "absent" and row["connected"] is None and "No device of the host has" in row["problem"]
    fleet.net.host.ip("link add tsp9 type bridge", f"addr add {row['address']}/128 dev tsp9 nodad", "link set tsp9 up")
    row = fleet.report()["home"]
    assert row["state"] == "native" and row["status"]["device"] == "tsp9"


@pytest.mark.root
def test_what_the_agent_says_of_itself_on_its_host(fleet: Fleet) -> None:
    net = fleet.net

    def shown(*words: str) -> tuple[int, str]:
        done = net.host.run(PYTHON, str(net.program), "status", *words, check=False)
        return done.returncode, done.stdout

    def series(text: str) -> dict[str, float]:
        """Name without prefix, with a slash and the direction where there is one -> value."""
        return {"/".join([name[len("tsp_agent_"):], *(value for key, value in labels if key == "direction")]): number
                for (name, labels), number in parse(text.encode()).items()}

    def fetched() -> dict[str, float]:
        return series(net.host.run(PYTHON, "-c", FETCH, f"http://{LISTEN}/metrics").stdout)

    with net.agent(metrics={"textfile": METRICS, "listen": LISTEN}) as agent:
        agent.wait_up()
        code, text = shown()
        said = {line[:16].strip(): line[16:].strip() for line in text.splitlines()}
        assert code == 0, text
        assert said["Tunnel"] == "tsp (tsp0)" and said["Status"] == "Connected" and said["Broker"] == "192.0.2.1"
        assert agent.address in said["Local addresses"] and said["Delegated prefix"].endswith("/56") and said["Round trip"].endswith("lost")
        code, text = shown("--json", "--config", "/etc/tsp/tsp.json")
        [tunnel] = json.loads(text)["tunnels"]
        assert code == 0 and tunnel["schema"] == 2 and tunnel["connected"] is True

        # a packet of ours shows in all of them
        before = fetched()
        assert before["up"] == 1 and before["mtu_bytes"] == tunnel["mtu"] and before["resident_memory_bytes"] > 1 << 20
        assert 0 < before["round_trip_seconds"] < 5 and before["lease_remaining_seconds"] > 0
        net.host.run("ping", "-6", "-c", "3", "-i", "0.2", "2001:db8:f::1")
        for way in ("packets_total/in", "packets_total/out"):
            wait_for("the packets are counted", lambda way=way: fetched()[way] >= before[way] + 3)
        wait_for("the file is up to date", lambda: series(net.host.run("cat", METRICS).stdout)["up"] == 1)

        # the broker dies: everybody is told
        net.kill_broker()
        wait_for("the loss shows in the metrics", lambda: series(net.host.run("cat", METRICS).stdout)["up"] == 0)
        code, text = shown()
        assert code == 3 and "Connected" not in text.replace("Disconnected", ""), text
        net.start_broker()
        agent.wait_up()
        assert agent.end() == 0
    assert net.host.run("cat", METRICS, check=False).returncode != 0, "what nobody keeps up to date is gone"
    assert shown() == (4, "No agent runs here.\n")

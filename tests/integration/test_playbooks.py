# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The playbooks provision, render and teardown on a small fleet: a Linux host behind a NAT, a router, and a router that may not."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._broker import build
from ansible_collections.tunnelbroker.tsp.tests.lab import Lab
from ansible_collections.tunnelbroker.tsp.tests.lab.ansible import Ansible, Run
from ansible_collections.tunnelbroker.tsp.tests.lab.setting import KEEPALIVE, PYTHON, ROUTER, Setting

pytestmark = pytest.mark.root
WRONG = "canary-wrong-Marmot-31"


class Fleet:
    """The devices, and how plays are run on them."""

    def __init__(self, lab: Lab, program: Path) -> None:
        self.setting = setting = Setting(lab, program)
        setting.start_broker()
        (lab.folder / "known_hosts").write_text(setting.start_router(), encoding="utf-8")
        self.ansible = Ansible(lab.folder / "ansible", setting.controller)
        self.leases = self.ansible.folder / "kept"
        router = {"ansible_host": ROUTER, "ansible_user": "admin", "ansible_password": setting.router_password,
                  "ansible_network_os": "cisco.ios.ios", "cisco_known_hosts": str(lab.folder / "known_hosts"), "tunnel_username": "fleet",
                  "tunnel_mode": "v6v4", "cisco_lan_interfaces": ["GigabitEthernet0/1"]}
        self.inventory = self.ansible.write_inventory({"all": {
            "vars": {"tunnel_broker": ["192.0.2.1"], "tunnel_password": setting.password, "tunnel_host_type": "router",
                     "tunnel_min_interval": 0, "tunnel_prefix_length": 56, "tunnel_keepalive_interval": KEEPALIVE,
                     "tunnel_lease_dir": str(self.leases)},
            "hosts": {
                "host": {"ansible_connection": "lab_ns", "ansible_lab_ns_pid": setting.host.pid, "ansible_python_interpreter": PYTHON,
                         "linux_python": PYTHON, "tunnel_username": "alice"},
                "router": {**router, "tunnel_client_ipv4": ROUTER},
                "locked": {**router, "tunnel_client_ipv4": "192.0.2.31", "tunnel_password": WRONG},
            }}})

    def play(self, name: str, *words: str) -> Run:
        run = self.ansible.playbook(f"tunnelbroker.tsp.{name}", *words, inventory=self.inventory)
        for secret in (self.setting.password, WRONG, self.setting.router_password):
            assert secret not in run.output
        assert "Traceback (most recent call last)" not in run.output, run.output
        return run

    def granted(self) -> int:
        return self.setting.broker.log_path("serve").read_text(encoding="utf-8").count(" granted ")


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    program = tmp_path_factory.mktemp("programs") / "tsp-broker.pyz"
    assert build.main([str(program)]) == 0
    with Lab("playbooks") as lab:
        yield Fleet(lab, program)


def rows(output: str) -> dict[str, list[str]]:
    """device -> columns of the table that a playbook printed."""
    lines = output[output.index("device  "):].splitlines()
    return {cells[0]: cells for cells in (re.split(r"\s{2,}", line.strip()) for line in lines[2:5])}


def test_the_whole_way_and_back(fleet: Fleet) -> None:
    # first only looking
    run = fleet.play("provision", "--check", "--diff", "--limit", "host,router")
    assert run.returncode == 0, run.output
    assert run.changed == 2 and 'mode: "v6' in run.output
    assert fleet.granted() == 0 and not fleet.leases.exists()

    # one of three fails, the others go on
    run = fleet.play("provision", "-vvv")
    assert run.returncode == 2, run.output
    assert {name: counts["failed"] for name, counts in run.recap.items()} == {"host": 0, "router": 0, "locked": 1}
    table = rows(run.output)
    assert table["host"][1:3] == ["linux", "v6udpv4"] and re.match(r"yes, \d+\.\d ms$", table["host"][5])
    assert table["router"][1:3] == ["cisco", "v6v4"] and re.match(r"yes, \d+\.\d ms$", table["router"][5])
    assert table["host"][4].endswith("/56") and table["router"][4].endswith("/56")
    assert "The broker refused the user name or the password" in table["locked"][-1]
    assert sorted(path.name for path in fleet.leases.iterdir()) == ["host.json", "router.json"]
    leases = {name: json.loads((fleet.leases / f"{name}.json").read_text(encoding="utf-8")) for name in ("host", "router")}
    assert fleet.setting.ping(fleet.setting.broker, leases["host"]["client"]["ipv6"]) is not None
    assert fleet.setting.ping(fleet.setting.broker, leases["router"]["client"]["ipv6"]) is not None

    # again: nothing changes, nobody is asked
    before = fleet.granted()
    for words in (("--limit", "host,router"), ("--check", "--limit", "router"), ("-e", "tunnel_hosts=host")):
        run = fleet.play("provision", *words)
        assert run.returncode == 0 and run.changed == 0, run.output
    assert set(run.recap) == {"host"} and fleet.granted() == before

    # what stands on the devices, out of the leases alone
    folder = fleet.ansible.folder / "review"
    run = fleet.play("render", "--limit", "host,router", "-e", f"tunnel_render_dir={folder}")
    assert run.returncode == 0, run.output
    text = (folder / "router.cfg").read_text(encoding="utf-8")
    running = {line.partition(": ")[2].strip().lower() for line in fleet.setting.router_configuration()}
    # A device does not show what is its default anyway: the MTU of an IPv6 tunnel is.
    assert {line.strip().lower() for line in text.splitlines()} - {"!", "", "ipv6 mtu 1480"} <= running
    rendered = json.loads((folder / "host/etc/tsp/tsp.json").read_text(encoding="utf-8"))
    assert rendered == json.loads(fleet.setting.host.run("cat", "/etc/tsp/tsp.json").stdout)
    assert fleet.play("render", "--limit", "host,router", "-e", f"tunnel_render_dir={folder}").changed == 0

    # a lost lease does not leave the router as it is
    (fleet.leases / "router.json").rename(fleet.ansible.folder / "put-aside.json")
    run = fleet.play("teardown", "--check", "--diff", "--limit", "router")
    assert run.returncode == 0 and run.changed == 1 and "-interface Tunnel0" in run.output, run.output
    (fleet.ansible.folder / "put-aside.json").rename(fleet.leases / "router.json")

    # and away, first in words
    run = fleet.play("teardown", "--check", "--limit", "host,router")
    assert run.returncode == 0 and run.changed > 0, run.output
    assert fleet.setting.ping(fleet.setting.broker, leases["host"]["client"]["ipv6"]) is not None
    run = fleet.play("teardown", "-vvv", "--limit", "host,router")
    assert run.returncode == 0, run.output
    assert list(fleet.leases.iterdir()) == []
    assert fleet.setting.host.run("sh", "-c", "ls -A /etc/ansible/facts.d /etc/tsp 2>/dev/null | grep -v :$ || true").stdout.split() == []
    assert "Tunnel0" not in " ".join(fleet.setting.router_configuration())
    run = fleet.play("teardown", "--limit", "host,router")
    assert run.returncode == 0 and run.changed == 0, run.output


@pytest.mark.parametrize("playbook", ["provision", "render", "status", "teardown"])
def test_a_group_says_which_hosts_are_meant(playbook: str, tmp_path: Path) -> None:
    ansible = Ansible(tmp_path)
    everybody: dict[str, Any] = {"all": {"hosts": {"db": {}}, "children": {"tunnels": {"hosts": {"r1": {}}}}}}
    for name, meant in (("tunnels", ["r1"]), ("others", ["db", "r1"])):
        everybody["all"]["children"] = {name: {"hosts": {"r1": {}}}}
        run = ansible.playbook(f"tunnelbroker.tsp.{playbook}", "--list-hosts", inventory=ansible.write_inventory(everybody))
        assert sorted(set(run.output.split()) & {"db", "r1"}) == meant, run.output


@pytest.mark.parametrize("playbook", ["provision", "teardown"])
def test_a_host_that_is_not_reached_is_called_so(playbook: str, tmp_path: Path) -> None:
    ansible = Ansible(tmp_path)
    hosts = {"gone": {"ansible_host": "127.0.0.1", "ansible_port": 1}, "poor": {"ansible_connection": "local", "tunnel_mode": "v7"}}
    asked = {"tunnel_broker": ["127.0.0.1"], "tunnel_auth_method": "anonymous"}
    inventory = ansible.write_inventory({"all": {"hosts": hosts, "vars": asked}})
    run = ansible.playbook(f"tunnelbroker.tsp.{playbook}", inventory=inventory)
    assert run.recap["gone"]["unreachable"] == 1 and run.recap["poor"]["failed"] == 1, run.output
    table = run.output[run.output.index("device "):]
    assert re.search(r"gone +- +- +- +- +no: not reached", table) and "v6anyv4" in table
    assert "defect of the collection" not in run.output


def test_leases_hold_no_secret(fleet: Fleet) -> None:
    secrets: list[Any] = [fleet.setting.password, WRONG]
    for path in fleet.ansible.folder.rglob("*"):
        if path.is_file() and path != fleet.inventory and "collections" not in path.parts:
            text = path.read_text(encoding="utf-8", errors="replace")
            assert not any(secret in text for secret in secrets), path

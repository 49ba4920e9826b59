# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The role cisco against an emulated router in a namespace, with real packets between it and the far end of the tunnel."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.lease import Lease
from ansible_collections.tunnelbroker.tsp.tests.lab import Lab, Namespace
from ansible_collections.tunnelbroker.tsp.tests.lab.ansible import Ansible, Run

pytestmark = pytest.mark.root

FAR_END = {  # what a broker's tunnel end would hold, as another router's configuration
    "v6v4": ["ipv6 address 2001:db8:f::1/128", "tunnel mode ipv6ip", "tunnel source 198.51.100.1", "tunnel destination 198.51.100.10"],
    "v4v6": ["ip address 192.0.2.1 255.255.255.255", "tunnel mode ipv6", "tunnel source 2001:db8:9::1",
             "tunnel destination 2001:db8:9::10"],
}


class Wire:
    """Three hosts on one segment: the router, the far end of its tunnel, and where Ansible runs."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.folder = folder
        segment = lab.segment("internet")
        self.router, self.far, self.controller = (lab.namespace(name) for name in ("router", "far", "controller"))
        segment.attach(self.router, "eth0", "198.51.100.10/24", "2001:db8:9::10/64")
        segment.attach(self.far, "eth0", "198.51.100.1/24", "2001:db8:9::1/64")
        segment.attach(self.controller, "eth0", "198.51.100.99/24", "2001:db8:9::99/64")
        self.ansible = Ansible(folder / "ansible", self.controller)
        self.programs: list[subprocess.Popen[str]] = []

    def emulator(self, where: Namespace, name: str, address: str) -> dict[str, Any]:
        program = where.popen(sys.executable, "-m", "ios_emulator", f"--hostname={name}", f"--listen={address}",
                              "--map=GigabitEthernet0/0=eth0", f"--state={self.folder / name}.json", stdout=subprocess.PIPE, text=True,
                              cwd=Path(__file__).resolve().parent.parent / "lab")
        self.programs.append(program)
        assert program.stdout is not None
        return dict(json.loads(program.stdout.readline()))

    def running(self, name: str) -> str:
        return str(json.loads((self.folder / f"{name}.json").read_text(encoding="utf-8"))["running"])

    def play(self, tasks: list[dict[str, Any]], hosts: dict[str, Any], **variables: Any) -> Run:
        play = [{"hosts": "all", "gather_facts": False, "vars": {"ansible_host_key_checking": False, **variables}, "tasks": [
            *tasks, {"ansible.builtin.copy": {"content": "{{ {'proof': tunnel_proof | default(none)} | to_json }}",
                                              "dest": str(self.folder / "said.json"), "mode": "0600"}, "delegate_to": "localhost",
                     "vars": {"ansible_connection": "local", "ansible_python_interpreter": "{{ ansible_playbook_python }}"}}]}]
        (self.folder / "play.yml").write_text(json.dumps(play), encoding="utf-8")
        inventory = self.ansible.write_inventory({"all": {"hosts": hosts}})
        return self.ansible.playbook(str(self.folder / "play.yml"), "--diff", inventory=inventory)

    def proof(self) -> dict[str, Any]:
        return dict(json.loads((self.folder / "said.json").read_text(encoding="utf-8"))["proof"])


def host(address: str, said: dict[str, Any]) -> dict[str, Any]:
    return {"ansible_host": address, "ansible_port": said["port"], "ansible_user": "lab", "ansible_password": "lab",
            "ansible_network_os": "cisco.ios.ios"}


def lease(mode: str) -> dict[str, Any]:
    six = mode == "v6v4"
    data = {"schema": 1, "broker": "broker.example", "transport": "udp", "protocol_version": "2.0.2", "auth_method": "anonymous",
            "mode": mode, "client": {"ipv4": "198.51.100.10" if six else "192.0.2.2", "ipv6": "2001:db8:f::2" if six else "2001:db8:9::10"},
            "server": {"ipv4": "198.51.100.1" if six else "192.0.2.1", "ipv6": "2001:db8:f::1" if six else "2001:db8:9::1"},
            "prefix": "2001:db8:4000:120::/60" if six else None, "obtained_at": "2026-01-01T00:00:00Z",
            "request": {"mode": mode, "host_type": "router" if six else "host"}}
    return Lease.from_dict(data).to_dict()


@pytest.fixture
def wire(tmp_path: Path) -> Iterator[Wire]:
    with Lab("test-cisco") as lab:
        made = Wire(lab, tmp_path)
        yield made
        for program in made.programs:
            program.terminate()
            program.wait(timeout=30)
            assert program.stdout is not None
            program.stdout.close()


@pytest.mark.parametrize("mode", ["v6v4", "v4v6"])
def test_a_tunnel_is_configured_proved_kept_and_taken_away(wire: Wire, mode: str) -> None:
    router = host("198.51.100.10", wire.emulator(wire.router, "R1", "198.51.100.10"))
    far = host("198.51.100.1", wire.emulator(wire.far, "FAR", "198.51.100.1"))
    lines = ["interface Tunnel0", *(f" {line}" for line in FAR_END[mode])]
    built = wire.play([{"tunnelbroker.tsp.router_config": {"lines": lines}}], {"far": far})
    assert built.returncode == 0, built.output
    before = wire.running("R1")
    role = [{"ansible.builtin.include_role": {"name": "tunnelbroker.tsp.cisco"}}]
    lans = ["GigabitEthernet0/1"] if mode == "v6v4" else []

    first = wire.play(role, {"r1": router}, tunnel_lease=lease(mode), cisco_lan_interfaces=lans)
    assert first.returncode == 0, first.output
    target = "2001:db8:f::1" if mode == "v6v4" else "192.0.2.1"
    proof = wire.proof()
    assert proof["proved"] is True and proof["target"] == target and proof["rtt_ms"] >= 1
    assert "+interface Tunnel0" in first.output and "interface Tunnel0\n" in wire.running("R1")
    # The copy of the proof changes with its round trip; the router must not.
    after = wire.running("R1")
    again = wire.play(role, {"r1": router}, tunnel_lease=lease(mode), cisco_lan_interfaces=lans)
    assert again.returncode == 0 and wire.proof()["proved"] is True, again.output
    assert wire.running("R1") == after and "+interface" not in again.output

    gone = wire.play(role, {"r1": router}, tunnel_lease=lease(mode), cisco_lan_interfaces=lans, tunnel_state="absent")
    assert gone.returncode == 0, gone.output
    assert wire.running("R1").replace("ipv6 unicast-routing\n!\n", "") == before
    assert wire.proof() == {"proved": False, "rtt_ms": None, "target": None}


def test_the_router_knows_what_is_ours(wire: Wire) -> None:
    """Another lease leaves nothing of the one before, and what was configured goes without any lease."""
    router = host("198.51.100.10", wire.emulator(wire.router, "R1", "198.51.100.10"))
    before = wire.running("R1")
    role = [{"ansible.builtin.include_role": {"name": "tunnelbroker.tsp.cisco"}}]
    choices = {"cisco_lan_interfaces": ["GigabitEthernet0/1"], "cisco_probe": False}
    old = lease("v6v4")
    new = {**old, "prefix": "2001:db8:5000::/56", "client": {**old["client"], "ipv6": "2001:db8:f::3"}}
    for granted in (old, new):
        run = wire.play(role, {"r1": router}, tunnel_lease=granted, **choices)
        assert run.returncode == 0, run.output
    held = wire.running("R1")
    assert "2001:DB8:5000::1/64" in held and "2001:DB8:F::3/128" in held
    assert "2001:DB8:4000" not in held and "2001:DB8:F::2/128" not in held

    theirs = {"lines": ["interface Tunnel5", " description DMVPN", " tunnel destination 198.51.100.7"]}
    assert wire.play([{"tunnelbroker.tsp.router_config": theirs}], {"r1": router}).returncode == 0
    taken = wire.play(role, {"r1": router}, tunnel_lease=new, cisco_tunnel_interface="Tunnel5", **choices)
    assert taken.returncode != 0 and "Tunnel5 is in use, and not by this task" in taken.output

    for interface in ("Tunnel5", "Tunnel0"):
        gone = wire.play(role, {"r1": router}, tunnel_state="absent", cisco_tunnel_interface=interface)
        assert gone.returncode == 0, gone.output
    left = wire.running("R1")
    assert "interface Tunnel0" not in left and " description DMVPN" in left
    assert wire.play([{"tunnelbroker.tsp.router_config": {**theirs, "state": "deleted"}}], {"r1": router}).returncode == 0
    assert wire.running("R1").replace("ipv6 unicast-routing\n!\n", "") == before


def test_a_tunnel_whose_far_end_is_silent_is_not_left_behind(wire: Wire) -> None:
    router = host("198.51.100.10", wire.emulator(wire.router, "R1", "198.51.100.10"))
    before = wire.running("R1")
    failed = wire.play([{"ansible.builtin.include_role": {"name": "tunnelbroker.tsp.cisco"}}], {"r1": router}, tunnel_lease=lease("v6v4"),
                       cisco_probe_count=1, cisco_probe_timeout=1)
    assert failed.returncode != 0 and "Nothing came back from 2001:db8:f::1" in failed.output
    assert wire.running("R1") == before


def test_what_ios_cannot_carry_is_said_before_anything_is_sent(wire: Wire) -> None:
    udp = {**lease("v6v4"), "mode": "v6udpv4"}
    failed = wire.play([{"ansible.builtin.include_role": {"name": "tunnelbroker.tsp.cisco"}}],
                       {"r1": {"ansible_host": "198.51.100.10", "ansible_user": "lab"}}, tunnel_lease=udp)
    assert failed.returncode != 0 and "no UDP encapsulation" in failed.output
    assert "device_unreachable" not in failed.output

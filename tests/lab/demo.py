# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""`make demo`: the whole way, from a play to a tunnel that carries packets and back to nothing, in namespaces of its own."""

from __future__ import annotations

import json
import os
import secrets
import socket
import time
from pathlib import Path
from typing import Any

from . import picture
from .ansible import Ansible, Run
from .lab import Lab
from .machine import LabError
from .setting import BROKER, KEEPALIVE, PYTHON, ROUTER, UDP_TIMEOUT, Setting

MARK = "TSP_DEMO"


class Demo:
    """One run. Says what it does as it does it; raises LabError, with the reason, as soon as something is not as promised."""

    def __init__(self, program: Path, say: Any = print) -> None:
        self._program = program
        self._say = say
        self._began = time.monotonic()
        self._token = secrets.token_hex(8)

    def run(self) -> None:
        machine, networks = picture.of_machine(), picture.networks_in_use()
        os.environ[MARK] = self._token
        try:
            with Lab("demo") as lab:
                made = self._inside(lab)
            self._nothing_left(lab.folder, made, machine, networks)
        finally:
            del os.environ[MARK]
        self.say(f"done: everything above took {time.monotonic() - self._began:.0f} s")

    def say(self, text: str) -> None:
        self._say(f"[{time.monotonic() - self._began:5.1f} s] {text}")

    def _inside(self, lab: Lab) -> set[str]:
        """Everything that happens in the laboratory. Returns the network namespaces that were made."""
        self.say(f"network: a broker, a NAT that forgets silent UDP flows after {UDP_TIMEOUT} s, a Linux host behind it, a router")
        setting = Setting(lab, self._program)
        made = {os.readlink(f"/proc/{namespace.pid}/ns/net") for namespace in lab.namespaces}
        before = picture.of_namespace(setting.host)
        setting.start_broker()
        self.say(f"broker: {self._program.name} listens on {BROKER}, port 3653")
        (lab.folder / "known_hosts").write_text(setting.start_router(), encoding="utf-8")
        configured = setting.router_configuration()
        self.say(f"router: an emulated Cisco IOS at {ROUTER}, over SSH")
        # Ansible's sockets lie there too, and are left behind when it is interrupted.
        ansible = Ansible(lab.folder / "ansible", setting.controller, TMPDIR=str(lab.folder))
        inventory = ansible.write_inventory(self._inventory(setting))

        run = self._play(ansible, inventory, "provision")
        self.say(f"provisioned: {run.changed} changes")
        self._say("\n" + table(run.output) + "\n")
        leases = self._leases(setting, ansible)
        self._prove(setting, leases)
        self._outlive_the_nat(setting, leases["host"])

        again = self._play(ansible, inventory, "provision")
        if again.changed:
            raise LabError(f"the second run changed something:\n{again.output}")
        self.say("provisioned again: changed=0 on every device")

        self._play(ansible, inventory, "teardown")
        left = before.differences(picture.of_namespace(setting.host))
        if left:
            raise LabError("the host is not as it was:\n  " + "\n  ".join(left))
        self.say("torn down: the host's files, processes, interfaces and routes are what they were before")
        # `ipv6 unicast-routing` stays: others on the router may need it by now.
        changed = [line for line in sorted(set(setting.router_configuration()) ^ set(configured)) if "ipv6 unicast-routing" not in line]
        if changed:
            raise LabError("the router is not as it was:\n  " + "\n  ".join(changed))
        self.say("torn down: the router's configuration, running and saved, is what it was before")
        return made

    def _inventory(self, setting: Setting) -> dict[str, Any]:
        return {"all": {"children": {"tunnels": {
            "vars": {"tunnel_broker": [BROKER], "tunnel_password": setting.password, "tunnel_host_type": "router",
                     "tunnel_keepalive_interval": KEEPALIVE},
            "hosts": {
                "host": {
                    "ansible_connection": "lab_ns", "ansible_lab_ns_pid": setting.host.pid, "ansible_python_interpreter": PYTHON,
                    "linux_python": PYTHON, "tunnel_username": "alice",
                },
                "router": {
                    "ansible_host": ROUTER, "ansible_user": "admin", "ansible_password": setting.router_password,
                    "ansible_network_os": "cisco.ios.ios", "cisco_lan_interfaces": ["GigabitEthernet0/1"],
                    "cisco_known_hosts": str(setting.lab.folder / "known_hosts"), "tunnel_username": "fleet",
                    "tunnel_client_ipv4": ROUTER, "tunnel_mode": "v6v4",
                },
            },
        }}}}

    def _play(self, ansible: Ansible, inventory: Path, name: str) -> Run:
        run = ansible.playbook(f"tunnelbroker.tsp.{name}", inventory=inventory)
        if run.returncode:
            raise LabError(f"the playbook tunnelbroker.tsp.{name} failed:\n{run.output}")
        return run

    def _leases(self, setting: Setting, ansible: Ansible) -> dict[str, dict[str, Any]]:
        """What the broker granted: the host keeps its lease itself, the router's lies beside the inventory."""
        kept = sorted((ansible.folder / "leases").rglob("router*"))
        if len(kept) != 1:
            raise LabError(f"one lease of the router was expected beside the inventory, there are {[str(path) for path in kept]}")
        return {"host": json.loads(setting.host.run("cat", "/etc/ansible/facts.d/tsp.fact").stdout),
                "router": json.loads(kept[0].read_text(encoding="utf-8"))}

    def _prove(self, setting: Setting, leases: dict[str, dict[str, Any]]) -> None:
        """Packets pass in both directions, by the word of ping and not only of the playbook."""
        for origin, name, target in ((setting.host, "host -> broker", leases["host"]["server"]["ipv6"]),
                                     (setting.broker, "broker -> host", leases["host"]["client"]["ipv6"]),
                                     (setting.broker, "broker -> router", leases["router"]["client"]["ipv6"])):
            took = setting.ping(origin, target)
            if took is None:
                raise LabError(f"no ping passes the tunnel, {name} ({target})")
            self.say(f"ping {name}: {target} answers after {took:.1f} ms")

    def _outlive_the_nat(self, setting: Setting, lease: dict[str, Any]) -> None:
        """The agent's keepalive holds the NAT's mapping, while the NAT forgets another flow that stays silent."""
        with setting.broker.network():
            outside = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with setting.host.network():
            inside = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with outside, inside:
            outside.settimeout(2)
            inside.settimeout(1)
            outside.bind((BROKER, 0))
            inside.sendto(b"out", outside.getsockname())
            _said, seen = outside.recvfrom(100)
            outside.sendto(b"back", seen)
            inside.recv(100)
            wait = UDP_TIMEOUT + 2 * KEEPALIVE
            self.say(f"waiting {wait} s, longer than the NAT remembers a silent flow; the agent's keepalive goes every {KEEPALIVE} s")
            time.sleep(wait)
            outside.sendto(b"back", seen)
            try:
                inside.recv(100)
            except TimeoutError:
                pass
            else:
                raise LabError("the NAT did not forget a silent flow: nothing would be shown by a tunnel that lives")
        took = setting.ping(setting.broker, lease["client"]["ipv6"])
        if took is None:
            raise LabError("the tunnel through the NAT is dead: keepalive did not hold the mapping")
        self.say(f"a silent flow was forgotten; the tunnel lives: broker -> host answers after {took:.1f} ms")

    def _nothing_left(self, folder: Path, made: set[str], machine: picture.Picture, networks: set[str]) -> None:
        """The machine is as it was: no process, network namespace, interface or file of this run."""
        found = machine.differences(picture.of_machine())
        found += [f"process {pid}: {command}" for pid, command in picture.marked_processes(f"{MARK}={self._token}").items()]
        found += [f"network namespace {name}" for name in made & (picture.networks_in_use() - networks)]
        if folder.exists():
            found.append(f"folder {folder}")
        if found:
            raise LabError("something is left behind:\n  " + "\n  ".join(found))
        self.say(f"nothing is left behind: {len(made)} network namespaces, their interfaces, processes and files are gone")


def table(output: str) -> str:
    """The table out of what the playbook printed. Raises LabError when there is none."""
    lines = output.splitlines()
    starts = [number for number, line in enumerate(lines) if line.split()[:2] == ["device", "platform"]]
    if not starts:
        raise LabError(f"the playbook printed no table:\n{output}")
    rows = []
    for line in lines[starts[-1]:]:
        if not line.strip():
            break
        rows.append(line.strip())
    return "\n".join(rows)

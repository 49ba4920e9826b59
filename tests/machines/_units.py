# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A host with systemd behind a NAT, whose tunnel the agent keeps in its two units."""

from __future__ import annotations

import json
import time
from typing import Any

from ansible_collections.tunnelbroker.tsp.tests.lab import Lab
from ansible_collections.tunnelbroker.tsp.tests.lab.ansible import Run
from ansible_collections.tunnelbroker.tsp.tests.lab.namespace import PROJECT
from ansible_collections.tunnelbroker.tsp.tests.lab.vm import Machine, Rig
from ansible_collections.tunnelbroker.tsp.tests.lab.vm.site import BROKER, Site

AGENT, APPLY = "tsp-agent-tsp.service", "tsp-apply-tsp.service"
PROGRAM, STATUS, LEASE = "/usr/local/lib/tsp/tsp/tsp-agent.pyz", "/run/tsp-tsp/tsp.status.json", "/etc/ansible/facts.d/tsp.fact"
HOOK = "/opt/told"
TOLD = "/opt/told.log"
HOOK_TEXT = f"#!/bin/sh\n{{ echo \"$TSP_OPERATION\"; tr -d '\\n'; echo; }} >>{TOLD}\n"
PICTURE = r"""
find /etc /usr/local /opt /root /var/lib /var/cache /run -xdev ! -type s ! -type p -printf '%y %m %u:%g %p %l\n' | sed '
/ \/run\/\(udev\|log\|user\)/d
/ \/run\/systemd\/\(journal\|units\|seats\|sessions\|users\|inhibit\|transient\|netif\|timesync\|resolve\|propagate\|incoming\)/d
/ \/run\/systemd\/dynamic-uid/d
/ \/var\/lib\/systemd/d'
ip -o addr show | sed 's/^[0-9]*: //; s/ *valid_lft.*//'
ip route show table all; ip -6 route show table all; ip fou show
systemctl list-units --all --plain --no-legend 'tsp*' | tr -s ' '
grep -s "" /proc/sys/net/ipv6/conf/{all,default,eth0}/{forwarding,accept_ra}
true
"""


class World:
    """The machine, and what a test does with it."""

    def __init__(self, lab: Lab) -> None:
        self.site, self.rig = Site(lab), Rig(lab)
        self.host: Machine = self.rig.start("host", self.site.behind_nat(2), governor="networkd", files={HOOK[1:]: HOOK_TEXT})
        self.site.start_broker(["alice"])
        self.password = self.site.passwords["alice"]
        self.results = lab.folder / "results.json"
        self.ansible = self.rig.ansible(lab.folder / "ansible", ANSIBLE_CALLBACK_PLUGINS=str(PROJECT / "tests/lab/callback_plugins"),
                                        ANSIBLE_CALLBACKS_ENABLED="lab_results", LAB_RESULTS=str(self.results))
        self.inventory = self.ansible.write_inventory(self.rig.inventory({"host": self.host}, self.site.variables("alice")))
        self.book = lab.folder / "play.json"
        self.host.wait()
        # The modules first: with them come devices such as sit0, which stay. Ansible's folder for facts is not ours to remove.
        self.host.run("modprobe -a sit fou; mkdir -p /etc/ansible/facts.d")

    # Ansible ----------------------------------------------------------------------------------------------------------------------

    def play(self, *words: str, **variables: Any) -> dict[str, Any]:
        """Run the role tunnel, which must not fail. Returns the result of its transaction, {} where there was none."""
        self.results.unlink(missing_ok=True)
        self.run([{"hosts": "all", "gather_facts": False, "roles": ["tunnelbroker.tsp.tunnel"]}], "--diff", "-e",
                 json.dumps({"linux_probe_timeout": 120, **variables}), *words)
        lines = self.results.read_text(encoding="utf-8").splitlines() if self.results.exists() else []
        found: list[dict[str, Any]] = [entry["result"] for entry in map(json.loads, lines) if entry["action"].endswith("apply_config")]
        return found[-1] if found else {}

    def renew(self) -> None:
        """The module, beside the agent."""
        self.run([{"hosts": "all", "gather_facts": False, "tasks": [{"tunnelbroker.tsp.tunnel": {
            "broker": [BROKER], "username": "alice", "password": "{{ tunnel_password }}", "min_interval": 0, "renew": True}}]}])

    def run(self, plays: list[dict[str, Any]], *words: str) -> Run:
        self.book.write_text(json.dumps(plays), encoding="utf-8")
        run = self.ansible.playbook(str(self.book), *words, inventory=self.inventory, timeout=900)
        assert run.returncode == 0, run.output
        assert self.password not in run.output
        return run

    # The host ---------------------------------------------------------------------------------------------------------------------

    def until(self, command: str, patience: float = 300) -> None:
        """Wait until a shell command succeeds there."""
        end = time.monotonic() + patience
        while self.host.run(command, check=False).returncode:
            assert time.monotonic() < end, f"never happened: {command}"
            time.sleep(0.3)

    def until_up(self, *, not_pid: str = "") -> None:
        """Until both units are active, the agent (another process than `not_pid`) says so, and packets pass."""
        self.until(f"test $(systemctl show -P MainPID {AGENT}) -gt 0 -a $(systemctl show -P MainPID {AGENT}) != '{not_pid}'")
        self.until(f"systemctl is-active {AGENT} && systemctl is-active {APPLY} && grep -q '\"state\": \"up\"' {STATUS}")
        self.until(f"ping -n -c1 -W5 -I tsp0 {self.lease()['server']['ipv6']}")

    def until_nothing_is_there(self) -> None:
        """No device, no port of the kernel's, no folder of either unit."""
        self.until(f"! systemctl is-active {APPLY} && ! ip link show tsp0 && ! ls -d /run/tsp-*")
        assert self.fou_ports() == 0 and "tsp0" not in self.host.run("ip -6 route show table all").stdout

    def pid(self, unit: str) -> str:
        return self.host.run(f"systemctl show -P MainPID {unit}").stdout.strip()

    def restarts(self) -> int:
        return int(self.host.run(f"systemctl show -P NRestarts {AGENT}").stdout)

    def failed(self) -> str:
        """Units that failed and are not yet started again."""
        return self.host.run("systemctl list-units --failed --no-legend --plain 'tsp*'").stdout

    def lease(self) -> dict[str, Any]:
        data: dict[str, Any] = json.loads(self.host.read(LEASE))
        return data

    def status(self) -> dict[str, Any]:
        data: dict[str, Any] = json.loads(self.host.read(STATUS))
        return data

    def fou_ports(self) -> int:
        return len(self.host.run("ip fou show").stdout.splitlines())

    def said(self, *words: str) -> str:
        """The journal of both units since the boot. words: more for journalctl."""
        return self.host.run(f"journalctl -b --no-pager -o short -u {AGENT} -u {APPLY} {' '.join(words)}").stdout

    def facts_of(self, pid: str) -> dict[str, str]:
        """Of a process: what /proc/PID/status says."""
        lines = self.host.read(f"/proc/{pid}/status").splitlines()
        return {key: value.strip() for key, _colon, value in (line.partition(":") for line in lines)}

    def picture(self) -> list[str]:
        return sorted(self.host.run("bash -s", input=PICTURE).stdout.splitlines())

# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The agent's unit for systemd: closed to all but what the role's variables make the agent use."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.tunnelbroker.tsp.tests.lab.ansible import Ansible


@pytest.mark.parametrize(("chosen", "written", "home"), [
    ({}, "-/etc/ansible/facts.d", "yes"),
    ({"agent_password_file": "/home/ops/password"}, "-/etc/ansible/facts.d", "read-only"),
    ({"agent_lease_file": "/srv/leases/tsp", "agent_lan_interfaces": ["eth1"]},
     "-/srv/leases -/etc -/usr/local/lib/tsp -/var/lib/tsp-apply", "yes"),
])
def test_it_reaches_what_the_agent_uses(chosen: dict[str, Any], written: str, home: str, tmp_path: Path) -> None:
    ansible = Ansible(tmp_path / "ansible")
    role = {"ansible.builtin.include_role": {"name": "tunnelbroker.tsp.agent", "tasks_from": "render"}, "vars": {
        "tunnel_render_dir": str(tmp_path), "agent_request": {"mode": "v6udpv4"}, "agent_broker": ["192.0.2.1"], **chosen}}
    play = tmp_path / "play.yml"
    play.write_text(json.dumps([{"hosts": "localhost", "gather_facts": False, "tasks": [role]}]), encoding="utf-8")
    run = ansible.playbook(str(play))
    assert run.returncode == 0, run.output
    folder = tmp_path / "localhost/etc/systemd/system"
    agent, apply = folder / "tsp-agent-tsp.service", folder / "tsp-apply-tsp.service"
    lines = apply.read_text(encoding="utf-8").splitlines()
    assert f"ReadWritePaths={written}" in lines and f"ProtectHome={home}" in lines
    assert "CapabilityBoundingSet=CAP_NET_ADMIN CAP_NET_RAW" in lines
    lines = agent.read_text(encoding="utf-8").splitlines()
    assert {"DynamicUser=yes", "CapabilityBoundingSet=", "NoNewPrivileges=yes", "StateDirectory=tsp"} <= set(lines)
    if shutil.which("systemd-analyze"):
        for unit in (agent, apply):
            said = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False).stderr
            assert not [line for line in said.splitlines() if unit.name in line and "not executable" not in line], said


def test_what_reads_the_network_has_next_to_no_rights(tmp_path: Path) -> None:
    """As systemd itself reckons: 0 is nothing at all, 10 everything."""
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not installed")
    test_it_reaches_what_the_agent_uses({}, "-/etc/ansible/facts.d", "yes", tmp_path)
    folder = tmp_path / "localhost/etc/systemd/system"
    for unit, most in (("tsp-agent-tsp.service", 2.0), ("tsp-apply-tsp.service", 5.0)):
        done = subprocess.run(["systemd-analyze", "security", "--offline=true", "--no-pager", str(folder / unit)],
                              capture_output=True, text=True, check=False)
        found = re.search(r"exposure level.*: ([0-9.]+)", done.stdout)
        assert found, done.stdout + done.stderr
        assert float(found.group(1)) <= most, done.stdout

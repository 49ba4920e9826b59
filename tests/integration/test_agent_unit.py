# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The agent's unit for systemd: closed to all but what the role's variables make the agent use."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.tunnelbroker.tsp.tests.lab.ansible import Ansible


@pytest.mark.parametrize(("chosen", "written", "home"), [
    ({}, "-/etc/ansible/facts.d -/var/lib/tsp", "yes"),
    ({"agent_password_file": "/home/ops/password"}, "-/etc/ansible/facts.d -/var/lib/tsp", "read-only"),
    ({"agent_known_keys_file": "/srv/keys/known", "agent_exchange_state_dir": "/home/tsp"}, "-/etc/ansible/facts.d -/srv/keys -/home/tsp",
     "read-only"),
])
def test_it_reaches_what_the_agent_uses(chosen: dict[str, Any], written: str, home: str, tmp_path: Path) -> None:
    ansible = Ansible(tmp_path / "ansible")
    role = {"ansible.builtin.include_role": {"name": "tunnelbroker.tsp.agent", "tasks_from": "render"}, "vars": {
        "tunnel_render_dir": str(tmp_path), "agent_request": {"mode": "v6udpv4"}, "agent_broker": ["192.0.2.1"], **chosen}}
    play = tmp_path / "play.yml"
    play.write_text(json.dumps([{"hosts": "localhost", "gather_facts": False, "tasks": [role]}]), encoding="utf-8")
    run = ansible.playbook(str(play))
    assert run.returncode == 0, run.output
    unit = tmp_path / "localhost/etc/systemd/system/tsp-agent-tsp.service"
    lines = unit.read_text(encoding="utf-8").splitlines()
    assert f"ReadWritePaths={written}" in lines and f"ProtectHome={home}" in lines
    if shutil.which("systemd-analyze"):
        said = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False).stderr
        assert not [line for line in said.splitlines() if "tsp-agent-tsp.service" in line and "not executable" not in line], said

# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the role agent writes for systems other than Linux, rendered by Ansible itself. (None of these systems is here to run it.)"""

from __future__ import annotations

import json
import plistlib
import subprocess
from pathlib import Path

from ansible_collections.tunnelbroker.tsp.tests.lab.ansible import Ansible

FILES = {"FreeBSD": "usr/local/etc/rc.d/tsp_agent_home_1", "OpenBSD": "etc/rc.d/tsp_agent_home_1", "NetBSD": "etc/rc.d/tsp_agent_home_1",
         "Darwin": "Library/LaunchDaemons/tsp_agent_home_1.plist"}


def test_each_system_gets_its_own_service_file(tmp_path: Path) -> None:
    """Two of them are known by their facts, two are named."""
    ansible = Ansible(tmp_path / "ansible")
    tasks = []
    for system in FILES:
        known = {"ansible_facts": {"system": system}} if system in ("FreeBSD", "NetBSD") else {"agent_system": system}
        tasks.append({"ansible.builtin.include_role": {"name": "tunnelbroker.tsp.agent", "tasks_from": "render"}, "vars": {
            "tunnel_render_dir": str(tmp_path / system), "agent_request": {"mode": "v6udpv4"}, "agent_broker": ["192.0.2.1"],
            "agent_name": "home-1", **known}})
    play = tmp_path / "play.yml"
    play.write_text(json.dumps([{"hosts": "localhost", "gather_facts": False, "tasks": tasks}]), encoding="utf-8")
    run = ansible.playbook(str(play))
    assert run.returncode == 0, run.output
    for system, name in FILES.items():
        folder = tmp_path / system / "localhost"
        text = (folder / name).read_text(encoding="utf-8")
        assert system == "Darwin" or "/var/run/tsp-home-1/home-1.pid" in text
        assert json.loads((folder / "etc/tsp/home-1.json").read_text(encoding="utf-8"))["runtime_dir"] == "/var/run/tsp-home-1"
        assert not (folder / "etc/systemd").exists()
        if system == "Darwin":
            assert plistlib.loads(text.encode())["Label"] == "tsp_agent_home_1"
        else:
            subprocess.run(["sh", "-n"], input=text, text=True, check=True)

# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Every target of tests/integration/targets, as `ansible-test integration` runs it: one test each.

A target is a role, or a folder with a runme.sh; its `aliases` say `needs/root`, `disabled` and so on, as ansible-test reads them.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from ansible_collections.tunnelbroker.tsp.tests.lab.ansible import Ansible

ROOT = Path(__file__).resolve().parent.parent.parent
TARGETS = ROOT / "tests/integration/targets"
NOT_TESTS = ("setup_", "prepare_")


def aliases(target: Path) -> set[str]:
    path = target / "aliases"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return {line.split("#")[0].strip() for line in lines} - {""}


def targets() -> list[object]:
    found = []
    for target in sorted(p for p in TARGETS.glob("*") if p.is_dir() and not p.name.startswith(NOT_TESTS)):
        said = aliases(target)
        marks = [pytest.mark.root] if said & {"needs/root", "destructive"} else []
        marks += [pytest.mark.skip(reason="its aliases say so")] if said & {"disabled", "unsupported", "hidden"} else []
        found.append(pytest.param(target, id=target.name, marks=marks))
    return found


@pytest.mark.parametrize("target", targets())
def test_target(target: Path, tmp_path: Path) -> None:
    ansible = Ansible(tmp_path, ANSIBLE_REMOTE_TEMP=str(tmp_path / "remote"), ANSIBLE_ROLES_PATH=str(TARGETS),
                      OUTPUT_DIR=str(tmp_path / "output"))
    inventory = ansible.write_inventory({"all": {"children": {"testgroup": {"hosts": {"testhost": {
        "ansible_connection": "local", "ansible_python_interpreter": "{{ ansible_playbook_python }}",
        "output_dir": str(tmp_path / "output")}}}}}})
    if (target / "runme.sh").exists():
        done = subprocess.run([str(target / "runme.sh")], cwd=target, env={**ansible.environment, "INVENTORY_PATH": str(inventory)},
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600,
                              check=False)
        returncode, output = done.returncode, done.stdout
    else:
        play = [{"hosts": "testhost", "gather_facts": "gather_facts/no" not in aliases(target), "roles": [target.name]}]
        (tmp_path / "play.yml").write_text(json.dumps(play), encoding="utf-8")
        run = ansible.playbook(str(tmp_path / "play.yml"), inventory=inventory, cwd=target, timeout=600)
        returncode, output = run.returncode, run.output
    assert returncode == 0, output
    assert "Traceback (most recent call last)" not in output, output

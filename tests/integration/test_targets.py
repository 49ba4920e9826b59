# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Every target of tests/integration/targets, as `ansible-test integration` runs it: one test each.

A target is a role, or a folder with a runme.sh; its `aliases` say `needs/root`, `disabled` and so on, as ansible-test reads them.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

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


def environment(folder: Path) -> dict[str, str]:
    """Nothing of the user's is read or written: own home, own temporary folders; the collection by its name."""
    name = folder / "collections/ansible_collections/tunnelbroker/tsp"
    name.parent.mkdir(parents=True)
    name.symlink_to(ROOT)
    keep = {key: value for key, value in os.environ.items() if not key.startswith(("ANSIBLE_", "PYTEST_", "PYTHONPATH"))}
    return {
        **keep,
        "ANSIBLE_COLLECTIONS_PATH": str(folder / "collections"),
        "ANSIBLE_CONFIG": str(folder / "ansible.cfg"),
        "ANSIBLE_DEPRECATION_WARNINGS": "1",
        "ANSIBLE_HOME": str(folder / "ansible"),
        "ANSIBLE_LOCAL_TEMP": str(folder / "local"),
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_REMOTE_TEMP": str(folder / "remote"),
        "ANSIBLE_RETRY_FILES_ENABLED": "0",
        "ANSIBLE_ROLES_PATH": str(TARGETS),
        "HOME": str(folder / "home"),
        "OUTPUT_DIR": str(folder / "output"),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"]),
    }


@pytest.mark.parametrize("target", targets())
def test_target(target: Path, tmp_path: Path) -> None:
    env = environment(tmp_path)
    for name in ("home", "output"):
        (tmp_path / name).mkdir()
    (tmp_path / "ansible.cfg").write_text("[defaults]\n", encoding="utf-8")
    inventory = tmp_path / "inventory"
    inventory.write_text(json.dumps({"all": {"children": {"testgroup": {"hosts": {"testhost": {
        "ansible_connection": "local", "ansible_python_interpreter": "{{ ansible_playbook_python }}",
        "output_dir": str(tmp_path / "output")}}}}}}), encoding="utf-8")
    env["INVENTORY_PATH"] = str(inventory)
    if (target / "runme.sh").exists():
        words = [str(target / "runme.sh")]
    else:
        said = aliases(target)
        play = [{"hosts": "testhost", "gather_facts": "gather_facts/no" not in said, "roles": [target.name]}]
        (tmp_path / "play.yml").write_text(json.dumps(play), encoding="utf-8")
        words = [shutil.which("ansible-playbook", path=env["PATH"]) or "ansible-playbook", "-i", str(inventory), str(tmp_path / "play.yml")]
    done = subprocess.run(words, cwd=target, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          timeout=600, check=False)
    assert done.returncode == 0, done.stdout
    assert "Traceback (most recent call last)" not in done.stdout, done.stdout

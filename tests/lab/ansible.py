# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Run playbooks from tests and from the demonstration as a user would, with nothing of the user's own read or written."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .machine import LabError
from .namespace import PROJECT, Namespace

_RECAP = re.compile(r"^(?P<host>\S+)\s+: (?P<counts>(?:\w+=\d+\s*)+)$", re.MULTILINE)


@dataclass(frozen=True)
class Run:
    """One run of ansible-playbook. recap: host -> {ok, changed, unreachable, failed, skipped, …}."""

    returncode: int
    output: str
    recap: dict[str, dict[str, int]] = field(default_factory=dict)

    @property
    def changed(self) -> int:
        return sum(counts["changed"] for counts in self.recap.values())


class Ansible:
    """ansible-playbook with a home, a configuration and temporary folders of its own below `folder`.

    The collection is this checkout, by its name. Playbooks are run from a namespace's network where one is given; with `whole` also among
    its processes, so that connections which Ansible keeps open end with the namespace.
    """

    def __init__(self, folder: Path, namespace: Namespace | None = None, whole: bool = False, **environment: str) -> None:
        self.folder = folder
        self.namespace = namespace
        self.whole = whole
        folder.mkdir(parents=True, exist_ok=True)
        name = folder / "collections/ansible_collections/tunnelbroker/tsp"
        name.parent.mkdir(parents=True)
        name.symlink_to(PROJECT)
        for sub in ("home", "output"):
            (folder / sub).mkdir()
        (folder / "ansible.cfg").write_text("[defaults]\n", encoding="utf-8")
        keep = {key: value for key, value in os.environ.items() if not key.startswith(("ANSIBLE_", "PYTEST_", "PYTHONPATH"))}
        self.environment = {
            **keep,
            "ANSIBLE_CALLBACK_RESULT_FORMAT": "yaml",
            "ANSIBLE_COLLECTIONS_PATH": str(folder / "collections"),
            "ANSIBLE_CONFIG": str(folder / "ansible.cfg"),
            "ANSIBLE_CONNECTION_PLUGINS": str(PROJECT / "tests/lab/connection_plugins"),
            "ANSIBLE_HOME": str(folder / "ansible"),
            "ANSIBLE_LOCAL_TEMP": str(folder / "local"),
            "ANSIBLE_LOCALHOST_WARNING": "0",
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_REMOTE_TEMP": "/tmp/.ansible",
            "ANSIBLE_RETRY_FILES_ENABLED": "0",
            "HOME": str(folder / "home"),
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"]),
            **environment,
        }

    def write_inventory(self, inventory: dict[str, Any], name: str = "inventory.json") -> Path:
        """An inventory in Ansible's YAML form, as data."""
        path = self.folder / name
        path.write_text(json.dumps(inventory, indent=2), encoding="utf-8")
        return path

    def playbook(self, *words: str, inventory: Path | None = None, timeout: float = 300, cwd: Path | None = None) -> Run:
        """Run ansible-playbook. Never raises for a failed play: look at returncode."""
        program = shutil.which("ansible-playbook", path=self.environment["PATH"])
        if program is None:
            raise LabError("ansible-playbook is not in PATH. Run this by make, which makes an environment with it.")
        command = [program, *(() if inventory is None else ("-i", str(inventory))), *words]
        if self.namespace is not None:
            command = self.namespace.wrap(*command, network_only=not self.whole)
        done = subprocess.run(command, cwd=cwd or self.folder, env=self.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, timeout=timeout, check=False)
        recap = {match["host"]: {key: int(value) for key, value in (pair.split("=") for pair in match["counts"].split())}
                 for match in _RECAP.finditer(done.stdout.partition("PLAY RECAP")[2])}
        return Run(done.returncode, done.stdout, recap)

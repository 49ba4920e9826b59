# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the README tells people to paste works as pasted, and its second run changes nothing."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._broker import build
from ansible_collections.tunnelbroker.tsp.tests.lab import Lab
from ansible_collections.tunnelbroker.tsp.tests.lab.ansible import Ansible


def pasted(readme: str, name: str) -> str:
    """The block of the README that starts with a comment naming the file."""
    return re.search(rf"```yaml\n(# {name}.*?)```", readme, re.DOTALL).group(1)


@pytest.mark.root
def test_the_first_playbook(tmp_path: Path, repository: Path) -> None:
    readme = (repository / "README.md").read_text(encoding="utf-8")
    (tmp_path / "broker.yml").write_text(pasted(readme, "broker.yml"), encoding="utf-8")
    (tmp_path / "first.yml").write_text(pasted(readme, "first.yml"), encoding="utf-8")
    assert build.main([str(tmp_path / "tsp-broker.pyz")]) == 0
    with Lab("test-readme") as lab:
        machine = lab.namespace("machine")
        broker = machine.popen(sys.executable, str(tmp_path / "tsp-broker.pyz"), "serve", "--config", "broker.yml", cwd=tmp_path,
                               label="broker")
        deadline = time.monotonic() + 30
        while not machine.has_udp_port(3653):
            assert broker.poll() is None and time.monotonic() < deadline, machine.log_path("broker").read_text(encoding="utf-8")
            time.sleep(0.05)
        ansible = Ansible(tmp_path / "ansible", machine)
        first = ansible.playbook("first.yml", cwd=tmp_path)
        assert first.returncode == 0, first.output
        assert re.search(r"v6(v4|udpv4): 2001:db8:f::[0-9a-f]+, the broker'{1,2}s end is 2001:db8:f::1", first.output)
        assert first.changed == 1
        assert list((tmp_path / "leases").iterdir())
        # The broker is gone: the second run does not need it.
        broker.terminate()
        broker.wait(timeout=10)
        second = ansible.playbook("first.yml", cwd=tmp_path)
        assert second.returncode == 0 and second.changed == 0, second.output


def test_the_two_commands_are_in_the_makefile(repository: Path) -> None:
    readme = (repository / "README.md").read_text(encoding="utf-8")
    makefile = (repository / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make ([a-z ]+?)(?: +#.*)?$", readme, re.MULTILINE):
        for name in target.split():
            assert re.search(rf"^{name}:", makefile, re.MULTILINE), f"the README speaks of make {name}"


def test_the_first_playbook_is_short(repository: Path) -> None:
    text = pasted((repository / "README.md").read_text(encoding="utf-8"), "first.yml")
    assert len([line for line in text.splitlines() if line.strip() and not line.startswith("#")]) <= 15

# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The examples of the roles' READMEs as they stand: check mode writes nothing, the run proves a tunnel, a second one changes nothing.

(The role radvd's is in test_radvd_tunnel.py, the README's own in test_readme.py.)
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.tunnelbroker.tsp.tests.integration._agent_net import PASSWORD, Net, freeze
from ansible_collections.tunnelbroker.tsp.tests.lab import Lab
from ansible_collections.tunnelbroker.tsp.tests.lab.ansible import Ansible, Run
from ansible_collections.tunnelbroker.tsp.tests.lab.namespace import PROJECT

pytestmark = pytest.mark.root
PICTURE = """
ip -o addr show scope global | sed 's/ *valid_lft.*//'
ip -o link show | sed 's/ *qlen.*//'
for family in -4 -6; do ip $family route show; ip $family rule show; done
find /etc/tsp /etc/ansible /usr/local/lib /var/lib/tsp-apply -type f
grep -s "" /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv6/conf/*/forwarding
true
"""


class Branch:
    """A host behind a NAT, in the groups that the examples name."""

    def __init__(self, lab: Lab) -> None:
        self.net = Net(lab)
        self.net.start_broker()
        self.host = self.net.host
        self.host.run("rm", "-rf", "/var/lib/tsp-apply", "/etc/ansible")
        self.ansible = Ansible(lab.folder / "ansible")
        freeze(self.ansible.folder)
        host = {"ansible_connection": "lab_ns", "ansible_lab_ns_pid": self.host.pid, "ansible_python_interpreter": sys.executable,
                "ansible_become": False, "vault_tunnel_password": PASSWORD, "linux_python": sys.executable, "linux_service_manager": "none",
                "agent_python": sys.executable, "agent_manager": "none", "tunnel_min_interval": 0}
        self.inventory = self.ansible.write_inventory(
            {"all": {"children": {group: {"hosts": {"branch": host}} for group in ("routers", "branch_office")}}})

    def book(self, role: str) -> Path:
        """The first example of a role, with this laboratory's broker in it."""
        found = re.search(r"```yaml\n(.*?)```", (PROJECT / "roles" / role / "README.md").read_text(encoding="utf-8"), re.DOTALL)
        assert found is not None
        path = self.ansible.folder / f"{role}.yml"
        path.write_text(found.group(1).replace("broker.example", "192.0.2.1"), encoding="utf-8")
        return path

    def play(self, book: Path, *words: str, **variables: Any) -> Run:
        run = self.ansible.playbook(str(book), *words, "-e", json.dumps(variables), inventory=self.inventory)
        assert run.returncode == 0 and PASSWORD not in run.output, run.output
        return run

    def picture(self) -> list[str]:
        return sorted(self.host.run("sh", "-c", PICTURE).stdout.splitlines())


@pytest.fixture(scope="module")
def branch(request: pytest.FixtureRequest) -> Iterator[Branch]:
    with Lab("examples", lambda: request.session.testsfailed) as lab:
        yield Branch(lab)


@pytest.mark.parametrize(("role", "away"), [("tunnel", {"tunnel_state": "absent"}), ("linux", {"tunnel_state": "absent"}),
                                            ("agent", {"agent_state": "absent"})])
def test_the_example_of_a_role(branch: Branch, role: str, away: dict[str, str]) -> None:
    book = branch.book(role)
    before = branch.picture()
    assert branch.play(book, "--check", "--diff").changed >= 1
    assert branch.picture() == before
    assert branch.play(book).changed >= 1
    branch.host.run("ping", "-6", "-n", "-c1", "-W20", "2001:db8:f::1")
    there = branch.picture()
    assert branch.play(book).changed == 0
    assert branch.play(book, "--check").changed == 0
    assert branch.picture() == there
    branch.play(book, **away)
    assert branch.play(book, **away).changed == 0
    branch.host.run("rm", "-rf", "/etc/ansible")
    after = branch.picture()
    assert (sorted(set(before) - set(after)), sorted(set(after) - set(before))) == ([], [])

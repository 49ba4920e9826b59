# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The role broker on a host of its own: one play puts a working broker there, a second changes nothing, a third takes it away.

The host has no systemd running, so the unit is judged by systemd-analyze and the program is started as the unit would start it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.tunnelbroker.tsp.tests.integration._agent_net import wait_for
from ansible_collections.tunnelbroker.tsp.tests.lab import Lab
from ansible_collections.tunnelbroker.tsp.tests.lab.ansible import Ansible, Run
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._broker._client import asking

pytestmark = pytest.mark.root
PASSWORD = "canary-swordfish"
CONFIG = {"name": "Broker.example", "modes": ["v6udpv4", "v4v6"], "data_plane": "none", "listen": {"addresses": ["127.0.0.1"]},
          "auth": {"plain": True}, "pools": {"ipv6": "2001:db8:f::/64", "ipv4": "198.51.100.0/24"}}


class Host:
    def __init__(self, lab: Lab, folder: Path) -> None:
        self.host = lab.namespace("host", root=True)
        self.host.ip("link set lo up")
        other = os.environ.get("TSP_TEST_ANSIBLE")  # the bin folder of another ansible-core than this Python's
        self.ansible = Ansible(folder, **({"PATH": f"{other}:/usr/bin:/bin:/usr/sbin:/sbin"} if other else {}))
        self.inventory = self.ansible.write_inventory({"all": {"hosts": {"broker": {
            "ansible_connection": "lab_ns", "ansible_lab_ns_pid": self.host.pid, "ansible_python_interpreter": sys.executable}},
            "vars": {"broker_config": CONFIG, "broker_service": False, "broker_packages": [], "broker_python": sys.executable,
                     "broker_accounts": [{"username": "alice", "password": PASSWORD}]}}})
        self.book = folder / "play.json"
        self.book.write_text(json.dumps([{"hosts": "all", "gather_facts": False, "roles": ["tunnelbroker.tsp.broker"]}]))

    def play(self, *words: str, **variables: Any) -> Run:
        return self.ansible.playbook(str(self.book), "-e", json.dumps(variables), *words, inventory=self.inventory)

    def read(self, path: str) -> str:
        return self.host.run("cat", path).stdout


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    with Lab("broker-role") as lab:
        made = Host(lab, tmp_path_factory.mktemp("ansible"))
        made.host.run("rm", "-rf", "/var/lib/tsp-broker")  # of a broker that the machine below has
        first = made.play()
        assert first.returncode == 0 and first.changed, first.output
        assert PASSWORD not in first.output
        yield made


def test_the_second_run_changes_nothing(host: Host) -> None:
    second = host.play()
    assert second.returncode == 0 and second.changed == 0, second.output


def test_files_have_their_owners_and_no_password(host: Host) -> None:
    shown = host.host.run("stat", "-c", "%a %U %G", "/etc/tsp-broker", "/etc/tsp-broker/broker.yml", "/etc/tsp-broker/accounts.yml",
                          "/var/lib/tsp-broker", "/usr/local/lib/tsp-broker/tsp-broker.pyz").stdout.splitlines()
    assert shown == ["750 root tsp-broker", "640 root tsp-broker", "640 root tsp-broker", "700 tsp-broker tsp-broker", "755 root root"]
    assert PASSWORD not in host.read("/etc/tsp-broker/accounts.yml") and "digest_ha1" in host.read("/etc/tsp-broker/accounts.yml")
    assert host.read("/etc/sysctl.d/90-tsp-broker.conf").splitlines()[1:] == ["net.ipv6.conf.all.forwarding = 1", "net.ipv4.ip_forward = 1"]
    assert host.host.run("cat", "/proc/sys/net/ipv6/conf/all/forwarding").stdout == "1\n", "the handler did not run"


def test_the_broker_that_was_installed_serves_its_accounts_as_its_own_user(host: Host) -> None:
    python = "/usr/bin/python3"  # the one that runs the tests may lie where other users see nothing
    if not os.path.exists(python):
        pytest.skip(f"needs {python}, which every user may run")
    program = host.host.popen("setpriv", "--reuid=tsp-broker", "--regid=tsp-broker", "--clear-groups", python,
                              "/usr/local/lib/tsp-broker/tsp-broker.pyz", "serve", "--config", "/etc/tsp-broker/broker.yml", label="serve")
    wait_for("the broker listens", lambda: ":3653" in host.host.run("ss", "-Hlun").stdout or program.poll() is not None)
    assert program.poll() is None, host.host.log_path("serve").read_text(encoding="utf-8")
    for method in ("digest-md5", "plain"):
        with host.host.network(), asking("127.0.0.1", 3653, password=PASSWORD, method=method, mode="v6udpv4") as outcome:
            assert outcome.grant.mode == "v6udpv4"
    assert host.host.run("stat", "-c", "%a %U", "/var/lib/tsp-broker/leases.db").stdout == "600 tsp-broker\n"
    program.terminate()
    program.wait()


def test_a_wrong_configuration_is_refused_and_the_old_one_stays(host: Host) -> None:
    before = host.read("/etc/tsp-broker/broker.yml")
    done = host.play(broker_config={**CONFIG, "modes": ["v6v5"]})
    assert done.returncode and "Did you mean v6v4?" in done.output
    assert host.read("/etc/tsp-broker/broker.yml") == before
    missing = host.play(broker_config={"name": "broker.example"})
    assert missing.returncode and "Set name and pools.ipv6 in broker_config" in missing.output


def test_the_unit_is_one_that_systemd_understands(host: Host, repository: Path, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze (Debian: apt-get install systemd)")
    book = tmp_path / "unit.json"
    book.write_text(json.dumps([{"hosts": "localhost", "connection": "local", "gather_facts": False,
                                 "vars_files": [str(repository / f"roles/broker/{kind}/main.yml") for kind in ("defaults", "vars")],
                                 "vars": {"broker_program": "/bin/true", "broker_user": "nobody", "broker_python": "/bin/sh"},
                                 "tasks": [{"ansible.builtin.template": {
                                     "src": str(repository / "templates/broker/broker.service.j2"),
                                     "dest": str(tmp_path / "tsp-broker.service"), "mode": "0644"}}]}]))
    done = host.ansible.playbook(str(book))
    assert done.returncode == 0, done.output
    judged = subprocess.run(["systemd-analyze", "verify", str(tmp_path / "tsp-broker.service")], stdin=subprocess.DEVNULL,
                            capture_output=True, text=True, check=False)
    complaints = [line for line in judged.stderr.splitlines() if "tsp-broker" in line]
    assert not complaints, judged.stderr


def test_absent_leaves_the_leases_and_nothing_else(host: Host) -> None:
    host.host.run(sys.executable, "/usr/local/lib/tsp-broker/tsp-broker.pyz", "leases", "list", "--config", "/etc/tsp-broker/broker.yml")
    gone = host.play(broker_state="absent")
    assert gone.returncode == 0, gone.output
    left = host.host.run("sh", "-c", "ls -d /etc/tsp-broker /usr/local/lib/tsp-broker /etc/sysctl.d/90-tsp-broker.conf "
                                     "/var/lib/tsp-broker/leases.db 2>/dev/null", check=False).stdout.split()
    assert left == ["/var/lib/tsp-broker/leases.db"]
    assert host.play(broker_state="absent").changed == 0

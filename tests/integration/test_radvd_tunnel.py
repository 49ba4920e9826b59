# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Router advertisements with the tunnel that they are for: in its transaction (linux_radvd), and beside it (role radvd)."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator
from ipaddress import IPv6Network
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.tunnelbroker.tsp.tests.integration._advertisements import Listener
from ansible_collections.tunnelbroker.tsp.tests.integration._agent_net import PASSWORD, Net, freeze
from ansible_collections.tunnelbroker.tsp.tests.lab import Lab
from ansible_collections.tunnelbroker.tsp.tests.lab.ansible import Ansible, Run
from ansible_collections.tunnelbroker.tsp.tests.lab.namespace import PROJECT

pytestmark = [pytest.mark.root, pytest.mark.skipif(shutil.which("radvd") is None, reason="radvd is not installed")]
SITE = "interface eth2 {\n    AdvSendAdvert on;\n    MinRtrAdvInterval 3;\n    MaxRtrAdvInterval 4;\n};\n"
TOGETHER: list[dict[str, Any]] = [{"hosts": "all", "gather_facts": False, "roles": ["tunnelbroker.tsp.tunnel"]}]
DEPRECATED = "AdvPreferredLifetime 0;"


class Router:
    """A host behind a NAT, whose tunnel an agent keeps, with two LANs; on one of them somebody listens."""

    def __init__(self, lab: Lab) -> None:
        self.prefix = ""
        self.net = Net(lab)
        self.net.start_broker()
        self.host, neighbour = self.net.host, lab.namespace("neighbour")
        segment = lab.segment("lan2")
        segment.attach(self.host, "eth2")
        segment.attach(neighbour, "eth0")
        self.listener = Listener(neighbour, "eth0")
        self.host.run("sh", "-c", "rm -rf /var/lib/tsp-apply; cat > /etc/radvd.conf", input=SITE)
        self.ansible = Ansible(lab.folder / "ansible")
        freeze(self.ansible.folder)
        self.inventory = self.ansible.write_inventory({"all": {"children": {"branch_office": {"hosts": {"branch": {
            "ansible_connection": "lab_ns", "ansible_lab_ns_pid": self.host.pid, "ansible_python_interpreter": sys.executable}}}},
            "vars": {"tunnel_broker": ["192.0.2.1"], "tunnel_username": "alice", "tunnel_password": PASSWORD, "tunnel_min_interval": 0,
                     "tunnel_host_type": "router", "tunnel_prefix_length": 56, "linux_python": sys.executable, "ansible_become": False,
                     "linux_service_manager": "none"}}})
        self.together, self.beside = lab.folder / "together.json", lab.folder / "beside.yml"
        self.together.write_text(json.dumps(TOGETHER), encoding="utf-8")
        found = re.search(r"```yaml\n(.*?)```", (PROJECT / "roles/radvd/README.md").read_text(encoding="utf-8"), re.DOTALL)
        assert found is not None
        self.beside.write_text(found.group(1).replace("broker.example", "192.0.2.1"), encoding="utf-8")

    def play(self, book: Path, *words: str, **variables: Any) -> Run:
        done = self.ansible.playbook(str(book), *words, "-e", json.dumps(variables), inventory=self.inventory)
        assert "Traceback" not in done.output and PASSWORD not in done.output
        return done

    def config(self) -> str:
        return self.host.run("cat", "/etc/radvd.conf").stdout

    def network(self, number: int) -> str:
        """The one that a LAN gets; asked as long as there is a lease."""
        self.prefix = self.prefix or json.loads(self.host.run("cat", "/etc/ansible/facts.d/tsp.fact").stdout)["prefix"]
        return str(list(IPv6Network(self.prefix).subnets(new_prefix=64))[number])

    def agents(self) -> list[str]:
        return [words for words in self.host.run("ps", "-ww", "-eo", "pid,args").stdout.splitlines() if "tsp-agent.pyz" in words]

    def memories(self) -> list[str]:
        return self.host.run("sh", "-c", "cd /var/lib/tsp-apply && ls *.json").stdout.split()


@pytest.fixture(scope="module")
def router(request: pytest.FixtureRequest) -> Iterator[Router]:
    with Lab("radvd-tunnel", lambda: request.session.testsfailed) as lab:
        made = Router(lab)
        yield made
        made.listener.close()


def ok(run: Run, changed: int | None = None) -> Run:
    assert run.returncode == 0 and changed in (None, run.changed), run.output
    return run


def test_a_tunnel_and_its_advertisements_are_one_transaction(router: Router) -> None:
    wanted: dict[str, Any] = {"linux_radvd": True, "linux_lan_interfaces": ["eth1", "eth2"], "radvd_rdnss": ["2001:db8::53"]}
    ok(router.play(router.together, "--check", **wanted))
    assert router.config() == SITE
    first = ok(router.play(router.together, "-vvv", **wanted), 2)
    assert set(re.findall(r"Using module file \S+/(\w+)\.py", first.output)) == {"linux_info", "tunnel", "apply_config"}
    assert router.memories() == ["tsp-tsp.before.json"]
    said = router.listener.hear(lambda said: router.network(1) in said.prefixes)
    assert said.prefixes[router.network(1)] == (5400, 2700) and said.mtu == 1472 and said.rdnss["2001:db8::53"] > 0
    ok(router.play(router.together, **wanted), 0)

    # An error of radvd's part leaves the tunnel alone, too.
    before = router.config(), router.agents()
    wrong = router.play(router.together, radvd_valid_lifetime="soon", linux_log_level="debug", **wanted)
    assert wrong.returncode and "radvd_invalid" in wrong.output, wrong.output
    assert (router.config(), router.agents()) == before and len(before[1]) == 2, "one that reads the network, one that changes the host"


def test_the_tunnel_stays_and_its_advertisements_go(router: Router) -> None:
    ok(router.play(router.together, linux_lan_interfaces=["eth1", "eth2"]), 1)
    said = router.listener.hear(lambda said: said.prefixes.get(router.network(1), (1, 1))[1] == 0)
    assert 0 < said.prefixes[router.network(1)][0] <= 5400
    ok(router.play(router.together, linux_lan_interfaces=["eth1", "eth2"]), 0)


def test_the_example_with_the_role_radvd(router: Router) -> None:
    """It takes over what the transaction of the tunnel lets go."""
    ok(router.play(router.beside), 1)
    said = router.listener.hear(lambda said: said.prefixes.get(router.network(1)) == (5400, 2700))
    assert said.mtu == 1472 and said.rdnss["2001:db8::53"] > 0
    ok(router.play(router.beside), 0)

    # Both at once: a clear error, and the advertisements go on.
    before = router.config()
    twice = router.play(router.beside, linux_radvd=True)
    assert twice.returncode and "radvd_twice" in twice.output and "tunnel_state: absent" in twice.output, twice.output
    assert router.config() == before and DEPRECATED not in before


def test_the_example_in_the_other_direction(router: Router) -> None:
    ok(router.play(router.beside, tunnel_state="absent"))
    assert router.config().count(DEPRECATED) == 2
    router.listener.hear(lambda said: said.prefixes.get(router.network(1), (1, 1))[1] == 0)
    assert not router.agents()

    # A teardown of a tunnel that has its advertisements in its own transaction.
    wanted: dict[str, Any] = {"linux_radvd": True, "linux_lan_interfaces": ["eth1", "eth2"]}
    ok(router.play(router.together, **wanted))
    assert DEPRECATED not in router.config()
    ok(router.play(router.together, tunnel_state="absent", radvd_deprecation=0, **wanted))
    assert router.config().count("AdvValidLifetime 0;") == 2
    ok(router.play(router.together, tunnel_state="absent", radvd_deprecation=0, **wanted), 0)

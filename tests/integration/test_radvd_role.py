# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The role radvd in real plays: what it predicts it does, a second run changes nothing, and a LAN hears the outcome.

What it says and refuses is in the unit tests; with a tunnel it is in test_radvd_tunnel.py, with systemd in tests/machines.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.tunnelbroker.tsp.tests.integration._advertisements import Listener
from ansible_collections.tunnelbroker.tsp.tests.integration._agent_net import wait_for
from ansible_collections.tunnelbroker.tsp.tests.lab import Lab
from ansible_collections.tunnelbroker.tsp.tests.lab.ansible import Ansible, Run
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._module._leases import lease

pytestmark = [pytest.mark.root, pytest.mark.skipif(shutil.which("radvd") is None, reason="radvd is not installed")]

SITE = """# the site's
interface lan {
    AdvSendAdvert on;
    MinRtrAdvInterval 3; MaxRtrAdvInterval 4;
    prefix 2001:db8:5::/64 { };
};
"""
OLD, NEW = "2001:db8:a::/64", "2001:db8:b::/64"
SHOWN = "steps: {{ radvd_applied.steps | default([]) | to_json }}"
PLAY: list[dict[str, Any]] = [{"hosts": "all", "gather_facts": False, "tasks": [
    {"name": "Advertise", "ansible.builtin.include_role": {"name": "tunnelbroker.tsp.radvd"}},
    {"name": "Show", "ansible.builtin.debug": {"msg": SHOWN}}]}]


class Playground:
    def __init__(self, lab: Lab, folder: Path) -> None:
        self.router, self.host = lab.namespace("router", root=True), lab.namespace("host")
        segment = lab.segment("lan")
        segment.attach(self.router, "lan")
        segment.attach(self.host, "eth0")
        self.router.sysctl(net__ipv6__conf__all__forwarding=1)
        for namespace in (self.router, self.host):
            wait_for("a link-local address", lambda namespace=namespace: any(
                not found.get("tentative") for link in namespace.ip_json("-6 addr show scope link") for found in link.get("addr_info", [])))
        self.listener = Listener(self.host, "eth0")
        other = os.environ.get("TSP_TEST_ANSIBLE")  # the bin folder of another ansible-core than this Python's
        self.ansible = Ansible(folder, **({"PATH": f"{other}:/usr/bin:/bin:/usr/sbin:/sbin"} if other else {}))
        self.inventory = self.ansible.write_inventory({"all": {"hosts": {"branch": {
            "ansible_connection": "lab_ns", "ansible_lab_ns_pid": self.router.pid, "ansible_python_interpreter": sys.executable}},
            "vars": {"radvd_lan_interfaces": ["lan"], "radvd_service_manager": "none"}}})
        self.book = folder / "play.json"
        self.book.write_text(json.dumps(PLAY))

    def play(self, *words: str, prefix: str | None = None, **variables: Any) -> Run:
        granted = {} if prefix is None else {"tunnel_lease": lease("v6v4", prefix.replace("/64", "/48")).to_dict()}
        done = self.ansible.playbook(str(self.book), *words, "-e", json.dumps({**granted, **variables}), inventory=self.inventory)
        assert "Traceback" not in done.output
        return done

    def config(self) -> str | None:
        found = self.router.run("cat", "/etc/radvd.conf", check=False)
        return None if found.returncode else found.stdout

    def running(self) -> list[str]:
        return [words for words in self.router.processes() if words.startswith(("radvd --", "/usr/sbin/radvd --"))]

    def start_anew(self) -> None:
        """As if nobody had been here before."""
        if self.running():
            self.router.run("sh", "-c", "kill $(cat /run/radvd.pid)")
        wait_for("radvd has ended", lambda: not self.running())
        self.router.run("rm", "-rf", "/etc/radvd.conf", "/var/lib/tsp-apply")
        self.listener.forget()

    def write(self, text: str) -> None:
        self.router.run("sh", "-c", "cat > /etc/radvd.conf", input=text)


@pytest.fixture(scope="module")
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Playground]:
    with Lab("radvd-role", lambda: request.session.testsfailed) as lab:
        made = Playground(lab, tmp_path_factory.mktemp("radvd") / "ansible")
        yield made
        made.listener.close()


@pytest.fixture
def playground(whole: Playground) -> Playground:
    whole.start_anew()
    return whole


def test_the_whole_way_on_a_router_of_the_site(playground: Playground) -> None:
    playground.write(SITE)
    playground.router.run("radvd", "--pidfile", "/run/radvd.pid")
    pid = playground.router.run("cat", "/run/radvd.pid").stdout
    predicted = playground.play("--check", "--diff", prefix=OLD)
    assert predicted.returncode == 0 and predicted.changed == 1, predicted.output
    assert playground.config() == SITE and "+    prefix 2001:db8:a::/64 {" in predicted.output
    first = playground.play("--diff", "-v", prefix=OLD, radvd_rdnss=["2001:db8:a::53"])
    assert first.returncode == 0 and first.changed == 1, first.output
    said = playground.listener.hear(lambda said: OLD in said.prefixes)
    assert said.mtu == 1480 and said.prefixes[OLD] == (5400, 2700) and "2001:db8:5::/64" in said.prefixes and said.rdnss
    again = playground.play("-v", prefix=OLD, radvd_rdnss=["2001:db8:a::53"])
    assert again.returncode == 0 and again.changed == 0 and "steps: []" in again.output, again.output

    renumbered = playground.play("-v", prefix=NEW)
    assert renumbered.changed == 1, renumbered.output
    said = playground.listener.hear(lambda said: NEW in said.prefixes)
    assert said.prefixes[NEW] == (5400, 2700) and said.prefixes[OLD][1] == 0 and 0 < said.prefixes[OLD][0] <= 5400
    assert playground.play(prefix=NEW).changed == 0, "a second run within the two hours changes nothing"

    gone = playground.play("-v", tunnel_state="absent")
    assert gone.returncode == 0 and gone.changed == 1, gone.output
    said = playground.listener.hear(lambda said: said.prefixes.get(NEW, (1, 1))[1] == 0)
    assert said.prefixes["2001:db8:5::/64"] == (86400, 14400) and said.mtu is None
    assert playground.play(tunnel_state="absent").changed == 0
    assert playground.router.run("cat", "/run/radvd.pid").stdout == pid, "the site's radvd has read all this, no other"
    assert all("--config" not in words for words in playground.running())


def test_a_router_without_radvd_so_far_ends_without(playground: Playground) -> None:
    first = playground.play("-v", prefix=OLD)
    assert first.returncode == 0 and first.changed == 1, first.output
    assert OLD in playground.listener.hear().prefixes
    gone = playground.play("-v", tunnel_state="absent", radvd_deprecation=0)
    assert gone.returncode == 0 and gone.changed == 1, gone.output
    said = playground.listener.hear(lambda said: said.prefixes.get(OLD) == (0, 0))
    assert said.router_lifetime == 0
    # Its time is over: what would be ten minutes later.
    playground.router.run("sh", "-c", "sed -i -E 's/goes at 2[0-9]{3}/goes at 2020/' /etc/radvd.conf")
    playground.router.run("sh", "-c", "sed -i -E 's/^( +)1[0-9]{9},$/\\11000000000,/' /var/lib/tsp-apply/*.before.json")
    ended = playground.play("-v", tunnel_state="absent")
    assert ended.returncode == 0 and ended.changed == 1, ended.output
    assert playground.config() is None and not playground.running()
    assert playground.router.run("ls", "/var/lib/tsp-apply", check=False).returncode
    assert playground.play(tunnel_state="absent").changed == 0


def test_a_file_that_cannot_be_extended_is_left_alone(playground: Playground) -> None:
    """Neither one that we cannot read, nor one that radvd would not."""
    refused = SITE + "interface eth9 { AdvSendAdvert on; prefix 2001:db8:9::/64 { AdvValidLifetime 1; AdvPreferredLifetime 2; }; };\n"
    for site, code in (("interface lan {", "radvd_config_invalid"), (refused, "test_failed")):
        playground.write(site)
        broken = playground.play(prefix=OLD)
        assert broken.returncode and code in broken.output, broken.output
        assert playground.config() == site and not playground.running()


def test_no_radvd(playground: Playground) -> None:
    playground.router.run("rm", "/usr/sbin/radvd")
    missing = playground.play(prefix=OLD)
    assert missing.returncode and "radvd is not installed" in missing.output
    assert playground.config() is None

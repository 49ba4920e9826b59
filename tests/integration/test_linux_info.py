# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""linux_info, linux_mode and linux_setup in real plays, on hosts of the laboratory: what is said is what was wired."""

from __future__ import annotations

import base64
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.tunnelbroker.tsp.tests.lab import Lab
from ansible_collections.tunnelbroker.tsp.tests.lab.ansible import Ansible
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._linux._hosts import lease

pytestmark = pytest.mark.root


class Plays:
    """A host with wan0 (198.51.100.31) and lan0 and lan1, and plays against it."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.host = lab.namespace("host", root=True)
        for name, address in (("wan0", "198.51.100.31/24"), ("lan0", "10.1.0.1/24"), ("lan1", None)):
            self.host.run("ip", "link", "add", name, "type", "bridge")
            self.host.run("ip", "link", "set", name, "up")
            if address:
                self.host.run("ip", "addr", "add", address, "dev", name)
        self.host.run("ip", "-6", "route", "add", "default", "dev", "wan0", "metric", "512", "proto", "ra")
        other = os.environ.get("TSP_TEST_ANSIBLE")  # the bin folder of another ansible-core than this Python's
        self.ansible = Ansible(folder / "ansible", **({"PATH": f"{other}:/usr/bin:/bin:/usr/sbin:/sbin"} if other else {}))
        self.inventory = self.ansible.write_inventory({"all": {"hosts": {"host": {
            "ansible_connection": "lab_ns", "ansible_lab_ns_pid": self.host.pid, "ansible_python_interpreter": sys.executable}}}})
        self.folder = folder

    def play(self, *tasks: dict[str, Any], words: tuple[str, ...] = ()) -> Any:
        book = self.folder / "play.json"
        book.write_text(json.dumps([{"hosts": "all", "gather_facts": False, "tasks": list(tasks)}]), encoding="utf-8")
        return self.ansible.playbook(str(book), *words, inventory=self.inventory)


@pytest.fixture
def plays(tmp_path: Path) -> Iterator[Plays]:
    with Lab("linux-info") as lab:
        yield Plays(lab, tmp_path)


LOOK = {"name": "Look", "tunnelbroker.tsp.linux_info": {"fact": "tsp_host"}}


def told(run: Any) -> Any:
    """What a task `say` said."""
    assert run.returncode == 0, run.output
    return json.loads(base64.b64decode(re.search(r"said:(\S*):end", run.output).group(1)))


def say(expression: str) -> dict[str, Any]:
    return {"name": "Say", "ansible.builtin.debug": {"msg": "said:{{ " + expression + " | to_json | b64encode }}:end"}}


def test_the_host_is_seen_as_it_is_wired(plays: Plays) -> None:
    for words in ((), ("--check", "--diff")):
        run = plays.play(LOOK, say("ansible_facts['tsp_host']"), words=words)
        host = told(run)
        assert run.changed == 0 and host["system"] == "Linux" and host["root"] and host["service_manager"] == "none"
        assert host["links"]["wan0"]["addresses"] == ["198.51.100.31/24"] and host["links"]["wan0"]["kind"] == "bridge"
        assert host["links"]["lan1"]["governor"] == "none" and host["links"]["lan1"]["up"] is True
        assert [(route["device"], route["metric"], route["protocol"]) for route in host["default_routes"]] == [("wan0", 512, "ra")]
        assert host["ipv6"] is True and host["management"]["peer"] is None


def test_a_setup_comes_out_of_it(plays: Plays) -> None:
    granted = lease("v6udpv4", "2001:db8:a::/56").to_dict()
    options = "lan_interfaces=['lan0', {'name': 'lan1', 'subnet': 7}], data_plane='tun'"
    setup = told(plays.play(LOOK, say(f"{granted} | tunnelbroker.tsp.linux_setup(ansible_facts['tsp_host'], {options})")))
    assert setup["backend"] == "agent" and setup["data_plane"] == "tun" and setup["uplink"]["device"] == "wan0"
    assert [(entry["interface"], entry["cidr"]) for entry in setup["lan"]] == [
        ("lan0", "2001:db8:a::1/64"), ("lan1", "2001:db8:a:7::1/64")]
    assert setup["numbers"]["mtu"] == 1472


@pytest.mark.parametrize(("wire", "options", "said"), [
    ((), "lan_interfaces=['lan7']", "There is no interface lan7 on this host."),
    ((), "lan_interfaces=['wan0']", "wan0 is the interface that the tunnel leaves by"),
    (("ip", "addr", "add", "2001:db8:a::9/64", "dev", "lan1"), "lan_interfaces=['lan0']", "lan1 holds 2001:db8:a::9/64"),
    (("ip", "link", "add", "tsp0", "type", "bridge"), "device='tsp0'", "There is a device tsp0 (bridge)"),
    (("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1"), "name='tsp'", "net.ipv6.conf.all.disable_ipv6 is 1"),
    (("sysctl", "-qw", "net.ipv6.conf.lan0.disable_ipv6=1"), "lan_interfaces=['lan0']", "IPv6 is switched off on lan0"),
    (("mount", "-o", "remount,bind,ro", "/etc"), "name='tsp'", "/etc of this host cannot be written"),
    ((), "backend='networkd'", "linux_backend is networkd, but systemd-networkd is not at work on this host"),
])
def test_what_cannot_be_is_said_before_anything_is_touched(plays: Plays, wire: tuple[str, ...], options: str, said: str) -> None:
    if wire[:1] == ("mount",):
        plays.host.run("mount", "--bind", "/etc", "/etc")
    if wire:
        plays.host.run(*wire)
    granted = lease("v6udpv4" if "networkd" not in options else "v6v4", "2001:db8:a::/56").to_dict()
    carried = "'v6udpv4'" if "networkd" not in options else "'v6v4'"
    host = "ansible_facts['tsp_host'] | combine({'kinds': {'sit': {'available': true, 'how': 'builtin'}}}, recursive=true)"
    run = plays.play(LOOK, say(f"{granted} | tunnelbroker.tsp.linux_setup({host}, mode={carried}, {options})"))
    assert run.returncode != 0 and said in " ".join(run.output.split()), run.output
    assert "Traceback" not in run.output

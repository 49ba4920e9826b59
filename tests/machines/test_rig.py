# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The virtual machines of the laboratory: what tests on them rely on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.tunnelbroker.tsp.tests.lab import Lab, Namespace
from ansible_collections.tunnelbroker.tsp.tests.lab.machine import LabError
from ansible_collections.tunnelbroker.tsp.tests.lab.vm import Machine, Nic, Rig, why_not

WHY_NOT = why_not()
pytestmark = [pytest.mark.root, pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))]


class World:
    """A host with systemd whose network is networkd's, and a neighbour on its segment."""

    def __init__(self, lab: Lab) -> None:
        internet = lab.segment("internet")
        self.neighbour: Namespace = lab.namespace("neighbour")
        internet.attach(self.neighbour, "eth0", "192.0.2.1/24", "2001:db8:1::1/64")
        self.rig = Rig(lab)
        self.host: Machine = self.rig.start("host", Nic("eth0", internet, ("192.0.2.10/24", "2001:db8:1::10/64"), "192.0.2.1"),
                                            governor="networkd")
        self.host.wait()


@pytest.fixture(scope="module")
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    with Lab("rig", lambda: request.session.testsfailed) as lab:
        yield World(lab)


def test_it_has_what_the_machine_may_lack(world: World) -> None:
    world.host.run("modprobe -a sit ip6_tunnel fou tun")
    world.host.run("ip fou add port 3653 ipproto 41 && ip link add t0 type sit remote 192.0.2.1 local 192.0.2.10 ttl 64 "
                   "encap fou encap-sport 3653 encap-dport 3653")
    assert "encap fou" in world.host.run("ip -d link show t0").stdout
    world.host.run("ip link del t0 && ip fou del port 3653 ipproto 41")


def test_the_network_is_its_governors(world: World) -> None:
    assert "configured" in world.host.run("networkctl --no-pager list eth0").stdout
    assert "unmanaged" in world.host.run("networkctl --no-pager list mgmt").stdout
    for target in ("192.0.2.10", "2001:db8:1::10"):
        world.neighbour.run("ping", "-n", "-c1", "-W20", target)


def test_a_command_that_fails_is_told(world: World) -> None:
    assert world.host.run("exit 3", check=False).returncode == 3
    with pytest.raises(LabError, match="ended with 2: .*nonesuch"):
        world.host.run("ls /nonesuch")


def test_ansible_enters(world: World, tmp_path: Path) -> None:
    ansible = world.rig.ansible(tmp_path / "ansible")
    inventory = ansible.write_inventory(world.rig.inventory({"branch": world.host}))
    book = tmp_path / "play.json"
    book.write_text(json.dumps([{"hosts": "all", "gather_facts": False, "tasks": [
        {"ansible.builtin.ping": {}}, {"ansible.builtin.copy": {"content": "from afar\n", "dest": "/etc/said", "mode": "0644"}}]}]))
    run = ansible.playbook(str(book), inventory=inventory)
    assert run.returncode == 0 and run.recap["branch"]["changed"] == 1, run.output
    assert world.host.read("/etc/said") == "from afar\n"


def test_a_reboot_is_one_and_keeps_the_disk(world: World) -> None:
    before = world.host.boot_id()
    world.host.run("echo one >/etc/kept; echo two >/run/lost")
    world.host.reboot()
    assert world.host.boot_id() != before
    assert world.host.run("cat /etc/kept; ls /run/lost 2>/dev/null; true").stdout == "one\n"
    world.neighbour.run("ping", "-n", "-c1", "-W20", "192.0.2.10")


def test_a_power_cut_keeps_what_was_written_to_the_disk(world: World) -> None:
    before = world.host.boot_id()
    world.host.run("echo three >/etc/kept; sync")
    world.host.power_cut()
    assert world.host.boot_id() != before and world.host.read("/etc/kept") == "three\n"


def test_what_is_kept_of_a_failure(world: World) -> None:
    report = world.host.report()
    assert "192.0.2.10/24" in report and "$ journalctl" in report and "systemd-networkd" in report


MAKER = """
import sys, time
from ansible_collections.tunnelbroker.tsp.tests.lab import Lab
from ansible_collections.tunnelbroker.tsp.tests.lab.vm import Rig
with Lab("killed") as lab:
    machine = Rig(lab).start("lean", kind="lean")
    machine.wait()
    print(lab.folder, flush=True)
    time.sleep(600)
"""


def test_nothing_is_left_of_a_killed_test(repository: Path, tmp_path: Path) -> None:
    name = tmp_path / "collections/ansible_collections/tunnelbroker/tsp"
    name.parent.mkdir(parents=True)
    name.symlink_to(repository)
    maker = subprocess.Popen([sys.executable, "-c", MAKER], stdout=subprocess.PIPE, text=True,
                             env={**os.environ, "PYTHONPATH": str(tmp_path / "collections")})
    assert maker.stdout is not None
    folder = maker.stdout.readline().strip()
    assert folder and any(folder in line for line in _processes().values()), "QEMU and SSH are there"
    maker.send_signal(signal.SIGKILL)
    maker.wait()
    maker.stdout.close()
    end = time.monotonic() + 60
    while (left := [line for line in _processes().values() if folder in line]) or Path(folder).exists():
        assert time.monotonic() < end, left or f"{folder} is still there"
        time.sleep(0.1)


def _processes() -> dict[str, str]:
    found = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found[path.parent.name] = path.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
        except OSError:
            continue
    return found

# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A change that must be confirmed, on a machine with systemd and over SSH: confirmed, undone by a timer, undone by a reboot."""

from __future__ import annotations

import base64
import io
import json
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.tunnelbroker.tsp.tests.lab import Lab
from ansible_collections.tunnelbroker.tsp.tests.lab.machine import LabError
from ansible_collections.tunnelbroker.tsp.tests.lab.vm import Machine, Nic, Rig, why_not

WHY_NOT = why_not()
pytestmark = [pytest.mark.root, pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))]
UNITS = "ls /etc/systemd/system/*tsp-undo* /etc/systemd/system/*.wants/*tsp-undo* /run/systemd/system/*tsp-undo* 2>/dev/null"
LEFT = (f"{UNITS}; find /var/lib/tsp-apply -mindepth 1 ! -name t.before.json 2>/dev/null; "
        "systemctl list-units --all --no-legend 'tsp-undo*'; pgrep -af '[u]ndo.pyz'; true")
APPLY = """
import json, sys
sys.path.insert(0, "/tmp/collection.zip")
from module_utils._apply.task import SPEC, run
def defaults(spec, given):
    return {name: given.get(name, option.get("default")) for name, option in spec.items()}
given = json.loads(sys.argv[1])
given["files"] = [defaults(SPEC["files"]["options"], item) for item in given["files"]]
given["start"] = [defaults(SPEC["start"]["options"], item) for item in given.get("start", [])]
print(json.dumps(run(defaults(SPEC, given))))
"""


class World:
    """A host that systemd-networkd gives its addresses."""

    def __init__(self, lab: Lab) -> None:
        self.rig = Rig(lab)
        self.host: Machine = self.rig.start("host", Nic("eth0", lab.segment("internet"), "192.0.2.10/24"), governor="networkd")
        self.host.wait()
        self.network = self.host.run("ls /etc/systemd/network/*eth0*").stdout.strip()
        self.old = self.host.read(self.network)

    def apply(self, **options: Any) -> dict[str, Any]:
        """As the module does it, with nobody to confirm it."""
        repository = Path(__file__).resolve().parents[2]
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for pattern in ("__init__.py", "_apply/*.py", "_tsp/*.py"):
                for path in sorted((repository / "plugins/module_utils").glob(pattern)):
                    archive.write(path, path.relative_to(repository / "plugins"))
        self.host.run("base64 -d >/tmp/collection.zip", input=base64.b64encode(buffer.getvalue()).decode())
        self.host.run("cat >/tmp/apply.py", input=APPLY)
        words = json.dumps({"name": "t", "confirm_timeout": 3600, **options})
        done = self.host.run(f"python3 /tmp/apply.py '{words}' && rm /tmp/apply.py /tmp/collection.zip")
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def other_address(self) -> list[dict[str, Any]]:
        """Files that give the host another address when it boots the next time."""
        return [{"path": self.network, "content": self.old.replace("192.0.2.10", "192.0.2.99")}, {"path": "/etc/new", "content": "new\n"}]

    def until_nothing_is_left(self, patience: float = 120) -> None:
        end = time.monotonic() + patience
        while True:
            try:
                left = self.host.run(LEFT).stdout
            except LabError as exc:
                left = str(exc)
            if not left:
                return
            assert time.monotonic() < end, left
            time.sleep(0.5)

    def old_files(self) -> bool:
        return self.host.read(self.network) == self.old and not self.host.run("ls /etc/new 2>/dev/null; true").stdout


@pytest.fixture(scope="module")
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    with Lab("confirm", lambda: request.session.testsfailed) as lab:
        yield World(lab)


def test_the_timer_undoes_what_nobody_confirmed(world: World) -> None:
    answer = world.apply(confirm_timeout=4, files=world.other_address())
    assert answer["unconfirmed"] == 4
    world.until_nothing_is_left()
    assert world.old_files()
    assert "undo what nobody confirmed" in world.host.run("journalctl -b --no-pager -u tsp-undo-t.service").stdout


def test_while_it_waits_a_timer_runs_and_the_next_boot_is_prepared(world: World) -> None:
    world.apply(files=world.other_address())
    assert "tsp-undo-t.timer" in world.host.run("systemctl list-timers --no-pager --no-legend").stdout
    assert world.host.run("systemctl is-enabled tsp-undo-t-boot.service").stdout.strip() == "enabled"
    assert world.host.run("systemd-analyze verify --man=no tsp-undo-t.service tsp-undo-t.timer tsp-undo-t-boot.service 2>&1").stdout == ""
    mode = world.host.run("stat -c '%a %U' /var/lib/tsp-apply /var/lib/tsp-apply/t /var/lib/tsp-apply/t/undo.pyz").stdout.split("\n")
    assert mode[:3] == ["700 root", "700 root", "600 root"]
    world.apply(state="absent", files=[{"path": "/etc/new"}], confirm_timeout=0)  # undoes first, and then has nothing to do
    assert world.old_files()
    world.until_nothing_is_left()


def test_a_host_that_loses_its_power_comes_up_with_the_old_network(world: World) -> None:
    """networkd never sees the new address: nothing would take it away again."""
    world.apply(files=world.other_address())
    assert not world.old_files()
    world.host.power_cut()
    world.until_nothing_is_left()
    assert world.old_files()
    addresses = world.host.run("ip -4 addr show dev eth0").stdout
    assert "192.0.2.10/24" in addresses and "192.0.2.99" not in addresses


def test_confirmed_over_ssh_and_undone_when_ssh_is_cut_off(world: World, tmp_path: Path) -> None:
    ansible = world.rig.ansible(tmp_path / "ansible", ANSIBLE_TIMEOUT="10")
    inventory = ansible.write_inventory(world.rig.inventory({"host": world.host}))
    book = tmp_path / "play.json"

    def play(timeout: int, **options: Any) -> Any:
        book.write_text(json.dumps([{"hosts": "all", "gather_facts": False, "tasks": [{"tunnelbroker.tsp.apply_config": {
            "name": "t", "confirm_timeout": timeout, "files": [{"path": "/etc/new", "content": "new\n"}], **options}}]}]))
        return ansible.playbook(str(book), "-v", inventory=inventory, timeout=600)

    cidr = f"{world.host.address}/24"
    cut = play(25, start=[{"argv": ["ip", "addr", "del", cidr, "dev", "mgmt"], "undo": ["ip", "addr", "add", cidr, "dev", "mgmt"]}])
    assert cut.returncode != 0 and any(words in cut.output for words in ("undone", "not_confirmed", "could not be reached")), cut.output
    world.until_nothing_is_left()
    assert world.old_files() and cidr in world.host.run("ip addr show dev mgmt").stdout
    done = play(300)
    assert done.returncode == 0 and done.changed == 1 and "confirmed: true" in done.output, done.output
    world.until_nothing_is_left()
    assert world.host.read("/etc/new") == "new\n"
    again = play(300)
    assert again.returncode == 0 and again.changed == 0 and "confirmed: true" not in again.output, again.output

# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A change that must be confirmed, in real plays against a host of the laboratory: it stays, or the host undoes it by itself."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._apply.items import route
from ansible_collections.tunnelbroker.tsp.tests.lab import Lab, Namespace
from ansible_collections.tunnelbroker.tsp.tests.lab.ansible import Ansible, Run

pytestmark = pytest.mark.root
ADDRESS = "192.0.2.2/24"
CUT = {"argv": ["ip", "addr", "del", ADDRESS, "dev", "eth0"], "undo": ["ip", "addr", "add", ADDRESS, "dev", "eth0"]}
JOURNAL = "/var/lib/tsp-apply/t/journal.json"


def until(true: Callable[[], Any], what: str, patience: float = 120.0) -> None:
    """Wait for something; a busy machine may be slow."""
    end = time.monotonic() + patience
    while not true():
        assert time.monotonic() < end, f"{what}: not within {patience:g} seconds"
        time.sleep(0.1)


def kill(controller: subprocess.Popen[bytes]) -> None:
    """With its workers, one of which is on its way to confirm, in a session of its own."""
    listed = subprocess.run(["ps", "--ppid", str(controller.pid), "-o", "pid="], capture_output=True, text=True, check=False).stdout
    for pid in (controller.pid, *map(int, listed.split())):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


class Site:
    """A controller and a host, whose only way to each other is the address of the host."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.control: Namespace = lab.namespace("control")
        self.host: Namespace = lab.namespace("host", root=True)
        lab.veth(self.control, "eth0", self.host, "eth0")
        self.control.ip("addr add 192.0.2.1/24 dev eth0")
        self.host.ip(f"addr add {ADDRESS} dev eth0")
        self.ansible = Ansible(folder / "ansible")
        self.inventory = self.ansible.write_inventory({"all": {"hosts": {"host": {
            "ansible_connection": "lab_ns", "ansible_lab_ns_pid": self.host.pid, "ansible_python_interpreter": sys.executable,
            "ansible_lab_ns_way": f"{self.control.pid} 192.0.2.1 192.0.2.2"}}}})
        self.host.run("sh", "-c", "echo old > /etc/example")
        self.book = folder / "play.json"

    def start(self, timeout: int, **options: Any) -> subprocess.Popen[bytes]:
        """Without waiting for its end."""
        program = Path(sys.executable).parent / "ansible-playbook"
        return subprocess.Popen([str(program), "-i", str(self.inventory), str(self.play(timeout, **options))], env=self.ansible.environment,
                                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def play(self, timeout: int, content: str = "new\n", **options: Any) -> Path:
        self.book.write_text(json.dumps([{"hosts": "all", "gather_facts": False, "tasks": [
            {"name": "Apply", "tunnelbroker.tsp.apply_config": {
                "name": "t", "confirm_timeout": timeout, "files": [{"path": "/etc/example", "content": content}], **options},
             "register": "applied"},
            {"name": "Show", "ansible.builtin.debug": {"msg": "result: {{ applied | to_json }}"}}]}]), encoding="utf-8")
        return self.book

    def apply(self, timeout: int, *words: str, **options: Any) -> Run:
        return self.ansible.playbook(str(self.play(timeout, **options)), *words, inventory=self.inventory)

    def phase(self) -> str:
        """Of the transaction on the host; empty where there is none."""
        found = self.host.run("cat", JOURNAL, check=False).stdout
        return str(json.loads(found)["phase"]) if found else ""

    def as_before(self) -> bool:
        return (self.host.run("cat", "/etc/example").stdout == "old\n" and ADDRESS in self.host.ip("addr show dev eth0")
                and self.nothing_left() and not self.host.run("sh", "-c", "ls -d /var/lib/tsp-apply 2>/dev/null; true").stdout)

    def nothing_left(self) -> bool:
        """Of a timer. What the host was like before is remembered."""
        return not self.host.run("sh", "-c", "find /var/lib/tsp-apply -mindepth 1 ! -name t.before.json 2>/dev/null; true").stdout and \
            not any("undo.pyz" in words for words in self.host.processes())


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Lab("confirm") as lab:
        yield Site(lab, tmp_path)


def test_a_change_is_confirmed_over_a_new_connection(site: Site) -> None:
    predicted = site.apply(300, "--check", "--diff")
    assert predicted.changed == 1 and site.as_before(), predicted.output
    done = site.apply(300, "-vvv")
    assert done.returncode == 0 and done.changed == 1 and '"confirmed": true' in done.output.replace("\\", ""), done.output
    assert "confirm_token" not in done.output.split("result:")[1]
    assert site.host.run("cat", "/etc/example").stdout == "new\n"
    until(site.nothing_left, "the timer of a confirmed change goes")
    again = site.apply(300)
    assert again.returncode == 0 and again.changed == 0 and '"confirmed"' not in again.output.replace("\\", ""), again.output
    assert site.nothing_left(), "nothing to do, nothing armed"


def test_a_change_that_cuts_off_the_controller_is_undone_by_the_host(site: Site) -> None:
    failed = site.apply(8, start=[CUT])
    assert failed.returncode != 0 and failed.recap["host"]["failed"] == 1, failed.output
    assert "not_confirmed" in failed.output and "192.0.2.2 does not answer" in failed.output and "Traceback" not in failed.output
    until(site.as_before, "the host puts everything back")
    again = site.apply(300)
    assert again.returncode == 0 and again.changed == 1, again.output
    assert site.host.run("cat", "/etc/example").stdout == "new\n"


def test_a_route_across_the_way_needs_the_timer_and_is_taken_away_by_it(site: Site) -> None:
    item = route("192.0.2.1/32", None, 10, kind="unreachable", make=True)
    for words in ((), ("--check",)):
        refused = site.apply(0, *words, items=[item])
        assert refused.returncode != 0 and "confirm_timeout_needed" in refused.output and "192.0.2.1/32" in refused.output, refused.output
        assert site.as_before()
    aside = site.apply(0, items=[{**item, "destination": "198.51.100.0/24"}])
    assert aside.returncode == 0 and "198.51.100.0/24" in site.host.ip("route"), aside.output
    gone = site.apply(0, state="absent")
    assert gone.returncode == 0 and "unreachable" not in site.host.ip("route"), gone.output
    site.host.run("sh", "-c", "echo old > /etc/example")
    cut = site.apply(8, items=[item])
    assert cut.returncode != 0 and "not_confirmed" in cut.output, cut.output
    until(site.as_before, "the host puts everything back")
    assert "unreachable" not in site.host.ip("route")


def test_a_controller_that_is_killed_leaves_a_host_that_undoes(site: Site) -> None:
    with site.start(8, start=[CUT]) as controller:
        until(lambda: site.phase() == "proved", "the change is made")
        kill(controller)
    assert not site.as_before()
    until(site.as_before, "the host puts everything back")


def test_a_module_that_is_killed_is_undone_without_another_run(site: Site) -> None:
    stuck = ["sh", "-c", "sleep 1000"]
    with site.start(8, start=[CUT, {"argv": stuck, "timeout": 900}]) as controller:
        until(lambda: any(words == "sleep 1000" for words in site.host.processes()), "the module is at its last step")
        kill(controller)
        for words in ("AnsiballZ_apply_config", "sleep 1000"):
            if any(words in running for running in site.host.processes()):
                site.host.signal(signal.SIGKILL, words)
    until(site.as_before, "the host puts everything back")


def test_an_unconfirmed_change_is_undone_by_the_next_run_first(site: Site) -> None:
    with site.start(900, start=[{"argv": ["sh", "-c", "until [ -e /run/go ]; do sleep 0.1; done"], "timeout": 900}]) as controller:
        until(lambda: site.phase() == "applying" and site.host.run("cat", "/etc/example").stdout == "new\n", "the change is being made")
        site.control.ip("addr del 192.0.2.1/24 dev eth0")
        site.host.run("touch", "/run/go")
        until(lambda: site.phase() == "proved", "the change is made")
        kill(controller)
    site.control.ip("addr add 192.0.2.1/24 dev eth0")
    predicted = site.apply(300, "--check", content="newer\n")
    done = site.apply(300, content="newer\n")
    for run in (predicted, done):
        assert run.returncode == 0 and "undo what nobody confirmed" in run.output, run.output
    assert site.host.run("cat", "/etc/example").stdout == "newer\n"
    until(site.nothing_left, "both timers go")

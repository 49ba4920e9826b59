# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A change that must be confirmed: undone by the host itself when nobody does, whatever died meanwhile."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._apply import deadman, undo
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._apply.deadman import BOOT_ID, Deadman
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._apply.plan import Command, Directory, FileChange, Plan, Probe, Service
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._apply.probe import ProbeResult
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._apply.runner import FileState
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._apply.transaction import STATE_DIR, Outcome, apply, confirm
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.errors import ApplyError
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._apply._hosts import FakeRunner, Killed, MortalRunner

CONFIG = "/etc/tsp/tsp.json"
UNIT = "/etc/systemd/system/example.service"
PYTHON = "/usr/bin/python3"
TIMER = "tsp-undo-tsp.timer"
BOOT = "tsp-undo-tsp-boot.service"
SECONDS = 60.0


def alive(probe: Probe) -> ProbeResult:
    return ProbeResult(True, probe.address, 0.4, 1, 1)


def plan(text: str = "new", present: bool = True) -> Plan:
    return Plan("tsp", present=present, directories=(Directory("/etc/tsp"),),
                files=(FileChange(CONFIG, text.encode(), 0o600), FileChange(UNIT, f"[Service]\n# {text}\n".encode())),
                start=(Command(("switch", "on"), undo=("switch", "off"), unless=("switch", "?")),) if present else (),
                service=Service("example.service", "systemd"), probe=Probe("2001:db8::1", timeout=1.0))


class Host(FakeRunner):
    """With a switch, and a Python that puts programs into the background."""

    def __init__(self, systemd: bool = True, settled: bool = False) -> None:
        super().__init__()
        self.with_systemd()
        self.systemd = systemd
        self.switched = 0
        self.waiting = 0
        self.handlers.update({"switch": self._switch, PYTHON: self._python})
        self.files[BOOT_ID] = FileState(b"first\n", 0o444, 0, 0)
        if settled:
            apply(plan("old"), self, alive)
            self.switched = 0

    def directory_mode(self, path: str) -> int | None:
        # A host without systemd, as far as the timer is concerned.
        return None if path == "/run/systemd/system" and not self.systemd else super().directory_mode(path)

    def _switch(self, argv: Any) -> tuple[int, str, str]:
        if argv[1] == "?":
            return 1 - self.switched, "", ""
        if argv[1] == "off" and not self.switched:
            return 1, "", "it is off"
        self.switched = 1 if argv[1] == "on" else 0
        return 0, "", ""

    def _python(self, argv: Any) -> tuple[int, str, str]:
        assert argv[1:] == ("-I", "-B", f"{STATE_DIR}/tsp/undo.pyz", "background", STATE_DIR, "tsp")
        assert self.files[argv[3]].mode == 0o600
        self.waiting += 1
        return 0, "", ""

    def snapshot(self) -> dict[str, Any]:
        found = super().snapshot()
        found["files"].pop(BOOT_ID, None)
        return {**found, "switched": self.switched}

    def reboot(self) -> None:
        self.files[BOOT_ID] = FileState(b"second\n", 0o444, 0, 0)
        self.now, self.switched = 3.0, 0
        for name, unit in self.units.items():
            unit["active"] = unit["enabled"] and name == "example.service"


def timer(host: Any, token: str = "run") -> Deadman:
    return Deadman(host, STATE_DIR, "tsp", SECONDS, token, b"program", PYTHON)


def change(host: Any, wanted: Plan | None = None, **options: Any) -> Outcome:
    return apply(wanted or plan(), host, alive, deadman=timer(host), **options)


def states(systemd: bool, settled: bool, present: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """A host before the change, and after it."""
    host = Host(systemd, settled)
    old = host.snapshot()
    apply(plan(present=present), host, alive)
    return old, host.snapshot()


@pytest.fixture(params=[True, False], ids=["systemd", "no-systemd"])
def systemd(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(params=[(False, True), (True, True), (True, False)], ids=["create", "change", "remove"])
def case(request: pytest.FixtureRequest) -> tuple[bool, bool]:
    return request.param


def test_confirmed_in_time_it_stays_and_nothing_of_the_timer_is_left(systemd: bool, case: tuple[bool, bool]) -> None:
    settled, present = case
    old, new = states(systemd, settled, present)
    host = Host(systemd, settled)
    outcome = change(host, plan(present=present))
    assert outcome.changed and outcome.unconfirmed == SECONDS
    armed = host.units.get(TIMER, {}).get("active") and host.units[BOOT]["enabled"]
    assert armed if systemd else host.waiting == 1 and not armed
    assert confirm("tsp", host, "run")
    assert host.snapshot() == new
    host.now += 2 * SECONDS
    assert undo.wait(host, STATE_DIR, "tsp") == "" and host.snapshot() == new, "a timer that fires late does nothing"
    assert not confirm("tsp", host, "run"), "there is nothing to confirm twice"
    assert not change(host, plan(present=present)).changed


def test_not_confirmed_it_is_undone_when_it_is_due_and_no_sooner(systemd: bool, case: tuple[bool, bool]) -> None:
    settled, present = case
    old, new = states(systemd, settled, present)
    host = Host(systemd, settled)
    change(host, plan(present=present))
    due = host.now + SECONDS
    assert undo.wait(host, STATE_DIR, "tsp") == "undo what nobody confirmed"
    assert due <= host.now < due + 2
    assert host.snapshot() == old
    assert not confirm("tsp", host, "run"), "whoever comes late is told"
    assert change(host, plan(present=present)).changed and confirm("tsp", host, "run") and host.snapshot() == new


def test_a_run_with_nothing_to_do_arms_nothing(systemd: bool) -> None:
    host = Host(systemd)
    apply(plan(), host, alive)
    host.ran.clear()
    outcome = change(host)
    assert not outcome.changed and outcome.unconfirmed is None and host.waiting == 0 and TIMER not in host.units


def test_check_mode_arms_nothing(systemd: bool) -> None:
    host = Host(systemd)
    before = host.snapshot()
    assert change(host, check=True).unconfirmed is None
    assert host.snapshot() == before and host.waiting == 0 and not [argv for argv in host.ran if argv[:2] == ("systemctl", "start")]


def test_a_change_that_is_not_proved_leaves_no_timer(systemd: bool) -> None:
    host = Host(systemd, settled=True)
    old = host.snapshot()
    with pytest.raises(ApplyError) as caught:
        apply(plan(), host, lambda probe: ProbeResult(False, probe.address, None, 5, 0, "no reply"), deadman=timer(host))
    assert caught.value.code == "not_proved" and host.snapshot() == old


@pytest.mark.parametrize("after", [False, True], ids=["before-it", "after-it"])
def test_killed_at_every_step_the_timer_brings_the_old_state_back(systemd: bool, case: tuple[bool, bool], after: bool) -> None:
    """The run dies just before or just after each thing that it does. Then the timer, if it had been armed, ends in the old state;
    where it had not, nothing had been changed yet. And where the timer dies too, the next run converges."""
    settled, present = case
    old, new = states(systemd, settled, present)
    for step in range(200):
        host = Host(systemd, settled)
        mortal = MortalRunner(host, step, after)
        try:
            apply(plan(present=present), mortal, alive, deadman=timer(mortal))
        except Killed:
            pass
        if not mortal.dead:
            assert step > 15
            return
        armed = host.waiting or host.units.get(TIMER, {}).get("active")
        if armed:
            undo.wait(host, STATE_DIR, "tsp")
            assert host.snapshot() == old
        else:
            seen = {key: value for key, value in host.files.items() if key in (CONFIG, UNIT)}
            assert seen == {key: value for key, value in old["files"].items() if key in (CONFIG, UNIT)}
            assert host.switched == old["switched"] and host.units.get("example.service") == old["units"].get(
                "example.service", host.units.get("example.service"))
        change(host, plan(present=present))
        assert confirm("tsp", host, "run") and host.snapshot() == new
    pytest.fail("the run never ends")


@pytest.mark.parametrize("after", [False, True], ids=["before-it", "after-it"])
def test_a_timer_that_dies_at_any_step_is_followed_by_another_or_by_a_run(systemd: bool, after: bool) -> None:
    old, new = states(systemd, True, True)
    for step in range(200):
        host = Host(systemd, True)
        change(host)
        mortal = MortalRunner(host, step, after)
        try:
            undo.wait(mortal, STATE_DIR, "tsp")
        except Killed:
            pass
        if not mortal.dead:
            assert step > 5 and host.snapshot() == old
            return
        if step % 2:
            undo.wait(host, STATE_DIR, "tsp")
            assert all(host.snapshot()[key] == old[key] for key in ("switched", "processes")) and host.files[CONFIG].content == b"old"
        change(host)
        assert confirm("tsp", host, "run") and host.snapshot() == new
    pytest.fail("the timer never ends")


@pytest.mark.parametrize("after", [False, True], ids=["before-it", "after-it"])
def test_confirming_dies_at_any_step(systemd: bool, after: bool) -> None:
    """Either it is confirmed, and stays; or it is not, and goes: as a whole."""
    old, new = states(systemd, True, True)
    seen = set()
    for step in range(200):
        host = Host(systemd, True)
        change(host)
        mortal = MortalRunner(host, step, after)
        try:
            confirm("tsp", mortal, "run")
        except Killed:
            pass
        if not mortal.dead:
            assert seen == ({"new"} if after else {"old", "new"})
            return
        undo.wait(host, STATE_DIR, "tsp")
        kept = host.files[CONFIG].content == b"new"
        seen.add("new" if kept else "old")
        settled = apply(plan("new" if kept else "old"), host, alive)
        host.switched = 0 if not kept else host.switched
        assert not [entry for entry in settled.steps if CONFIG in entry]
        assert host.snapshot() == (new if kept else old)
    pytest.fail("confirming never ends")


def test_the_next_run_undoes_what_nobody_confirmed_before_its_own_work(systemd: bool) -> None:
    host = Host(systemd, settled=True)
    change(host)
    left = host.snapshot()
    predicted = change(host, plan("newer"), check=True)
    assert host.snapshot() == left
    outcome = apply(plan("newer"), host, alive, deadman=timer(host, "second"))
    assert outcome.recovered and outcome.steps == predicted.steps and outcome.steps[0] == "undo what nobody confirmed"
    assert not confirm("tsp", host, "run"), "the first controller must not confirm what the second one did"
    assert confirm("tsp", host, "second") and host.files[CONFIG].content == b"newer"


def test_a_run_that_is_slow_has_the_whole_time_afterwards(systemd: bool) -> None:
    host = Host(systemd)

    def slow(probe: Probe) -> ProbeResult:
        host.now += 3 * SECONDS
        return alive(probe)

    apply(plan(), host, slow, deadman=timer(host))
    assert deadman.left(host, STATE_DIR, "tsp") == SECONDS
    assert confirm("tsp", host, "run")


def test_the_timer_waits_for_a_run_that_is_at_work() -> None:
    host = Host(settled=True)
    old = host.snapshot()
    change(host)
    host.now += SECONDS
    pauses = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        host.now += seconds
        host.locked = len(pauses) < 10

    host.locked = True
    host.pause = pause  # type: ignore[method-assign]
    undo.wait(host, STATE_DIR, "tsp")
    assert len(pauses) >= 10 and host.snapshot() == old


@pytest.mark.parametrize("refused", [["/etc/systemd/system"], ["/etc/systemd/system", "/run/systemd/system"]], ids=["etc", "etc-and-run"])
def test_where_units_cannot_be_written_it_does_without(refused: list[str]) -> None:
    host = Host()
    real = host.write

    def write(path: str, *args: Any) -> None:
        if os.path.dirname(path) in refused and "tsp-undo" in path:
            raise ApplyError("host_refused", f"The host refused to write {path}: Read-only file system.")
        real(path, *args)

    host.write = write  # type: ignore[method-assign]
    armed = timer(host)
    old = host.snapshot()
    apply(plan(), host, alive, deadman=armed)
    # The fake reads units of /etc alone, so that those of /run do not start there either: it ends with the process.
    assert armed.how == "process" and host.waiting == 1
    undo.wait(host, STATE_DIR, "tsp")
    assert host.snapshot() == old


def test_where_no_timer_can_be_started_nothing_is_touched() -> None:
    host = Host(systemd=False, settled=True)
    host.handlers[PYTHON] = lambda argv: (1, "", "python3: out of memory")
    old = host.snapshot()
    with pytest.raises(ApplyError) as caught:
        change(host)
    assert caught.value.code == "not_armed" and "out of memory" in caught.value.message and host.snapshot() == old


def test_a_reboot_puts_the_files_back_first_and_the_rest_when_the_host_is_up() -> None:
    host = Host(settled=True)
    old = host.snapshot()
    change(host)
    host.reboot()
    host.ran.clear()
    assert undo.early(host, STATE_DIR, "tsp") == "The files are the old ones again."
    assert host.files[CONFIG].content == b"old" and host.files[UNIT].content == b"[Service]\n# old\n"
    assert host.ran == [("systemctl", "daemon-reload"), ("systemctl", "--no-block", "start", "tsp-undo-tsp.service")]
    undo.wait(host, STATE_DIR, "tsp")
    assert host.now == 3.0, "it is due at once"
    assert host.snapshot() == old


def test_early_in_a_boot_it_leaves_alone_what_is_of_this_boot_or_confirmed() -> None:
    host = Host(settled=True)
    change(host)
    state = host.snapshot()
    assert undo.early(host, STATE_DIR, "tsp") == "" and host.snapshot() == state
    journal = host.files[f"{STATE_DIR}/tsp/journal.json"]
    host.files[f"{STATE_DIR}/tsp/journal.json"] = FileState(journal.content.replace(b'"proved"', b'"confirmed"'), 0o600, 0, 0)
    host.reboot()
    undo.early(host, STATE_DIR, "tsp")
    assert host.files[CONFIG].content == b"new"
    undo.wait(host, STATE_DIR, "tsp")
    assert host.files[CONFIG].content == b"new" and TIMER not in str(host.files)


@pytest.mark.parametrize("content", [
    b"", b"{", b"[]", b"null", b'{"schema": 2}', b'{"schema": 1, "id": 1, "boot": "first", "until": "x", "seconds": 1}'])
def test_a_damaged_note_means_that_it_is_due(content: bytes) -> None:
    host = Host(settled=True)
    old = host.snapshot()
    change(host)
    host.files[f"{STATE_DIR}/tsp/deadman.json"] = FileState(content, 0o600, 0, 0)
    assert not confirm("tsp", host, "run")
    undo.wait(host, STATE_DIR, "tsp")
    assert host.snapshot() == old


def test_a_time_far_away_is_not_waited_for() -> None:
    host = Host()
    change(host)
    path = f"{STATE_DIR}/tsp/deadman.json"
    data = json.loads(host.files[path].content)
    host.files[path] = FileState(json.dumps({**data, "until": 1e12}).encode(), 0o600, 0, 0)
    assert deadman.left(host, STATE_DIR, "tsp") == SECONDS


def test_units_quote_what_stands_in_them() -> None:
    found = deadman.units("/etc/systemd/system", "a b%n", '/var/lib/x "$y', 90, "/opt/my python/bin/python3")
    assert sorted(found) == [f"/etc/systemd/system/tsp-undo-a\\x20b\\x25n{end}" for end in ("-boot.service", ".service", ".timer")]
    text = "".join(found.values())
    assert '"/opt/my python/bin/python3" "-I"' in text and '"/var/lib/x \\"$$y" "a b%%n"' in text


def test_the_program_stands_alone(repository: Path, tmp_path: Path) -> None:
    """Written from a folder and from a zip as Ansible makes it, it is the same, and runs with nothing beside it."""
    sources = {path.relative_to(repository / "plugins").as_posix(): path.read_bytes()
               for path in sorted((repository / "plugins" / "module_utils").rglob("*.py"))}
    with zipfile.ZipFile(tmp_path / "payload.zip", "w") as archive:
        for name, content in sources.items():
            archive.writestr(name, content)
    code = ("import sys; sys.path.insert(0, sys.argv[1]); from module_utils._apply.undo import program; "
            "sys.stdout.buffer.write(program())")
    made = [subprocess.run([sys.executable, "-I", "-c", code, str(place)], capture_output=True, check=True).stdout
            for place in (repository / "plugins", tmp_path / "payload.zip")]
    assert made[0] == made[1]
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "undo.pyz").write_bytes(made[0])
    done = subprocess.run([sys.executable, "-I", "-B", str(alone / "undo.pyz"), "wait", str(tmp_path / "none"), "t"],
                          capture_output=True, text=True, check=False, cwd="/")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


KILLER = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from module_utils._apply.deadman import Deadman
from module_utils._apply.plan import Directory, FileChange, Plan
from module_utils._apply.runner import HostRunner
from module_utils._apply.transaction import apply
from module_utils._apply.undo import program
base, at = sys.argv[2], int(sys.argv[3])
calls = {"n": 0}
def count(frame, event, arg):
    if event == "c_call" and getattr(arg, "__module__", "") == "posix":
        calls["n"] += 1
        if calls["n"] == at:
            os.kill(os.getpid(), signal.SIGKILL)
plan = Plan("t", directories=(Directory(base + "/d", 0o750),),
            files=(FileChange(base + "/d/a", b"new a", 0o600), FileChange(base + "/b", b"new b"), FileChange(base + "/gone", None)))
state, runner = base + "/state", HostRunner()
timer = Deadman(runner, state, "t", 0.5, "run", program(), sys.executable) if at else None
if at:
    sys.setprofile(count)
apply(plan, runner, None, state_dir=state, deadman=timer)
sys.setprofile(None)
"""


@pytest.mark.skipif(os.path.isdir("/run/systemd/system"), reason="systemd runs this machine, and its timers are no place for a test")
def test_really_killed_and_really_undone(repository: Path, tmp_path: Path) -> None:
    """kill -9 of a real run at system calls all along: a real process in the background brings the old files back."""
    def run(base: Path, at: int) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-c", KILLER, str(repository / "plugins"), str(base), str(at)], capture_output=True,
                              text=True, check=False)

    def files(base: Path) -> dict[str, str]:
        return {str(path.relative_to(base)): path.read_text() for path in base.rglob("*")
                if path.is_file() and not path.is_relative_to(base / "state")}

    old, killed, at = {"b": "old b", "gone": "old"}, [], 0
    while True:
        at += 41
        base = tmp_path / str(at)
        base.mkdir()
        for name, text in old.items():
            (base / name).write_text(text)
        done = run(base, at)
        killed.append(base)
        if done.returncode != -signal.SIGKILL:
            assert done.returncode == 0, done.stderr
            break
    assert len(killed) >= 4
    for base in killed:  # the last one ran to its end, and is not confirmed
        end = time.monotonic() + 60
        while files(base) != old:
            assert time.monotonic() < end, (base.name, files(base))
            time.sleep(0.05)
    for base in killed:
        assert run(base, 0).returncode == 0
        assert files(base) == {"b": "new b", "d/a": "new a"}
        end = time.monotonic() + 60
        while left := [path.name for path in (base / "state").rglob("*") if path.name != "t.before.json"]:
            assert time.monotonic() < end, left
            time.sleep(0.05)

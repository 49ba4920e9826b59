# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A transaction on a host: what a user would notice of it, also when it fails, and when it is killed at any step."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._apply.diff import file_diff
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._apply.plan import Command, Directory, FileChange, Plan, Probe, Service
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._apply.probe import ProbeResult
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._apply.runner import FileState
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._apply.transaction import Outcome, apply, to_result
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.errors import ApplyError, LocalError
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._apply._hosts import FakeRunner, Killed, MortalRunner

AGENT = "/usr/local/lib/tsp/tsp-agent.pyz"
CONFIG = "/etc/tsp/tsp.json"
SECRET = "/etc/tsp/tsp.secret"
UNIT = "/etc/systemd/system/tsp-agent-tsp.service"
PID_FILE = "/run/tsp-agent.pid"
MEMORY = "/var/lib/tsp-apply/tsp.before.json"


def alive(probe: Probe) -> ProbeResult:
    return ProbeResult(True, probe.address, 0.4, 1, 1)


def dead(probe: Probe) -> ProbeResult:
    return ProbeResult(False, probe.address, None, 5, 0, "no reply")


def plan(text: str = "new", *, manager: str = "systemd", present: bool = True, unit: str = "[Service]\n", commands: bool = True) -> Plan:
    files = [FileChange(AGENT, b"program", 0o755), FileChange(CONFIG, text.encode(), 0o600),
             FileChange(SECRET, b"swordfish", 0o600, secret=True)]
    if manager == "systemd":
        files.append(FileChange(UNIT, unit.encode()))
    return Plan(
        name="tsp", present=present, directories=(Directory("/etc/tsp", 0o755), Directory("/usr/local/lib/tsp")), files=tuple(files),
        start=(Command(("switch", "on"), undo=("switch", "off"), unless=("switch", "?")),) if commands and present else (),
        service=Service("tsp-agent-tsp", manager, (AGENT, "--config", CONFIG), PID_FILE),
        probe=Probe("2001:db8::1", timeout=1.0))


class Host(FakeRunner):
    """A FakeRunner with a switch, and an agent that starts itself in the background."""

    def __init__(self) -> None:
        super().__init__()
        self.switched = 0
        self.handlers["switch"] = self._switch
        self.handlers[AGENT] = self._agent

    def _switch(self, argv: Any) -> tuple[int, str, str]:
        if argv[1] == "?":
            return 1 - self.switched, "", ""
        self.switched = 1 if argv[1] == "on" else 0
        return 0, "", ""

    def _agent(self, argv: Any) -> tuple[int, str, str]:
        config = self.files.get(CONFIG)
        if config is None or b"bad" in config.content:
            return 1, "", "tsp-agent: the configuration is bad"
        self.processes[4711] = tuple(argv)
        self.files[PID_FILE] = self.files[CONFIG].__class__(b"4711\n", 0o644, 0, 0)
        return 0, "", ""

    def snapshot(self) -> dict[str, Any]:
        return {**super().snapshot(), "switched": self.switched}


def make_host(manager: str, before: str) -> Host:
    """before: bare, or settled (an older plan is in force)."""
    host = Host()
    if manager == "systemd":
        host.with_systemd()
    if before == "settled":
        apply(plan("old", manager=manager, unit="[Service]\nold\n"), host, alive)
        host.writes = 0
        host.ran.clear()
    return host


@pytest.fixture(params=["systemd", "none"])
def manager(request: pytest.FixtureRequest) -> str:
    return request.param


def test_present_then_nothing_to_do_then_absent(manager: str) -> None:
    host = make_host(manager, "bare")
    empty = host.snapshot()
    outcome = apply(plan(manager=manager), host, alive)
    assert outcome.changed and outcome.proof is not None and outcome.proof.rtt_ms == 0.4
    assert host.files[CONFIG].content == b"new" and host.files[CONFIG].mode == 0o600
    assert host.units.get("tsp-agent-tsp.service") == {"active": True, "enabled": True} if manager == "systemd" else 4711 in host.processes
    assert host.switched == 1
    assert [path for path in host.files if path.startswith("/var/lib")] == [MEMORY], "no checkpoint stays"
    assert host.files[MEMORY].mode == 0o600 and b"swordfish" not in host.files[MEMORY].content

    host.ran.clear()
    writes, settled = host.writes, host.snapshot()
    outcome = apply(plan(manager=manager), host, alive)
    assert not outcome.changed and outcome.steps == [] and outcome.diff == []
    assert outcome.proof is not None and outcome.proof.proved, "a settled host is still probed"
    assert (host.writes, host.snapshot()) == (writes, settled)
    assert not [argv for argv in host.ran if argv[:2] not in (("systemctl", "show"), ("switch", "?"))]

    outcome = apply(plan(manager=manager, present=False), host, dead)
    assert outcome.changed and outcome.proof is None
    host.switched = 0  # the plan has no command that would take it back
    gone = host.snapshot()
    assert gone["directories"] == empty["directories"]
    assert (gone["files"], gone["processes"], gone["units"]) == ({}, [], {})
    assert not apply(plan(manager=manager, present=False), host, dead).changed


def test_only_what_differs_is_written(manager: str) -> None:
    host = make_host(manager, "settled")
    outcome = apply(plan("newer", manager=manager, unit="[Service]\nold\n"), host, alive)
    assert [step for step in outcome.steps if "/" in step] == [f"change {CONFIG}"]
    assert [step for step in outcome.steps if "/" not in step] == ["stop tsp-agent-tsp", "start tsp-agent-tsp"]


def test_a_stopped_service_is_a_change(manager: str) -> None:
    host = make_host(manager, "settled")
    host.units.get("tsp-agent-tsp.service", {})["active"] = False
    host.processes.clear()
    outcome = apply(plan("old", manager=manager, unit="[Service]\nold\n"), host, alive)
    assert outcome.changed and "start tsp-agent-tsp" in outcome.steps
    assert host.units["tsp-agent-tsp.service"]["active"] if manager == "systemd" else host.processes


def test_check_mode_predicts_and_writes_nothing(manager: str) -> None:
    for before, present in (("bare", True), ("settled", True), ("settled", False), ("bare", False)):
        host = make_host(manager, before)
        state = host.snapshot()
        wanted = plan(manager=manager, present=present)
        predicted = apply(wanted, host, dead, check=True)
        assert host.snapshot() == state and host.writes == 0
        assert not [argv for argv in host.ran if argv[:2] not in (("systemctl", "show"), ("switch", "?"))]
        done = apply(wanted, host, alive)
        assert (predicted.changed, predicted.steps, predicted.diff) == (done.changed, done.steps, done.diff)


@pytest.mark.parametrize("before", ["bare", "settled"])
@pytest.mark.parametrize("what", ["probe", "service", "command", "disk"])
def test_a_failure_leaves_everything_as_it_was(manager: str, before: str, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    host = make_host(manager, before)
    state = host.snapshot()
    wanted, prober = plan(manager=manager), alive
    if what == "probe":
        prober = dead
    elif what == "service":
        wanted = plan("bad", manager=manager, unit="bad")
    elif what == "command":
        host.handlers["switch"] = lambda argv: (1, "", "the switch is stuck") if argv[1] != "off" else (9, "", "must not be undone")
    else:
        real = host.write

        def full(path: str, *args: Any) -> None:
            if path == SECRET and args[0] == b"swordfish" and before == "bare" or path == CONFIG and args[0] == b"new":
                raise ApplyError("host_refused", f"The host refused to write {path}: No space left on device.")
            real(path, *args)

        monkeypatch.setattr(host, "write", full)
    with pytest.raises(ApplyError) as caught:
        apply(wanted, host, prober)
    assert host.snapshot() == state
    words = {"probe": "No packet came back from 2001:db8::1", "command": "the switch is stuck", "disk": "No space left on device",
             "service": "control process exited" if manager == "systemd" else "the configuration is bad"}
    assert words[what] in caught.value.message and "as it was before" in caught.value.message
    codes = {"probe": "not_proved", "command": "apply_failed", "disk": "host_refused", "service": "service_failed"}
    assert caught.value.code == codes[what]
    if what != "probe":
        assert "Step " in caught.value.message
    assert "swordfish" not in str(caught.value)


def test_a_settled_host_without_proof_says_so_and_is_left_alone(manager: str) -> None:
    host = make_host(manager, "settled")
    state = host.snapshot()
    with pytest.raises(ApplyError) as caught:
        apply(plan("old", manager=manager, unit="[Service]\nold\n"), host, dead)
    assert caught.value.code == "not_proved" and "Nothing had to be changed" in caught.value.message
    assert host.snapshot() == state


def test_a_rollback_that_fails_says_so_and_the_next_run_repairs(manager: str, monkeypatch: pytest.MonkeyPatch) -> None:
    host = make_host(manager, "settled")
    state = host.snapshot()
    real, broken = host.write, [True]

    def write(path: str, content: bytes, *args: Any) -> None:
        if broken[0] and path == CONFIG and content == b"old":
            raise ApplyError("host_refused", f"The host refused to write {path}: Read-only file system.")
        real(path, content, *args)

    monkeypatch.setattr(host, "write", write)
    with pytest.raises(ApplyError) as caught:
        apply(plan(manager=manager), host, dead)
    assert caught.value.code == "rollback_failed" and "Read-only" in caught.value.message
    broken[0] = False
    with pytest.raises(ApplyError) as caught:
        apply(plan(manager=manager), host, dead)
    assert caught.value.code == "not_proved"
    assert host.snapshot() == state


def transitions() -> list[tuple[str, bool]]:
    return [("bare", True), ("settled", True), ("settled", False)]


@pytest.mark.parametrize(("before", "present"), transitions())
@pytest.mark.parametrize("prober", [alive, dead], ids=["proved", "not-proved"])
@pytest.mark.parametrize("after", [False, True], ids=["before-it", "after-it"])
def test_killed_at_every_step_the_next_run_converges(manager: str, before: str, present: bool, prober: Any, after: bool) -> None:
    """Killed just before or after each change that a run makes, rollback included. Then: check mode still predicts, a run that
    cannot be proved ends in the old state, and one that can in the new."""
    reference = make_host(manager, before)
    old = reference.snapshot()
    apply(plan(manager=manager, present=present), reference, alive)
    new = reference.snapshot()
    deaths = 0
    for step in range(200):
        for then in (alive, dead):
            host = make_host(manager, before)
            mortal = MortalRunner(host, step, after)
            try:
                apply(plan(manager=manager, present=present), mortal, prober)
            except Killed:
                deaths += 1
            except ApplyError:
                pass
            if not mortal.dead:
                assert deaths > 20
                return
            left = host.snapshot()
            predicted = apply(plan(manager=manager, present=present), host, dead, check=True)
            assert host.snapshot() == left, "check mode wrote"
            outcome = Outcome()
            try:
                outcome = apply(plan(manager=manager, present=present), host, then)
            except ApplyError as exc:
                assert exc.code == "not_proved" and then is dead and present
                if "Nothing had to be changed" in exc.message:
                    assert host.snapshot() == new
                else:
                    assert host.snapshot() == old
            else:
                assert host.snapshot() == new
                assert (predicted.steps, predicted.changed) == (outcome.steps, outcome.changed)
    pytest.fail("the run never ends")


def test_killed_while_a_secret_is_shown_nowhere(manager: str) -> None:
    host = make_host(manager, "bare")
    result = json.dumps(to_result(apply(plan(manager=manager), host, alive)))
    assert "swordfish" not in result and "(secret, changed)" in result
    assert "swordfish" not in repr(plan())
    result = json.dumps(to_result(apply(plan(manager=manager, present=False), host, alive)))
    assert "swordfish" not in result


@pytest.mark.parametrize("change, shown", [
    (FileChange(SECRET, None), False), (FileChange(SECRET, b"new\n", 0o644), False), (FileChange(SECRET, b"new\n", 0o600), True)])
def test_what_only_its_owner_could_read_is_not_shown_when_it_goes(change: FileChange, shown: bool) -> None:
    """A plan that only takes a file away does not know that it is secret."""
    diff = file_diff(change, FileState(b"swordfish\n", 0o600, 0, 0))
    assert ("swordfish" in json.dumps(diff)) is shown and diff["before"].endswith("\n")
    assert "swordfish" in json.dumps(file_diff(change, FileState(b"swordfish\n", 0o644, 0, 0)))


def test_the_pid_of_another_program_is_not_ours() -> None:
    host = make_host("none", "settled")
    host.processes[4711] = ("/usr/sbin/sshd", "-D")
    apply(plan("old", manager="none", present=False), host, alive)
    assert host.processes == {4711: ("/usr/sbin/sshd", "-D")}


def test_a_program_that_ignores_the_polite_signal_is_ended() -> None:
    host = make_host("none", "settled")
    host.stubborn = True
    apply(plan("old", manager="none", present=False), host, alive)
    assert host.processes == {}


def test_a_command_with_nothing_to_do_is_no_change() -> None:
    host = make_host("none", "bare")
    done = [False]
    host.handlers["test-it"] = lambda argv: (0 if done[0] else 1, "", "")

    def do(argv: Any) -> tuple[int, str, str]:
        done[0] = True
        return 0, "", ""

    host.handlers["do-it"] = do
    wanted = Plan("x", start=(Command(("do-it",), unless=("test-it",)),))
    assert apply(wanted, host, alive).changed
    assert not apply(wanted, host, alive).changed


@pytest.mark.parametrize("broken", [
    lambda: Plan("../x"), lambda: Plan("x", files=(FileChange("relative", b""),)), lambda: Plan("x", files=(FileChange("/a/../b", b""),)),
    lambda: Plan("x", files=(FileChange("/a", b""), FileChange("/a", b""))), lambda: Plan("x", start=(Command(()),)),
    lambda: Plan("x", probe=Probe("broker.example")), lambda: Plan("x", probe=Probe("2001:db8::1", source="192.0.2.1")),
    lambda: Plan("x", service=Service("a", "upstart")), lambda: Plan("x", service=Service("a", "none")),
    lambda: Plan("x", probe=Probe("2001:db8::1", count=0)), lambda: Plan("x", service=Service("-H", "systemd"))])
def test_a_plan_that_makes_no_sense_is_refused(broken: Any) -> None:
    with pytest.raises(LocalError) as caught:
        broken()
    assert caught.value.code == "invalid_plan"


KILLER = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from module_utils._apply.plan import Directory, FileChange, Plan
from module_utils._apply.runner import HostRunner
from module_utils._apply.transaction import apply
base, at = sys.argv[2], int(sys.argv[3])
calls = {"n": 0}
def count(frame, event, arg):
    if event == "c_call" and getattr(arg, "__module__", "") == "posix":
        calls["n"] += 1
        if calls["n"] == at:
            os.kill(os.getpid(), signal.SIGKILL)
plan = Plan("t", directories=(Directory(base + "/d", 0o750),),
            files=(FileChange(base + "/d/a", b"new a", 0o600), FileChange(base + "/b", b"new b"), FileChange(base + "/gone", None)))
if at:
    sys.setprofile(count)
outcome = apply(plan, HostRunner(), None, state_dir=base + "/state")
sys.setprofile(None)
print(outcome.changed)
"""


def test_really_killed(repository: Path, tmp_path: Path) -> None:
    """kill -9 of a real process at system calls all along a run on real files: the next run ends in the new state, with nothing else."""
    def run(base: Path, at: int) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-c", KILLER, str(repository / "plugins"), str(base), str(at)], capture_output=True,
                              text=True, check=False)

    killed, at = 0, 0
    while True:
        at += 31
        base = tmp_path / str(at)
        base.mkdir()
        (base / "b").write_text("old b")
        (base / "gone").write_text("old")
        done = run(base, at)
        if done.returncode != -signal.SIGKILL:
            assert done.returncode == 0, done.stderr
            break
        killed += 1
        done = run(base, 0)
        assert done.returncode == 0, done.stderr
        assert {str(path.relative_to(base)) for path in base.rglob("*")} == {"d", "d/a", "b", "state", "state/t.before.json"}
        assert ((base / "d" / "a").read_text(), (base / "b").read_text()) == ("new a", "new b")
        assert os.stat(base / "d" / "a").st_mode & 0o7777 == 0o600
        assert run(base, 0).stdout == "False\n"
    assert killed >= 3

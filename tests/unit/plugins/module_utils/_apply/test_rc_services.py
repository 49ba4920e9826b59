# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Services of the BSDs and macOS in a transaction, on hosts in memory that answer as the manual pages say."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._apply import rc_services
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._apply.plan import FileChange, Plan, Service, ServiceWish
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._apply.probe import ping
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._apply.runner import HostRunner
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._apply.service import Detached, Systemd, manager_for
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._apply.transaction import apply
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.errors import ApplyError
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._apply._hosts import FakeRunner

Answer = tuple[int, str, str]
FILES = {"rc_subr": "/usr/local/etc/rc.d/tsp_agent_x", "rcctl": "/etc/rc.d/tsp_agent_x", "rc_d": "/etc/rc.d/tsp_agent_x",
         "launchd": "/Library/LaunchDaemons/tsp_agent_x.plist"}
KINDS = sorted(FILES)
FINE: Answer = (0, "", "")


class Host(FakeRunner):
    """One service, that its manager knows while its file is there."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.file = kind, FILES[kind]
        for folder in ("/usr/local", "/usr/local/etc", "/usr/local/etc/rc.d", "/etc/rc.d", "/Library", "/Library/LaunchDaemons"):
            self.directories[folder] = 0o755
        self.active = self.enabled = self.fails = self.slow = False
        self.loaded = b""
        """What the running service was started with."""
        self.verbs: list[str] = []
        for program in ("service", "rcctl", "/etc/rc.d/tsp_agent_x", "launchctl"):
            self.handlers[program] = self.answer

    def answer(self, argv: Sequence[str]) -> Answer:
        words = list(argv)
        known = self.file in self.files
        if self.kind == "rcctl":
            return self._rcctl(words[1:], known)
        if self.kind == "launchd":
            return self._launchctl(words[1:], known)
        if words[0] == "service" and words.pop(1) != "tsp_agent_x" or not known:
            return 1, "", "tsp_agent_x does not exist in /etc/rc.d or the local startup directories"
        verb = words[1]
        if verb == "onestatus":
            return (0 if self._is_active() else 1), "", ""
        if not verb.startswith("one"):
            return 0, "", "Set tsp_agent_x_enable to YES"  # as rc.subr does where nothing enabled it: said, and not done
        return self._act(verb[3:])

    def _rcctl(self, words: list[str], known: bool) -> Answer:
        forced = words[0] == "-f"
        verb, name, *rest = words[1:] if forced else words
        if verb == "get":
            name = rest[0] if name == "status" else name
        if name != "tsp_agent_x" and "tsp_agent_x" not in rest or not known:
            return 2, "", "rcctl: service tsp_agent_x does not exist"
        if verb == "check":
            return (0 if self._is_active() else 1), "", ""
        if verb == "get":
            return (0 if self.enabled else 1), "", ""
        if verb in ("enable", "disable"):
            self.enabled = verb == "enable"
            return FINE
        if verb == "start" and not (forced or self.enabled):
            return 1, "", "rcctl: service is not enabled"
        return self._act(verb)

    def _launchctl(self, words: list[str], known: bool) -> Answer:
        verb, rest = words[0], words[1:]
        if verb == "bootstrap":
            if rest != ["system", self.file] or not known:
                return 5, "", "Bootstrap failed: 5: Input/output error"
            return (37, "", "Bootstrap failed: 37: Operation already in progress") if self.active else self._act("start")
        if rest[-1] != "system/tsp_agent_x" or not self._is_active():
            return 113, "", 'Could not find service "tsp_agent_x" in domain for system'
        return FINE if verb == "print" else self._act({"bootout": "stop", "kill": "reload"}[verb])

    def _act(self, verb: str) -> Answer:
        self.verbs.append(verb)
        if verb == "start":
            if self.fails:
                return 1, "", "the configuration is wrong"
            self.active, self.loaded = True, self.files[self.file].content
        elif verb == "stop":
            if not self.active:
                return 1, "", "not running"
            self.active = False
            self.stopping = 3 if self.slow else 0
        elif verb == "reload" and not self.active:
            return 1, "", "not running"
        return FINE

    stopping = 0

    def _is_active(self) -> bool:
        if self.stopping:
            self.stopping -= 1
            return True
        return self.active

    def snapshot(self) -> Any:
        return {path: state.content for path, state in self.files.items() if "tsp-apply" not in path}, self.active, self.enabled


def plan(kind: str, content: str, state: str = "restarted") -> Plan:
    service = Service("tsp-agent-x.service", kind, ("/bin/agent",), "/run/x.pid")
    if state == "restarted":
        return Plan("t", files=(FileChange(FILES[kind], content.encode(), 0o555),), service=service)
    return Plan("t", files=(FileChange("/etc/conf", content.encode()),), services=(ServiceWish(service, state, enabled=True),))


@pytest.mark.parametrize("kind", KINDS)
def test_installed_started_changed_and_taken_away(kind: str) -> None:
    host = Host(kind)
    before = host.snapshot()
    predicted = apply(plan(kind, "one"), host, ping, check=True)
    assert host.snapshot() == before and not host.verbs
    assert apply(plan(kind, "one"), host, ping).steps == predicted.steps
    assert host.active and host.loaded == b"one" and host.enabled is (kind == "rcctl")
    assert not apply(plan(kind, "one"), host, ping).changed
    assert apply(plan(kind, "two"), host, ping).changed
    assert host.active and host.loaded == b"two"
    apply(Plan("t", present=False), host, ping)
    assert host.snapshot() == before


@pytest.mark.parametrize("kind", KINDS)
def test_a_service_that_does_not_start_leaves_the_old_one(kind: str) -> None:
    host = Host(kind)
    apply(plan(kind, "one"), host, ping)

    def start_only_the_old(verb: str) -> Answer:
        host.fails = host.files[host.file].content != b"one"
        return Host._act(host, verb)
    host._act = start_only_the_old  # type: ignore[method-assign]
    with pytest.raises(ApplyError) as caught:
        apply(plan(kind, "bad"), host, ping)
    assert caught.value.code == "service_failed" and "the configuration is wrong" in caught.value.message
    assert host.active and host.loaded == b"one"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("active", [True, False])
def test_a_service_of_the_site_is_reloaded_and_becomes_what_it_was(kind: str, active: bool) -> None:
    host = Host(kind)
    host.write(FILES[kind], b"theirs", 0o555)
    if active:
        host._act("start")
    before = host.snapshot()
    host.verbs.clear()
    apply(plan(kind, "one", "reloaded"), host, ping)
    assert host.verbs == ["reload" if active else "start"]
    apply(Plan("t", present=False), host, ping)
    assert host.snapshot() == before


@pytest.mark.parametrize("kind", KINDS)
def test_a_stop_waits_until_it_is_gone(kind: str) -> None:
    host = Host(kind)
    apply(plan(kind, "one"), host, ping)
    host.slow = True
    manager_for(Service("tsp-agent-x.service", kind, ("/bin/agent",), "/run/x.pid"), host).stop()
    assert not host.stopping and not host.active


@pytest.mark.parametrize(("platform", "kind"), [("freebsd14", "rc_subr"), ("openbsd7", "rcctl"), ("netbsd10", "rc_d"),
                                                ("darwin", "launchd"), ("linux", None)])
def test_each_system_has_its_manager(platform: str, kind: str | None) -> None:
    assert rc_services.kind_here(platform) == kind


def test_linux_has_what_it_had() -> None:
    host = FakeRunner()
    service = Service("x", "auto", ("/bin/agent",), "/run/x.pid")
    assert isinstance(manager_for(service, host), Detached)
    host.with_systemd()
    assert isinstance(manager_for(service, host), Systemd)


def test_each_row_names_its_manual_pages() -> None:
    assert all("(8)" in row.pages or "(1)" in row.pages for row in rc_services.COMMANDS.values())


def test_a_process_is_found_by_ps_where_there_is_no_proc() -> None:
    """ps of this machine takes the same words."""
    sleeper = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()", "/some/agent"], stdin=subprocess.PIPE)
    try:
        words = HostRunner()._process_by_ps(sleeper.pid)
        assert words is not None and words[0] == sys.executable and "/some/agent" in words
    finally:
        sleeper.communicate()
    assert HostRunner()._process_by_ps(sleeper.pid) is None

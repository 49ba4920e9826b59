# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Several services of a host in a transaction: what each of their states means, and that they become what they were."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._apply.plan import FileChange, FileEdit, Plan, Service, ServiceWish
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._apply.probe import ping
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._apply.transaction import apply
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.errors import ApplyError, LocalError
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._apply._hosts import FakeRunner

PROGRAM, PID_FILE = "/usr/sbin/prog", "/run/prog.pid"


def make_host(manager: str, active: bool) -> FakeRunner:
    host = FakeRunner()
    if manager == "systemd":
        host.with_systemd()
        host.write("/etc/systemd/system/prog.service", b"[Service]\n", 0o644)
        host.run(["systemctl", "daemon-reload"])
        host.units["prog.service"] = {"active": active, "enabled": active}
        return host

    def start(argv: Any) -> tuple[int, str, str]:
        host.processes[9] = tuple(argv)
        host.write(PID_FILE, b"9", 0o644)
        return 0, "", ""

    host.handlers[PROGRAM] = start
    if active:
        start((PROGRAM,))
    return host


def runs(host: FakeRunner) -> bool:
    return bool(host.processes) or host.units.get("prog.service", {}).get("active", False)


def plan(manager: str, state: str, content: str = "one", files: tuple[str, ...] = (), test: tuple[str, ...] = (),
         other: str = "") -> Plan:
    service = Service("prog.service", manager, (PROGRAM,), PID_FILE)
    return Plan("t", files=(FileChange("/etc/conf", content.encode()), FileChange("/etc/other", other.encode())),
                services=(ServiceWish(service, state, True if state != "stopped" else None, files, test),))


def verbs(host: FakeRunner) -> list[str]:
    """What was done to the service since the last look."""
    done = [argv[1] for argv in host.ran if argv[0] == "systemctl" and argv[1] not in ("show", "daemon-reload", "enable", "disable")]
    done += ["start" for argv in host.ran if argv[0] == PROGRAM]
    host.ran.clear()
    return done


@pytest.fixture(params=["systemd", "none"])
def manager(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("active", [True, False], ids=["ran", "did not run"])
@pytest.mark.parametrize("state", ["started", "restarted", "reloaded", "stopped"])
def test_as_wanted_then_settled_then_as_it_was(manager: str, state: str, active: bool) -> None:
    host = make_host(manager, active)
    before = host.snapshot()
    predicted = apply(plan(manager, state), host, ping, check=True)
    assert apply(plan(manager, state), host, ping).steps == predicted.steps
    assert runs(host) is (state != "stopped")
    assert not apply(plan(manager, state), host, ping).changed
    apply(Plan("t", present=False), host, ping)
    assert host.snapshot() == before


def test_only_its_own_files_concern_it() -> None:
    host = make_host("systemd", True)
    apply(plan("systemd", "reloaded", files=("/etc/conf",)), host, ping)
    assert verbs(host) == ["reload-or-restart"]
    apply(plan("systemd", "reloaded", files=("/etc/conf",), other="x"), host, ping)
    assert verbs(host) == []
    apply(plan("systemd", "restarted", "two", files=("/etc/conf",), other="x"), host, ping)
    assert verbs(host) == ["restart"]


def test_without_systemd_a_reload_is_a_signal() -> None:
    host = make_host("none", True)
    sent: list[tuple[int, int]] = []
    host.signal = lambda pid, number: sent.append((pid, number))  # type: ignore[method-assign]
    apply(plan("none", "reloaded", "two"), host, ping)
    assert sent == [(9, 1)]


def test_a_configuration_that_fails_its_test_never_reaches_the_service(manager: str) -> None:
    host = make_host(manager, True)
    host.handlers["test-it"] = lambda argv: (1, "", "line 1: syntax error") if b"bad" in host.files["/etc/conf"].content else (0, "", "")
    apply(plan(manager, "reloaded", "good", test=("test-it",)), host, ping)
    before = host.snapshot()
    with pytest.raises(ApplyError) as caught:
        apply(plan(manager, "reloaded", "bad", test=("test-it",)), host, ping)
    assert caught.value.code == "test_failed" and "syntax error" in caught.value.message and host.snapshot() == before


@pytest.mark.parametrize("check", [True, False], ids=["check", "run"])
def test_a_file_of_the_site_s_that_is_broken_already_is_said_before_anything_is_touched(check: bool) -> None:
    host = make_host("systemd", True)
    host.handlers["test-it"] = lambda argv: (1, "", "line 1: syntax error") if b"bad" in host.files["/etc/conf"].content else (0, "", "")
    service = Service("prog.service", "systemd", (PROGRAM,), PID_FILE)
    wanted = Plan("t", edits=(FileEdit("/etc/conf", "block", {"content": "ours"}, 0o644),),
                  services=(ServiceWish(service, "reloaded", True, ("/etc/conf",), ("test-it",)),))
    host.write("/etc/conf", b"bad\n", 0o644)
    before, writes = host.snapshot(), host.writes
    with pytest.raises(LocalError) as caught:
        apply(wanted, host, ping, check=check)
    assert caught.value.code == "test_failed" and "as they are: test-it failed: line 1" in caught.value.message
    assert (host.snapshot(), host.writes) == (before, writes)
    host.write("/etc/conf", b"good\n", 0o644)
    assert apply(wanted, host, ping, check=check).changed


def test_a_unit_that_systemd_enables_by_itself_is_no_change_for_ever() -> None:
    host = make_host("systemd", True)
    real = host._systemctl

    def static(words: Any) -> tuple[int, str, str]:
        code, out, err = real(words)
        return code, out.replace("UnitFileState=disabled", "UnitFileState=static").replace("=enabled", "=static"), err

    host._systemctl = static  # type: ignore[method-assign]
    apply(plan("systemd", "started"), host, ping)
    assert not apply(plan("systemd", "started"), host, ping).changed

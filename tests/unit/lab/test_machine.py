# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where the laboratory cannot work, it says what is missing and how to get it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ansible_collections.tunnelbroker.tsp.tests.lab import machine

pytestmark = pytest.mark.skipif(os.uname().sysname != "Linux", reason="the laboratory is made of Linux namespaces")


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH with nothing but the programs that the laboratory needs, all of which succeed."""
    for name in machine.PROGRAMS:
        program(tmp_path, name, "exit 0")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(machine, "add_sbin_to_path", lambda: None)
    return tmp_path


def program(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    (folder / name).chmod(0o755)


def test_nothing_is_missing(programs: Path) -> None:
    assert machine.why_not(tun=False) is None


def test_missing_programs_are_named_by_their_packages(programs: Path) -> None:
    (programs / "nft").unlink()
    (programs / "ip").unlink()
    assert machine.why_not() == ("Programs are missing: install the packages iproute2, nftables "
                                 "(Debian: apt-get install iproute2 nftables).")


@pytest.mark.parametrize(("user", "expected"), [
    (0, ("Root may not make namespaces here (unshare: unshare failed: Operation not permitted)", "--privileged", "NET_ADMIN")),
    (1000, ("This user may not make namespaces (unshare: unshare failed: Operation not permitted)", "as root", "user.max_user_namespaces")),
])
def test_a_machine_that_forbids_namespaces(programs: Path, monkeypatch: pytest.MonkeyPatch, user: int, expected: tuple[str, ...]) -> None:
    program(programs, "unshare", "echo 'unshare: unshare failed: Operation not permitted' >&2; exit 1")
    monkeypatch.setattr(os, "geteuid", lambda: user)
    said = machine.why_not()
    assert said is not None and all(part in said for part in expected)


def test_users_get_a_user_namespace_and_root_does_not(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(programs, "unshare", f'echo "$@" > {programs}/said')
    for user, expected in ((0, False), (1000, True)):
        monkeypatch.setattr(os, "geteuid", lambda user=user: user)
        assert machine.why_not(tun=False) is None
        assert ("--map-root-user" in (programs / "said").read_text(encoding="utf-8")) is expected


@pytest.mark.parametrize(("error", "expected"), [(FileNotFoundError(2, "No such file"), "modprobe tun"),
                                                 (PermissionError(13, "Permission denied"), "chmod 666 /dev/net/tun")])
def test_a_machine_without_tun(programs: Path, monkeypatch: pytest.MonkeyPatch, error: OSError, expected: str) -> None:
    def refuse(*_arguments: object) -> int:
        raise error

    monkeypatch.setattr(os, "open", refuse)
    monkeypatch.setattr(machine.subprocess, "run", lambda *_words, **_options: machine.subprocess.CompletedProcess([], 0))
    assert expected in (machine.why_not() or "")

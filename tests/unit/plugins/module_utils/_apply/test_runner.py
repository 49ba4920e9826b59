# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The contract of the port through which a host is touched: the real adapter and the fake behave the same."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._apply.runner import Completed, HostRunner, being_written
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.errors import ApplyError
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._apply._hosts import FakeRunner


@pytest.fixture(params=["host", "fake"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Any, str]:
    """(runner, an existing directory)."""
    if request.param == "host":
        return HostRunner(), str(tmp_path)
    fake = FakeRunner()
    fake.directories["/base"] = 0o755
    fake.handlers["/bin/sh"] = lambda argv: (3, "out\n", "err\n") if "exit" in argv[2] else (0, "", "")
    return fake, "/base"


def test_file_round_trip(place: tuple[Any, str]) -> None:
    runner, base = place
    path = f"{base}/file"
    assert runner.read(path) is None
    runner.write(path, b"one\n", 0o640)
    state = runner.read(path)
    assert (state.content, state.mode) == (b"one\n", 0o640)
    runner.write(path, b"two\n", 0o600)
    state = runner.read(path)
    assert (state.content, state.mode) == (b"two\n", 0o600)
    assert runner.names(base) == ["file"]
    runner.remove(path)
    assert runner.read(path) is None
    runner.remove(path)  # a second time is fine
    assert runner.names(base) == []


def test_write_needs_its_directory(place: tuple[Any, str]) -> None:
    runner, base = place
    with pytest.raises(ApplyError) as caught:
        runner.write(f"{base}/none/file", b"", 0o644)
    assert caught.value.code == "host_refused"
    assert runner.names(base) == []


def test_directories(place: tuple[Any, str]) -> None:
    runner, base = place
    path = f"{base}/directory"
    assert runner.directory_mode(path) is None
    runner.make_directory(path, 0o750)
    assert runner.directory_mode(path) == 0o750
    runner.make_directory(path, 0o700)
    assert runner.directory_mode(path) == 0o700
    runner.write(f"{path}/file", b"", 0o644)
    assert runner.remove_directory(path) is False
    runner.remove(f"{path}/file")
    assert runner.remove_directory(path) is True
    assert runner.directory_mode(path) is None
    assert runner.remove_directory(path) is True
    with pytest.raises(ApplyError):
        runner.make_directory(f"{base}/none/directory", 0o755)


def test_kinds_are_not_mixed_up(place: tuple[Any, str]) -> None:
    runner, base = place
    runner.make_directory(f"{base}/directory", 0o755)
    runner.write(f"{base}/file", b"", 0o644)
    for act in (lambda: runner.read(f"{base}/directory"), lambda: runner.write(f"{base}/directory", b"", 0o644),
                lambda: runner.remove(f"{base}/directory")):
        with pytest.raises(ApplyError) as caught:
            act()
        assert caught.value.code == "not_a_file"
    with pytest.raises(ApplyError) as caught:
        runner.directory_mode(f"{base}/file")
    assert caught.value.code == "not_a_directory"


def test_commands(place: tuple[Any, str]) -> None:
    runner, _base = place
    done = runner.run(["/bin/sh", "-c", "echo out; echo err >&2; exit 3"])
    assert (done.rc, done.stdout, done.stderr, done.words) == (3, "out\n", "err\n", "err")
    assert runner.run(["/bin/sh", "-c", ":"]).rc == 0
    missing = runner.run(["/nonexistent/program"])
    assert missing.rc == 127 and "/nonexistent/program" in missing.words


def test_one_at_a_time(place: tuple[Any, str]) -> None:
    runner, base = place
    with runner.lock(f"{base}/state"):
        with pytest.raises(ApplyError) as caught, runner.lock(f"{base}/state"):
            pass
        assert caught.value.code == "busy"
    assert runner.directory_mode(f"{base}/state") is None, "an empty lock directory does not stay"
    with runner.lock(f"{base}/state"):
        runner.write(f"{base}/state/file", b"", 0o600)
    assert runner.names(f"{base}/state") == ["file"]


def test_nobody_there(place: tuple[Any, str]) -> None:
    runner, _base = place
    assert runner.process(2 ** 22 + 1) is None
    with pytest.raises(ApplyError):
        runner.user_id("no-such-user-here")
    assert runner.user_id("root") == 0 and runner.group_id("7") == 7


# What only the real one can get wrong.


def test_host_refuses_links(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("theirs")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    for act in (lambda: HostRunner().read(str(tmp_path / "link")), lambda: HostRunner().write(str(tmp_path / "link"), b"", 0o644)):
        with pytest.raises(ApplyError) as caught:
            act()
        assert caught.value.code == "not_a_file"
    assert (tmp_path / "target").read_text() == "theirs"


def test_host_clears_what_a_killed_write_left(tmp_path: Path) -> None:
    path = str(tmp_path / "file")
    Path(being_written(path)).write_text("half")
    HostRunner().write(path, b"whole", 0o600)
    assert os.listdir(tmp_path) == ["file"]
    Path(being_written(path)).write_text("half")
    HostRunner().remove(path)
    assert os.listdir(tmp_path) == []


def test_host_knows_a_process_by_its_words() -> None:
    words = HostRunner().process(os.getpid())
    assert words is not None and os.path.basename(words[0]).startswith("python") or sys.executable in (words or ())


def test_host_gives_commands_nothing_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TSP_SECRET_CANARY", "swordfish")
    done = HostRunner().run(["/usr/bin/env"])
    assert "swordfish" not in done.stdout and "LC_ALL=C" in done.stdout


def test_host_stops_waiting() -> None:
    done = HostRunner().run(["/bin/sleep", "60"], timeout=0.05)
    assert done.rc == 124 and "0.05 seconds" in done.words


def test_what_a_command_said_fits_into_a_sentence() -> None:
    assert Completed(("x",), 1, "out\n", "first\nDo this.\n").words == "first / Do this"
    assert Completed(("x",), 3).words == "exit code 3"


def test_variables_of_the_kernel() -> None:
    host, fake = HostRunner(), FakeRunner()
    fake.sysctls["kernel/ostype"] = "Linux"
    for runner in (host, fake):
        assert runner.get_sysctl("kernel/ostype") == "Linux" and runner.get_sysctl("net/none/such") is None
        with pytest.raises(ApplyError) as caught:
            runner.set_sysctl("net/none/such", "1")
        assert caught.value.code == "host_refused" and "net/none/such" in caught.value.message

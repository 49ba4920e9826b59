# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the part without rights gets of an old client's folder: the files that it writes, and nothing beside them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent import oldagent, processes
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent.oldargs import OldArgs
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._exchange.options import parse_broker
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._exchange.saved import SavedBrokers

NOBODY = 65534
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give files away")


@pytest.fixture
def home() -> Iterator[Path]:
    """Not below pytest's own folder, which is root's alone."""
    with tempfile.TemporaryDirectory(prefix="tsp-handover-") as folder:
        os.chmod(folder, 0o755)
        made = Path(folder) / "gw6c"
        made.mkdir()
        (made / "gw6c.conf").write_text("server=b.example\nuserid=alice\npasswd=secret\nlog_file=2\nlog_rotation_size=16\n")
        (made / "gw6c.conf").chmod(0o600)
        (made / "precious").write_text("x")
        yield made


def test_the_files_alone(home: Path, tmp_path: Path) -> None:
    (home / "tsp-broker-list.txt").symlink_to(home / "precious")
    path = home / "gw6c.conf"
    config = oldagent.load(path.read_bytes(), str(path), OldArgs(), "linux", {
        "runtime_dir": str(tmp_path / "run"), "state_dir": str(tmp_path / "state")})
    assert config.user == "nobody"
    processes.hand_over(config, "nobody")
    owners = {one.name: os.lstat(one).st_uid for one in [home, *home.iterdir()]}
    assert {name for name, uid in owners.items() if uid} == {"tsp-last-server.txt", "gw6c.log"}
    assert os.stat(tmp_path / "run").st_uid == NOBODY


def test_they_are_within_the_bounds_of_that_part(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = home / "gw6c.conf"
    given = {"runtime_dir": str(tmp_path / "run"), "state_dir": str(tmp_path / "state")}
    config = oldagent.load(path.read_bytes(), str(path), OldArgs(), "linux", given)
    processes.hand_over(config, "nobody")
    bounds: dict[str, str] = {}
    monkeypatch.setattr(processes, "confine", lambda paths: bounds.update(paths) or ())
    processes.confined([config])
    assert os.path.dirname(config.lease_file) == given["state_dir"]
    assert {bounds[folder] for folder in (*given.values(), str(home))} == {"rwc"}


def test_they_can_be_written_from_there(home: Path) -> None:
    """In a process that has become somebody else, since a test cannot come back."""
    last, log = home / "tsp-last-server.txt", home / "gw6c.log"
    for path in (last, log):
        path.touch()
        os.chown(path, NOBODY, -1)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent.logplaces import LogFile

            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            said: list[str] = []
            saved = SavedBrokers(None, said.append, "gw6c", str(last), str(home / "tsp-broker-list.txt"))
            saved.save_last_server(parse_broker("long-name.example"))
            saved.save_last_server(parse_broker("b.example"))
            place = LogFile(str(log), 16)
            for number in range(600):
                place.write(20, 0.0, [f"{number:05d} {'x' * 60}"])
            code = 0 if saved.last_server() == parse_broker("b.example") and not said else 2
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    assert last.read_text() == "b.example\n" and os.stat(last).st_uid == NOBODY
    lines = log.read_text().splitlines()
    assert " 00599 " in lines[-1] and 0 < log.stat().st_size <= 16384 and os.listdir(home).count("gw6c.log") == 1

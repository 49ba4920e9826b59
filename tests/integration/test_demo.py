# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The demonstration is a test: what it shows is true, and it leaves the machine as it found it, also when it is interrupted."""

from __future__ import annotations

import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._broker import build
from ansible_collections.tunnelbroker.tsp.tests.lab import Lab, picture
from ansible_collections.tunnelbroker.tsp.tests.lab.demo import table
from ansible_collections.tunnelbroker.tsp.tests.lab.machine import LabError

MARK = "TSP_TEST_OF_THE_DEMO"


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("programs") / "tsp-broker.pyz"
    assert build.main([str(path)]) == 0
    return path


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A folder with a short name: sockets lie there, and the name of a socket has room for 100 letters only."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@pytest.fixture
def demonstration(broker: Path, tmp_path: Path, repository: Path) -> Iterator[subprocess.Popen[str]]:
    """The demonstration as `make demo` starts it; everything it starts carries a mark in its environment."""
    env = {**os.environ, MARK: secrets.token_hex(8), "TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen([sys.executable, "-m", "tests.lab", "demo", "--broker", str(broker)], cwd=repository, env=env,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as program:
        program.mark = f"{MARK}={env[MARK]}"  # type: ignore[attr-defined]
        yield program
        program.kill()


def assert_nothing_left(program: subprocess.Popen[str], tmp_path: Path, before: picture.Picture) -> None:
    deadline = time.monotonic() + 60  # the kernel takes a moment to end what was in the namespaces
    while left := picture.marked_processes(program.mark):
        assert time.monotonic() < deadline, f"still running: {left}"
        time.sleep(0.05)
    assert before.differences(picture.of_machine()) == []
    assert os.listdir(tmp_path) == []


@pytest.mark.root
def test_the_demonstration(demonstration: subprocess.Popen[str], tmp_path: Path) -> None:
    before = picture.of_machine()
    output = demonstration.communicate(timeout=900)[0]
    assert demonstration.returncode == 0, output
    rows = {line.split()[0]: line.split() for line in table(output).splitlines()}
    assert list(rows) == ["device", "------", "host", "router"]
    for name, platform, mode in (("host", "linux", "v6udpv4"), ("router", "cisco", "v6v4")):
        row = " ".join(rows[name])
        assert re.fullmatch(rf"{name} {platform} {mode} 2001:db8:f::[0-9a-f]+ 2001:db8:8[0-9a-f]+:[0-9a-f:]*/48 yes, \d+\.\d ms", row), row
    assert "a silent flow was forgotten; the tunnel lives" in output
    assert "changed=0 on every device" in output
    assert "torn down: the host's files, processes, interfaces and routes are what they were before" in output
    assert "torn down: the router's configuration, running and saved, is what it was before" in output
    assert "nothing is left behind" in output
    assert_nothing_left(demonstration, tmp_path, before)


@pytest.mark.root
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_demonstration_leaves_nothing_running(demonstration: subprocess.Popen[str], tmp_path: Path, number: int) -> None:
    before = picture.of_machine()
    assert demonstration.stdout is not None
    while "router: " not in (line := demonstration.stdout.readline()):
        assert line, "it ended too early"
    # Until Ansible has a worker at work.
    while sum("ansible-playbook" in command for command in picture.marked_processes(demonstration.mark).values()) < 2:
        assert demonstration.poll() is None
        time.sleep(0.05)
    assert len(picture.marked_processes(demonstration.mark)) > 5
    demonstration.send_signal(number)
    demonstration.communicate(timeout=600)
    assert demonstration.returncode != 0
    assert_nothing_left(demonstration, tmp_path, before)


def test_what_is_left_behind_would_be_noticed() -> None:
    before = picture.Picture(frozenset({"/etc/a\tf 644 1"}), frozenset({"eth0 up"}), frozenset())
    after = picture.Picture(frozenset({"/etc/a\tf 644 2"}), frozenset({"eth0 up", "tsp0 up"}), frozenset({"tsp-agent"}))
    assert before.differences(after) == ["files: new: /etc/a f 644 2", "files: gone: /etc/a f 644 1", "network: new: tsp0 up",
                                         "processes: new: tsp-agent"]
    assert before.differences(before) == []


@pytest.mark.root
def test_what_the_machine_does_meanwhile_is_not_taken_for_ours() -> None:
    """A host of the laboratory sees the machine's files below its own, logs that grow among them."""
    with Lab("test-picture") as lab, tempfile.NamedTemporaryFile("w", prefix="tsp-lab-test-", dir="/var/log") as log:
        host = lab.namespace("host", root=True)
        before = picture.of_namespace(host)
        log.write("a line")
        log.flush()
        assert before.differences(picture.of_namespace(host)) == []
        host.run("sh", "-c", f"echo x >> {log.name}; echo y > /var/lib/tsp-lab-test; rm /etc/hostname")
        found = " ".join(before.differences(picture.of_namespace(host)))
    for item in (f"new: {log.name} f 600 8", "new: /var/lib/tsp-lab-test f 644 2", "gone: /etc/hostname f "):
        assert item in found


def test_a_playbook_without_a_table_is_noticed() -> None:
    with pytest.raises(LabError, match="no table"):
        table("PLAY RECAP\n")

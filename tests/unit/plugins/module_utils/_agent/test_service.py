# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The shell of the service: one instance of a name, into the background and back, the check that changes nothing."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from ipaddress import ip_address
from pathlib import Path

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent import network
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent.bundle import AGENT, build
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent.daemon import Lock
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent.tun import open_tun
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._exchange.source import Source
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.errors import LocalError


def test_a_part_that_is_busy_keeps_no_exchange_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may run somebody's program for a minute: the path is measured without echo requests then, and nobody asks for the socket later."""
    monkeypatch.setattr(network, "ECHO_PATIENCE", 0.05)
    left: list[str] = []

    class Busy:
        async def echo_socket(self, address: str) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                left.append(address)

    async def run() -> int | None:
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(None, network._path_mtu, Busy(), loop, ip_address("127.0.0.1"), Source())
        await asyncio.sleep(0)
        return found
    assert asyncio.run(run()) == 1500 and left == ["127.0.0.1"]


def test_one_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "run" / "tsp.pid"
    with Lock(str(path)):
        assert path.read_text() == f"{os.getpid()}\n"
        with pytest.raises(LocalError) as caught:
            Lock(str(path))
        assert caught.value.code == "already_running" and str(os.getpid()) in caught.value.message
        assert path.exists()
    assert not path.exists()
    with Lock(str(path)):
        pass


def test_a_dead_ones_file_is_no_obstacle(tmp_path: Path) -> None:
    path = tmp_path / "tsp.pid"
    path.write_text("1\n")
    with Lock(str(path)):
        assert path.read_text() == f"{os.getpid()}\n"


def test_a_place_that_cannot_be_used_is_named() -> None:
    with pytest.raises(LocalError) as caught:
        Lock("/proc/nothing/tsp.pid")
    assert caught.value.code == "runtime_dir_unusable"


def test_a_place_where_others_can_write_is_refused(tmp_path: Path) -> None:
    """Its undo file is a list of commands that the agent runs."""
    tmp_path.chmod(0o1777)
    with pytest.raises(LocalError) as caught:
        Lock(str(tmp_path / "tsp.pid"))
    assert caught.value.code == "runtime_dir_unusable" and "others" in caught.value.message and not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["", "a/b", "..", "tsp%d", "a" * 16, "t p"])
def test_device_names_are_checked(name: str) -> None:
    with pytest.raises(LocalError) as caught:
        open_tun(name)
    assert caught.value.code == "bad_device"


def test_a_kernel_without_tun_is_named(tmp_path: Path) -> None:
    with pytest.raises(LocalError) as caught:
        open_tun("tsp0", clone=str(tmp_path / "none"))
    assert caught.value.code == "no_tun" and "modprobe tun" in caught.value.hint
    (tmp_path / "file").write_text("")
    with pytest.raises(LocalError) as caught:
        open_tun("tsp0", clone=str(tmp_path / "file"))
    assert caught.value.code == "no_tun"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("program") / "tsp-agent.pyz"
    build(AGENT, path)
    return path


def configuration(folder: Path, **changes: object) -> Path:
    path = folder / "tsp.json"
    # A broker that is certainly silent: the agent comes up and waits, and touches nothing of this machine.
    path.write_text(json.dumps({
        "request": {"mode": "v6v4"}, "broker": {"brokers": ["127.0.0.1:9"], "auth_method": "anonymous", "transports": "udp"},
        "device": "tsptest0", "user": "root", "lease_file": str(folder / "lease"), "state_dir": str(folder / "state"),
        "runtime_dir": str(folder / "run"), **changes}))
    return path


def run(program: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(program), *words], capture_output=True, text=True, check=False, timeout=60)


def test_into_the_background_and_back(program: Path, tmp_path: Path) -> None:
    config = configuration(tmp_path)
    started = run(program, "--config", str(config))
    assert started.returncode == 0, started.stderr
    pid = int((tmp_path / "run" / "tsp.pid").read_text())
    try:
        assert pid != os.getpid() and os.getsid(pid) == pid != os.getsid(0)
        second = run(program, "--config", str(config))
        assert second.returncode == 1 and "already" in second.stderr and str(pid) in second.stderr
        status = json.loads((tmp_path / "run" / "tsp.status.json").read_text())
        assert status["pid"] == pid and status["state"] in ("starting", "negotiating", "waiting")
    finally:
        os.kill(pid, signal.SIGTERM)
    until = time.monotonic() + 30
    while (tmp_path / "run").exists():
        assert time.monotonic() < until, "it does not end, or leaves something"
        time.sleep(0.02)
    assert not (tmp_path / "lease").exists()


def test_a_wrong_start_is_told_to_who_started(program: Path, tmp_path: Path) -> None:
    done = run(program, "--config", str(configuration(tmp_path, device="a/b", colour="blue")))
    assert done.returncode == 1 and "colour is not known" in done.stderr and "Traceback" not in done.stderr
    done = run(program, "--config", str(configuration(tmp_path, runtime_dir="/proc/nothing")))
    assert done.returncode == 1 and "/proc/nothing cannot be used" in done.stderr, "also from the background"
    assert run(program).returncode == 2


def test_the_check_says_what_is_there_and_changes_nothing(program: Path, tmp_path: Path) -> None:
    config = configuration(tmp_path)
    done = run(program, "--config", str(config), "--once-check")
    found = json.loads(done.stdout)
    assert found["name"] == "tsp" and found["lease"] is None and found["brokers"] == ["127.0.0.1:9"]
    assert done.returncode == (1 if found["problems"] else 0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tsp.json"]

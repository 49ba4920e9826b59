# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The whole program, as on one of the other systems, with a real broker: from its start to SIGTERM. The kernel under it is in memory."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent.bsd.systems import system_of
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._broker.running import broker_in_thread

SCRIPT = Path(__file__).with_name("_bsd_agent.py")


def until(condition: Callable[[], Any], what: str, agent: subprocess.Popen[str]) -> Any:
    deadline = time.monotonic() + 60
    while True:
        found = condition()
        if found:
            return found
        assert agent.poll() is None, f"the agent ended: {agent.communicate()}"
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


@pytest.mark.root
@pytest.mark.parametrize("platform", ["freebsd14", "openbsd7", "netbsd10", "darwin"])
def test_a_tunnel_over_udp_from_start_to_end(platform: str, tmp_path: Path) -> None:
    system = system_of(platform)
    assert system is not None
    device = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    device.bind(str(tmp_path / "device"))
    with device, broker_in_thread(tmp_path) as broker:
        (tmp_path / "tsp.json").write_text(json.dumps({
            "name": "tsp", "request": {"mode": "v6udpv4", "host_type": "router"}, "roaming": False, "user": "root",
            "broker": {"brokers": [broker.server], "auth_method": "digest-md5", "username": "alice",
                       "password_file": str(tmp_path / "password")},
            "link": {"lan_interfaces": ["em1"], "default_route": "replace"}, "lease_file": str(tmp_path / "lease"),
            "runtime_dir": str(tmp_path / "run"), "state_dir": str(tmp_path / "state")}), encoding="utf-8")
        (tmp_path / "password").write_text("secret1\n", encoding="utf-8")
        for name in ("tsp.json", "password"):
            (tmp_path / name).chmod(0o600)
        agent = subprocess.Popen([sys.executable, "-B", str(SCRIPT), platform, str(tmp_path)], stdout=subprocess.PIPE,
                                 stderr=subprocess.PIPE, text=True)
        try:
            before = until(lambda: read(tmp_path / "kernel.json"), "the kernel is there", agent)
            status = until(lambda: (found := read(tmp_path / "run/tsp.status.json")) and found["state"] == "up" and found,
                           "the tunnel is up", agent)
            links, routes, _settings = read(tmp_path / "kernel.json")
            name = next(name for name in links if name.startswith(system.tun))
            assert list(links[name]["addresses"]) == [f"{status['lease']['client']['ipv6']}/128"] and links[name]["up"]
            assert {route["to"] for route in routes if route["dev"] == name} >= {"::/1", "8000::/1"}
            # A packet of the LAN leaves for the broker, and one that claims another source does not.
            ours, far = (socket.inet_pton(socket.AF_INET6, text) for text in (status["lease"]["client"]["ipv6"], "2001:db8:1::1"))
            for source in (ours, far):
                device.sendto(system.header + b"\x60\0\0\0\0\0\x3b\x40" + source + far, str(tmp_path / "agent"))

            def one_each() -> bool:
                counted = read(tmp_path / "run/tsp.status.json")["counters"]
                dropped = sum(value for key, value in counted.items() if key.startswith("dropped_out_"))
                return dropped == 1 and bool(counted.get("packets_out"))

            until(one_each, "one packet is out, one is dropped", agent)
            agent.send_signal(signal.SIGTERM)
            said = agent.communicate(timeout=60)
            assert agent.returncode == 0, said
            assert read(tmp_path / "kernel.json") == before
            assert "secret1" not in (tmp_path / "ran").read_text(encoding="utf-8") + "".join(said)
            assert not (tmp_path / "run").exists() and not (tmp_path / "run-apply").exists()
        finally:
            agent.kill()
            agent.communicate()

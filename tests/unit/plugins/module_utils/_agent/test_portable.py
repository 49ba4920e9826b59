# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The agent starts where Python lacks what only Linux has: all of it is imported, and checks a configuration, with that taken away."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[5]
LACKING = {
    "freebsd14": {"socket": ["AF_PACKET", "SO_BINDTODEVICE", "SO_MARK"], "select": ["epoll"], "os": ["O_PATH", "O_TMPFILE", "getxattr"]},
    "openbsd7": {"socket": ["AF_NETLINK", "AF_PACKET", "SO_BINDTODEVICE", "SO_MARK"], "select": ["epoll"],
                 "os": ["O_PATH", "O_TMPFILE", "getxattr", "sched_getaffinity", "eventfd"]},
    "netbsd10": {"socket": ["AF_NETLINK", "AF_PACKET", "SO_BINDTODEVICE", "SO_MARK"], "select": ["epoll"],
                 "os": ["O_PATH", "O_TMPFILE", "sched_getaffinity", "eventfd", "getresuid", "getresgid", "setresuid", "setresgid"]},
    "darwin": {"socket": ["AF_NETLINK", "AF_PACKET", "SO_BINDTODEVICE", "SO_MARK", "SOCK_CLOEXEC", "SOCK_NONBLOCK"], "select": ["epoll"],
               "os": ["O_PATH", "O_TMPFILE", "sched_getaffinity", "eventfd", "pipe2", "getresuid", "getresgid", "setresuid", "setresgid"]},
}
"""What the documentation of Python's socket, select and os says is not there."""
CHILD = """
import asyncio, ctypes, importlib, json, os, pathlib, select, socket, subprocess, sys
root, platform, lacking, configuration = sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), sys.argv[4]
for module, names in lacking.items():
    for name in names:
        for holder in {"socket": (socket, __import__("_socket"))}.get(module, (importlib.import_module(module),)):
            if hasattr(holder, name):
                delattr(holder, name)
sys.platform = platform
sys.path.insert(0, root + "/plugins")
folder = pathlib.Path(root, "plugins/module_utils/_agent")
for path in sorted(folder.rglob("*.py")):
    name = ".".join(path.relative_to(folder).with_suffix("").parts)
    if not name.endswith("__init__"):
        importlib.import_module(f"module_utils._agent.{name}")
from module_utils._agent import platforms, program, tun
sys.stderr.write(tun.FAMILY_HEADER.hex() + "\\n" + type(platforms.make_link(None, "/nowhere", sys.platform)).__name__ + "\\n")
raise SystemExit(program.main(["--config", configuration, "--once-check"]))
"""


@pytest.mark.parametrize("platform", sorted(LACKING))
def test_the_agent_starts_without_what_only_linux_has(platform: str, tmp_path: Path) -> None:
    configuration = tmp_path / "tsp.json"
    configuration.write_text(json.dumps({
        "name": "tsp", "request": {"mode": "v6anyv4"}, "broker": {"brokers": ["broker.example"], "auth_method": "anonymous"},
        "lease_file": str(tmp_path / "lease"), "runtime_dir": str(tmp_path / "run"), "state_dir": str(tmp_path / "state")}),
        encoding="utf-8")
    configuration.chmod(0o600)
    done = subprocess.run([sys.executable, "-B", "-c", CHILD, str(ROOT), platform, json.dumps(LACKING[platform]), str(configuration)],
                          capture_output=True, text=True, timeout=120, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    header, link = done.stderr.splitlines()[:2]
    assert len(header) == 8 and link == "BsdLink"
    found = json.loads(done.stdout)
    assert found["name"] == "tsp" and found["brokers"] == ["broker.example"]
    assert not [problem for problem in found["problems"] if "iproute2" in problem or "/dev/net/tun" in problem]

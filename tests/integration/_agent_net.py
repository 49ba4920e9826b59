# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A broker, a NAT and a host behind it, for tests of the agent: real devices, real packets, in namespaces of their own."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent.bundle import AGENT, build
from ansible_collections.tunnelbroker.tsp.tests.lab import Lab

ROOT = Path(__file__).resolve().parent.parent.parent
PASSWORD = "swordfish-canary"
PATIENCE = 60.0


def wait_for(what: str, condition: Callable[[], Any], patience: float = PATIENCE) -> Any:
    """The first true value of `condition`; AssertionError with `what` when it never comes."""
    until = time.monotonic() + patience
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < until, f"never happened: {what}"
        time.sleep(0.05)


def freeze(folder: Path) -> None:
    """Give an Ansible of this folder the collection as it is now: the agent is built out of it, and must not change between plays because
    somebody edits it."""
    name = folder / "collections/ansible_collections/tunnelbroker/tsp"
    checkout = name.resolve()
    name.unlink()
    for part in ("plugins", "roles", "templates", "meta"):
        shutil.copytree(checkout / part, name / part, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(checkout / "galaxy.yml", name)


class Net:
    """internet: 192.0.2.0/24 with the broker .1 and the NAT .20; behind it 10.0.0.0/24 with the host .2, which has a LAN eth1 too."""

    def __init__(self, lab: Lab, udp_timeout: int = 60, keepalive: int = 5) -> None:
        self.lab = lab
        self.keepalive = keepalive
        internet = lab.segment("internet")
        self.broker = lab.namespace("broker")
        self.nat_host = lab.namespace("nat")
        self.host = lab.namespace("host", root=True)
        internet.attach(self.broker, "eth0", "192.0.2.1/24")
        internet.attach(self.nat_host, "wan", "192.0.2.20/24")
        lab.veth(self.host, "eth0", self.nat_host, "lan")
        self.nat_host.ip("addr add 10.0.0.1/24 dev lan")
        self.host.ip("link set lo up", "addr add 10.0.0.2/24 dev eth0", "route add default via 10.0.0.1",
                     "link add eth1 type bridge", "link set eth1 up")
        self.broker.ip("link set lo up")
        self.broker.sysctl(net__ipv6__conf__all__forwarding=1)
        self.nat = lab.nat(self.nat_host, "lan", "wan", udp_timeout=udp_timeout)
        self.program = lab.folder / "tsp-agent.pyz"
        build(AGENT, self.program)
        self.server: subprocess.Popen[Any] | None = None
        self.folder = lab.folder

    def start_broker(self) -> None:
        ha1 = hashlib.md5(f"alice:broker.example:{PASSWORD}".encode()).hexdigest()
        config = self.folder / "broker.json"  # JSON is YAML
        config.write_text(json.dumps({
            "name": "broker.example", "modes": ["v6udpv4"], "auth": {"anonymous": True},
            "listen": {"addresses": ["192.0.2.1"], "port": 3653},
            "addresses": {"inner_ipv6": "2001:db8:f::1"},
            "pools": {"ipv6": "2001:db8:f::/64", "prefixes": [{"network": "2001:db8:8000::/33", "lengths": "48-64", "default": 56}]},
            "keepalive": {"interval": self.keepalive, "minimum": 5, "maximum": 60},
            "data_plane": {"kind": "userspace", "device": "tspb", "mtu": 1280},
            "store": {"path": str(self.folder / "leases.db")}, "key_file": str(self.folder / "key.pem"),
            "accounts": [{"username": "alice", "digest_ha1": ha1}], "log": {"level": "debug", "format": "text"}}))
        config.chmod(0o600)
        self.server = self.broker.popen("env", f"PYTHONPATH={ROOT / 'plugins'}", sys.executable, "-m", "module_utils._broker.cli", "serve",
                                        "--config", str(config), label="broker")
        wait_for("the broker listens", lambda: ":3653" in self.broker.run("ss", "-lun").stdout)

    def kill_broker(self) -> None:
        """kill -9 of the program itself (the Popen is the one that went in and waits)."""
        assert self.server is not None
        self.broker.signal(signal.SIGKILL, "-m module_utils._broker.cli serve")
        self.server.wait(60)
        self.server = None

    @contextlib.contextmanager
    def agent(self, **changes: Any) -> Iterator[Agent]:
        agent = Agent(self, changes)
        try:
            yield agent
        finally:
            agent.end()


class Agent:
    """The agent on the host, in the foreground."""

    def __init__(self, net: Net, changes: dict[str, Any]) -> None:
        self.net = net
        self.host = net.host
        self.config = {
            "name": "tsp", "device": "tsp0",
            "request": {"mode": "v6udpv4", "host_type": "router", "prefix_length": 56, "keepalive_interval": 5},
            "broker": {"brokers": ["192.0.2.1"], "auth_method": "any", "username": "alice", "password_file": "/etc/tsp/tsp.secret",
                       "min_interval": 0, "deadline": 20},
            "link": {"lan_interfaces": ["eth1"]}, "keepalive": {}, "log_level": "debug", "lease_file": "/etc/ansible/facts.d/tsp.fact",
            "state_dir": "/var/lib/tsp", "runtime_dir": "/run/tsp-tsp"}
        for key, value in changes.items():
            known = self.config.get(key)
            self.config[key] = {**known, **value} if isinstance(known, dict) else value
        self.host.run("sh", "-c", "mkdir -p /etc/tsp && umask 077 && cat > /etc/tsp/tsp.secret", input=PASSWORD + "\n")
        self.host.run("sh", "-c", "cat > /etc/tsp/tsp.json", input=json.dumps(self.config))
        self.process = self.start()

    def start(self) -> subprocess.Popen[Any]:
        self.host.run("rm", "-f", f"{self.config['runtime_dir']}/tsp.status.json")  # a killed agent leaves its last one
        return self.host.popen(sys.executable, str(self.net.program), "--config", "/etc/tsp/tsp.json", "--foreground", label="agent")

    def end(self) -> int:
        """SIGTERM; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)

    def status(self) -> dict[str, Any]:
        done = self.host.run("cat", f"{self.config['runtime_dir']}/tsp.status.json", check=False)
        try:
            return json.loads(done.stdout)
        except ValueError:
            return {}

    def wait_up(self, **wanted: Any) -> dict[str, Any]:
        def up() -> dict[str, Any] | None:
            assert self.process.poll() is None, f"the agent ended: {self.log()}"
            status = self.status()
            fits = status.get("state") == "up" and status.get("last_rtt_ms") is not None
            return status if fits and all(status.get(key) == value for key, value in wanted.items()) else None
        return wait_for("the agent is up", up)

    @property
    def address(self) -> str:
        return self.status()["lease"]["client"]["ipv6"]

    def log(self) -> str:
        return self.host.log_path("agent").read_text()

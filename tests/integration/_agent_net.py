# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A broker, a NAT and a host behind it, for tests of the agent: real devices, real packets, in namespaces of their own."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent.bundle import AGENT, build
from ansible_collections.tunnelbroker.tsp.tests.lab import Lab, Namespace

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


class Broker:
    """One of the collection's brokers, in a host of its own: number 1 is 192.0.2.1, inside the tunnel 2001:db8:f::1; 2 is 192.0.2.2 and
    2001:db8:f:2::1, and so on. Each has a store of its own, and all have the same account."""

    def __init__(self, lab: Lab, number: int, space: Namespace, keepalive: int) -> None:
        self.number = number
        self.space = space
        self.outer = f"192.0.2.{number}"
        network = "2001:db8:f::" if number == 1 else f"2001:db8:f:{number}::"
        self.inner = f"{network}1"
        self.server: subprocess.Popen[Any] | None = None
        self._file = lab.folder / f"{space.name}.json"  # JSON is YAML
        ha1 = hashlib.md5(f"alice:broker.example:{PASSWORD}".encode()).hexdigest()
        self._config: dict[str, Any] = {
            "name": "broker.example", "modes": ["v6udpv4"], "auth": {"anonymous": True},
            "listen": {"addresses": [self.outer], "port": 3653},
            "addresses": {"inner_ipv6": self.inner},
            "pools": {"ipv6": f"{network}/64",
                      "prefixes": [{"network": "2001:db8:8000::/33" if number == 1 else f"2001:db8:{number:x}000::/36", "lengths": "48-64",
                                    "default": 56}]},
            "keepalive": {"interval": keepalive, "minimum": 1, "maximum": 600},
            "data_plane": {"kind": "userspace", "device": "tspb", "mtu": 1280},
            "store": {"path": str(lab.folder / f"{space.name}.db")}, "key_file": str(lab.folder / f"{space.name}.pem"),
            "accounts": [{"username": "alice", "digest_ha1": ha1}], "log": {"level": "debug", "format": "text"}}

    def start(self, **changes: Any) -> None:
        """changes: of its configuration, this time and from now on."""
        self._config.update(changes)
        self._file.write_text(json.dumps(self._config))
        self._file.chmod(0o600)
        self.server = self.space.popen("env", f"PYTHONPATH={ROOT / 'plugins'}", sys.executable, "-m", "module_utils._broker.cli", "serve",
                                       "--config", str(self._file), label="broker")
        wait_for("the broker listens", lambda: self.space.has_udp_port(3653))

    def kill(self) -> None:
        """kill -9 of the program itself (the Popen is the one that went in and waits)."""
        assert self.server is not None
        self.space.signal(signal.SIGKILL, "-m module_utils._broker.cli serve")
        self.server.wait(60)
        self.server = None

    def log(self) -> str:
        return self.space.log_path("broker").read_text()


class Net:
    """internet: 192.0.2.0/24 with the brokers .1, .2 … and the NAT .20; behind it 10.0.0.0/24 with the host .2, whose LAN is eth1."""

    def __init__(self, lab: Lab, udp_timeout: int = 60, keepalive: int = 5, brokers: int = 1) -> None:
        self.lab = lab
        self.keepalive = keepalive
        self.internet = lab.segment("internet")
        self.brokers = [Broker(lab, number, lab.namespace("broker" if number == 1 else f"broker{number}"), keepalive)
                        for number in range(1, brokers + 1)]
        self.broker = self.brokers[0].space
        self.nat_host = lab.namespace("nat")
        self.host = lab.namespace("host", root=True)
        for broker in self.brokers:
            self.internet.attach(broker.space, "eth0", f"{broker.outer}/24")
            broker.space.ip("link set lo up")
            broker.space.sysctl(net__ipv6__conf__all__forwarding=1)
        self.internet.attach(self.nat_host, "wan", "192.0.2.20/24")
        lab.veth(self.host, "eth0", self.nat_host, "lan")
        self.nat_host.ip("addr add 10.0.0.1/24 dev lan")
        self.host.ip("link set lo up", "addr add 10.0.0.2/24 dev eth0", "route add default via 10.0.0.1",
                     "link add eth1 type bridge", "link set eth1 up")
        self.nat = lab.nat(self.nat_host, "lan", "wan", udp_timeout=udp_timeout)
        self.program = lab.folder / "tsp-agent.pyz"
        build(AGENT, self.program)
        self.python = [sys.executable]
        self.folder = lab.folder

    def start_broker(self) -> None:
        self.brokers[0].start()

    def kill_broker(self) -> None:
        self.brokers[0].kill()

    @contextlib.contextmanager
    def agent(self, **changes: Any) -> Iterator[Agent]:
        agent = Agent(self, changes)
        try:
            yield agent
        finally:
            agent.end()


class Agent:
    """The agent on the host, in the foreground."""

    def __init__(self, net: Net, changes: dict[str, Any], config_path: str = "/etc/tsp/tsp.json") -> None:
        """config_path: what --config names, when it is not the one that is written here."""
        self.net = net
        self.host = net.host
        self._config_path = config_path
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

    def start(self, *before: str) -> subprocess.Popen[Any]:
        """before: words in front of the command, as `env PATH=…`."""
        self.host.run("rm", "-f", f"{self.config['runtime_dir']}/tsp.status.json")  # a killed agent leaves its last one
        return self.host.popen(*before, *self.net.python, str(self.net.program), "--config", self._config_path, "--foreground",
                               label="agent")

    def kill(self) -> None:
        """kill -9 of all its processes at once."""
        self.host.run("kill", "-9", *self.pids(), check=False)
        self.process.wait(30)

    def pids(self) -> list[str]:
        """Its processes, as their own host numbers them."""
        lines = self.host.run("ps", "-eww", "-o", "pid=,args=").stdout.splitlines()
        return [line.split()[0] for line in lines if f"{self.net.program} --config" in line and "enter.py" not in line]

    def cpu(self) -> float:
        """Seconds of processor time that its processes have used so far, their ended children included."""
        ticks = 0
        for pid in self.pids():
            words = self.host.run("cat", f"/proc/{pid}/stat", check=False).stdout.rpartition(")")[2].split()
            ticks += sum(int(word) for word in words[11:15])
        return ticks / os.sysconf("SC_CLK_TCK")

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

    def said(self, pattern: str, times: int = 1) -> list[str]:
        """Wait until that many lines of the log match; all that do."""
        def lines() -> list[str]:
            found = [line for line in self.log().splitlines() if re.search(pattern, line)]
            return found if len(found) >= times else []
        found: list[str] = wait_for(f"the agent says {pattern!r}", lines)
        return found


class Stream:
    """A TCP connection through the tunnel, from the host to a broker, that asks and is answered ten times a second until `close`."""

    def __init__(self, agent: Agent, broker: Broker, port: int = 7070) -> None:
        code = (f"import socket; s = socket.create_server(('{broker.inner}', {port}), family=socket.AF_INET6); c = s.accept()[0]\n"
                "while d := c.recv(4096): c.sendall(d)")
        self._server = broker.space.popen(sys.executable, "-c", code, label=f"echo{port}")
        wait_for("it listens", lambda: f":{port}" in broker.space.run("ss", "-ltn").stdout)
        code = (f"import itertools, socket, time; s = socket.create_connection(('{broker.inner}', {port}), 30); s.settimeout(90)\n"
                "for n in itertools.count(1): s.sendall(b'%08d' % n); assert int(s.recv(8, socket.MSG_WAITALL)) == n; "
                "print(n, flush=True); time.sleep(0.1)")
        self._log = agent.host.log_path(f"stream{port}")
        self._log.unlink(missing_ok=True)
        self._client = agent.host.popen(sys.executable, "-c", code, label=f"stream{port}")

    def count(self) -> int:
        """Answers so far. AssertionError when the connection broke."""
        assert self._client.poll() is None, self._log.read_text()
        words = self._log.read_text().split() if self._log.exists() else []
        return int(words[-1]) if words else 0

    def goes_on(self) -> None:
        """Wait for three more answers."""
        before = self.count()
        wait_for("the connection goes on", lambda: self.count() >= before + 3, 90)

    def close(self) -> None:
        self._client.terminate()
        self._client.wait(30)
        self._server.terminate()
        self._server.wait(30)

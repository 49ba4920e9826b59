# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The network of the demonstration, and of tests that want the whole of it.

       192.0.2.0/24, "the internet"
    ───┬──────────────┬───────────────────┬──────────────────┬───
       │.1            │.20                │.30               │.100
     broker          NAT                router            controller
                      │ 10.0.0.1          (emulated Cisco     (ansible-playbook)
                      │                    IOS, over SSH)
                     host 10.0.0.2

The broker is tsp-broker.pyz with a data plane of its own; the NAT forgets a UDP flow after `UDP_TIMEOUT` seconds of silence; the host has
its own /etc, /usr, /var and processes; the router's tunnels carry real packets.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from .lab import Lab
from .machine import LabError
from .namespace import PROJECT, Namespace

BROKER, NAT, ROUTER, CONTROLLER, HOST = "192.0.2.1", "192.0.2.20", "192.0.2.30", "192.0.2.100", "10.0.0.2"
UDP_TIMEOUT = 5
KEEPALIVE = 2
PYTHON = os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)
"""What runs broker, agent and modules: without the libraries of the development environment."""


class Setting:
    """Everything that stands there before the first playbook runs."""

    def __init__(self, lab: Lab, broker_program: Path) -> None:
        self.lab = lab
        self.broker_program = broker_program
        self.password = secrets.token_urlsafe(12)
        self.router_password = secrets.token_urlsafe(12)
        internet = lab.segment("internet")
        self.broker, self.nat, self.router, self.controller = (lab.namespace(name) for name in ("broker", "nat", "router", "controller"))
        self.host = lab.namespace("host", root=True)
        # Whatever this machine has of ours, the host is new to it (its files are its own). Ansible's folder for facts, which others
        # share and which is not ours to remove, is there already.
        self.host.run("rm", "-rf", "/etc/ansible", "/etc/tsp", "/usr/local/lib/tsp", "/var/lib/tsp")
        self.host.run("mkdir", "-p", "/etc/ansible/facts.d")
        internet.attach(self.broker, "eth0", f"{BROKER}/24")
        internet.attach(self.nat, "wan", f"{NAT}/24")
        internet.attach(self.router, "eth0", f"{ROUTER}/24")
        internet.attach(self.controller, "eth0", f"{CONTROLLER}/24")
        lab.veth(self.host, "eth0", self.nat, "lan")
        self.nat.ip("addr add 10.0.0.1/24 dev lan")
        self.host.ip(f"addr add {HOST}/24 dev eth0", "route add default via 10.0.0.1")
        self.translation = lab.nat(self.nat, "lan", "wan", udp_timeout=UDP_TIMEOUT)
        self.broker_process: subprocess.Popen[Any] | None = None

    def secret_file(self, name: str, text: str) -> Path:
        """A file that only we can read."""
        path = self.lab.folder / name
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
        return path

    def start_broker(self, **changes: Any) -> None:
        """Accounts `alice` (any host) and `fleet` (a controller that asks for its routers), and the broker itself.

        changes: sections of its configuration to add or replace.
        """
        config = self.lab.folder / "broker.yml"
        config.write_text(json.dumps({
            "name": "broker.example",
            "listen": {"addresses": ["0.0.0.0"]},
            "modes": ["v6v4", "v6udpv4"],
            "pools": {"ipv6": "2001:db8:f::/64", "prefixes": [{"network": "2001:db8:8000::/33", "lengths": "48-64", "default": 56}]},
            "keepalive": {"interval": KEEPALIVE, "minimum": 1},
            "data_plane": {"kind": "userspace"},
            "store": {"path": str(self.lab.folder / "leases.db")},
            "key_file": str(self.lab.folder / "passdss-key.pem"),
            "log": {"format": "text", "level": "debug"},
            **changes,
        }, indent=2), encoding="utf-8")
        for name, flags in (("alice", []), ("fleet", ["--proxy", "--tunnels", "100"])):
            self.broker.run(PYTHON, str(self.broker_program), "users", "add", name, "--config", str(config), "--password-stdin", *flags,
                            input=self.password + "\n")
        self.broker_process = self.broker.popen(PYTHON, str(self.broker_program), "serve", "--config", str(config), label="serve")
        self._wait_for("the broker", self.broker_process, self.broker.log_path("serve"), lambda: self.broker.has_udp_port(3653))

    def start_router(self) -> str:
        """The emulated router with SSH on port 22. Returns the line for a known_hosts file."""
        accounts = self.secret_file("router-accounts.json", json.dumps({"admin": self.router_password}))
        program = self.router.popen(
            sys.executable, "-m", "ios_emulator", "--listen", ROUTER, "--port", "22", "--hostname", "R1", "--accounts", str(accounts),
            "--state", str(self.lab.folder / "router.json"), "--map", "GigabitEthernet0/0=eth0",
            env={**os.environ, "PYTHONPATH": str(PROJECT / "tests/lab"), "PYTHONDONTWRITEBYTECODE": "1"}, label="emulator")
        log = self.router.log_path("emulator")
        self._wait_for("the router emulator", program, log, lambda: '"port"' in log.read_text(encoding="utf-8"))
        said = json.loads(next(line for line in log.read_text(encoding="utf-8").splitlines() if '"port"' in line))
        if said["dataplane"]:
            raise LabError(f"the router emulator cannot carry packets: {said['dataplane']}")
        return f"{ROUTER} {said['host_key']}\n"

    def router_configuration(self) -> list[str]:
        """Lines of the router's running and startup configuration."""
        state = json.loads((self.lab.folder / "router.json").read_text(encoding="utf-8"))
        return [f"{which}: {line}" for which in ("running", "startup") for line in state[which].splitlines()]

    def ping(self, origin: Namespace, target: str, count: int = 1) -> float | None:
        """Round trip in ms of the fastest of `count` pings from a namespace, None when none came back."""
        done = origin.run("ping", "-6" if ":" in target else "-4", "-n", "-c", str(count), "-i", "0.2", "-W", "2", target, check=False)
        if done.returncode:
            return None
        return float(done.stdout.rsplit("=", 1)[1].split("/")[0])

    @staticmethod
    def _wait_for(what: str, program: subprocess.Popen[Any], log: Path, ready: Any, seconds: float = 20) -> None:
        deadline = time.monotonic() + seconds
        while not ready():
            if program.poll() is not None or time.monotonic() > deadline:
                how = "ended at once" if program.poll() is not None else f"was not ready after {seconds:.0f} s"
                raise LabError(f"{what} {how}: {log.read_text(encoding='utf-8')[-2000:]}")
            time.sleep(0.05)

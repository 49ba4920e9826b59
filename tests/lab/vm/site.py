# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The network that machines are tested in.

       192.0.2.0/24 and 2001:db8:1::/64, "the internet"
    ───┬─────────────┬─────────────────┬───────────────
       │.1 ::1       │.20              │.30 …
     broker         NAT              machines with addresses of their own
                     │10.0.0.1
                  ───┴─────┬───────  10.0.0.0/24
                           │.2 …
                         machines behind a NAT

The broker is the collection's own, with its userspace data plane, so that this machine's kernel need not have tunnels.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..lab import Lab
from ..machine import LabError
from ..namespace import PROJECT
from .machine import Nic

BROKER, BROKER6 = "192.0.2.1", "2001:db8:1::1"
REALM = "broker.example"


class Site:
    """The network, and after start_broker() the broker with an account for everyone."""

    def __init__(self, lab: Lab, *, udp_timeout: int = 30) -> None:
        self.lab = lab
        self.internet = lab.segment("internet")
        self.inside = lab.segment("inside")
        self.broker, self.nat = lab.namespace("broker"), lab.namespace("nat")
        self.internet.attach(self.broker, "eth0", f"{BROKER}/24", f"{BROKER6}/64")
        self.internet.attach(self.nat, "wan", "192.0.2.20/24")
        self.inside.attach(self.nat, "lan", "10.0.0.1/24")
        self.translation = lab.nat(self.nat, "lan", "wan", udp_timeout=udp_timeout)
        self.broker.sysctl(net__ipv6__conf__all__forwarding=1, net__ipv4__ip_forward=1)
        self.passwords: dict[str, str] = {}

    def outside(self, number: int, name: str = "eth0") -> Nic:
        """An uplink with the addresses 192.0.2.`number` and 2001:db8:1::`number`, and native default routes."""
        return Nic(name, self.internet, (f"192.0.2.{number}/24", f"2001:db8:1::{number}/64"), (BROKER, BROKER6))

    def behind_nat(self, number: int, name: str = "eth0") -> Nic:
        """An uplink with the private address 10.0.0.`number` only."""
        return Nic(name, self.inside, f"10.0.0.{number}/24", "10.0.0.1")

    def start_broker(self, accounts: Iterable[str], *, plugins: Path = PROJECT / "plugins", **changes: Any) -> None:
        """Run the broker of `plugins`. passwords: the accounts' afterwards. changes: sections of its configuration to add or replace."""
        self.passwords = {name: secrets.token_urlsafe(12) for name in accounts}
        known = [{"username": name, "digest_ha1": hashlib.md5(f"{name}:{REALM}:{password}".encode()).hexdigest()}
                 for name, password in self.passwords.items()]
        config = self.lab.folder / "broker.json"  # JSON is YAML
        with open(os.open(config, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            json.dump({
                "name": REALM, "modes": ["v6v4", "v6udpv4", "v4v6"], "listen": {"addresses": [BROKER, BROKER6], "port": 3653},
                "pools": {"ipv6": "2001:db8:f::/64", "ipv4": "203.0.113.0/24",
                          "prefixes": [{"network": "2001:db8:8000::/33", "lengths": "48-64", "default": 56}]},
                "keepalive": {"interval": 10, "minimum": 5}, "data_plane": {"kind": "userspace"},
                "store": {"path": str(self.lab.folder / "leases.db")}, "key_file": str(self.lab.folder / "passdss-key.pem"),
                "accounts": known, "log": {"format": "text", "level": "debug"}, **changes}, file, indent=2)
        process = self.broker.popen("env", f"PYTHONPATH={plugins}", sys.executable, "-m", "module_utils._broker.cli", "serve", "--config",
                                    str(config), label="serve")
        self._wait(process)

    def _wait(self, process: subprocess.Popen[Any]) -> None:
        end = time.monotonic() + 60
        while not self.broker.has_udp_port(3653):
            if process.poll() is not None or time.monotonic() > end:
                raise LabError(f"the broker does not listen: {self.broker.log_path('serve').read_text(encoding='utf-8')[-2000:]}")
            time.sleep(0.05)

    def variables(self, account: str) -> dict[str, Any]:
        """What the role tunnel must know to ask this broker."""
        return {"tunnel_broker": [BROKER], "tunnel_username": account, "tunnel_password": self.passwords[account], "tunnel_min_interval": 0}

# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The network of the interoperability tests: tsp-broker.pyz as built, old clients around it directly and behind a NAT.

    world 2001:db8:9::2, 192.0.2.130 --- broker .1 ---- 192.0.2.0/25, 2001:db8:1::/64 ------------------------------
                                                        | others .2-.9    | one .51   two .52   tcp .53   lossy .54
                                                        | nat .20 --- 10.0.0.0/24: inner1 .2, inner2 .3

`others` has brokers for the control plane alone: old versions, few modes, redirects. `tcp` cannot send UDP to a broker (it is refused at
once). Every third reply to `lossy`
and every fourth of its requests is lost. All brokers have the same accounts.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ansible_collections.tunnelbroker.tsp.tests.lab import Lab, Namespace
from ansible_collections.tunnelbroker.tsp.tests.lab.machine import LabError

from .oldclient import Conf, OldClient, Outcome
from .olddata import Tunnel
from .oldwire import Sockets

ROOT = Path(__file__).resolve().parents[2]
REALM = "broker.example"
CANARY = "Canary-7f3a"
"""Stands in every password: nothing that is logged may hold it."""
USERS = {"alice": f"{CANARY} alice", "bob": f"{CANARY}:bob\\\"", "carol": f"{CANARY}-carol", "dave": f"{CANARY}ädave",
         "fleet": f"{CANARY}fleet", "erin": f"{CANARY}erin", "frank": f"{CANARY}frank", "gina": f"{CANARY}gina"}
BROKER, BROKER6, WORLD, WORLD4 = "192.0.2.1", "2001:db8:1::1", "2001:db8:9::2", "192.0.2.130"
V200, V101, AT_VERSION, AT_AUTH, AT_CREATE, PLAIN_ONLY, SINGLE = (f"192.0.2.{n}" for n in range(2, 9))
UDP_TIMEOUT = 3


def wait_for(what: str, condition: Callable[[], Any], seconds: float = 90) -> Any:
    """The first true value of `condition`; AssertionError when it never comes."""
    until = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < until, f"never happened: {what}"
        time.sleep(0.02)
    return value


class Net:
    """See above. clients: by name."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.folder = lab.folder
        self.program = lab.folder / "tsp-broker.pyz"
        done = subprocess.run([sys.executable, "-m", "module_utils._broker.build", str(self.program)], cwd=ROOT, capture_output=True,
                              text=True, env={"PYTHONPATH": str(ROOT / "plugins"), "PYTHONDONTWRITEBYTECODE": "1"}, check=False)
        assert done.returncode == 0, done.stderr
        internet = lab.segment("internet")
        self.broker, self.world, self.others = (lab.namespace(name) for name in ("broker", "world", "others"))
        internet.attach(self.broker, "eth0", f"{BROKER}/25", f"{BROKER6}/64")
        internet.attach(self.others, "eth0", *(f"192.0.2.{n}/25" for n in range(2, 10)))
        lab.veth(self.broker, "eth1", self.world, "eth0")
        self.broker.ip("link set lo up", "addr add 192.0.2.129/25 dev eth1", "addr add 2001:db8:9::1/64 dev eth1 nodad")
        self.world.ip(f"addr add {WORLD4}/25 dev eth0", f"addr add {WORLD}/64 dev eth0 nodad",
                      "route add default via 192.0.2.129", "route add default via 2001:db8:9::1")
        self.broker.sysctl(net__ipv6__conf__all__forwarding=1, net__ipv4__ip_forward=1)
        self.clients: dict[str, Namespace] = {}
        for number, name in enumerate(("one", "two", "tcp", "lossy"), 51):
            self.clients[name] = lab.namespace(name)
            internet.attach(self.clients[name], "eth0", f"192.0.2.{number}/25", f"2001:db8:1::{number}/64")
        self.clients["tcp"].nft("""
            table inet filter {
                chain leave {
                    type filter hook output priority 0;
                    meta nfproto ipv4 udp dport 3653 reject with icmp port-unreachable
                    meta nfproto ipv6 udp dport 3653 reject with icmpv6 port-unreachable
                }
            }
        """)
        self.broker.nft("""
            table ip filter {
                chain come {
                    type filter hook prerouting priority -300;
                    ip saddr 192.0.2.54 udp dport 3653 numgen inc mod 4 == 2 drop
                }
            }
        """)
        self.clients["lossy"].nft("""
            table ip filter {
                chain come {
                    type filter hook prerouting priority -300;
                    udp sport 3653 numgen inc mod 3 == 1 drop
                }
            }
        """)
        nat = lab.namespace("nat")
        internet.attach(nat, "wan", "192.0.2.20/25")
        inside = lab.segment("inside")
        inside.attach(nat, "lan", "10.0.0.1/24")
        for number, name in enumerate(("inner1", "inner2"), 2):
            self.clients[name] = lab.namespace(name)
            inside.attach(self.clients[name], "eth0", f"10.0.0.{number}/24")
            self.clients[name].ip("route add default via 10.0.0.1")
        self.nat = lab.nat(nat, "lan", "wan", udp_timeout=UDP_TIMEOUT)
        self._running: dict[str, subprocess.Popen[Any]] = {}

    # Brokers ----------------------------------------------------------------------------------------------------------------------

    def configuration(self, name: str, changes: dict[str, Any]) -> Path:
        """Write a broker's configuration."""
        data: dict[str, Any] = {
            "name": REALM, "modes": ["v6v4", "v6udpv4", "v4v6"], "data_plane": "none",
            "auth": {"anonymous": True, "plain": True, "digest-md5": True, "passdss-3des-1": True},
            "anonymous": {"prefix": True}, "dns_domain": "tunnels.example",
            "accounts": [{"username": user, "password": password, **({"proxy": True, "tunnels": 100} if user == "fleet" else {})}
                         for user, password in USERS.items()],
            "store": {"path": f"{name}.db"}, "key_file": "key.pem", "keepalive": {"interval": 30, "minimum": 1},
            "pools": {"ipv6": "2001:db8:f::/64", "prefixes": [{"network": "2001:db8:8000::/33", "lengths": "48-64", "default": 56}],
                      "ipv4": "198.51.100.0/24", "ipv4_prefixes": [{"network": "203.0.113.0/24", "lengths": "24-30", "default": 29}]},
            "limits": {"auth_failures_per_minute": 1000}, "log": {"file": f"{name}.log", "level": "debug"}}
        for key, value in changes.items():
            known = data.get(key)
            data[key] = {**known, **value} if isinstance(known, dict) and isinstance(value, dict) else value
        path = self.folder / f"{name}.json"  # JSON is YAML
        path.touch(0o600)
        path.write_text(json.dumps(data), encoding="utf-8")
        return path

    def start(self, name: str, where: Namespace, changes: dict[str, Any]) -> None:
        """Start a broker; returns at once. `main` is the one file as built, the others the same from its sources, which starts sooner."""
        path = self.configuration(name, changes)
        (self.folder / f"{name}.log").unlink(missing_ok=True)
        program = [str(self.program)] if name == "main" else ["-m", "module_utils._broker.cli"]
        self._running[name] = where.popen(sys.executable, *program, "serve", "--config", str(path), label=name,
                                          env={"PYTHONPATH": str(ROOT / "plugins")})

    def listening(self, *names: str) -> None:
        """Wait until they listen."""
        for name in names or tuple(self._running):
            wait_for(f"the broker {name} listens", lambda name=name: self.logged(name, "listening") or self._ended(name))

    def _ended(self, name: str) -> None:
        running = self._running[name]
        if running.poll() is not None:
            said = [path.read_text(encoding="utf-8") for path in self.folder.glob(f"*-{name}.log")]
            raise LabError(f"the broker {name} ended at once: {said}")

    def stop(self, name: str, where: Namespace, signal: str = "-TERM") -> None:
        """End one, by a signal to its own process (popen's is the one that entered the namespace)."""
        for line in where.run("ps", "-ww", "-e", "-o", "pid=,args=").stdout.splitlines():
            pid, words = line.split(None, 1)
            if f"serve --config {self.folder / name}.json" in words:
                where.run("kill", signal, pid)
                break
        self._running.pop(name).wait(20)

    def log(self, name: str) -> str:
        path = self.folder / f"{name}.log"
        return path.read_text(encoding="utf-8") if path.exists() else ""

    def logged(self, name: str, event: str | None = None) -> list[dict[str, Any]]:
        """Parsed log lines of a broker."""
        text = self.log(name)
        lines = [json.loads(line) for line in text[:text.rfind("\n") + 1].splitlines()]
        return [line for line in lines if event is None or line["event"] == event]

    # Clients ----------------------------------------------------------------------------------------------------------------------

    def client(self, where: str, version: str, *, server: str = BROKER, mode: str = "v6anyv4", auth: str = "anonymous", user: str = "",
               password: str | None = None, wire: dict[str, Any] | None = None, step: Any = None, known_key: bytes | None = None,
               **conf: Any) -> OldClient:
        """A client on the host `where`, ready to run()."""
        if auth == "anonymous":
            user = password = ""
        elif password is None:
            password = USERS[user]
        asked = Conf(server=f"[{BROKER6}]" if mode == "v4v6" and server == BROKER else server, tunnel_mode=mode, auth_method=auth,
                     userid=user, passwd=password, **conf)
        return OldClient(version, asked, Sockets(self.clients[where].network, **(wire or {})), pause=100, known_key=known_key,
                         echo_patience=1.0, **({"step": step} if step else {}))

    def run(self, where: str, version: str, **options: Any) -> Outcome:
        """Run a client to the end of its handshake, and end it."""
        outcome = self.client(where, version, **options).run()
        if outcome.wire is not None:
            outcome.wire.close()
        return outcome

    @contextmanager
    def tunnel(self, where: str, version: str, **options: Any) -> Iterator[tuple[Outcome, Tunnel]]:
        """Run a client; its tunnel stands within the block. Afterwards nothing may have come that the client would have choked on."""
        client = self.client(where, version, **options)
        outcome = client.run()
        assert outcome.up, f"{version} {options}: {outcome}"
        with Tunnel(client, outcome) as tunnel:
            yield outcome, tunnel
        assert not tunnel.errors, tunnel.errors

    def ping(self, origin: Namespace, target: str) -> bool:
        """An ordinary ping."""
        return origin.run("ping", "-n", "-c1", "-W5", target, check=False).returncode == 0

# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The broker's userspace data plane with real packets: raw sockets, TUN devices and veth in namespaces of the test's own.

    world 2001:db8:9::2, 192.0.2.130 --- broker 192.0.2.1, 2001:db8:1::1 --- one .7, two .8 (and 2001:db8:1::7, ::8)
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.tunnelbroker.tsp.tests.lab import Lab, Namespace

pytestmark = pytest.mark.root
ROOT = Path(__file__).resolve().parents[2]
ACCOUNTS = [{"username": "one", "password": "secret1"}, {"username": "two", "password": "secret2"}]
SERVING = "-m module_utils._broker.cli serve"


def wait_for(what: str, condition: Callable[[], Any], seconds: float = 60) -> Any:
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, f"never happened: {what}"
        time.sleep(0.05)
    return value


class Net:
    """The hosts of the picture, and a broker that can be started and ended."""

    def __init__(self, lab: Lab) -> None:
        self.folder = lab.folder
        internet = lab.segment("internet")
        self.broker, self.world = lab.namespace("broker"), lab.namespace("world")
        self.clients = {name: lab.namespace(name) for name in ("one", "two")}
        internet.attach(self.broker, "eth0", "192.0.2.1/25", "2001:db8:1::1/64")
        for number, client in enumerate(self.clients.values(), 7):
            internet.attach(client, "eth0", f"192.0.2.{number}/25", f"2001:db8:1::{number}/64")
            client.ip("link set lo up")
        lab.veth(self.broker, "eth1", self.world, "eth0")
        self.broker.ip("link set lo up", "addr add 192.0.2.129/25 dev eth1", "addr add 2001:db8:9::1/64 dev eth1 nodad")
        self.world.ip("link set lo up", "addr add 192.0.2.130/25 dev eth0", "addr add 2001:db8:9::2/64 dev eth0 nodad",
                      "route add default via 192.0.2.129", "-6 route add default via 2001:db8:9::1")
        self.broker.sysctl(net__ipv6__conf__all__forwarding=1, net__ipv4__ip_forward=1)
        self.config = self.folder / "broker.json"  # JSON is YAML
        self.config.touch(0o600)
        self.config.write_text(json.dumps({
            "name": "broker.example", "modes": ["v6v4", "v6udpv4", "v4v6"], "data_plane": "userspace",
            "auth": {"passdss-3des-1": False}, "accounts": ACCOUNTS, "store": {"path": "leases.db"},
            "keepalive": {"interval": 5, "minimum": 1, "silence": 2},
            "pools": {"ipv6": "2001:db8:f::/64", "prefixes": [{"network": "2001:db8:8000::/33", "lengths": [56]}],
                      "ipv4": "198.51.100.0/24", "ipv4_prefixes": [{"network": "203.0.113.0/24", "lengths": [29]}]},
            "log": {"file": "log", "level": "debug"}}), encoding="utf-8")

    def start(self) -> subprocess.Popen[Any]:
        (self.folder / "log").unlink(missing_ok=True)
        broker = self.broker.popen("env", f"PYTHONPATH={ROOT / 'plugins'}", sys.executable, "-m", "module_utils._broker.cli", "serve",
                                   "--config", str(self.config), label="serve")
        wait_for("the broker listens", lambda: self.logged("listening"))
        return broker

    def logged(self, event: str) -> list[dict[str, Any]]:
        log = self.folder / "log"
        text = log.read_text(encoding="utf-8") if log.exists() else ""
        return [line for line in map(json.loads, text[:text.rfind("\n") + 1].splitlines()) if line["event"] == event]

    @contextlib.contextmanager
    def tunnel(self, name: str, mode: str, **request: Any) -> Iterator[dict[str, Any]]:
        """What the client of that name was granted, while its tunnel stands."""
        asked = {"host": "2001:db8:1::1" if mode == "v4v6" else "192.0.2.1", "user": name, "password": f"secret{1 + (name == 'two')}",
                 "request": {"mode": mode, **request}}
        peer = self.clients[name].popen(sys.executable, str(ROOT / "tests/integration/_broker_peer.py"), json.dumps(asked),
                                        stdout=subprocess.PIPE, text=True)
        try:
            line = peer.stdout.readline()
            assert line, f"the peer {name} ended: see its log"
            yield json.loads(line)
        finally:
            peer.kill()
            peer.wait()
            peer.stdout.close()


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    with Lab("broker-netns") as lab:
        made = Net(lab)
        made.start()
        yield made


def ping(host: Namespace, target: str, *options: str) -> bool:
    return host.run("ping", "-c1", "-W5", *options, target, check=False).returncode == 0


@pytest.mark.parametrize("mode", ["v6udpv4", "v6v4"])
def test_ipv6_through_a_tunnel(net: Net, mode: str) -> None:
    with net.tunnel("one", mode, host_type="router", prefix_length=56) as one:
        client = net.clients["one"]
        assert one["mode"] == mode
        assert ping(client, one["server"]), "the keepalive is not answered"
        assert ping(client, "2001:db8:9::2"), "the world cannot be reached"
        assert ping(client, "2001:db8:9::2", "-s", "1232", "-M", "do"), "a packet of 1280 bytes does not fit"
        assert ping(net.world, one["inside"]), "the client cannot be reached from the world"
        assert ping(net.world, one["prefix"].replace("/56", "1")), "its prefix cannot be reached"
        assert ping(net.broker, one["inside"]), "nor from the broker"
        with net.tunnel("two", "v6v4" if mode == "v6udpv4" else "v6udpv4") as two:
            assert ping(net.clients["two"], one["inside"]), "clients of both modes do not reach each other"
            assert ping(client, two["inside"])


def test_ipv4_through_a_tunnel(net: Net) -> None:
    with net.tunnel("one", "v4v6", host_type="router", prefix_length=29) as one, net.tunnel("two", "v4v6") as two:
        client = net.clients["one"]
        assert one["mode"] == "v4v6" and ping(client, one["server"]) and ping(client, "192.0.2.130")
        assert ping(client, "192.0.2.130", "-s", "1252", "-M", "do")
        assert ping(net.world, one["inside"]) and ping(net.world, one["prefix"].replace(".0/29", ".1"))
        assert ping(client, two["inside"]) and ping(net.clients["two"], one["inside"])


def test_traceroute_sees_the_broker_between_two_clients(net: Net) -> None:
    with net.tunnel("one", "v6v4"), net.tunnel("two", "v6udpv4") as two:
        done = net.clients["one"].run("ping", "-c1", "-W5", "-t1", two["inside"], check=False)
        assert "Time exceeded: Hop limit" in done.stdout and "2001:db8:" in done.stdout, done.stdout


def test_nobody_at_home_is_said_and_not_looped(net: Net) -> None:
    with net.tunnel("one", "v6udpv4"):
        for host in (net.clients["one"], net.world):
            done = host.run("ping", "-c1", "-W5", "2001:db8:f::dead", check=False)
            assert "Destination unreachable: Address unreachable" in done.stdout, done.stdout


def test_a_client_cannot_send_as_somebody_else(net: Net) -> None:
    with net.tunnel("one", "v6v4") as one:
        client = net.clients["one"]
        client.ip("-6 addr add 2001:db8:f::bad/128 dev tun0 nodad")
        assert ping(client, "2001:db8:9::2") and not ping(client, "2001:db8:9::2", "-I", "2001:db8:f::bad", "-W1")
        assert one["inside"] != "2001:db8:f::bad"


def test_a_silent_v6v4_client_is_woken_by_its_own_packet(net: Net) -> None:
    with net.tunnel("one", "v6v4", keepalive_interval=1) as one:
        assert ping(net.clients["one"], one["server"])
        closed = len(net.logged("tunnel_closed"))
        wait_for("the end is freed", lambda: any("silent" in line["why"] for line in net.logged("tunnel_closed")[closed:]))
        assert not ping(net.world, one["inside"], "-W1"), "a freed end still carried"
        assert ping(net.clients["one"], one["server"]) and net.logged("tunnel_woken")
        assert ping(net.world, one["inside"])


def test_start_stop_and_kill(net: Net) -> None:
    """Ends the module's broker, so it comes last: everything it made is gone after SIGTERM, and after SIGKILL the next one goes on."""
    serving = [program for label, program in net.broker._programs if label == "serve"][0]
    assert "tsp0" in net.broker.ip("-o link")
    with net.tunnel("one", "v6v4", keepalive=False, host_type="router", prefix_length=56) as one:
        assert ping(net.world, one["inside"])
        net.broker.signal(signal.SIGTERM, SERVING)
        assert serving.wait() == 0
        assert "tsp0" not in net.broker.ip("-o link") and "tsp0" not in net.broker.ip("-6 route")
        second = net.start()
        assert ping(net.world, one["inside"]) and ping(net.clients["one"], "2001:db8:9::2"), "the tunnel did not last over a restart"
        net.broker.signal(signal.SIGKILL, SERVING)
        second.wait()
        assert "tsp0" not in net.broker.ip("-o link"), "the device outlived its broker"
        net.start()
        assert ping(net.world, one["prefix"].replace("/56", "1")), "the tunnel did not last over kill -9"

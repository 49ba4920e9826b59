# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The agent behind a NAT with its tunnel over UDP in the kernel: handed over, kept, handed back, and done without where it must.

Namespaces: `world` has the broker (192.0.2.1), `nat` the NAT (192.0.2.20, inside 10.0.0.1), `inside` the agent (10.0.0.2); the agent
of a host without sit has a public address of its own there (192.0.2.30).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from _guest import SECONDS, kill_agent, let_in, wait_for
from _guest import run as run_in

PASSWORD = "swordfish"
CONFIG = {
    "name": "world.example", "modes": ["v6udpv4", "v6v4"], "auth": {"anonymous": False, "digest-md5": True, "passdss-3des-1": False},
    "accounts": [{"username": "alice", "digest_ha1": hashlib.md5(f"alice:world.example:{PASSWORD}".encode()).hexdigest()}],
    "listen": {"addresses": ["192.0.2.1"], "port": 3653},
    "pools": {"ipv6": "2001:db8:a::/64", "prefixes": [{"network": "2001:db8:8000::/33", "lengths": "48-64", "default": 56}]},
    "keepalive": {"interval": 5, "minimum": 5, "maximum": 60}, "data_plane": {"kind": "userspace", "device": "tspb"},
    "store": {"path": "leases.db"}}
NAT = """
table ip nat {
  chain out { type nat hook postrouting priority 100; oifname wan masquerade fully-random; }
}
"""
NAT_SECONDS = 5
FORGET = """
import socket, struct
netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
netlink.send(struct.pack("=IHHII", 20, 0x102, 5, 1, 0) + bytes(4))  # ctnetlink: delete them all, and acknowledge
raise SystemExit(-struct.unpack_from("=i", netlink.recv(4096), 16)[0])
"""
LISTEN = """
import random, socket
wanted = random.Random(7).randbytes(3_000_000)
peer = socket.create_server(("2001:db8:a::1", 7777), family=socket.AF_INET6).accept()[0]
came = b""
while part := peer.recv(1 << 16):
    came += part
peer.sendall(came)
raise SystemExit(came != wanted)
"""
SEND = """
import random, socket
wanted = random.Random(7).randbytes(3_000_000)
peer = socket.create_connection(("2001:db8:a::1", 7777), 60)
peer.sendall(wanted)
peer.shutdown(socket.SHUT_WR)
came = b""
while part := peer.recv(1 << 16):
    came += part
raise SystemExit(came != wanted)
"""


def run(command: str, at: str = "inside") -> str:
    return run_in(command, at)


def picture() -> dict[str, Any]:
    """What a user of the host would notice, without what the loading of a module leaves (sit0)."""
    links = [link for link in json.loads(run("ip -j addr show")) if link["ifname"] != "sit0"]
    routes = [route for family in ("-4", "-6") for route in json.loads(run(f"ip -j {family} route show")) if route.get("dev") != "sit0"]
    return {"links": {link["ifname"]: (link["mtu"], sorted(a["local"] for a in link["addr_info"])) for link in links},
            "routes": sorted(json.dumps(route, sort_keys=True) for route in routes), "ports": run("ip fou show"),
            "forwarding": run("cat /proc/sys/net/ipv6/conf/all/forwarding")}


class World:
    def __init__(self, folder: Path) -> None:
        self.folder = let_in(folder)
        subprocess.run(["modprobe", "-a", "fou", "tun"], check=True)
        for name in ("world", "nat", "inside"):
            subprocess.run(["ip", "netns", "add", name], check=True)
            run("ip link set lo up", name)
        run("ip link add net type bridge", "world")
        run("ip link set net up", "world")
        run("ip addr add 192.0.2.1/24 dev net", "world")
        for at, device in (("nat", "wan"), ("inside", "public")):
            run(f"ip link add {device} type veth peer name to-{at} netns world", at)
            run(f"ip link set to-{at} master net up", "world")
        run("ip link add lan type veth peer name eth0 netns inside", "nat")
        for at, device, address in (("nat", "wan", "192.0.2.20"), ("nat", "lan", "10.0.0.1"), ("inside", "eth0", "10.0.0.2")):
            run(f"ip addr add {address}/24 dev {device}", at)
            run(f"ip link set {device} up", at)
        run("ip route add 192.0.2.0/24 via 10.0.0.1")
        run("ip link add lan0 type bridge")
        run("ip link set lan0 up")
        (folder / "nat.nft").write_text(NAT, encoding="utf-8")
        run(f"nft -f {folder}/nat.nft", "nat")
        for name, value in (("net.ipv4.ip_forward", 1), ("net.netfilter.nf_conntrack_udp_timeout", NAT_SECONDS),
                            ("net.netfilter.nf_conntrack_udp_timeout_stream", NAT_SECONDS)):
            run(f"sysctl -qw {name}={value}", "nat")
        (folder / "broker.yml").write_text(json.dumps(CONFIG), encoding="utf-8")
        (folder / "broker.yml").chmod(0o600)
        self.start()

    def start(self) -> None:
        with (self.folder / "broker.log").open("ab") as log:
            self.broker = subprocess.Popen(["ip", "netns", "exec", "world", sys.executable, "/opt/broker", "serve", "--config",
                                            str(self.folder / "broker.yml")], stdout=log, stderr=log)
        wait_for(lambda: ":3653" in run("ss -lun", "world") or self.broker.poll() is not None, "the broker's port")
        assert self.broker.poll() is None, (self.folder / "broker.log").read_text(encoding="utf-8")

    @contextlib.contextmanager
    def public(self) -> Iterator[None]:
        """The agent's host with a public address instead of the NAT."""
        run("ip route del 192.0.2.0/24 via 10.0.0.1")
        run("ip addr add 192.0.2.30/24 dev public")
        run("ip link set public up")
        try:
            yield
        finally:
            run("ip addr flush dev public")
            run("ip link set public down")
            run("ip route replace 192.0.2.0/24 via 10.0.0.1")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("world"))
    yield made
    made.broker.kill()
    made.broker.wait()
    for name in ("world", "nat", "inside"):
        subprocess.run(["ip", "netns", "del", name], check=True)


class Agent:
    def __init__(self, folder: Path, mode: str = "v6udpv4", **link: Any) -> None:
        self.folder = let_in(folder)
        (folder / "secret").write_text(PASSWORD + "\n")
        (folder / "secret").chmod(0o600)
        (folder / "tsp.json").write_text(json.dumps({
            "device": "tsp7", "request": {"mode": mode, "host_type": "router", "prefix_length": 56, "keepalive_interval": 5},
            "broker": {"brokers": ["192.0.2.1"], "username": "alice", "password_file": str(folder / "secret"), "min_interval": 0},
            "link": {"lan_interfaces": ["lan0"], **link}, "keepalive": {"longest_interval": 1}, "lease_file": str(folder / "lease"),
            "state_dir": str(folder / "state"), "runtime_dir": str(folder / "run")}))
        self.start()

    def __enter__(self) -> Agent:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.program.send_signal(signal.SIGTERM)
        self.program.wait(SECONDS)

    def start(self) -> None:
        (self.folder / "run" / "tsp.status.json").unlink(missing_ok=True)
        with (self.folder / "log").open("ab") as log:
            self.program = subprocess.Popen(["ip", "netns", "exec", "inside", sys.executable, "/opt/agent", "--config",
                                             str(self.folder / "tsp.json"), "--foreground"], stdout=log, stderr=log)

    def up(self, **wanted: Any) -> dict[str, Any]:
        def look() -> Any:
            assert self.program.poll() is None, self.log()
            try:
                status = json.loads((self.folder / "run" / "tsp.status.json").read_text())
            except (OSError, ValueError):
                return None
            fits = status["state"] == "up" and status["last_rtt_ms"] is not None and status["missed"] == 0
            return status if fits and all(status[key] == value for key, value in wanted.items()) else None
        return wait_for(look, f"the tunnel to be up and answered {wanted or ''}: {self.log()}")

    def end(self) -> None:
        self.program.send_signal(signal.SIGTERM)
        assert self.program.wait(SECONDS) == 0, self.log()
        assert "Traceback" not in self.log() and "INFO: failed: " not in self.log(), self.log()

    def log(self) -> str:
        return (self.folder / "log").read_text(encoding="utf-8")


def device() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run("ip -j -d link show dev tsp7"))[0]
    return found


def both_ways(status: dict[str, Any]) -> None:
    run("ping -6 -c1 -W9 2001:db8:a::1")
    inside = status["lease"]["prefix"].split("/")[0] + "1"
    for target in (status["lease"]["client"]["ipv6"], inside):
        run(f"ping -6 -c1 -W9 {target}", "world")


def test_the_kernel_carries_it_behind_a_nat_and_nothing_is_left(world: World, tmp_path: Path) -> None:
    before = picture()
    agent = Agent(tmp_path)
    with agent:
        status = agent.up(data_plane="fou")
        data, port = device()["linkinfo"], status["lease"]["client"]["udp_port"]
        assert data["info_kind"] == "sit" and data["info_data"]["encap"]["sport"] == port and data["info_data"]["encap"]["csum"]
        assert [entry["port"] for entry in json.loads(run("ip -j fou show"))] == [port]
        assert status["mtu"] == device()["mtu"] == 1472 and "kernel" in status["data_plane_why"]
        both_ways(status)
        run("ping -6 -c1 -W9 -M do -s 1424 2001:db8:a::1")
        agent.end()
    assert picture() == before


def test_asked_again_it_keeps_the_device_and_what_is_on_it(world: World, tmp_path: Path) -> None:
    with Agent(tmp_path) as agent:
        first, index = agent.up(), device()["ifindex"]
        agent.program.send_signal(signal.SIGHUP)
        # Asked beside the tunnel in use: each has a port of its own until the new one takes over.
        wait_for(lambda: agent.up(negotiations=2)["lease"]["client"]["udp_port"] != first["lease"]["client"]["udp_port"], "another port")
        second = agent.up(negotiations=2)
        assert device()["ifindex"] == index and device()["linkinfo"]["info_data"]["encap"]["sport"] == second["lease"]["client"]["udp_port"]
        both_ways(second)
        world.broker.kill()
        world.broker.wait()
        wait_for(lambda: "asking the broker again" in agent.log(), "the loss to be noticed")
        world.start()
        third = agent.up()
        assert third["negotiations"] > 2 and device()["ifindex"] == index
        both_ways(third)


def test_killed_it_goes_on_with_the_stored_lease(world: World, tmp_path: Path) -> None:
    before = picture()
    with Agent(tmp_path) as agent:
        port = agent.up()["lease"]["client"]["udp_port"]
        kill_agent()
        agent.program.wait(SECONDS)
        assert run("ip fou show"), "the kernel carries on"
        agent.start()
        status = agent.up(negotiations=0)
        assert status["lease"]["client"]["udp_port"] == port and status["data_plane"] == "fou"
        both_ways(status)
        agent.end()
    assert picture() == before


def test_the_nats_memory_is_kept_fresh_and_its_loss_got_over(world: World, tmp_path: Path) -> None:
    with Agent(tmp_path) as agent:
        status = agent.up()
        start = time.monotonic()
        wait_for(lambda: time.monotonic() - start > 2 * NAT_SECONDS + 1, "twice the time after which the NAT forgets")
        run(f"ping -6 -c1 -W9 {status['lease']['client']['ipv6']}", "world")
        assert agent.up()["negotiations"] == 1
        run(f"{sys.executable} -c {shlex.quote(FORGET)}", "nat")

        def reached() -> bool:
            ping = ["ip", "netns", "exec", "world", "ping", "-6", "-c1", "-W2", status["lease"]["client"]["ipv6"]]
            return subprocess.run(ping, capture_output=True, check=False).returncode == 0
        wait_for(reached, "the world to reach it again, by another port of the NAT")


def test_told_so_the_agent_carries_it_itself(world: World, tmp_path: Path) -> None:
    with Agent(tmp_path, data_plane="tun") as agent:
        both_ways(agent.up(data_plane="tun"))
        listener = subprocess.Popen(["ip", "netns", "exec", "world", sys.executable, "-c", LISTEN])
        wait_for(lambda: ":7777" in run("ss -ltn", "world"), "the listener")
        run(f"{sys.executable} -c {shlex.quote(SEND)}")
        assert listener.wait(SECONDS) == 0, "a stream, which goes in bursts, comes as it was sent"
        assert device()["linkinfo"]["info_kind"] == "tun" and not run("ip fou show")


def test_a_tunnel_between_the_same_ends_leaves_it_to_the_agent(world: World, tmp_path: Path) -> None:
    """The kernel tells two sit devices apart by their addresses alone, so there can be one of them."""
    run("ip tunnel add other mode sit local 10.0.0.2 remote 192.0.2.1")
    try:
        with Agent(tmp_path) as agent:
            status = agent.up(data_plane="tun")
            assert "File exists" in status["data_plane_why"]
            both_ways(status)
    finally:
        run("ip link del other")


@contextlib.contextmanager
def without(module: str) -> Iterator[None]:
    """A kernel that lacks this module."""
    never = Path("/etc/modprobe.d/tsp-never.conf")
    never.parent.mkdir(exist_ok=True)
    never.write_text(f"install {module} /bin/false\n")
    subprocess.run(["modprobe", "-r", module], check=True)
    try:
        yield
    finally:
        never.unlink()
        subprocess.run(["modprobe", "fou"], check=True)


def test_without_fou_the_agent_carries_it_itself(world: World, tmp_path: Path) -> None:
    with without("fou"), Agent(tmp_path) as agent:
        status = agent.up(data_plane="tun")
        assert "does not carry IPv6 in UDP" in status["data_plane_why"]
        both_ways(status)


def test_without_sit_any_tunnel_becomes_one_over_udp(world: World, tmp_path: Path) -> None:
    """v6anyv4 on a host without a NAT: the broker grants v6v4, which this kernel does not have."""
    with without("sit"), world.public():
        before = picture()
        with Agent(tmp_path, "v6anyv4") as agent:
            status = agent.up(data_plane="tun")
            assert status["lease"]["mode"] == "v6udpv4" and "v6v4" in status["mode_why"] and status["negotiations"] == 2
            both_ways(status)
            kill_agent()
            agent.program.wait(SECONDS)
            agent.start()
            assert agent.up(data_plane="tun")["negotiations"] == 0, "the next start has the lease"
            agent.end()
        assert picture() == before


def test_out_of_the_nat_and_behind_it_again_the_kind_of_tunnel_is_chosen_anew(world: World, tmp_path: Path) -> None:
    """v6anyv4 on a host that moves: over UDP behind the NAT, bare where its address is public; its addresses inside stay."""
    with Agent(tmp_path, "v6anyv4") as agent:
        first = agent.up(data_plane="fou")
        assert first["lease"]["mode"] == "v6udpv4"
        with world.public():
            second = agent.up(data_plane="sit")
            assert second["lease"]["mode"] == "v6v4" and "encap" not in device()["linkinfo"]["info_data"]
            both_ways(second)
        third = agent.up(data_plane="fou")
        assert third["lease"]["mode"] == "v6udpv4"
        both_ways(third)
        assert first["lease"]["prefix"] == second["lease"]["prefix"] == third["lease"]["prefix"]


def test_a_clock_that_is_set_ends_no_tunnel(world: World, tmp_path: Path) -> None:
    """By a month: every lease has long ended, or begins in the future. Broker and agent see the same clock."""
    with Agent(tmp_path) as agent:
        for days in (30, -30):
            before = agent.up()
            time.clock_settime(time.CLOCK_REALTIME, time.time() + days * 86400)
            try:
                start = time.monotonic()
                wait_for(lambda start=start: time.monotonic() - start > 12, "the agent to see it")
                status = agent.up()
                both_ways(status)
                assert status["negotiations"] <= before["negotiations"] + 3, "asked again at most, and not again and again"
            finally:
                time.clock_settime(time.CLOCK_REALTIME, time.time() - days * 86400)
            both_ways(agent.up())
        assert agent.program.poll() is None and "Traceback" not in agent.log()

# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The agent on a real host behind a real NAT, against the collection's broker, in namespaces."""

from __future__ import annotations

import json
import signal
import socket
import sys
import time
from collections.abc import Iterator
from ipaddress import IPv6Address
from typing import Any

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent import icmp6
from ansible_collections.tunnelbroker.tsp.tests.integration._agent_net import PASSWORD, Agent, Net, wait_for
from ansible_collections.tunnelbroker.tsp.tests.lab import Lab

pytestmark = pytest.mark.root

SEND = """
import socket, sys
s = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW)
s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"tsp0")
packet = bytes.fromhex(sys.argv[1])
s.sendto(packet, (socket.inet_ntop(socket.AF_INET6, packet[24:40]), 0))
"""


@pytest.fixture(scope="module")
def shared() -> Iterator[Net]:
    with Lab("agent") as lab:
        made = Net(lab)
        made.start_broker()
        yield made


@pytest.fixture
def net(request: pytest.FixtureRequest, shared: Net) -> Iterator[Net]:
    failed = request.session.testsfailed
    yield shared
    if request.session.testsfailed > failed:
        shared.lab.keep()


@pytest.fixture
def agent(net: Net) -> Iterator[Agent]:
    with net.agent() as running:
        running.wait_up()
        yield running


def picture(agent: Agent) -> dict[str, Any]:
    """What a user of the host would notice: addresses, routes, settings."""
    host = agent.host
    links, routes = host.ip_json("addr show"), host.ip_json("-4 route show") + host.ip_json("-6 route show")
    return {"addresses": [(link["ifname"], link["mtu"], sorted(a["local"] for a in link["addr_info"])) for link in links],
            "routes": sorted(json.dumps(route, sort_keys=True) for route in routes),
            "forwarding": host.run("cat", "/proc/sys/net/ipv6/conf/all/forwarding").stdout,
            "run": host.run("ls", "-A", "/run").stdout}


def ping(host: Any, target: str, *options: str) -> bool:
    return host.run("ping", "-6", "-c1", "-W2", *options, target, check=False).returncode == 0


def test_packets_pass_both_ways(net: Net, agent: Agent) -> None:
    status = agent.wait_up()
    assert ping(agent.host, "2001:db8:f::1")
    assert ping(net.broker, agent.address)
    lan = [a["local"] for link in agent.host.ip_json("addr show dev eth1") for a in link["addr_info"]]
    inside = next(address for address in lan if address.startswith("2001:db8:8"))
    assert ping(net.broker, inside), "the LAN's address is reached through the tunnel"
    assert status["lease"]["prefix"].endswith("/56") and status["lease"]["username"] == "alice"
    assert status["mtu"] == 1472 and status["last_error"] is None
    assert status["data_plane"] == "tun" and status["data_plane_why"]
    routes = agent.host.ip_json("-6 route show")
    assert any(r["dst"] == "default" and r["dev"] == "tsp0" and r["metric"] == 2048 for r in routes)
    assert any(r.get("type") == "unreachable" and r["dst"] == status["lease"]["prefix"] for r in routes)


def setting(agent: Agent, name: str) -> str:
    """A variable of the kernel; empty where it has none of that name."""
    return agent.host.run("cat", f"/proc/sys/net/{name}", check=False).stdout.strip()


def test_it_forwards_for_the_lan_and_nothing_else_where_the_kernel_can(net: Net, agent: Agent) -> None:
    if setting(agent, "ipv6/conf/eth1/force_forwarding"):
        assert [setting(agent, f"ipv6/conf/{name}/force_forwarding") for name in ("eth1", "tsp0", "eth0")] == ["1", "1", "0"]
        assert setting(agent, "ipv6/conf/all/forwarding") == "0"
    else:
        assert setting(agent, "ipv6/conf/all/forwarding") == "1"
    pc = net.lab.namespace("pc")
    net.lab.veth(agent.host, "port1", pc, "eth0")
    agent.host.ip("link set port1 master eth1", "link set port1 up")
    inside = next(a["local"] for link in agent.host.ip_json("addr show dev eth1") for a in link["addr_info"]
                  if a["local"].startswith("2001:db8:8"))
    pc.ip("link set lo up", "link set eth0 up", f"addr add {inside}0/64 dev eth0 nodad", f"route add default via {inside}")
    try:
        assert ping(pc, "2001:db8:f::1"), "a host of the LAN reaches what is behind the tunnel"
        assert ping(net.broker, f"{inside}0"), "and is reached from there"
    finally:
        agent.host.ip("link del port1")


NATIVE = ("link add native type bridge", "link set native up", "addr add 2001:db8:77::2/64 dev native nodad",
          "-6 route add default via 2001:db8:77::1 dev native metric {metric}")


def way(agent: Agent, *origin: str) -> str:
    """The device by which the host would reach the rest of the world."""
    return agent.host.ip_json(" ".join(("-6 route get 2001:db8:1::1", *origin)))[0]["dev"]


@pytest.mark.parametrize(("wanted", "metric", "any_source", "ours"), [
    ("none", 1024, "native", "native"), ("metric", 1024, "native", "native"), ("source", 1024, "native", "tsp0"),
    ("replace", 1024, "tsp0", "tsp0"), ("replace", 1, "tsp0", "tsp0")])
def test_beside_a_native_default_route(net: Net, wanted: str, metric: int, any_source: str, ours: str) -> None:
    for words in NATIVE:
        net.host.ip(words.format(metric=metric))
    try:
        with net.agent(link={"default_route": wanted}) as agent:
            before = picture(agent)
            agent.wait_up()
            assert (way(agent), way(agent, "from", agent.address)) == (any_source, ours)
            assert agent.end() == 0
            assert picture(agent)["routes"] == [route for route in before["routes"] if "tsp0" not in route], agent.log()
            assert way(agent) == "native"
    finally:
        net.host.ip("link del native")


def test_the_default_route_carries_what_is_not_ours(net: Net, agent: Agent) -> None:
    net.broker.ip("addr replace 2001:db8:1::1/128 dev lo")
    assert ping(agent.host, "2001:db8:1::1")


def test_a_large_packet_passes_and_a_larger_one_is_told_so(net: Net, agent: Agent) -> None:
    assert ping(agent.host, "2001:db8:f::1", "-s", "1184", "-M", "do")  # the broker's device has 1280
    done = agent.host.run("ping", "-6", "-c1", "-W2", "-s", "1424", "-M", "do", "2001:db8:f::1", check=False)
    assert "too" not in done.stdout + done.stderr  # 1472 in all leaves this host
    done = agent.host.run("ping", "-6", "-c1", "-W2", "-s", "1425", "-M", "do", "2001:db8:f::1", check=False)
    assert done.returncode != 0 and "too long" in done.stdout + done.stderr


def test_a_path_that_shrinks_is_reported_to_the_sender(net: Net, agent: Agent) -> None:
    """The outer path carries 1400: a packet of 1400 inside does not fit into it any more."""
    agent.host.ip("link set dev eth0 mtu 1400")
    net.nat_host.ip("link set dev lan mtu 1400")
    try:
        agent.host.run("ping", "-6", "-c1", "-W2", "-s", "1352", "-M", "do", "2001:db8:f::1", check=False)
        done = agent.host.run("ping", "-6", "-c1", "-W2", "-s", "1352", "-M", "do", "2001:db8:f::1", check=False)
        assert "mtu=1372" in done.stdout + done.stderr or "mtu: 1372" in done.stdout + done.stderr
        wait_for("counted", lambda: agent.status()["counters"].get("too_big"))
        agent.host.ip("link set dev eth0 mtu 1290")
        net.nat_host.ip("link set dev lan mtu 1290")
        # 1280 always passes, in fragments where it must; the broker's system too has to hear first that its packets do not fit.
        wait_for("1280 passes", lambda: ping(agent.host, "2001:db8:f::1", "-s", "1232", "-M", "do"))
    finally:
        agent.host.ip("link set dev eth0 mtu 1500", "route flush cache")
        net.nat_host.ip("link set dev lan mtu 1500", "route flush cache")


def echo_hex(source: str, destination: str, label: int = 0) -> str:
    packet = bytearray(icmp6.echo_request(IPv6Address(source), IPv6Address(destination), 7, 7))
    packet[0:4] = (6 << 28 | label).to_bytes(4, "big")
    return bytes(packet).hex()


def test_what_is_not_ours_does_not_leave(net: Net, agent: Agent) -> None:
    before = agent.status()["counters"].get("dropped_out_spoofed", 0)
    agent.host.run(sys.executable, "-c", SEND, echo_hex("2001:db8:bad::1", "2001:db8:f::1"))
    wait_for("dropped", lambda: agent.status()["counters"].get("dropped_out_spoofed", 0) > before)


def test_what_is_not_the_brokers_does_not_come_in(net: Net, agent: Agent) -> None:
    """From another port of the broker nothing arrives; from the broker itself, but not meant for us, it is dropped."""
    port = agent.status()["lease"]["client"]["udp_port"]
    inside = echo_hex("2001:db8:f::1", agent.address)
    send = ("import socket,sys; s=socket.socket(socket.AF_INET, socket.SOCK_DGRAM);"
            "s.sendto(bytes.fromhex(sys.argv[1]), ('10.0.0.2', int(sys.argv[2])))")
    before = agent.status()["counters"].get("packets_in", 0)
    net.nat_host.run(sys.executable, "-c", send, inside, str(port))
    assert ping(agent.host, "2001:db8:f::1")
    wait_for("the ping is counted", lambda: agent.status()["counters"].get("packets_in", 0) > before)
    assert agent.status()["counters"]["packets_in"] == before + 1


def test_flow_labels_are_cleared(net: Net, agent: Agent) -> None:
    """Some brokers take the label's last byte for signalling; what reaches the broker has none."""
    packet = echo_hex(agent.address, "2001:db8:f::1", 0x123F0)
    with net.broker.network():
        capture = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
    with capture:
        capture.settimeout(30)
        agent.host.run(sys.executable, "-c", SEND, packet)
        while True:
            seen = capture.recv(2048)[28:]  # behind IPv4 and UDP
            if seen[8:40] == bytes.fromhex(packet)[8:40] and seen[40:41] == b"\x80" and seen[44:46] == b"\0\7":
                break
    assert seen[:4] == b"\x60\0\0\0" and seen[4:] == bytes.fromhex(packet)[4:]


LISTEN = """
import hashlib, socket
server = socket.create_server(("2001:db8:f::1", 7777), family=socket.AF_INET6)
peer = server.accept()[0]
digest, left = hashlib.sha256(), 30_000_000
while left:
    part = peer.recv(1 << 16)
    if not part:
        raise SystemExit("too little came")
    digest.update(part)
    left -= len(part)
peer.sendall(digest.digest() + bytes(range(256)) * 100_000)
peer.shutdown(socket.SHUT_WR)
peer.recv(1)
"""
SEND_AND_COMPARE = """
import hashlib, random, socket
data = random.Random(7).randbytes(30_000_000)
peer = socket.create_connection(("2001:db8:f::1", 7777), 20)
peer.sendall(data)
peer.settimeout(20)
back = b""
while part := peer.recv(1 << 16):
    back += part
if back[:32] != hashlib.sha256(data).digest() or back[32:] != bytes(range(256)) * 100_000:
    raise SystemExit("not what was sent")
"""


def test_a_stream_arrives_as_it_was_sent(net: Net, agent: Agent) -> None:
    """Bursts are cut and put together on the way: every byte is as before, and few packets are lost."""
    listener = net.broker.popen(sys.executable, "-c", LISTEN, label="listener")
    wait_for("it listens", lambda: ":7777" in net.broker.run("ss", "-ltn").stdout)
    agent.host.run(sys.executable, "-c", SEND_AND_COMPARE, timeout=120)
    assert listener.wait(60) == 0
    counters = agent.status()["counters"]
    assert not [key for key in counters if "malformed" in key or "spoofed" in key or "error" in key], counters


def test_two_agents_of_one_name_do_not_fight(net: Net, agent: Agent) -> None:
    second = agent.host.run(sys.executable, str(net.program), "--config", "/etc/tsp/tsp.json", "--foreground", check=False)
    assert second.returncode == 1 and "holds /run/tsp-tsp/tsp.pid already" in second.stderr
    agent.host.run("sh", "-c", "echo x > /run/tsp-tsp/tsp.log")
    second = agent.host.run(sys.executable, str(net.program), "--config", "/etc/tsp/tsp.json", check=False)
    assert second.returncode == 1 and "holds /run/tsp-tsp/tsp.pid already" in second.stderr
    agent.host.run("rm", "/run/tsp-tsp/tsp.log")
    assert agent.wait_up() and ping(agent.host, "2001:db8:f::1")


def test_the_end_leaves_nothing_behind(net: Net) -> None:
    with net.agent() as first:
        first.wait_up()
    before = picture(first)
    with net.agent() as agent:
        agent.wait_up()
        assert picture(agent) != before
        assert agent.end() == 0
    assert picture(agent) == before
    assert before["forwarding"].strip() == "0"
    assert agent.host.run("ls", "/run/tsp-tsp", check=False).returncode != 0
    assert "Traceback" not in agent.log() and PASSWORD not in agent.log()


def test_killed_the_next_one_cleans_up_and_continues_the_lease(net: Net) -> None:
    with net.agent() as first:
        first.wait_up()
    clean = picture(first)
    with net.agent() as agent:
        address = agent.wait_up()["lease"]["client"]["ipv6"]
        agent.kill()
        assert picture(agent) != clean, "the LAN's address and the settings are still there"
        agent.process = agent.start()
        status = agent.wait_up()
        assert status["negotiations"] == 0, "the stored lease was enough"
        assert status["lease"]["client"]["ipv6"] == address and ping(net.broker, address)
        assert agent.end() == 0
    assert picture(agent) == clean, "also what the killed one had changed is as it was"


def test_a_foreign_device_is_not_touched(net: Net) -> None:
    net.host.ip("link add tsp0 type bridge")
    try:
        with net.agent() as agent:
            assert agent.process.wait(30) == 1
            assert "is not of this agent" in agent.log()
            background = agent.host.run(sys.executable, str(net.program), "--config", "/etc/tsp/tsp.json", check=False)
            assert background.returncode == 1 and "is not of this agent" in background.stderr
            assert agent.host.run("ls", "/run/tsp-tsp", check=False).returncode != 0, "whoever started it knows the reason"
        assert net.host.ip_json("link show dev tsp0")
    finally:
        net.host.ip("link del tsp0")


def test_a_device_that_somebody_removes_is_made_again(net: Net, agent: Agent) -> None:
    before = agent.status()
    net.host.ip("link del tsp0")
    status = wait_for("it is back", lambda: (s := agent.status()).get("state") == "up" and s["since"] != before["since"] and s)
    assert "Somebody removed the device tsp0" in agent.log() and status["negotiations"] == before["negotiations"]
    assert ping(agent.host, "2001:db8:f::1") and ping(net.broker, agent.address)
    assert status["counters"].get("device_errors", 0) <= 1, "it does not look at what is gone again and again"


def test_hangup_asks_again_and_the_address_stays(net: Net, agent: Agent) -> None:
    before = agent.status()
    agent.process.send_signal(signal.SIGHUP)
    after = agent.wait_up(negotiations=before["negotiations"] + 1)
    assert after["lease"]["client"]["ipv6"] == before["lease"]["client"]["ipv6"]
    assert ping(net.broker, agent.address)


def test_a_wrong_password_is_told_and_not_repeated_quickly(net: Net) -> None:
    with net.agent(lease_file="/tmp/none/tsp.fact") as agent:
        agent.wait_up()
        agent.end()
        agent.host.run("rm", "-f", "/tmp/none/tsp.fact")
        agent.host.run("sh", "-c", "echo wrong > /etc/tsp/tsp.secret")
        agent.process = agent.start()
        status = wait_for("refused", lambda: (s := agent.status()).get("state") == "waiting" and s)
        assert status["last_error"]["code"] == "auth_failed" and status["failures"] == 1
        assert "next attempt in 2" in agent.log() or "next attempt in 3" in agent.log()  # minutes, not seconds
        net.host.run("sh", "-c", "rm -rf /var/lib/tsp")


def test_the_broker_dies_and_comes_back(net: Net) -> None:
    with net.agent() as agent:
        before = agent.wait_up()
        net.kill_broker()
        wait_for("the loss is noticed", lambda: agent.status().get("state") in ("lost", "negotiating", "waiting"))
        assert agent.host.ip_json("addr show dev tsp0")[0]["addr_info"], "the addresses stay meanwhile"
        net.start_broker()
        status = agent.wait_up()
        assert status["lease"]["client"]["ipv6"] == before["lease"]["client"]["ipv6"]
        assert status["lease"]["prefix"] == before["lease"]["prefix"]
        assert ping(net.broker, agent.address) and ping(agent.host, "2001:db8:f::1")


def test_keepalive_outlives_the_nats_memory() -> None:
    """A NAT that forgets after 3 s: with a ping a second the broker's side reaches the host any time. When the NAT loses its memory all
    the same and gives a new port, the tunnel comes back by itself, with the same address."""
    with Lab("agent-keepalive") as lab:
        net = Net(lab, udp_timeout=3)
        net.start_broker()
        with net.agent(keepalive={"longest_interval": 1}) as agent:
            before = agent.wait_up()
            start = time.monotonic()
            wait_for("twice the NAT's memory has passed", lambda: time.monotonic() - start > 6.5)
            assert ping(net.broker, agent.address), "reached from outside, nothing but keepalives went out"
            assert agent.status()["negotiations"] == before["negotiations"]
            net.nat.forget()
            wait_for("reached from outside again", lambda: ping(net.broker, before["lease"]["client"]["ipv6"]))

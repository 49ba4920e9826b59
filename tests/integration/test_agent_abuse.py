# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What others and the host itself may do to an agent: garbage, forgeries, floods, brokers that answer wrongly, a full disk, a device
that vanished. It is told once, the agent neither dies nor spins, and the tunnel is there when the cause is gone."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterator
from ipaddress import IPv6Address
from pathlib import Path

import pytest
from ansible_collections.tunnelbroker.tsp.tests.integration._agent_net import Agent, Net, Stream, wait_for
from ansible_collections.tunnelbroker.tsp.tests.interop.tsps_like import OUTER, OWN, USER_IDS, Session, TspsLike
from ansible_collections.tunnelbroker.tsp.tests.lab import Lab
from ansible_collections.tunnelbroker.tsp.tests.lab.namespace import Namespace

pytestmark = pytest.mark.root
SHARE = 0.25
"""Of a processor: what an agent in trouble uses at most. It is some thousandths; a busy loop takes all there is."""

FORGE = """
import random, socket, struct, sys
source, sport, target, dport, kind, count = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), sys.argv[5], int(sys.argv[6])
inside = [bytes.fromhex(word) for word in sys.argv[7:]]
chance = random.Random(7)
out = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
def checksum(data):
    data += b"\\0" * (len(data) % 2)
    total = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
def ip(protocol, payload, origin=source, to=target):
    return struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), chance.randrange(65536), 0, 64, protocol, 0,
                       socket.inet_aton(origin), socket.inet_aton(to)) + payload
def udp(payload, a=sport, b=dport):
    return struct.pack("!HHHH", a, b, 8 + len(payload), 0) + payload
def garbage():
    payload = bytearray(chance.randbytes(chance.choice((0, 1, 3, 7, 8, 20, 39, 40, 41, 64, 200, 1400))))
    if payload:
        payload[0] = chance.choice((0x60, 0xF0, 0x45, payload[0]))
    return bytes(payload)
for number in range(count):
    if kind == "garbage":
        out.sendto(ip(17, udp(garbage())), (target, 0))
    elif kind == "signalling":
        text = chance.choice((b"300 Authentication failed\\r\\n", b"CAPABILITY TUNNEL=V6V4\\r\\n", b"", b"1200 Redirection\\r\\n",
                              b"200 Success\\r\\n"))
        out.sendto(ip(17, udp(struct.pack("!II", 0xF0000000 | chance.randrange(512), 0) + text)), (target, 0))
    elif kind == "inside":
        out.sendto(ip(17, udp(chance.choice(inside))), (target, 0))
    else:  # an ICMP error about a datagram of ours
        code, value = {"unreachable": (3, 0), "admin": (13, 0), "toobig": (4, 68)}[kind]
        ours = ip(17, udp(b"", dport, sport), target, source)[:28]
        body = struct.pack("!BBHI", 3, code, 0, value) + ours
        out.sendto(ip(1, body[:2] + struct.pack("!H", checksum(body)) + body[4:]), (target, 0))
"""


@pytest.fixture(scope="module")
def shared() -> Iterator[Net]:
    with Lab("agent-abuse") as lab:
        made = Net(lab)
        made.start_broker()
        # What is forged there leaves as it is: the NAT takes no part in it.
        made.nat_host.nft("table ip forged { chain leave { type filter hook output priority raw; ip daddr 10.0.0.2 notrack; }; }")
        yield made


@pytest.fixture
def net(request: pytest.FixtureRequest, shared: Net) -> Iterator[Net]:
    failed = request.session.testsfailed
    yield shared
    if request.session.testsfailed > failed:
        shared.lab.keep()


@pytest.fixture
def agent(net: Net) -> Iterator[Agent]:
    with net.agent(log_level="info") as running:
        running.wait_up()
        yield running


def ping(host: Namespace, target: str, *options: str) -> bool:
    return host.run("ping", "-6", "-c1", "-W2", *options, target, check=False).returncode == 0


def forge(net: Net, port: int, kind: str, count: int, *inside: bytes, source: str = "192.0.2.1", source_port: int = 3653) -> None:
    """Datagrams to the agent's port, from behind the NAT, that claim to come from `source`."""
    net.nat_host.run(sys.executable, "-c", FORGE, source, str(source_port), "10.0.0.2", str(port), kind, str(count),
                     *(data.hex() for data in inside), timeout=120)


def packet(source: str, destination: str, kind: int, payload: bytes = b"\0\1\0\1abcd") -> bytes:
    """An ICMPv6 packet; its checksum is of no interest here."""
    body = bytes((kind, 0, 0, 0)) + payload
    return (b"\x60\0\0\0" + len(body).to_bytes(2, "big") + b"\x3a\x40" + IPv6Address(source).packed
            + IPv6Address(destination).packed + body)


def calm(agent: Agent, seconds: float = 4.0) -> bool:
    """Whether the agent leaves the processor alone while the cause of its trouble lasts."""
    before, began = agent.cpu(), time.monotonic()
    wait_for("some time has passed", lambda: time.monotonic() - began >= seconds)
    used, passed = agent.cpu() - before, time.monotonic() - began
    assert agent.process.poll() is None and agent.pids(), agent.log()
    return used / passed < SHARE


def refused(agent: Agent) -> int:
    """What came in and was no packet for us."""
    return sum(n for key, n in agent.status()["counters"].items() if key.startswith(("dropped_in", "signalling_in")))


def told(agent: Agent, before: int) -> list[str]:
    """What the log said since it had `before` lines."""
    return agent.log().splitlines()[before:]


@pytest.mark.parametrize(("kind", "source", "source_port"), [
    ("garbage", "192.0.2.1", 3653), ("signalling", "192.0.2.1", 3653), ("garbage", "192.0.2.1", 999), ("garbage", "198.51.100.9", 3653)])
def test_datagrams_that_are_no_packets(net: Net, agent: Agent, kind: str, source: str, source_port: int) -> None:
    before, lines = agent.wait_up(), len(agent.log().splitlines())
    stream = Stream(agent, net.brokers[0])
    forge(net, before["lease"]["client"]["udp_port"], kind, 4000, source=source, source_port=source_port)
    stream.goes_on()
    stream.close()
    assert ping(agent.host, "2001:db8:f::1") and ping(net.broker, agent.address)
    after = agent.wait_up()
    assert after["negotiations"] == before["negotiations"] and after["state"] == "up" and after["since"] == before["since"]
    if (source, source_port) == ("192.0.2.1", 3653):
        wait_for("what came from the broker's port was looked at, and counted", lambda: refused(agent) >= 1000)
        if kind == "garbage":
            said = agent.said("dropped [0-9]+ datagrams from the broker's port")
            assert len(said) <= 2 and int(re.search("dropped ([0-9]+)", said[-1])[1]) >= 100, said  # type: ignore[index]
    assert len(told(agent, lines)) <= 5, told(agent, lines)
    assert "Traceback" not in agent.log() and calm(agent)


def test_packets_that_are_not_for_us_or_claim_to_be_ours(net: Net, agent: Agent) -> None:
    """Also answers to pings that nobody sent: they keep no dead tunnel alive, and do no harm to a living one."""
    before, lines = agent.wait_up(), len(agent.log().splitlines())
    ours = agent.address
    port = before["lease"]["client"]["udp_port"]
    taken = agent.status()["counters"].get("packets_in", 0)
    forge(net, port, "inside", 3000, packet("2001:db8:f::1", "2001:db8:bad::1", 128), packet(ours, ours, 128),
          packet("ff02::1", ours, 128), packet("2001:db8:f::1", "::1", 128))
    forge(net, port, "inside", 3000, packet("2001:db8:f::1", ours, 129), packet("2001:db8:f::1", ours, 129, b"\xff" * 40))
    assert ping(agent.host, "2001:db8:f::1")
    after = agent.wait_up()
    assert after["since"] == before["since"] and len(told(agent, lines)) <= 5
    wait_for("counted", lambda: refused(agent) >= 2900)
    agent.said("dropped [0-9]+ packets out of the tunnel that are not for this host")
    assert agent.status()["counters"]["packets_in"] - taken < 3500, "the first half did not reach the host's kernel"


@pytest.mark.parametrize("kind", ["unreachable", "admin", "toobig"])
def test_forged_errors_about_our_datagrams(net: Net, agent: Agent, kind: str) -> None:
    """Anybody who sees or guesses a port can send them. They are hints: the broker's answer to a ping counts."""
    before, lines = agent.wait_up(), len(agent.log().splitlines())
    stream = Stream(agent, net.brokers[0], port=7072)
    forge(net, before["lease"]["client"]["udp_port"], kind, 1000)
    stream.goes_on()
    stream.close()
    after = agent.wait_up()
    assert after["since"] == before["since"] and after["negotiations"] == before["negotiations"], told(agent, lines)
    wait_for("1280 pass", lambda: ping(agent.host, "2001:db8:f::1", "-s", "1232"))
    assert len(told(agent, lines)) <= 5 and calm(agent)
    agent.host.ip("route flush cache")


def test_a_flood_of_pings_through_the_tunnel(net: Net, agent: Agent) -> None:
    before, lines = agent.wait_up(), len(agent.log().splitlines())
    done = net.broker.run("ping", "-6", "-f", "-q", "-c", "20000", "-s", "1000", agent.address, check=False, timeout=120)
    assert "20000 packets transmitted" in done.stdout, done.stdout + done.stderr
    after = agent.wait_up()
    assert after["since"] == before["since"] and after["negotiations"] == before["negotiations"]
    assert ping(agent.host, "2001:db8:f::1") and len(told(agent, lines)) <= 5 and calm(agent)


class OtherIdentity(TspsLike):
    """Tells every client the lease of somebody else, as long as `wrong` is set."""

    wrong = True

    def _create(self, session: Session, text: bytes) -> bytes:
        answer = super()._create(session, text)
        theirs = str(OWN)[:-1] + format(USER_IDS["bob"], "x")
        head, _separator, body = answer.partition(b"\r\n")
        if self.wrong and session.address is not None:
            body = body.replace(f">{session.address}<".encode(), f">{theirs}<".encode())
            head = f"Content-length: {len(body)}".encode()
        return head + b"\r\n" + body


def test_a_broker_that_answers_with_the_lease_of_another(net: Net) -> None:
    """What is sent from the wrong address is dropped there, so nothing comes back: the tunnel is not called up for long, the broker is
    not hammered, and when it answers rightly all is well."""
    space = net.lab.namespace("wrong")
    net.internet.attach(space, "eth0", f"{OUTER}/24")
    with OtherIdentity(space.network, passwords={"alice": "swordfish-canary"}) as server, \
            net.agent(broker={"brokers": [OUTER]}, request={"host_type": "host", "prefix_length": None}, link={"lan_interfaces": []},
                      keepalive={"longest_interval": 1}, lease_file="/tmp/wrong/tsp.fact") as agent:
        wait_for("it is not taken for a tunnel", lambda: agent.status().get("last_error"), 120)
        error = agent.status()["last_error"]
        assert error["message"] and error["hint"] and agent.status()["last_rtt_ms"] is None
        assert calm(agent)
        asked = agent.status()["negotiations"]
        began = time.monotonic()
        wait_for("ten seconds have passed", lambda: time.monotonic() - began > 10)
        assert agent.status()["negotiations"] - asked <= 5, "a few attempts a minute"
        server.wrong = False
        status = agent.wait_up()
        assert status["lease"]["client"]["ipv6"] == "2001:db8:f00d::10" and ping(agent.host, str(OWN))
        assert "Traceback" not in agent.log()


def test_a_stored_lease_of_another_is_not_used(net: Net) -> None:
    with net.agent() as first:
        first.wait_up()
    lease = json.loads(first.host.run("cat", "/etc/ansible/facts.d/tsp.fact").stdout)
    first.host.run("sh", "-c", "cat > /etc/ansible/facts.d/tsp.fact", input=json.dumps({**lease, "username": "bob"}))
    with net.agent() as agent:
        status = agent.wait_up()
        assert status["negotiations"] == 1 and status["lease"]["username"] == "alice"


FULL = {"state_dir": "/full/state", "lease_file": "/full/leases/tsp.fact", "runtime_dir": "/full/run"}


def test_a_full_disk(net: Net) -> None:
    """State, lease and status cannot be written: the tunnel stays, also when it is asked for anew, and is told once with each attempt. What
    could not be kept is kept when there is room again."""
    host = net.host
    host.run("sh", "-c", "mkdir -p /full && mount -t tmpfs -o size=512k,mode=755 tmpfs /full")
    try:
        with net.agent(**FULL) as agent:
            before = agent.wait_up()
            host.run("sh", "-c", "cat /dev/zero > /full/zeros 2>/dev/null; dd if=/dev/zero of=/full/more bs=1 count=9999 2>/dev/null",
                     check=False)
            lines = len(agent.log().splitlines())
            for _again in range(3):
                at = agent.log().count(": up: ") + agent.log().count(" up: ")
                agent.host.run("kill", "-HUP", agent.pids()[0])
                wait_for("asked again", lambda at=at: agent.log().count(": up: ") + agent.log().count(" up: ") > at)
            assert ping(agent.host, "2001:db8:f::1") and ping(net.broker, before["lease"]["client"]["ipv6"])
            complaints = [line for line in told(agent, lines) if "space" in line or "written" in line or "stored" in line]
            assert 1 <= len(complaints) <= 9, told(agent, lines)
            assert calm(agent) and "Traceback" not in agent.log()
            host.run("rm", "-f", "/full/zeros", "/full/more")
            agent.host.run("kill", "-HUP", agent.pids()[0])
            wait_for("the lease is stored", lambda: host.run("cat", "/full/leases/tsp.fact", check=False).stdout.startswith("{"))
            stored = wait_for("the status is written", lambda: agent.status().get("state") == "up" and agent.status())
            assert stored["negotiations"] >= before["negotiations"] + 4
    finally:
        host.run("umount", "-l", "/full", check=False)


def test_a_device_file_that_vanished(net: Net) -> None:
    """No /dev/net/tun when the agent starts: it says so and waits; the tunnel comes when the file does."""
    host = net.host
    host.run("mount", "-t", "tmpfs", "tmpfs", "/dev/net")  # in this host's own view of the files
    try:
        assert Path("/dev/net/tun").exists()
        with net.agent() as agent:
            status = wait_for("it fails", lambda: (s := agent.status()).get("failures") and s)
            assert "/dev/net/tun" in status["last_error"]["message"] + status["last_error"]["hint"], status["last_error"]
            assert agent.process.poll() is None and calm(agent) and "Traceback" not in agent.log()
            assert agent.status()["failures"] <= 5
            host.run("umount", "-l", "/dev/net")
            assert agent.wait_up()["last_error"] is None and ping(host, "2001:db8:f::1")
            host.run("mount", "-t", "tmpfs", "tmpfs", "/dev/net")
            assert ping(host, "2001:db8:f::1"), "who has the device needs the file no more"
            host.run("umount", "-l", "/dev/net")
    finally:
        host.run("umount", "-l", "/dev/net", check=False)

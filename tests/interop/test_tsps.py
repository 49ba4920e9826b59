# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Our exchange and our agent against the model of tsps, an independent server with well-known defects, through a real NAT.

    tsps 192.0.2.9 --- nat .20 --- 10.0.0.0/24: host .2 (the agent; files of its own), plain .3 (the exchange)
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from ipaddress import IPv6Address
from typing import Any

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent.bundle import AGENT, build
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._exchange.negotiate import broker_info_sync, delete_sync, negotiate_sync
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._exchange.options import ExchangeOptions
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._exchange.runtime import Runtime
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.client import Credentials
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.errors import TspError
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.request import TunnelRequest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.rudp import RudpConfig
from ansible_collections.tunnelbroker.tsp.tests.interop._net import wait_for
from ansible_collections.tunnelbroker.tsp.tests.interop.olddata import Echo, icmp
from ansible_collections.tunnelbroker.tsp.tests.interop.tsps_like import OUTER, OWN, TspsLike
from ansible_collections.tunnelbroker.tsp.tests.lab import Lab, Namespace

pytestmark = pytest.mark.root
PASSWORDS = {"alice": "Canary-tsps-alice", "bob": "Canary-tsps-bob"}
UDP_TIMEOUT = 3
QUICK = RudpConfig(rto_initial=0.2, rto_min=0.2)
"""What is lost is sent again ten times as soon as usual."""


class Net:
    """See above."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        internet, inside = lab.segment("internet"), lab.segment("inside")
        self.tsps, nat = lab.namespace("tsps"), lab.namespace("nat")
        self.host, self.plain = lab.namespace("host", root=True), lab.namespace("plain")
        internet.attach(self.tsps, "eth0", f"{OUTER}/24")
        internet.attach(nat, "wan", "192.0.2.20/24")
        inside.attach(nat, "lan", "10.0.0.1/24")
        for number, host in ((2, self.host), (3, self.plain)):
            inside.attach(host, "eth0", f"10.0.0.{number}/24")
            host.ip("link set lo up", "route add default via 10.0.0.1")
        self.nat = lab.nat(nat, "lan", "wan", udp_timeout=UDP_TIMEOUT)
        self.program = lab.folder / "tsp-agent.pyz"
        build(AGENT, self.program)

    def server(self, **options: Any) -> TspsLike:
        return TspsLike(self.tsps.network, passwords=PASSWORDS, **options)

    def ask(self, *, auth: str = "digest-md5", user: str | None = "alice", password: str | None = None, keep: bool = False,
            **changes: Any) -> Any:
        """negotiate() from the host behind the NAT. changes: of the request, or options of the exchange."""
        given = {name: changes.pop(name) for name in ("mode", "host_type", "prefix_length", "keepalive_interval") if name in changes}
        request = TunnelRequest(**{"mode": "v6udpv4", "keepalive_interval": 5, **given})
        with self.plain.network():
            return negotiate_sync(request, self.options(auth, user, password, **changes), keep_socket=keep, runtime=Runtime(rudp=QUICK))

    @staticmethod
    def options(auth: str = "digest-md5", user: str | None = "alice", password: str | None = None, **changes: Any) -> ExchangeOptions:
        credentials = None if auth == "anonymous" or user is None else Credentials(user, password or PASSWORDS[user])
        return ExchangeOptions(brokers=(OUTER,), auth_method=auth, credentials=credentials, **changes)


@pytest.fixture(scope="module")
def net(request: pytest.FixtureRequest) -> Iterator[Net]:
    with Lab("tsps", lambda: request.session.testsfailed) as lab:
        yield Net(lab)


def ping(sock: socket.socket, source: Any, *, flow_label: int = 0, patience: float = 2.0) -> bool:
    """Over the socket that the exchange handed on."""
    data = os.urandom(16)
    sock.send(icmp(source, OWN, 128, b"abcd", data, flow_label=flow_label))
    until = time.monotonic() + patience
    while (left := until - time.monotonic()) > 0:
        if select.select([sock], [], [], left)[0]:
            with contextlib.suppress(ValueError):
                if Echo(sock.recv(2048)).data == data:
                    return True
    return False


@pytest.mark.parametrize(("auth", "mode"), [("anonymous", "v6udpv4"), ("plain", "v6udpv4"), ("digest-md5", "v6udpv4"), ("any", "v6udpv4"),
                                            ("any", "v6anyv4"), ("anonymous", "v6anyv4")])
def test_every_mechanism(net: Net, auth: str, mode: str) -> None:
    with net.server() as server:
        result = net.ask(auth=auth, mode=mode, keep=True, allow_plaintext=auth == "plain")
        lease, grant = result.lease, result.lease.grant
        with result.socket:
            assert grant.mode == "v6udpv4" and grant.lifetime == 604800 and grant.keepalive.interval == 5
            assert lease.auth_method == ("digest-md5" if auth == "any" else auth) and lease.protocol_version == "2.0.2"
            assert grant.prefix is None and str(grant.client.ipv4) == "192.0.2.20"
            session, = server.established()
            assert session.address == grant.client.ipv6
            if auth != "anonymous":
                assert grant.client.ipv6 == IPv6Address("2001:db8:f00d::10")
            assert ping(result.socket, grant.client.ipv6)
            assert not ping(result.socket, grant.client.ipv6, flow_label=0x123F0, patience=0.2) and server.black_hole == 1


def test_what_it_does_not_have(net: Net) -> None:
    """Each refusal is one clear error that says what to do, and nothing secret."""
    with net.server():
        router = net.ask(host_type="router", prefix_length=56)
        assert router.lease.grant.prefix is None and any("prefix" in warning for warning in router.lease.warnings), router.lease.warnings
        wrong = {"password": "Canary-wrong"}
        for changes, code in (({"host_type": "router", "prefix_length": 56, "strict": True}, "bad_grant"),
                              ({"mode": "v6v4"}, "mode_not_offered"), ({"mode": "v4v6"}, None),
                              ({"auth": "passdss-3des-1"}, "no_common_mechanism"), (wrong, "auth_failed"),
                              ({"auth": "plain", "allow_plaintext": True, **wrong}, "auth_failed")):
            with pytest.raises(TspError) as caught:
                net.ask(**changes)
            assert code is None or caught.value.code == code, (changes, caught.value.to_dict())
            assert caught.value.hint and "Canary" not in str(caught.value.to_dict()) and "Traceback" not in str(caught.value)


def test_delete_and_info(net: Net) -> None:
    """It has neither: told as an error with its status; what is asked without a session works."""
    with net.server() as server, net.plain.network():
        lease = negotiate_sync(TunnelRequest(mode="v6udpv4"), net.options()).lease
        with pytest.raises(TspError) as caught:
            delete_sync(lease, net.options())
        assert getattr(caught.value, "status", None) == 310, caught.value.to_dict()
        info, = broker_info_sync(net.options("anonymous"))
        assert info["reachable"] and info["tunnels"] == ["v6udpv4"] and info["auth_methods"] == ["anonymous", "digest-md5", "plain"], info
        assert server.said


@pytest.mark.parametrize("number", range(1, 7))
@pytest.mark.parametrize("direction", ["in", "out"])
def test_one_lost_datagram(net: Net, direction: str, number: int) -> None:
    """It has no memory for duplicates: a lost reply spoils its session, and the next one is to follow at once."""
    with net.server(lose=lambda way, at: (way, at) == (direction, number)) as server:
        result = net.ask(auth="digest-md5")
        assert result.lease.grant.client.ipv6 == server.established()[-1].address
        assert len(result.attempts) == (2 if direction == "out" and number < 6 else 1), result.attempts
        assert len({attempt["transport"] for attempt in result.attempts}) == 1
        assert (direction, number) != ("out", 6) or result.lease.quirks["accept_echoed"] == 1


@pytest.mark.parametrize("quirk", ["coalesce", "leading_zeros", "silent_accept"])
def test_quirks_of_others(net: Net, quirk: str) -> None:
    with net.server(**{quirk: True}) as server:
        result = net.ask(auth="digest-md5", keep=True)
        with result.socket:
            assert server.established() and ping(result.socket, result.lease.grant.client.ipv6)
        assert result.lease.quirks, "the tolerance is not counted"


# The agent ------------------------------------------------------------------------------------------------------------------------


class Agent:
    """tsp-agent.pyz on the host behind the NAT, in the foreground."""

    def __init__(self, net: Net, *, auth: str = "any", user: str | None = "alice", interval: int = 5) -> None:
        self.host: Namespace = net.host
        self.program = net.program
        broker: dict[str, Any] = {"brokers": [OUTER], "auth_method": auth, "min_interval": 0, "deadline": 20}
        if user is not None:
            broker.update(username=user, password_file="/etc/tsp/tsp.secret")
            self.host.run("sh", "-c", "mkdir -p /etc/tsp && umask 077 && cat > /etc/tsp/tsp.secret", input=PASSWORDS[user] + "\n")
        config = {"name": "tsp", "device": "tsp0", "request": {"mode": "v6udpv4", "host_type": "host", "keepalive_interval": interval},
                  "broker": broker, "link": {}, "log_level": "debug", "lease_file": "/etc/ansible/facts.d/tsp.fact",
                  "state_dir": "/var/lib/tsp", "runtime_dir": "/run/tsp-tsp"}
        self.host.run("sh", "-c", "mkdir -p /etc/tsp && cat > /etc/tsp/tsp.json", input=json.dumps(config))
        self.process = self.start()

    def start(self) -> subprocess.Popen[Any]:
        self.host.run("rm", "-f", "/run/tsp-tsp/tsp.status.json")
        return self.host.popen(sys.executable, str(self.program), "--config", "/etc/tsp/tsp.json", "--foreground", label="agent")

    def status(self) -> dict[str, Any]:
        done = self.host.run("cat", "/run/tsp-tsp/tsp.status.json", check=False)
        with contextlib.suppress(ValueError):
            return json.loads(done.stdout)
        return {}

    def wait_up(self, **wanted: Any) -> dict[str, Any]:
        def up() -> dict[str, Any] | None:
            assert self.process.poll() is None, f"the agent ended: {self.log()}"
            status = self.status()
            fits = status.get("state") == "up" and status.get("last_rtt_ms") is not None
            return status if fits and all(status.get(key) == value for key, value in wanted.items()) else None
        return wait_for("the agent is up", up, 60)

    def kill(self) -> None:
        """kill -9 of the program itself."""
        for line in self.host.run("ps", "-ww", "-e", "-o", "pid=,args=").stdout.splitlines():
            pid, words = line.split(None, 1)
            if str(self.program) in words:
                self.host.run("kill", "-9", pid, check=False)
        self.process.wait(10)

    def ping(self) -> bool:
        return self.host.run("ping", "-6", "-c3", "-W9", str(OWN), check=False).returncode == 0

    def log(self) -> str:
        return self.host.log_path("agent").read_text(encoding="utf-8")

    def __enter__(self) -> Agent:
        return self

    def __exit__(self, *_exc: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)
        assert "Canary" not in self.log() and "Traceback" not in self.log()


def test_agent_keeps_a_tunnel_and_notices_a_restart(net: Net) -> None:
    """Every ping comes back though the host sets flow labels; the server forgets everything, and the agent begins again."""
    net.host.sysctl(net__ipv6__auto_flowlabels=1)
    with net.server(minimum=1) as server, Agent(net, interval=1) as agent:
        status = agent.wait_up()
        assert status["lease"]["client"]["ipv6"] == "2001:db8:f00d::10"
        assert all(agent.ping() for _time in range(5)) and server.black_hole == 0
        since = time.monotonic()
        wait_for("longer than the NAT remembers", lambda: time.monotonic() - since > UDP_TIMEOUT + 1)
        assert server.established() and agent.ping(), "the keepalive did not hold the NAT open"
        server.restart()
        wait_for("a new session", server.established, 60)
        agent.wait_up()
        assert agent.ping()


@pytest.mark.parametrize("auth", ["any", "anonymous"])
def test_agent_begins_again_though_the_server_remembers_its_port(net: Net, auth: str) -> None:
    """After kill -9 the server still believes the old session to be alive, and would only echo what comes from its port."""
    with net.server() as server, Agent(net, auth=auth, user=None if auth == "anonymous" else "alice") as agent:
        agent.wait_up()
        assert agent.ping()
        agent.kill()
        agent.process = agent.start()
        agent.wait_up()
        assert agent.ping()
        assert server.established()

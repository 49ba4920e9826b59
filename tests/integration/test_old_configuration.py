# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""An old client's installation as it stands: its file, its command line, a template of its own, its files. A real host, behind a NAT."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from ansible_collections.tunnelbroker.tsp.tests.integration._agent_net import PASSWORD, Net, wait_for
from ansible_collections.tunnelbroker.tsp.tests.lab import Lab

pytestmark = pytest.mark.root

FOLDER = "/usr/local/gw6c"
CONF = f"""# gw6c.conf
userid=alice
passwd={PASSWORD}
server=192.0.2.1
auth_method=any
host_type=router
prefixlen=60
if_prefix=eth1
gw6_dir={FOLDER}
keepalive_interval=5
retry_delay=1
template=linux
if_tunnel_v6udpv4=tun
log_file=3
log_filename=gw6c.log
log_rotation_size=1024
hap6_web_enabled=yes
"""
# A site's own template: iproute2, no `#!` line, no x bit. It leaves a mark that tells who was here.
TEMPLATE = """
echo "$TSP_OPERATION $TSP_TUNNEL_MODE $TSP_TUNNEL_INTERFACE $TSP_HOST_TYPE $TSP_PREFIX/$TSP_PREFIXLEN $TSP_VERBOSE" >> $TSP_HOME_DIR/mark
if [ "$TSP_OPERATION" = "TSP_TUNNEL_TEARDOWN" ]; then
  ip -6 addr del $TSP_PREFIX::1/64 dev $TSP_HOME_INTERFACE
  ip -6 route del $TSP_PREFIX::/$TSP_PREFIXLEN dev lo
  exit 0
fi
ip link set $TSP_TUNNEL_INTERFACE up mtu 1280 || exit 1
ip -6 addr add $TSP_CLIENT_ADDRESS_IPV6/$TSP_TUNNEL_PREFIXLEN dev $TSP_TUNNEL_INTERFACE || exit 1
ip -6 route add ::/0 dev $TSP_TUNNEL_INTERFACE || exit 1
if [ "$TSP_HOST_TYPE" = router ]; then
  ip -6 route add $TSP_PREFIX::/$TSP_PREFIXLEN dev lo || exit 1
  ip -6 addr add $TSP_PREFIX::1/64 dev $TSP_HOME_INTERFACE nodad || exit 1
fi
"""


class Old:
    """The old client's place on the host, with the agent called by the old name."""

    def __init__(self, net: Net) -> None:
        self.net, self.host = net, net.host

    def write(self, name: str, text: str, mode: str = "0644") -> None:
        self.host.run("sh", "-c", f"mkdir -p {FOLDER}/template && cat > {FOLDER}/{name} && chmod {mode} {FOLDER}/{name}", input=text)

    def read(self, name: str) -> str:
        return self.host.run("cat", f"{FOLDER}/{name}", check=False).stdout

    @contextlib.contextmanager
    def client(self, *arguments: str) -> Iterator[subprocess.Popen[Any]]:
        self.host.run("ln", "-sf", str(self.net.program), f"{FOLDER}/gw6c")
        self.host.log_path("gw6c").unlink(missing_ok=True)
        process = self.host.popen(sys.executable, f"{FOLDER}/gw6c", "-f", f"{FOLDER}/gw6c.conf", "-n", *arguments, label="gw6c")
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            code = process.wait(30)
        assert code == 0, self.said()

    def said(self) -> str:
        return self.host.log_path("gw6c").read_text()

    def status(self) -> dict[str, Any]:
        try:
            return json.loads(self.host.run("cat", "/run/tsp/gw6c.status.json", check=False).stdout)
        except ValueError:
            return {}

    def wait_up(self, process: subprocess.Popen[Any]) -> dict[str, Any]:
        def up() -> dict[str, Any] | None:
            assert process.poll() is None, self.said()
            status = self.status()
            return status if status.get("state") == "up" and status.get("last_rtt_ms") is not None else None
        return wait_for("the tunnel is up", up)

    def addresses(self, device: str) -> list[str]:
        done = self.host.run("ip", "-j", "-6", "addr", "show", "dev", device, "scope", "global", check=False)
        links = [] if done.returncode else json.loads(done.stdout or "[]")
        return [address["local"] for link in links for address in link.get("addr_info", ()) if address.get("scope") == "global"]


@pytest.fixture
def old(request: pytest.FixtureRequest) -> Iterator[Old]:
    failed = request.session.testsfailed
    with Lab("old-configuration") as lab:
        net = Net(lab)
        net.start_broker()
        made = Old(net)
        made.write("gw6c.conf", CONF, "0600")
        yield made
        if request.session.testsfailed > failed:
            lab.keep()


def reaches(old: Old) -> bool:
    return old.host.run("ping", "-6", "-c1", "-W5", "2001:db8:f::1", check=False).returncode == 0


def test_without_its_template_the_tunnel_is_the_same(old: Old) -> None:
    with old.client() as process:
        status = old.wait_up(process)
        assert reaches(old)
        assert status["lease"]["prefix"].endswith("/60") and status["mtu"] == 1280
        assert old.addresses("tun") == [status["lease"]["client"]["ipv6"]], "the device has its old name"
        assert old.addresses("eth1") and old.read("tsp-last-server.txt") == "192.0.2.1\n"
        warnings = [line for line in old.said().splitlines() if line.startswith("W: ")]
        assert len([line for line in warnings if "line 17: hap6_web_enabled" in line]) == 1
        log = old.read("gw6c.log")
        assert re.search(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d I: ", log, re.MULTILINE)
        assert "VERSION=2.0" in log and "VERSION=2.0" not in old.said(), "the exchange is told at level 3 only"
        assert [line for line in old.said().splitlines() if line.startswith("I: up: v6udpv4 ")], "that it is up is told at level 1"
    assert not old.addresses("tun") and not old.addresses("eth1")


def test_its_own_template_works_unchanged(old: Old) -> None:
    old.write("template/linux.sh", TEMPLATE)
    with old.client("-v") as process:
        status = old.wait_up(process)
        assert reaches(old)
        prefix = status["lease"]["prefix"]
        inside = next(iter(old.addresses("eth1")))
        assert inside.endswith("::1") and old.addresses("tun") == [status["lease"]["client"]["ipv6"]]
        assert old.net.broker.run("ping", "-6", "-c1", "-W5", inside, check=False).returncode == 0, "what is behind it is reached"
        created = old.read("mark").splitlines()
        assert len(created) == 1 and re.fullmatch(r"TSP_TUNNEL_CREATION v6udpv4 tun router [0-9a-f:]+/60 3", created[0])
        routes = [route["dst"] for route in old.host.ip_json("-6 route show")]
        assert prefix in routes and "default" in routes
    assert [line.split()[0] for line in old.read("mark").splitlines()] == ["TSP_TUNNEL_CREATION", "TSP_TUNNEL_TEARDOWN"]
    assert not old.addresses("eth1") and not old.addresses("tun")
    assert prefix not in [route["dst"] for route in old.host.ip_json("-6 route show")]


def test_a_template_that_fails_is_told_and_leaves_nothing(old: Old) -> None:
    old.write("template/linux.sh", "echo the site is closed\nexit 7\n")
    with old.client() as process:
        def told() -> bool:
            assert process.poll() is None, old.said()
            return old.status().get("last_error", {}).get("code") == "hook_failed" if old.status().get("last_error") else False
        wait_for("the failure is told", told)
        error = old.status()["last_error"]
        assert "ended with code 7; its last words: the site is closed" in error["message"]
        wait_for("the device is gone", lambda: old.host.run("ip", "link", "show", "tun", check=False).returncode != 0)


def test_a_password_that_others_can_read_is_told_loudly_and_stands_nowhere(old: Old) -> None:
    old.write("gw6c.conf", CONF, "0644")
    old.write("template/linux.sh", "env > $TSP_HOME_DIR/environment\n" + TEMPLATE)
    with old.client("-vvv") as process:
        old.wait_up(process)
        assert "W: /usr/local/gw6c/gw6c.conf HOLDS A PASSWORD" in old.said()
        pids = [line.split()[0] for line in old.host.run("ps", "-eww", "-o", "pid=,args=").stdout.splitlines() if "/gw6c -f" in line]
        assert pids
        seen = [old.host.run("sh", "-c", f"cat /proc/{pid}/cmdline /proc/{pid}/environ", check=False).stdout for pid in pids]
        seen += [old.said(), old.read("gw6c.log"), old.read("environment"), json.dumps(old.status()),
                 old.host.run("sh", "-c", "cat /run/tsp*/* /var/lib/tsp/* 2>/dev/null", check=False).stdout]
    assert all(PASSWORD not in text for text in seen) and all(seen[-5:])
    assert old.read("environment").count("TSP_") >= 12
    for text in (old.said(), old.read("gw6c.log")):
        assert all(part in text for part in ("C>S", "VERSION=2.0", "AUTHENTICATE ", "bytes struck out", '<tunnel action="create"'))


def test_a_mistake_in_the_file_is_named_with_its_line(old: Old) -> None:
    old.write("gw6c.conf", CONF + "tunnel_mode=v6tcpv4\nproxy_client=yes\n", "0600")
    old.host.run("ln", "-sf", str(old.net.program), f"{FOLDER}/gw6c")
    done = old.host.run(sys.executable, f"{FOLDER}/gw6c", "-f", f"{FOLDER}/gw6c.conf", check=False)
    assert done.returncode == 1 and "line 18: tunnel_mode is 'v6tcpv4'; it can be v6anyv4, v6v4, v6udpv4, v4v6" in done.stderr
    assert PASSWORD not in done.stderr + done.stdout


def test_an_old_and_a_new_configuration_in_one_process() -> None:
    with Lab("two-tunnels") as lab:
        net = Net(lab, brokers=2)
        for broker in net.brokers:
            broker.start()
        old = Old(net)
        old.write("gw6c.conf", CONF.replace("server=192.0.2.1", "server=192.0.2.2").replace("log_file=3", "log_file=0"), "0600")
        new = {"name": "office", "device": "tsp0", "request": {"mode": "v6udpv4"}, "runtime_dir": "/run/tsp",
               "broker": {"brokers": ["192.0.2.1"], "auth_method": "anonymous"}, "lease_file": "/var/lib/tsp/office.lease"}
        old.write("office.json", json.dumps(new), "0600")
        old.host.log_path("both").unlink(missing_ok=True)
        process = old.host.popen(sys.executable, str(net.program), "--foreground", "--config", f"{FOLDER}/office.json",
                                 "--config", f"{FOLDER}/gw6c.conf", label="both")
        try:
            def shown() -> list[dict[str, Any]]:
                assert process.poll() is None, old.host.log_path("both").read_text()
                done = old.host.run(sys.executable, str(net.program), "status", "--json", check=False)
                tunnels: list[dict[str, Any]] = json.loads(done.stdout)["tunnels"]
                return tunnels if [tunnel.get("state") for tunnel in tunnels] == ["up", "up"] else []
            wait_for("both are up", shown)
            for broker in net.brokers:
                wait_for("each reaches its broker",
                         lambda broker=broker: not old.host.run("ping", "-6", "-c1", "-W2", broker.inner, check=False).returncode)
            text = old.host.log_path("both").read_text()
            assert re.search(r"^I: office: up: ", text, re.MULTILINE) and re.search(r"^I: gw6c: up: ", text, re.MULTILINE)
            assert "W: gw6c: log: one process has one; that of office counts." in text
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
        assert not old.addresses("tun") and not old.addresses("tsp0")

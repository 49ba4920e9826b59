# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The broker's kernel tunnel ends: sit and ip6tnl devices made through netlink, carrying packets, and gone afterwards."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from ansible_collections.tunnelbroker.tsp.tests.lab import Lab, Namespace

CONFIG = """
name: broker.example
modes: [v6v4, v6udpv4, v4v6]
auth: {anonymous: true, digest-md5: false, passdss-3des-1: false}
anonymous: {prefix: true}
pools:
  ipv6: 2001:db8:f::/64
  prefixes: [{network: 2001:db8:8000::/33, lengths: "48-64", default: 56}]
  ipv4: 203.0.113.0/24
data_plane: {kind: kernel}
store: {path: leases.db}
"""
ASK = """
import json, sys
sys.path.insert(0, "plugins")
from module_utils._exchange.negotiate import delete_sync, negotiate_sync
from module_utils._exchange.options import ExchangeOptions
from module_utils._tsp.lease import Lease
from module_utils._tsp.request import TunnelRequest
asked = json.load(sys.stdin)
options = ExchangeOptions(brokers=(asked["broker"],), auth_method="anonymous", transports=asked["transport"])
if "delete" in asked:
    delete_sync(Lease.from_dict(asked["delete"]), options)
else:
    print(json.dumps(negotiate_sync(TunnelRequest.from_dict(asked["request"]), options).lease.to_dict()))
"""


def ask(client: Namespace, broker: str, transport: str = "udp", **request: Any) -> dict[str, Any]:
    """A lease, negotiated from inside `client`."""
    question = {"broker": broker, "transport": transport, **({"request": request} if "delete" not in request else request)}
    done = client.run(sys.executable, "-c", ASK, input=json.dumps(question), timeout=180, env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})
    answer: dict[str, Any] = json.loads(done.stdout or "{}")
    return answer


def devices(where: Namespace, kind: str) -> list[dict[str, Any]]:
    """The tunnel devices of that kind that somebody made (not the kernel's own fallback device)."""
    return [link for link in where.ip_json("-d link show") if link.get("linkinfo", {}).get("info_kind") == kind
            and link["ifname"] not in ("sit0", "ip6tnl0")]


def wait_for(condition: Any, what: str, seconds: float = 180) -> None:
    """Poll, generously: emulation is slow."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.1)


class Net:
    """broker 192.0.2.1 and 2001:db8::1, client 192.0.2.2 and 2001:db8::2, on one wire."""

    def __init__(self, lab: Lab) -> None:
        self.lab, self.folder = lab, lab.folder
        self.broker, self.client = lab.namespace("broker"), lab.namespace("client")
        lab.veth(self.broker, "eth0", self.client, "eth0")
        for number, host in ((1, self.broker), (2, self.client)):
            host.ip("link set lo up", "link set eth0 up", f"addr add 192.0.2.{number}/24 dev eth0",
                    f"addr add 2001:db8::{number}/64 dev eth0 nodad")
        (self.folder / "broker.yml").write_text(CONFIG, encoding="utf-8")
        self.start()

    def start(self) -> None:
        """Start the broker and wait until it answers on its port."""
        self.program = self.broker.popen(sys.executable, "/opt/broker", "serve", "--config", str(self.folder / "broker.yml"), label="broker")
        wait_for(lambda: ":3653" in self.broker.run("ss", "-lunt").stdout or self.program.poll() is not None, "the broker's port")
        assert self.program.poll() is None, self.log()

    def log(self) -> str:
        """What the broker said."""
        return self.broker.log_path("broker").read_text(encoding="utf-8")

    def stop(self) -> None:
        """SIGTERM, and a clean end."""
        self.program.terminate()
        assert self.program.wait(timeout=60) == 0, self.log()


@pytest.fixture
def net() -> Iterator[Net]:
    with Lab("kernel") as lab:
        yield Net(lab)


def test_v6v4_is_a_sit_device_that_carries_packets(net: Net) -> None:
    lease = ask(net.client, "192.0.2.1", mode="v6v4", host_type="router", prefix_length=56)
    assert lease["mode"] == "v6v4"
    made = devices(net.broker, "sit")
    assert len(made) == 1 and made[0]["linkinfo"]["info_data"]["remote"] == "192.0.2.2", made
    inner, broker = lease["client"]["ipv6"], lease["server"]["ipv6"]
    net.client.ip("tunnel add t6 mode sit remote 192.0.2.1 local 192.0.2.2 ttl 64", "link set t6 up mtu 1280",
                  f"-6 addr add {inner}/128 dev t6 nodad", f"-6 route add {broker}/128 dev t6")
    net.client.run("ping", "-6", "-c2", "-W5", broker, timeout=180)
    net.broker.run("ping", "-6", "-c2", "-W5", "-I", broker, inner, timeout=180)
    network = lease["prefix"].split("/")[0]
    net.client.ip(f"-6 addr add {network}1/128 dev lo nodad")
    net.broker.run("ping", "-6", "-c2", "-W5", "-I", broker, f"{network}1", timeout=180)
    ask(net.client, "192.0.2.1", delete=lease)
    wait_for(lambda: not devices(net.broker, "sit"), "the device to go with its lease")
    net.stop()


def test_v4v6_is_an_ip6tnl_device_that_carries_packets(net: Net) -> None:
    lease = ask(net.client, "[2001:db8::1]", mode="v4v6")
    assert lease["mode"] == "v4v6" and len(devices(net.broker, "ip6tnl")) == 1
    net.client.ip("-6 tunnel add t4 mode ipip6 remote 2001:db8::1 local 2001:db8::2 encaplimit none", "link set t4 up",
                  f"addr add {lease['client']['ipv4']}/32 dev t4", f"route add {lease['server']['ipv4']}/32 dev t4")
    net.client.run("ping", "-4", "-c2", "-W5", lease["server"]["ipv4"], timeout=180)
    net.broker.run("ping", "-4", "-c2", "-W5", "-I", lease["server"]["ipv4"], lease["client"]["ipv4"], timeout=180)
    net.stop()
    assert not devices(net.broker, "ip6tnl") and not devices(net.broker, "sit"), "a clean shutdown leaves no device"


def test_a_killed_broker_finds_and_replaces_its_devices(net: Net) -> None:
    lease = ask(net.client, "192.0.2.1", mode="v6v4")
    before = devices(net.broker, "sit")
    net.program.kill()
    net.program.wait(timeout=30)
    # The laboratory's launcher is what was killed; the broker itself ends with it.
    wait_for(lambda: not [line for line in net.broker.processes() if "/opt/broker" in line], "the broker to be gone")
    assert devices(net.broker, "sit") == before, "the kernel forwards on without its broker"
    net.start()
    again = ask(net.client, "192.0.2.1", mode="v6v4")
    assert again["client"]["ipv6"] == lease["client"]["ipv6"], "a killed broker remembers what it granted"
    assert len(devices(net.broker, "sit")) == 1, "neither a leftover nor a second device"
    net.stop()
    assert not devices(net.broker, "sit")

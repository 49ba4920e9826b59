# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The broker's kernel tunnel ends: sit and ip6tnl devices made through netlink, carrying packets, and gone afterwards.

The guest itself is the client; the broker runs in the network namespace `broker`. One broker serves the tests in their order,
because under emulation each start of a Python program takes seconds.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from _guest import SECONDS, run, wait_for
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._exchange.negotiate import delete_sync, negotiate_sync
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._exchange.options import ExchangeOptions
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.lease import Lease
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.request import TunnelRequest

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


def at_broker(command: str) -> str:
    return run(f"ip netns exec broker {command}")


def devices(kind: str) -> list[dict[str, Any]]:
    """The broker's devices of that kind, but for the kernel's own fallback device."""
    links: list[dict[str, Any]] = json.loads(run("ip -n broker -d -j link show"))
    return [link for link in links if link.get("linkinfo", {}).get("info_kind") == kind and link["ifname"] not in ("sit0", "ip6tnl0")]


class Broker:
    """The broker in its namespace: broker 192.0.2.1 and 2001:db8::1, client 192.0.2.2 and 2001:db8::2, on one wire."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        run("ip netns add broker")
        run("ip link add eth0 type veth peer name eth0 netns broker")
        for where, number in (("", 2), ("-n broker ", 1)):
            for words in ("link set lo up", "link set eth0 up", f"addr add 192.0.2.{number}/24 dev eth0",
                          f"addr add 2001:db8::{number}/64 dev eth0 nodad"):
                run(f"ip {where}{words}")
        (folder / "broker.yml").write_text(CONFIG, encoding="utf-8")
        self.start()

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self.program = subprocess.Popen(["ip", "netns", "exec", "broker", sys.executable, "/opt/broker", "serve", "--config",
                                             str(self.folder / "broker.yml")], stdout=log, stderr=log)
        wait_for(lambda: ":3653" in at_broker("ss -lunt") or self.program.poll() is not None, "the broker's port")
        assert self.program.poll() is None, (self.folder / "log").read_text(encoding="utf-8")

    def stop(self) -> None:
        self.program.terminate()
        assert self.program.wait(timeout=SECONDS) == 0, (self.folder / "log").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    running = Broker(tmp_path_factory.mktemp("broker"))
    yield running
    running.program.kill()
    running.program.wait()


def ask(address: str, **request: Any) -> tuple[Lease, ExchangeOptions]:
    options = ExchangeOptions(brokers=(address,), auth_method="anonymous", transports="udp")
    return negotiate_sync(TunnelRequest(**request), options).lease, options


def test_v6v4_is_a_sit_device_that_carries_packets(broker: Broker) -> None:
    lease, options = ask("192.0.2.1", mode="v6v4", host_type="router", prefix_length=56)
    grant = lease.grant
    made = devices("sit")
    assert len(made) == 1 and made[0]["linkinfo"]["info_data"]["remote"] == "192.0.2.2", made
    for words in ("tunnel add t6 mode sit remote 192.0.2.1 local 192.0.2.2 ttl 64", "link set t6 up mtu 1280",
                  f"-6 addr add {grant.client.ipv6}/128 dev t6 nodad", f"-6 route add {grant.server.ipv6}/128 dev t6",
                  f"-6 addr add {grant.prefix[1]}/128 dev lo nodad"):
        run(f"ip {words}")
    run(f"ping -6 -c2 -W5 {grant.server.ipv6}")
    at_broker(f"ping -6 -c2 -W5 -I {grant.server.ipv6} {grant.client.ipv6}")
    at_broker(f"ping -6 -c2 -W5 -I {grant.server.ipv6} {grant.prefix[1]}")
    delete_sync(lease, options)
    wait_for(lambda: not devices("sit"), "the device to go with its lease")
    run("ip link del t6")


def test_v4v6_is_an_ip6tnl_device_that_carries_packets(broker: Broker) -> None:
    grant = ask("[2001:db8::1]", mode="v4v6")[0].grant
    assert grant.mode == "v4v6" and len(devices("ip6tnl")) == 1
    for words in ("-6 tunnel add t4 mode ipip6 remote 2001:db8::1 local 2001:db8::2 encaplimit none", "link set t4 up",
                  f"addr add {grant.client.ipv4}/32 dev t4", f"route add {grant.server.ipv4}/32 dev t4"):
        run(f"ip {words}")
    run(f"ping -4 -c2 -W5 {grant.server.ipv4}")
    at_broker(f"ping -4 -c2 -W5 -I {grant.server.ipv4} {grant.client.ipv4}")
    run("ip link del t4")


def test_a_killed_broker_finds_and_replaces_its_devices(broker: Broker) -> None:
    lease = ask("192.0.2.1", mode="v6v4")[0]
    before = [link["ifname"] for link in devices("sit")]
    broker.program.kill()
    broker.program.wait(timeout=SECONDS)
    assert [link["ifname"] for link in devices("sit")] == before, "the kernel forwards on without its broker"
    broker.start()
    again = ask("192.0.2.1", mode="v6v4")[0]
    assert again.grant.client.ipv6 == lease.grant.client.ipv6, "a killed broker remembers what it granted"
    assert len(devices("sit")) == 1, "neither a leftover nor a second device"
    broker.stop()
    assert not devices("sit") and not devices("ip6tnl"), "a clean shutdown leaves no device"

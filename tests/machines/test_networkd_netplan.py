# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Tunnels kept by systemd-networkd and by netplan, on a machine of theirs: there, across a reboot, changed to another one, and gone.

The role linux is given leases as a broker would have granted them; the broker's ends are on another machine.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any

import pytest
from ansible_collections.tunnelbroker.tsp.tests.lab import Lab
from ansible_collections.tunnelbroker.tsp.tests.lab.ansible import Run
from ansible_collections.tunnelbroker.tsp.tests.lab.vm import Machine, Nic, Rig, why_not

WHY_NOT = why_not()
pytestmark = [pytest.mark.root, pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))]
OUTER, OUTER6 = "198.51.100.31", "2001:db8:ee::31"
BROKER, BROKER6 = "198.51.100.{}", "2001:db8:ee::1"
ENDS = "\n".join((
    "modprobe -a sit fou ip6_tunnel",
    f"ip link add s1 type sit local 198.51.100.1 remote {OUTER} ttl 64",
    "ip fou add port 3653 ipproto 41",
    f"ip link add s2 type sit local 198.51.100.2 remote {OUTER} ttl 64 encap fou encap-sport 3653 encap-dport 40000 encap-csum",
    f"ip link add s3 type ip6tnl mode ipip6 local {BROKER6} remote {OUTER6} encaplimit none",
    "for end in s1 s2 s3; do ip link set $end up; done",
    "for n in 1 2; do ip addr add 2001:db8:f:$n::1/128 dev s$n nodad; ip route add 2001:db8:f:$n::2/128 dev s$n; done",
    "for n in 1 2; do ip route add 2001:db8:a$n::/56 dev s$n; done",
    "ip addr add 192.0.2.1/32 dev s3; ip route add 192.0.2.2/32 dev s3; ip route add 203.0.113.64/26 dev s3"))
PICTURE = r"""
ip -o addr show | sed 's/^[0-9]*: //; s/ *valid_lft.*//'
ip -o link show | sed 's/^[0-9]*: //; s/ *qlen.*//'
for family in -4 -6; do ip $family route show table all | sed 's/ expires [0-9]*sec//'; ip $family rule show; done
ip fou show
find /etc/systemd /etc/netplan /etc/sysctl.d /etc/modules-load.d /etc/tsp /run/systemd/network /usr/local/lib -type f -exec md5sum {} + 2>&1
find /etc/systemd /etc/netplan /usr/local/lib ! -type f
grep -s "" /proc/sys/net/ipv[46]/conf/{all,default,wan,lan,mgmt}/*
true
"""


def lease(number: int, mode: str) -> dict[str, Any]:
    """The lease for the tunnel to the broker's end of this number."""
    inside, udp = mode == "v4v6", mode == "v6udpv4"
    client = ("192.0.2.2", OUTER6) if inside else (OUTER, f"2001:db8:f:{number}::2")
    server = ("192.0.2.1", BROKER6) if inside else (BROKER.format(number), f"2001:db8:f:{number}::1")
    return {"schema": 1, "broker": "far.example", "transport": "udp", "protocol_version": "2.0.2", "auth_method": "digest-md5",
            "username": "alice", "mode": mode, "client": {"ipv4": client[0], "ipv6": client[1], "dns_name": None,
                                                          "udp_port": 40000 if udp else None},
            "server": {"ipv4": server[0], "ipv6": server[1], "dns_name": None, "udp_port": 3653 if udp else None},
            "prefix": "203.0.113.64/26" if inside else f"2001:db8:a{number}::/56", "dns_servers": [], "keepalive": None, "lifetime": None,
            "obtained_at": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"), "path_mtu": 1500,
            "request": {"mode": mode, "host_type": "router"}, "local_address": OUTER6 if inside else OUTER}


SIT, UDP, INSIDE = lease(1, "v6v4"), lease(2, "v6udpv4"), lease(3, "v4v6")
ADDRESS = {"v6v4": "2001:db8:a1::1", "v6udpv4": "2001:db8:a2::1", "v4v6": "203.0.113.65"}


class World:
    """A router of `governor`, and the broker's ends."""

    def __init__(self, lab: Lab, governor: str) -> None:
        self.governor = governor
        self.rig = Rig(lab)
        internet = lab.segment("internet")
        addresses = (*(f"{BROKER.format(number)}/24" for number in (1, 2)), f"{BROKER6}/64")
        far = self.rig.start("far", Nic("wan", internet, addresses), kind="lean")
        self.host: Machine = self.rig.start(
            "router", Nic("wan", internet, (f"{OUTER}/24", f"{OUTER6}/64"), (BROKER.format(1), BROKER6)),
            Nic("lan", lab.segment("lan"), ("10.0.0.1/24", "fd00:1::1/64")), governor=governor)
        far.wait()
        far.run(ENDS)
        self.host.wait()
        # The modules first: with them come devices such as sit0, which stay.
        self.host.run("modprobe -a sit fou ip6_tunnel")
        self.ansible = self.rig.ansible(lab.folder / "ansible")
        self.inventory = self.ansible.write_inventory(self.rig.inventory({"router": self.host}))
        self.book = lab.folder / "play.json"
        self.book.write_text(json.dumps([{"hosts": "all", "gather_facts": False, "roles": ["tunnelbroker.tsp.linux"]}]), encoding="utf-8")

    def play(self, given: dict[str, Any] | None, *words: str, **variables: Any) -> Run:
        """Run the role. given: the lease; None takes the tunnel away."""
        everything = {"tunnel_state": "present" if given else "absent", "tunnel_lease": given or {}, "linux_backend": self.governor,
                      "linux_lan_interfaces": ["lan"], "linux_probe_timeout": 60, **variables}
        run = self.ansible.playbook(str(self.book), "-e", json.dumps(everything), *words, inventory=self.inventory)
        assert run.returncode == 0, run.output
        return run

    def carries(self, given: dict[str, Any]) -> None:
        """Packets from this host and from its LAN get to the broker's end and back."""
        family = "ipv4" if given["mode"] == "v4v6" else "ipv6"
        for source in (given["client"][family], ADDRESS[given["mode"]]):
            self.host.run(f"ping -n -c1 -w60 -I {source} {given['server'][family]}")

    def picture(self, patience: float = 30) -> list[str]:
        """What is there, when it has stopped changing."""
        end, before = time.monotonic() + patience, None
        while True:
            now = sorted(self.host.run("bash -s", input=PICTURE).stdout.splitlines())
            if now == before or time.monotonic() > end:
                return now
            before = now


@pytest.fixture(scope="module", params=["networkd", "netplan"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    failed = request.session.testsfailed
    with Lab(request.param) as lab:
        yield World(lab, request.param)
        if request.session.testsfailed > failed:
            lab.keep()


def test_a_tunnel_from_its_making_to_its_end(world: World) -> None:
    before = world.picture()
    route = world.host.run("ip -6 route show default; ip route show default").stdout
    assert "dev wan" in route
    predicted = world.play(SIT, "--check", "--diff", linux_default_route="source")
    assert predicted.changed == 1 and world.picture() == before
    assert world.play(SIT, linux_default_route="source").changed == 1
    world.carries(SIT)
    assert world.play(SIT, linux_default_route="source").changed == 0

    world.host.reboot()
    world.carries(SIT)
    assert world.play(SIT, linux_default_route="source").changed == 0, "a reboot changed something"

    # What somebody took away comes back.
    world.host.run("ip link delete tsp0")
    assert world.play(SIT, linux_default_route="source").changed == 1
    world.carries(SIT)

    for given in (UDP, INSIDE) if world.governor == "networkd" else (INSIDE,):
        assert world.play(given, linux_default_route="metric").changed == 1
        world.carries(given)
    world.host.reboot()
    world.carries(INSIDE)
    assert world.play(INSIDE, linux_default_route="metric").changed == 0
    assert "40000" not in world.host.run("ip fou show; ls /etc/systemd/network").stdout

    assert world.play(None).changed >= 1
    # A reboot takes the modules away that the test has loaded.
    world.host.run("modprobe -a sit fou ip6_tunnel")
    after = world.picture()
    assert (sorted(set(before) - set(after)), sorted(set(after) - set(before))) == ([], [])
    assert world.play(None).changed == 0


def test_the_uplink_is_not_disturbed(world: World) -> None:
    """Neither addresses nor routes of the uplink go away, not even for a moment.

    Without the timer of confirm_timeout, since systemd has netplan write its files anew when that is set, and networkd takes notice.
    """
    world.host.run("networkctl reload")
    world.picture()
    world.host.run("ip monitor address route dev wan >/run/monitor 2>&1 & echo $! >/run/monitor.pid")
    world.play(SIT, linux_confirm_timeout=0)
    world.carries(SIT)
    seen = world.host.run("kill $(cat /run/monitor.pid); cat /run/monitor").stdout
    # The anycast addresses of routers come and go with forwarding.
    assert not [line for line in seen.splitlines() if "Deleted" in line and "anycast" not in line], seen
    world.play(None)

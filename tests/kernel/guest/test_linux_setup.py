# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What linux_setup wants of a kernel, made in one: it is there, it carries packets, the next look decides the same, and it goes again.

The guest is the host; the broker's end of the tunnel is in the network namespace `far` behind wan0, a host of its LAN in `lan`
behind lan0. Whatever a backend would make out of files is made here by the transaction's own hands.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from _guest import SECONDS, run

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "plugins"))

from module_utils._apply.change import facts_of, make_missing, put_back, wait  # noqa: E402
from module_utils._apply.kernel import read, with_parts  # noqa: E402
from module_utils._apply.runner import HostRunner  # noqa: E402
from module_utils._linux.backend import Parts  # noqa: E402
from module_utils._linux.info import gather  # noqa: E402
from module_utils._linux.setup import linux_setup  # noqa: E402

NAME = "tsp-linux-tsp"
LAN_HOST = {6: ("2001:db8:a::9/64", "2001:db8:a::1"), 4: ("203.0.113.9/24", "203.0.113.1")}
PREFIX = {"v6v4": "2001:db8:a::/56", "v6udpv4": "2001:db8:a::/56", "v4v6": "203.0.113.0/24"}
SIT = "ip link add name far0 type sit mode ip6ip local 198.51.100.1 remote 198.51.100.31 ttl 64"
FAR = {
    "v6v4": (SIT,),
    "v6udpv4": ("ip fou add port 3653 ipproto 41", f"{SIT} encap fou encap-sport 3653 encap-dport 40000 encap-csum"),
    "v4v6": ("ip link add name far0 type ip6tnl mode ipip6 local 2001:db8:ee::1 remote 2001:db8:ee::31 encaplimit none",)}


class ByHand:
    """A backend whose items the transaction makes."""

    def __init__(self, name: str) -> None:
        self.NAME = name

    def refuses(self, setup: dict[str, Any], host: dict[str, Any]) -> str | None:
        return None

    def parts(self, setup: dict[str, Any], host: dict[str, Any]) -> Parts:
        return Parts()


def lease(mode: str) -> dict[str, Any]:
    udp = mode == "v6udpv4"
    outer = mode != "v4v6"
    client = {"ipv4": "198.51.100.31" if outer else "198.18.7.2", "ipv6": "2001:db8:f::2" if outer else "2001:db8:ee::31",
              "dns_name": None, "udp_port": 40000 if udp else None}
    server = {"ipv4": "198.51.100.1" if outer else "198.18.7.1", "ipv6": "2001:db8:f::1" if outer else "2001:db8:ee::1", "dns_name": None,
              "udp_port": 3653 if udp else None}
    return {"schema": 1, "broker": "far.example", "transport": "udp", "protocol_version": "2.0.2", "auth_method": "digest-md5",
            "username": "alice", "mode": mode, "client": client, "server": server, "prefix": PREFIX[mode], "dns_servers": [],
            "keepalive": None, "lifetime": None, "obtained_at": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "request": {"mode": mode, "host_type": "router"}, "path_mtu": 1500}


@contextmanager
def wired(mode: str) -> Iterator[None]:
    """The broker's end, and a host in the LAN."""
    family = 4 if mode == "v4v6" else 6
    inner = "198.18.7.1/32" if family == 4 else "2001:db8:f::1/128"
    address, gateway = LAN_HOST[family]
    end = time.monotonic() + SECONDS
    # The modules first: with them come devices such as sit0, which stay.
    for module in ("sit", "fou", "ip6_tunnel"):
        run(f"modprobe {module}")
    for where, device, peer in (("far", "wan0", "wan1"), ("lan", "lan0", "lan1")):
        run(f"ip netns add {where}")
        run(f"ip link add {device} type veth peer name {peer} netns {where}")
        run(f"ip link set {device} up")
        run(f"ip link set {peer} up", where)
    try:
        run("ip addr add 198.51.100.31/24 dev wan0")
        run("ip -6 addr add 2001:db8:ee::31/64 dev wan0 nodad")
        run("ip -4 route add default via 198.51.100.1 dev wan0")
        run("ip -6 route add default via 2001:db8:ee::1 dev wan0 metric 1024")
        run("ip addr add 198.51.100.1/24 dev wan1", "far")
        run("ip -6 addr add 2001:db8:ee::1/64 dev wan1 nodad", "far")
        for command in FAR[mode]:
            run(command, "far")
        run("ip link set far0 up", "far")
        run(f"ip addr add {inner} dev far0" + (" nodad" if family == 6 else ""), "far")
        run(f"ip route add {PREFIX[mode]} dev far0", "far")
        run("ip route add 2001:db8:f::2/128 dev far0" if family == 6 else "ip route add 198.18.7.2/32 dev far0", "far")
        run(f"ip addr add {address} dev lan1" + (" nodad" if family == 6 else ""), "lan")
        run(f"ip route add default via {gateway} dev lan1" if family == 4 else f"ip -6 route add default via {gateway} dev lan1", "lan")
        # Link-local addresses come by themselves, and only then stay as they are.
        while "link" not in run("ip -6 addr show dev wan0 -tentative") or "link" not in run("ip -6 addr show dev lan0 -tentative"):
            time.sleep(0.1)
            assert time.monotonic() < end, "the interfaces got no link-local address"
        yield
    finally:
        for where, device in (("far", "wan0"), ("lan", "lan0")):
            run(f"ip netns del {where}")
            subprocess.run(["ip", "link", "del", device], capture_output=True, check=False)


def picture() -> dict[str, Any]:
    """Links, addresses, routes, rules and variables of the guest."""
    links = [(link["ifname"], link["mtu"], sorted(a["local"] for a in link["addr_info"])) for link in json.loads(run("ip -j addr show"))]
    routes = [json.dumps({**route, "expires": None}, sort_keys=True) for family in ("-4", "-6")
              for route in json.loads(run(f"ip -j {family} route show table all"))]
    names = ("ipv6/conf/all/forwarding", "ipv6/conf/lan0/forwarding", "ipv6/conf/wan0/accept_ra", "ipv4/ip_forward",
             "ipv4/conf/lan0/forwarding")
    return {"links": sorted(links), "routes": sorted(routes), "rules": [run("ip -4 rule"), run("ip -6 rule")],
            "sysctls": [Path("/proc/sys/net", name).read_text() for name in names], "fou": run("ip fou show")}


def set_up(mode: str, default_route: str) -> dict[str, Any]:
    host, warnings = gather()
    assert not warnings, warnings
    host["service_manager"] = "systemd"  # the guest has none, and the units of a script are not what is tested here
    return linux_setup(lease(mode), host, backend="script", default_route=default_route, lan_interfaces=["lan0"], known=ByHand)


def by_hand(made: dict[str, Any]) -> list[dict[str, Any]]:
    return [{**item, "make": True} for item in with_parts(made["items"])]


def there_and_back(mode: str) -> None:
    """For each kind of default route: made, awaited, pinged from both, and gone."""
    runner = HostRunner()
    family = 4 if mode == "v4v6" else 6
    peer = "198.18.7.1" if family == 4 else "2001:db8:f::1"
    with wired(mode):
        for choice in ("none", "metric", "source", "replace"):
            before = picture()
            made = set_up(mode, choice)
            items = by_hand(made)
            facts = facts_of(items, (), runner, read(items, runner))
            make_missing(items, runner, NAME, {"tsp0"})
            wait(items, runner, SECONDS)
            for where in ("", "lan"):
                run(f"ping -{family} -c 1 -W {SECONDS} {peer}", where)
            # What may leave by the tunnel does, and the rest where it left before.
            way = json.loads(run(f"ip -j route get {'8.8.8.8' if family == 4 else '2600::1'} from {made['numbers']['address']}"))[0]["dev"]
            assert way == ("tsp0" if choice in ("source", "replace") else "wan0"), (mode, choice, way)
            native = json.loads(run(f"ip -j route get {'8.8.8.8' if family == 4 else '2600::1'}"))[0]["dev"]
            assert native == ("tsp0" if choice == "replace" else "wan0"), (mode, choice, native)
            again = set_up(mode, choice)
            if not any(item.get("absent") for item in items):  # what was taken away is in the memory of a transaction alone
                assert again["items"] == made["items"], (mode, choice)
            assert put_back(facts, runner) == []
            until = time.monotonic() + SECONDS
            while picture() != before and time.monotonic() < until:  # what the kernel adds by itself (anycast, multicast) goes later
                time.sleep(0.2)
            after = picture()
            assert not [(before[key], after[key]) for key in before if before[key] != after[key]], (mode, choice)


def test_ipv6_in_ipv4() -> None:
    there_and_back("v6v4")


def test_ipv6_in_udp_by_the_kernel() -> None:
    there_and_back("v6udpv4")


def test_ipv4_in_ipv6() -> None:
    there_and_back("v4v6")

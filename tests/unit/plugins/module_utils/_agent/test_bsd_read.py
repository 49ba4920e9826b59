# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What ifconfig and netstat of each system say, in the form of public transcripts (tests/fixtures/bsd; the addresses are examples)."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent.bsd.read import Address, Route, interfaces, routes

FIXTURES = Path(__file__).resolve().parents[4] / "fixtures/bsd"
SYSTEMS = ["freebsd", "openbsd", "netbsd", "macos"]
OUTER = {"freebsd": "10.3.7.146", "openbsd": "10.0.2.101", "netbsd": "10.0.2.15", "macos": "192.168.1.5"}


def read(name: str) -> str:
    return (FIXTURES / f"{name}.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_tunnel_is_seen_with_all_that_it_has(system: str) -> None:
    found = interfaces(read(f"{system}-ifconfig"))["gif40"]
    assert found.mtu == 1480 and "UP" in found.flags
    assert found.tunnel == (OUTER[system], "198.51.100.1")
    assert Address("2001:db8:39:222::2", 128, "2001:db8:39:222::1") in found.addresses
    assert found.description == ("tunnelbroker.tsp:tsp" if system in ("freebsd", "openbsd") else "")
    assert ("NO_DAD" in found.neighbours) is (system == "freebsd")


def test_other_interfaces_are_seen_too() -> None:
    freebsd = interfaces(read("freebsd-ifconfig"))
    assert set(freebsd) == {"em0", "lo0", "gif40"}
    assert Address("10.3.7.146", 24) in freebsd["em0"].addresses and Address("fe80::a00:27ff:fe11:2233", 64) in freebsd["em0"].addresses
    assert "ACCEPT_RTADV" in freebsd["em0"].neighbours
    assert interfaces(read("openbsd-ifconfig"))["enc0"].flags == frozenset()
    assert Address("10.0.2.15", 24) in interfaces(read("netbsd-ifconfig"))["wm0"].addresses
    macos = interfaces(read("macos-ifconfig"))
    assert macos["gif0"].tunnel is None and "UP" not in macos["gif0"].flags and macos["gif0"].mtu == 1280


@pytest.mark.parametrize(("system", "default", "reject"), [
    ("freebsd", Route(ip_network("::/0"), "2001:db8:39:222::1", "UGS", "gif40"), "URS"),
    ("openbsd", Route(ip_network("::/0"), "2001:db8:39:222::1", "UGS", "gif40", 60), "UGRS"),
    ("netbsd", Route(ip_network("::/0"), "2001:db8:39:222::1", "UGS", "gif40"), "UGRS"),
    ("macos", Route(ip_network("::/0"), "2001:db8:39:222::1", "UGc", "gif40"), "UGRSc")])
def test_routes_are_seen(system: str, default: Route, reject: str) -> None:
    found = routes(read(f"{system}-netstat"))
    assert default in found and default.is_default
    covering = next(route for route in found if str(route.destination) == "2001:db8:8000::/56")
    assert covering.flags == reject and covering.interface == "lo0" and not covering.is_default
    assert any(str(route.destination) == "2001:db8:39:222::1/128" and route.interface == "gif40" for route in found)


def test_native_default_routes_are_told_from_those_of_one_interface() -> None:
    assert [route.gateway for route in routes(read("openbsd-netstat")) if route.is_default] == ["fe80::1", "2001:db8:39:222::1"]
    # macOS has a default route for each utun, which no packet takes by itself.
    assert [(str(route.destination), route.gateway) for route in routes(read("macos-netstat")) if route.is_default] == \
        [("0.0.0.0/0", "192.168.1.1"), ("::/0", "2001:db8:39:222::1")]
    assert [route.gateway for route in routes(read("freebsd11-netstat")) if route.is_default] == ["10.0.2.2", "2001:db8::1"]


def test_networks_without_their_zeros_are_whole_networks() -> None:
    found = {str(route.destination): route for route in routes(read("macos-netstat"))}
    assert {"10.10.10.0/24", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "192.168.1.1/32", "fe80::/64"} <= set(found)
    assert found["10.10.10.0/24"].interface == "en0"


@pytest.mark.parametrize("text", ["", "\n\n", "gif0", "gif0: flags=8<UP\n\tinet6\n\ttunnel inet\n\tinet6 nonsense/999 prefixlen x",
                                  "Destination Gateway Flags\na b\n\x00 \xff %\n::/999 ::1 U lo0"])
def test_what_is_not_understood_is_passed_over(text: str) -> None:
    assert all(not entry.addresses for entry in interfaces(text).values())
    assert routes(text) == []

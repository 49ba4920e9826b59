# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The MTU of the path to the broker, measured through real routers: wide, narrow in the middle, silent about it, or not answering."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._exchange.source import Source
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._module.pathmtu import path_mtu
from ansible_collections.tunnelbroker.tsp.tests.lab import Lab, Namespace

pytestmark = pytest.mark.root
ENDS = {4: "192.0.2.1", 6: "2001:db8:2::1"}


@pytest.fixture
def path() -> Iterator[dict[str, Namespace]]:
    """host --eth0-- left --mid-- right --lan-- broker; the part in the middle is the narrow one."""
    with Lab("path-mtu") as lab:
        names = {name: lab.namespace(name) for name in ("host", "left", "right", "broker")}
        host, left, right, broker = names.values()
        lab.veth(host, "eth0", left, "in")
        lab.veth(left, "mid", right, "mid")
        lab.veth(right, "lan", broker, "eth0")
        for space, interface, number in ((host, "eth0", "1.2"), (left, "in", "1.1"), (left, "mid", "3.1"), (right, "mid", "3.2"),
                                         (right, "lan", "2.2"), (broker, "eth0", "2.1")):
            net, last = number.split(".")
            v4 = f"192.0.2.{last}/24" if net == "2" else f"10.0.{net}.{last}/24"
            space.ip(f"addr add {v4} dev {interface}", f"addr add 2001:db8:{net}::{last}/64 dev {interface} nodad")
        for space in (left, right):
            space.sysctl(net__ipv4__ip_forward=1, net__ipv6__conf__all__forwarding=1)
        host.ip("route add default via 10.0.1.1", "-6 route add default via 2001:db8:1::1")
        left.ip("route add default via 10.0.3.2", "-6 route add default via 2001:db8:3::2")
        right.ip("route add default via 10.0.3.1", "-6 route add default via 2001:db8:3::1")
        broker.ip("route add default via 192.0.2.2", "-6 route add default via 2001:db8:2::2")
        for end in ENDS.values():
            host.run("ping", "-c1", "-W20", end)  # neighbours are found, and nothing is tentative any more
        yield names


def narrow(path: dict[str, Namespace], mtu: int) -> None:
    for side in ("left", "right"):
        path[side].ip(f"link set mid mtu {mtu}")


def measure(path: dict[str, Namespace], family: int) -> int | None:
    with path["host"].network():
        return path_mtu(ip_address(ENDS[family]), Source())


@pytest.mark.parametrize("family", [4, 6])
def test_a_path_as_wide_as_its_interface(path: dict[str, Namespace], family: int) -> None:
    assert measure(path, family) == 1500


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("mtu", [1492, 1420])
def test_a_path_that_is_narrow_in_the_middle(path: dict[str, Namespace], family: int, mtu: int) -> None:
    narrow(path, mtu)
    assert measure(path, family) == mtu
    assert measure(path, family) == mtu, "and again, now that the kernel has learned it"


def test_a_router_that_says_nothing_when_it_drops_what_is_too_big(path: dict[str, Namespace]) -> None:
    narrow(path, 1400)
    path["left"].nft("table ip hole { chain out { type filter hook output priority 0; icmp type destination-unreachable drop; }; }")
    assert measure(path, 4) == 1400


def test_a_size_that_is_on_no_list_is_rounded_down(path: dict[str, Namespace]) -> None:
    narrow(path, 1481)
    assert measure(path, 4) in (1480, 1481)  # 1481 once the kernel was told


def test_a_broker_that_answers_no_pings_leaves_the_interfaces_own(path: dict[str, Namespace]) -> None:
    path["broker"].nft("table inet deaf { chain in { type filter hook input priority 0; meta l4proto { icmp, ipv6-icmp } drop; }; }")
    path["host"].ip("link set eth0 mtu 1492")
    assert measure(path, 4) == 1492


def test_no_more_than_ethernet_and_nothing_without_a_route(path: dict[str, Namespace]) -> None:
    with path["host"].network():
        path["host"].ip("link set lo up")
        assert path_mtu(ip_address("127.0.0.1"), Source()) == 1500
        path["host"].ip("route del default")
        assert path_mtu(ip_address(ENDS[4]), Source()) is None

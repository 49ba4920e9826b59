# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What on a router is this task's: a mark in the description of a tunnel, and the network behind it."""

from __future__ import annotations

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.errors import LocalError
from ansible_collections.tunnelbroker.tsp.plugins.plugin_utils._router import claim, plan
from ansible_collections.tunnelbroker.tsp.plugins.plugin_utils._router.blocks import parse

MARK = "IPv6 tunnel (TSP)"
RUNNING = """
interface Tunnel0
 description IPv6 tunnel (TSP) 2001:db8:8000::/48
 no ip address
 ipv6 address 2001:DB8:F::2/128
 ipv6 address 2001:DB8:AAAA::1/64
 tunnel source 198.51.100.10
 tunnel destination 192.0.2.1
interface Vlan10
 ip address 10.0.0.1 255.255.255.0
 ipv6 address 2001:DB8:8000::1/64
 ipv6 address 2001:DB8:8000:77::1/64
 ipv6 nd prefix 2001:DB8:8000::/64 43200 43200
 ipv6 nd prefix 2001:DB8:AAAA::/64 43200 43200
ipv6 route 2001:DB8:8000::/48 Null0
ipv6 route 2001:DB8:9000::/48 Null0
ipv6 route 2001:DB8:F::1/128 Tunnel0
ipv6 route 2001:DB8:1234::/48 Tunnel0
ipv6 route ::/0 Vlan10 2001:DB8:8000::9
"""
NEW = """
interface Tunnel0
 description IPv6 tunnel (TSP) 2001:db8:9000::/48
 ipv6 address 2001:db8:f::3/128
 tunnel source 198.51.100.10
 tunnel destination 192.0.2.1
interface Vlan10
 ipv6 address 2001:db8:9000::1/64
 ipv6 nd prefix 2001:db8:9000::/64 43200 43200
ipv6 route 2001:db8:f::1/128 Tunnel0
ipv6 route 2001:db8:9000::/48 Null0
"""


def commands(wanted: str, running: str = RUNNING, state: str = plan.MERGED, mark: str | None = MARK) -> list[str]:
    before, blocks = parse(running), plan.wanted_blocks(wanted)
    claimed = claim.make(before, blocks, mark, state == plan.DELETED)
    return list(plan.make(before, list(claimed.wanted), state, plan.Scope(claimed.wanted, state, claimed)).commands)


def test_another_network_takes_the_place_of_the_old_one() -> None:
    sent = commands(NEW)
    assert sorted(line.strip() for line in sent if line.strip().startswith("no ")) == [
        "no ipv6 address 2001:DB8:8000::1/64",  # not ...:77::1, which was never advertised: somebody's own
        "no ipv6 address 2001:DB8:F::2/128", "no ipv6 nd prefix 2001:DB8:8000::/64 43200 43200", "no ipv6 route 2001:DB8:8000::/48 Null0"]
    assert {" ipv6 address 2001:DB8:F::3/128", " ipv6 address 2001:DB8:9000::1/64"} <= set(sent)


def test_what_is_in_force_stays() -> None:
    same = NEW.replace("9000", "8000").replace("f::3", "f::2")
    assert commands(same) == []
    only_the_tunnel = same.partition("interface Vlan10")[0]
    assert commands(only_the_tunnel) == []


def test_another_broker_takes_its_host_routes_along() -> None:
    sent = commands(NEW.replace("9000", "8000").replace("destination 192.0.2.1", "destination 192.0.2.7").replace("f::1/128", "e::1/128"))
    assert "no ipv6 route 2001:DB8:F::1/128 Tunnel0" in sent
    assert not any("1234" in line or "8000" in line for line in sent if line.startswith("no"))


def test_a_tunnel_of_somebody_else_is_not_taken_over() -> None:
    theirs = RUNNING.replace("description IPv6 tunnel (TSP) 2001:db8:8000::/48", "description DMVPN")
    with pytest.raises(LocalError) as caught:
        commands(NEW.replace("destination 192.0.2.1", "destination 192.0.2.7"), theirs)
    assert caught.value.code == "interface_taken" and "Tunnel0" in str(caught.value) and MARK in str(caught.value)
    # with the same ends it is ours, whatever somebody wrote into its description; a new one is ours, too
    assert commands(NEW, theirs)
    assert commands(NEW, "interface Tunnel0\n no ip address\n")
    # without a mark the module does as it is told
    assert commands(NEW.replace("destination 192.0.2.1", "destination 192.0.2.7"), theirs, mark=None)


def test_taking_away_leaves_what_is_of_others() -> None:
    theirs = RUNNING.replace("description IPv6 tunnel (TSP) 2001:db8:8000::/48", "description DMVPN")
    assert commands("interface Tunnel0", theirs, plan.DELETED) == []
    assert claim.make(parse(theirs), parse("interface Tunnel0"), MARK, True).foreign == ("Tunnel0",)
    elsewhere = "interface Tunnel0\n tunnel destination 192.0.2.7\nipv6 route ::/0 Tunnel0 250\n"
    assert commands(elsewhere, theirs + "ipv6 route ::/0 Tunnel0\n", plan.DELETED) == [], "a route through their tunnel is theirs"


def test_a_lan_interface_of_which_nothing_is_left_stays() -> None:
    lan = "interface Vlan10\n ipv6 address 2001:db8:9000::1/64\n"
    assert commands(lan, "interface Vlan10\n no ip address\n", plan.DELETED) == []


@pytest.mark.parametrize("wanted", ["interface Tunnel0", NEW.replace("9000", "8000"), NEW.replace("9000", "7000")])
def test_taking_away_needs_no_knowledge_of_what_was_configured(wanted: str) -> None:
    """Nor does it take a LAN interface made of software as a whole."""
    sent = commands(wanted, RUNNING, plan.DELETED)
    assert sorted(line.strip() for line in sent) == sorted([
        "no interface Tunnel0", "no ipv6 route 2001:DB8:F::1/128 Tunnel0", "no ipv6 route 2001:DB8:1234::/48 Tunnel0",
        "no ipv6 route 2001:DB8:8000::/48 Null0", "interface Vlan10", "no ipv6 address 2001:DB8:8000::1/64",
        "no ipv6 nd prefix 2001:DB8:8000::/64 43200 43200", "exit"])


def test_ipv4_inside_ipv6() -> None:
    running = """
interface Tunnel0
 description IPv6 tunnel (TSP) 198.51.100.0/26
 ip address 192.0.2.2 255.255.255.255
 tunnel destination 2001:DB8::1
interface Vlan10
 ip address 198.51.100.1 255.255.255.224
interface Vlan11
 ip address 198.51.100.65 255.255.255.224
ip route 198.51.100.0 255.255.255.192 Null0
ip route 192.0.2.1 255.255.255.255 Tunnel0
"""
    assert commands("interface Tunnel0", running, plan.DELETED) == [
        "no ip route 198.51.100.0 255.255.255.192 Null0", "no ip route 192.0.2.1 255.255.255.255 Tunnel0", "interface Vlan10",
        " no ip address 198.51.100.1 255.255.255.224", " exit", "no interface Tunnel0"]

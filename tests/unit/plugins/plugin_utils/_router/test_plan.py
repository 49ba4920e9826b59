# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The comparison: spelling, parts, what is sent, what is taken back."""

from __future__ import annotations

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.errors import LocalError
from ansible_collections.tunnelbroker.tsp.plugins.plugin_utils._router import plan
from ansible_collections.tunnelbroker.tsp.plugins.plugin_utils._router.blocks import Block, parse
from ansible_collections.tunnelbroker.tsp.plugins.plugin_utils._router.canon import canonical, route_key

RUNNING = """Building configuration...

Current configuration : 1234 bytes
!
! Last configuration change at 12:00:00 UTC Mon Jan 1 2026 by lab
version 15.7
hostname R1
banner motd ^C
interface Tunnel99
 description not configuration
^C
interface Tunnel0
 no ip address
 ipv6 address 2001:DB8::2/128
 tunnel source GigabitEthernet0/0
 tunnel destination 198.51.100.9
interface GigabitEthernet0/1
 no ip address
 shutdown
ipv6 route ::/0 GigabitEthernet0/0 2001:DB8:F::1
ipv6 route ::/0 Tunnel0 5
end
"""


def commands(wanted: str, running: str = RUNNING, state: str = plan.MERGED) -> list[str]:
    return list(plan.make(parse(running), plan.wanted_blocks(wanted), state).commands)


@pytest.mark.parametrize(("written", "spelt"), [
    ("interface tunnel 0", "interface Tunnel0"),
    ("interface gi0/0/1.5", "interface GigabitEthernet0/0/1.5"),
    ("  tunnel  source gi 0/0 ", "tunnel source GigabitEthernet0/0"),
    ("tunnel source 192.0.2.1", "tunnel source 192.0.2.1"),
    ("ipv6 address 2001:0db8:0:0::1/64", "ipv6 address 2001:DB8::1/64"),
    ("ipv6 nd prefix 2001:db8::1/64 9 8", "ipv6 nd prefix 2001:DB8::/64 9 8"),
    ("no ipv6 route ::/0 tunnel0 200", "no ipv6 route ::/0 Tunnel0 200"),
    ("ipv6 route 2001:db8::/48 null0", "ipv6 route 2001:DB8::/48 Null0"),
    ("ip access-list extended P41", "ip access-list extended P41"),
    ("description to 2001:db8::1 on gi0/1", "description to 2001:db8::1 on gi0/1"),
    ("ip mtu 1400", "ip mtu 1400"),
    ("interface e0", "interface Ethernet0"),
    ("interface t0", "interface t0"),
])
def test_lines_are_spelt_as_the_device_does(written: str, spelt: str) -> None:
    assert canonical(written) == spelt
    assert canonical(spelt) == spelt


@pytest.mark.parametrize(("one", "other", "same"), [
    ("ipv6 route ::/0 Tunnel0", "ipv6 route ::/0 Tunnel0 200", True),
    ("ipv6 route ::/0 Tunnel0 name x", "ipv6 route ::/0 Tunnel0 5 tag 7", True),
    ("ipv6 route ::/0 Tunnel0", "ipv6 route ::/0 Tunnel1", False),
    ("ipv6 route ::/0 Tunnel0 FE80::1", "ipv6 route ::/0 Tunnel0", False),
    ("ip route 0.0.0.0 0.0.0.0 192.0.2.1", "ip route 0.0.0.0 0.0.0.0 192.0.2.1 250", True),
    ("ip route vrf A 0.0.0.0 0.0.0.0 192.0.2.1", "ip route 0.0.0.0 0.0.0.0 192.0.2.1", False),
])
def test_two_forms_of_one_route(one: str, other: str, same: bool) -> None:
    assert (route_key(one) == route_key(other)) is same


def test_banners_and_passing_remarks_are_no_configuration() -> None:
    headers = [block.header for block in parse(RUNNING)]
    assert headers == ["hostname R1", "interface Tunnel0", "interface GigabitEthernet0/1",
                       "ipv6 route ::/0 GigabitEthernet0/0 2001:DB8:F::1", "ipv6 route ::/0 Tunnel0 5"]


def test_a_section_opened_twice_is_one_section() -> None:
    assert parse("interface Tunnel0\n ipv6 enable\nipv6 cef\ninterface tunnel0\n ipv6 mtu 1280\n")[0] == Block(
        "interface Tunnel0", (" ipv6 enable", " ipv6 mtu 1280"))


def test_only_what_is_missing_is_sent() -> None:
    assert commands("interface tunnel0\n ipv6 address 2001:db8::2/128\n tunnel source gi0/0\n ipv6 enable") == [
        "interface Tunnel0", " ipv6 enable", " exit"]
    assert commands("interface tunnel0\n ipv6 address 2001:db8::2/128\nipv6 route ::/0 tunnel0 5") == []


def test_one_of_a_kind_is_replaced_and_comes_back() -> None:
    made = plan.make(parse(RUNNING), plan.wanted_blocks("interface Tunnel0\n tunnel destination 198.51.100.1"), plan.MERGED)
    assert list(made.commands) == ["interface Tunnel0", " tunnel destination 198.51.100.1", " exit"]
    assert list(made.undo) == ["interface Tunnel0", " tunnel destination 198.51.100.9", " exit"]
    assert "description not configuration" not in made.before + made.after


def test_a_route_with_another_distance_goes_before_it_comes() -> None:
    """Sent the other way round, the `no` would take away the new one."""
    assert commands("ipv6 route ::/0 Tunnel0 200") == ["no ipv6 route ::/0 Tunnel0 5", "ipv6 route ::/0 Tunnel0 200"]


@pytest.mark.parametrize(("wanted", "sent"), [
    ("interface GigabitEthernet0/1\n no shutdown", ["interface GigabitEthernet0/1", " no shutdown", " exit"]),
    ("interface Tunnel0\n no shutdown\n no ip address\n no description", []),
    ("interface Tunnel0\n no tunnel source", ["interface Tunnel0", " no tunnel source GigabitEthernet0/0", " exit"]),
    ("no ipv6 route 2001:db8:5::/48 Tunnel0", []),
    # The device may be hiding that this is on: only it can tell.
    ("interface Tunnel0\n no ip redirects", ["interface Tunnel0", " no ip redirects", " exit"]),
    ("no interface Tunnel0", ["no ipv6 route ::/0 Tunnel0 5", "no interface Tunnel0"]),
])
def test_negations(wanted: str, sent: list[str]) -> None:
    assert commands(wanted) == sent


def test_deleting_takes_what_is_ours_and_leaves_the_rest() -> None:
    running = RUNNING.replace(" shutdown\n", " ipv6 address 2001:DB8:1::1/64\n ipv6 address 2001:DB8:99::1/64\n"
                              " ipv6 nd prefix 2001:DB8:1::/64 1 1\n")
    made = commands("interface Tunnel0\ninterface GigabitEthernet0/1\n ipv6 address 2001:db8:1::1/64\n ipv6 nd prefix 2001:db8:1::/64 9 9\n"
                    "ipv6 route ::/0 Tunnel0 200\nipv6 route 2001:db8:1::/48 Null0", running, plan.DELETED)
    assert made == ["no ipv6 route ::/0 Tunnel0 5", "interface GigabitEthernet0/1", " no ipv6 address 2001:DB8:1::1/64",
                    " no ipv6 nd prefix 2001:DB8:1::/64 1 1", " exit", "no interface Tunnel0"]
    assert commands("interface Tunnel7\nipv6 route 2001:db8:1::/48 Null0", running, plan.DELETED) == []


@pytest.mark.parametrize(("text", "code"), [("", "config_empty"), ("!\n! nothing\n", "config_empty"),
                                            ("interface Tunnel0\n description wer?", "line_unusable"), ("hostname R\x1a", "line_unusable"),
                                            ("hostname Zürich", "line_unusable")])
def test_what_cannot_be_typed_is_refused_before_anything_is_sent(text: str, code: str) -> None:
    with pytest.raises(LocalError) as caught:
        plan.wanted_blocks(text)
    assert caught.value.code == code


def test_the_way_back_restores_the_touched_parts_only() -> None:
    before, wanted = parse(RUNNING), plan.wanted_blocks("interface Tunnel0\n ipv6 enable\nipv6 unicast-routing")
    changed = RUNNING.replace(" ipv6 address 2001:DB8::2/128\n", " ipv6 enable\n")
    now = parse(changed.replace("hostname R1", "hostname R2\nipv6 unicast-routing"))
    assert list(plan.back(now, before, plan.Scope(wanted)).commands) == [
        "no ipv6 unicast-routing", "interface Tunnel0", " no ipv6 enable", " ipv6 address 2001:DB8::2/128", " exit"]

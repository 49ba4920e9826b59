# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Who may send through a tunnel, and where a packet goes: the switch, and the table of open ends."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._broker.ends.port import EndTable, TunnelEnd
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._broker.ends.switch import Switch
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._broker import _packets as make

OWN = (IPv6Address("2001:db8:f::1"), IPv4Address("198.51.100.1"))
ROUTED = (IPv6Network("2001:db8:f::/64"), IPv6Network("2001:db8:8000::/33"), IPv4Network("198.51.100.0/24"))
OUTSIDE = "2001:db8:1::1"


def end(number: int, inner: str, prefix: str | None = None, mode: str = "v6udpv4", remote: str = "192.0.2.7") -> TunnelEnd:
    cls, net = (IPv4Address, IPv4Network) if mode == "v4v6" else (IPv6Address, IPv6Network)
    network = net(prefix) if prefix else None
    return TunnelEnd(number, mode, cls(inner).packed, None if network is None else (int(network.network_address), network.prefixlen),
                     remote, 40000 + number if mode == "v6udpv4" else 0, "192.0.2.1", 30, 0.0, 0)


class World:
    """A switch with two clients and a router, what it sent, and a clock."""

    def __init__(self, uplink: bool = True) -> None:
        self.table, self.sent, self.up, self.now = EndTable(), [], [], 100.0
        self.alice, self.bob = end(1, "2001:db8:f::2"), end(2, "2001:db8:f::3", "2001:db8:8000::/56")
        for one in (self.alice, self.bob):
            self.table.add(one)
        self.switch = Switch(self.table, OWN, ROUTED, self._send, lambda: self.now)
        if uplink:
            self.switch.uplink = lambda packet: self.up.append(packet) is None

    def _send(self, to: TunnelEnd, packet: bytes) -> bool:
        self.sent.append((to.lease, packet))
        return True


@pytest.fixture
def world() -> World:
    return World()


def test_a_ping_to_our_end_is_answered_to_the_asker(world: World) -> None:
    world.switch.from_client(world.alice, make.ping6("2001:db8:f::2", "2001:db8:f::1", hops=7))
    (to, reply), = world.sent
    assert to == 1 and reply[40] == 129 and reply[7] == 7 and make.checksum6_is_right(reply)
    assert world.alice.last_seen == 100.0 and not world.up


def test_other_packets_to_our_end_are_the_kernels(world: World) -> None:
    packet = make.udp6("2001:db8:f::2", "2001:db8:f::1")
    world.switch.from_client(world.alice, packet)
    assert world.up == [packet] and not world.sent


def test_clients_reach_each_other_and_each_others_prefixes(world: World) -> None:
    for destination in ("2001:db8:f::3", "2001:db8:8000:0:1::5"):
        world.switch.from_client(world.alice, make.udp6("2001:db8:f::2", destination, hops=9))
    assert [(to, packet[7]) for to, packet in world.sent] == [(2, 8), (2, 8)]


def test_what_must_not_travel_further_goes_to_the_kernel_which_says_so(world: World) -> None:
    world.switch.from_client(world.alice, make.udp6("2001:db8:f::2", "2001:db8:f::3", hops=1))
    assert not world.sent and len(world.up) == 1


def test_the_rest_of_the_world_is_the_uplink(world: World) -> None:
    packet = make.udp6("2001:db8:8000::77", OUTSIDE)
    world.switch.from_client(world.bob, packet)
    assert world.up == [packet]


@pytest.mark.parametrize("source", ["2001:db8:f::3", "2001:db8:8000::1", "2001:db8:1::1", "2001:db8:f::1"])
def test_a_foreign_source_is_dropped_and_counted(world: World, source: str) -> None:
    world.switch.from_client(world.alice, make.udp6(source, OUTSIDE))
    assert not world.up and not world.sent and world.switch.counters["dropped_source"] == 1


@pytest.mark.parametrize("source", ["fe80::1", "::"])
def test_link_local_noise_is_dropped_without_being_a_fault(world: World, source: str) -> None:
    world.switch.from_client(world.alice, make.udp6(source, "ff02::2"))
    assert world.switch.counters["dropped_link_local"] == 1 and world.switch.counters["dropped_source"] == 0
    assert not world.up and not world.sent


def test_multicast_from_a_client_goes_nowhere(world: World) -> None:
    world.switch.from_client(world.alice, make.udp6("2001:db8:f::2", "ff0e::1"))
    assert not world.up and not world.sent


@pytest.mark.parametrize("packet", [b"", b"\x60", make.udp6("2001:db8:f::2", OUTSIDE)[:-1], make.udp6("2001:db8:f::2", OUTSIDE) + b"x",
                                    make.ping4("198.51.100.2", "192.0.2.99")])
def test_what_is_no_whole_packet_of_this_tunnel_is_dropped(world: World, packet: bytes) -> None:
    world.switch.from_client(world.alice, packet)
    assert world.switch.counters["dropped_malformed"] == 1 and not world.up


def test_an_address_of_ours_where_nobody_is_answers_unreachable_and_does_not_loop(world: World) -> None:
    world.switch.from_client(world.alice, make.udp6("2001:db8:f::2", "2001:db8:f::99"))
    (to, error), = world.sent
    assert to == 1 and error[40:42] == b"\x01\x03" and not world.up
    world.switch.from_uplink(make.udp6(OUTSIDE, "2001:db8:9000::1"))
    assert len(world.up) == 1 and world.up[0][40:42] == b"\x01\x03"
    assert IPv6Address(world.up[0][24:40]) == IPv6Address(OUTSIDE)


def test_what_a_client_sends_to_itself_does_not_go_round(world: World) -> None:
    """A router without a covering route sends what its LAN does not have up the tunnel."""
    world.switch.from_client(world.bob, make.udp6("2001:db8:8000::5", "2001:db8:8000::77"))
    (to, error), = world.sent
    assert to == 2 and error[40:42] == b"\x01\x03" and error[24:40] == IPv6Address("2001:db8:8000::5").packed and not world.up


def test_errors_are_not_a_flood(world: World) -> None:
    for _again in range(1000):
        world.switch.from_uplink(make.udp6(OUTSIDE, "2001:db8:9000::1"))
    assert len(world.up) <= 21
    assert world.switch.counters["dropped_unreachable"] == 1000


def test_packets_from_the_kernel_go_to_their_client(world: World) -> None:
    one, two = make.udp6(OUTSIDE, "2001:db8:f::2"), make.udp6(OUTSIDE, "2001:db8:8000:0:2::9")
    world.switch.from_uplink(one)
    world.switch.from_uplink(two)
    assert world.sent == [(1, one), (2, two)] and world.alice.sent == 1


def test_without_uplink_clients_are_served_and_the_world_is_dropped() -> None:
    world = World(uplink=False)
    world.switch.from_client(world.alice, make.ping6("2001:db8:f::2", "2001:db8:f::1"))
    world.switch.from_client(world.alice, make.udp6("2001:db8:f::2", OUTSIDE))
    assert len(world.sent) == 1 and world.switch.counters["dropped_no_uplink"] == 1


def test_ipv4_in_its_tunnels(world: World) -> None:
    carol = end(3, "198.51.100.2", "203.0.113.0/29", "v4v6", "2001:db8:ffff::3")
    dave = end(4, "198.51.100.3", None, "v4v6", "2001:db8:ffff::4")
    world.table.add(carol)
    world.table.add(dave)
    world.switch.from_client(carol, make.ping4("203.0.113.5", "198.51.100.3"))
    world.switch.from_client(carol, make.ping4("198.51.100.2", "198.51.100.1"))
    world.switch.from_client(dave, make.ping4("203.0.113.5", "198.51.100.1"))
    world.switch.from_uplink(make.ping4("192.0.2.99", "203.0.113.6"))
    assert [to for to, _packet in world.sent] == [4, 3, 3] and world.sent[1][1][20] == 0
    assert world.sent[0][1][8] == 63 and make.header4_is_right(world.sent[0][1])
    assert world.switch.counters["dropped_source"] == 1


def test_the_table_refuses_collisions_and_forgets_completely() -> None:
    world = World()
    for clash in (end(1, "2001:db8:f::9"), end(9, "2001:db8:f::2")):
        with pytest.raises(ValueError):
            world.table.add(clash)
    world.table.remove(end(1, "2001:db8:f::2"))
    assert len(world.table) == 2, "an end that is not in was removed"
    for one in (world.alice, world.bob):
        world.table.remove(one)
    assert not world.table.by_lease and not world.table.by_outer and not world.table.by_inner and not world.table._prefixes

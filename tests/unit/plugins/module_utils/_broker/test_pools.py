# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Pools: nothing is given twice, everything that was given back can be given again."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

from ansible_collections.tunnelbroker.tsp.plugins.module_utils._broker.pools import AddressPool, PrefixPool
from hypothesis import given, settings
from hypothesis import strategies as st

NET6 = IPv6Network("2001:db8:f::/64")


def test_addresses_in_order_without_the_first_and_our_own() -> None:
    pool = AddressPool(NET6, [IPv6Address("2001:db8:f::1")])
    assert [str(pool.allocate()) for _again in range(3)] == ["2001:db8:f::2", "2001:db8:f::3", "2001:db8:f::4"]


def test_what_was_given_back_rests_before_it_is_given_again() -> None:
    pool = AddressPool(NET6)
    first = pool.allocate()
    pool.release(first)
    assert pool.allocate() != first


def test_an_ipv4_pool_gives_every_host_address_and_then_none() -> None:
    pool = AddressPool(IPv4Network("198.51.100.0/29"), [IPv4Address("198.51.100.1")])
    given_out = [pool.allocate() for _again in range(6)]
    assert sorted(str(a) for a in given_out if a) == [f"198.51.100.{n}" for n in range(2, 7)]
    assert given_out[5] is None and pool.allocate() is None
    pool.release(IPv4Address("198.51.100.4"))
    assert pool.allocate() == IPv4Address("198.51.100.4")


def test_reserved_addresses_are_only_for_those_who_take_them() -> None:
    pool = AddressPool(IPv4Network("198.51.100.0/29"))
    pool.reserve([IPv4Address("198.51.100.2")])
    rest = {pool.allocate() for _again in range(5)}
    assert IPv4Address("198.51.100.2") not in rest and pool.allocate() is None
    assert pool.take(IPv4Address("198.51.100.2")) and not pool.take(IPv4Address("198.51.100.2"))
    assert not pool.take(IPv4Address("192.0.2.1"))


def test_prefixes_of_several_lengths_do_not_overlap() -> None:
    pool = PrefixPool(IPv6Network("2001:db8:8000::/44"), range(48, 65), 48)
    taken = [pool.allocate(length) for length in (64, 48, 56, 60, 48, 64)]
    assert all(taken) and [p.prefixlen for p in taken] == [64, 48, 56, 60, 48, 64]
    for i, one in enumerate(taken):
        assert not any(one.overlaps(other) for other in taken[:i])


def test_a_pool_gives_exactly_what_fits_and_everything_again_after_release() -> None:
    pool = PrefixPool(IPv6Network("2001:db8:8000::/46"), (48,), 48)
    four = [pool.allocate(48) for _again in range(4)]
    assert len(set(four)) == 4 and pool.allocate(48) is None and pool.allocate(64) is None
    for one in four:
        pool.release(one)
    assert pool.allocate(46) == IPv6Network("2001:db8:8000::/46"), "the halves were not joined again"


def test_take_claims_one_prefix_and_leaves_the_rest() -> None:
    pool = PrefixPool(IPv4Network("203.0.113.0/24"), (28, 29), 29)
    wanted = IPv4Network("203.0.113.64/28")
    assert pool.take(wanted) and not pool.take(wanted)
    assert not pool.take(IPv4Network("203.0.113.64/29")), "a part of a taken prefix"
    assert not pool.take(IPv4Network("203.0.113.0/25")), "a block around a taken prefix"
    others = [pool.allocate(28) for _again in range(16)]
    assert wanted not in others and len({o for o in others if o}) == 15


def test_reserved_prefixes_are_passed_over_but_can_be_taken() -> None:
    pool = PrefixPool(IPv6Network("2001:db8:8000::/46"), (48,), 48)
    kept = IPv6Network("2001:db8:8001::/48")
    pool.reserve([kept])
    assert {pool.allocate(48) for _again in range(4)} == {None, *(ip_network(f"2001:db8:800{n}::/48") for n in (0, 2, 3))}
    assert pool.take(kept)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(24, 32), st.integers(0, 1000)), max_size=60))
def test_any_order_of_taking_and_giving_back(steps: list[tuple[bool, int, int]]) -> None:
    network = IPv4Network("203.0.113.0/24")
    pool, held = PrefixPool(network, range(24, 33), 29), []
    for give_back, length, which in steps:
        if give_back and held:
            pool.release(held.pop(which % len(held)))
        else:
            made = pool.allocate(length)
            if made is not None:
                assert made.subnet_of(network) and not any(made.overlaps(other) for other in held)
                held.append(made)
        assert pool.used == len(held)
    for one in held:
        pool.release(one)
    assert pool.allocate(24) == network

# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the broker decides, with a clock of the test's own: the Backend over a real store, without sockets."""

from __future__ import annotations

import io
import json
import sqlite3
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._broker import config
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._broker.accounts import AccountBook
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._broker.ends.none import NoDataPlane
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._broker.ends.port import EndTable
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._broker.inventory import Inventory
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._broker.logs import Log
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._broker.policy import Context, Policy, client_name
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._broker.registry import Registry
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._broker.store import Store
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.lease import Grant
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.request import TunnelRequest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.server import Refusal, ServerSession
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._broker.running import config_data

HOME = "192.0.2.7"


class World:
    """A broker without sockets. ask() is a session up to its grant, come() one that is accepted."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        self.config = config.from_data(config_data(folder, {"listen": {"addresses": ["192.0.2.1", "2001:db8:1::1"]}, **changes}))
        self.unix, self.mono = 1_700_000_000.0, 1000.0
        self.stream = io.StringIO()
        self.log = Log("debug", stream=self.stream)
        self.store = Store(self.config.store, exclusive=True)
        self.table = EndTable()
        self.plane = NoDataPlane(self.table, (), self.config.pools.routed(), lambda *_args: True)
        self.plane.watched = frozenset(("v6v4", "v6udpv4", "v4v6"))
        self.registry = Registry(self.config, self.store, self.table, self.plane, self.log)
        inner = [a for a in (self.config.addresses.inner_ipv6, self.config.addresses.inner_ipv4) if a]
        self.inventory = Inventory(self.config.pools, inner)
        for lease in self.store.leases():
            assert not self.inventory.claim(lease)
        self.inventory.reserve(self.config.accounts)
        book = AccountBook({a.username: a for a in self.config.accounts}, self.store.account)
        self.policy = Policy(self.config, self.store, book, self.inventory, self.registry, self.log, offered=frozenset(("DIGEST-MD5",)),
                             clock=lambda: self.unix, mono=lambda: self.mono)

    def session(self, user: str | None, peer: str = HOME, port: int = 40000, transport: str = "udp") -> tuple[ServerSession, Context]:
        local = "2001:db8:1::1" if ":" in peer else "192.0.2.1"
        return (ServerSession(transport, (peer, port), "2.0.1", "digest-md5", user, True), Context(ip_address(local), 3653))

    def ask(self, user: str | None = "alice", named: str | None = None, *, peer: str = HOME, port: int = 40000, transport: str = "udp",
            **request: Any) -> tuple[Grant, ServerSession, Context]:
        session, context = self.session(user, peer, port, transport)
        session.request = TunnelRequest(**{"mode": "v6udpv4", **request})
        session.grant = self.policy.create(session, session.request, None if named is None else ip_address(named), context)
        return session.grant, session, context

    def come(self, user: str | None = "alice", *arguments: Any, **request: Any) -> Grant:
        grant, session, context = self.ask(user, *arguments, **request)
        self.policy.accept(session, context)
        return grant

    def refused(self, *arguments: Any, **request: Any) -> int:
        with pytest.raises(Refusal) as no:
            self.ask(*arguments, **request)
        return no.value.status

    def later(self, seconds: float) -> None:
        self.unix += seconds
        self.mono += seconds
        self.registry.sweep(self.mono, self.unix)
        self.policy.purge()

    def logged(self, event: str) -> list[dict[str, Any]]:
        return [line for line in map(json.loads, self.stream.getvalue().splitlines()) if line["event"] == event]

    def again(self, folder: Path, **changes: Any) -> World:
        """The same after a restart."""
        self.store.close()
        world = World(folder, **changes)
        world.unix, world.mono = self.unix, self.mono
        world.registry.restore(world.mono)
        return world


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    one = World(tmp_path)
    yield one
    one.store.close()


def ends(world: World) -> list[tuple[str, int]]:
    return sorted(world.table.by_outer)


def test_the_same_user_gets_the_same_and_moves_the_end(world: World) -> None:
    first = world.come(host_type="router", prefix_length=48)
    second = world.come(host_type="router", prefix_length=48, peer="192.0.2.99", port=5)
    assert (second.client.ipv6, second.prefix) == (first.client.ipv6, first.prefix)
    assert ends(world) == [("192.0.2.99", 5)] and world.store.count() == 1
    assert world.logged("tunnel_closed")[0]["why"] == "the same user came again"


def test_a_grant_is_in_the_store_before_it_is_told(world: World, tmp_path: Path) -> None:
    grant, _session, _context = world.ask(host_type="router")
    with sqlite3.connect(world.config.store) as db:
        assert db.execute("SELECT ipv6, prefix6, up FROM lease").fetchall() == [(str(grant.client.ipv6), str(grant.prefix), 0)]
    db.close()


def test_a_restart_keeps_addresses_and_opens_what_was_open(world: World, tmp_path: Path) -> None:
    alice = world.come(host_type="router")
    bob, _session, _context = world.ask("bob", peer="192.0.2.8")
    other = world.again(tmp_path)
    assert ends(other) == [(HOME, 40000)], "what was not accepted was opened, or what was open was not"
    assert other.come("bob", peer="192.0.2.8").client.ipv6 == bob.client.ipv6
    again = other.come(host_type="router", port=1)
    assert (again.client.ipv6, again.prefix) == (alice.client.ipv6, alice.prefix)
    assert other.come("fleet", peer="192.0.2.9").client.ipv6 not in (alice.client.ipv6, bob.client.ipv6)
    other.store.close()


def test_a_rejected_first_grant_leaves_nothing(world: World) -> None:
    _grant, session, context = world.ask(host_type="router")
    world.policy.reject(session, context)
    assert world.store.count() == 0 and not world.table.by_lease
    assert world.inventory.addresses[6].used == 0 and world.inventory.prefixes[6][0].used == 0


def test_a_rejected_change_leaves_what_was(world: World) -> None:
    before = world.come(host_type="router", prefix_length=48)
    changed, session, context = world.ask(host_type="router", prefix_length=56, peer="192.0.2.99")
    assert changed.prefix.prefixlen == 56 and ends(world) == [(HOME, 40000)]
    world.policy.reject(session, context)
    assert ends(world) == [(HOME, 40000)] and world.store.lease("user:alice").prefix6 == before.prefix
    assert world.come(host_type="router").prefix == before.prefix
    assert world.inventory.prefixes[6][0].used == 1


def test_another_length_replaces_the_prefix_and_frees_the_old_one(world: World) -> None:
    world.come(host_type="router", prefix_length=48)
    after = world.come(host_type="router", prefix_length=56)
    assert after.prefix.prefixlen == 56 and world.inventory.prefixes[6][0].used == 1


def test_a_router_that_comes_as_a_host_finds_its_prefix_again(world: World) -> None:
    prefix = world.come(host_type="router").prefix
    assert world.come().prefix is None
    assert world.table.by_lease[1].prefix is None, "a host's end must not carry the prefix"
    assert world.come(host_type="router").prefix == prefix


def test_the_later_of_two_requests_of_one_user_counts(world: World) -> None:
    one, first, context = world.ask()
    two, second, context2 = world.ask(port=40001)
    assert one.client.ipv6 == two.client.ipv6
    world.policy.reject(first, context)
    world.policy.accept(second, context2)
    assert ends(world) == [(HOME, 40001)] and world.store.count() == 1
    with pytest.raises(Refusal):
        world.policy.accept(first, context)


def test_both_of_two_first_requests_given_up_leave_nothing(world: World) -> None:
    _one, first, context = world.ask(host_type="router", prefix_length=48)
    _two, second, context2 = world.ask(host_type="router", prefix_length=56, port=40001)
    world.policy.reject(first, context)
    world.policy.reject(second, context2)
    assert world.store.count() == 0 and world.inventory.addresses[6].used == 0 and world.inventory.prefixes[6][0].used == 0


def test_silence_frees_the_end_but_not_the_address(world: World) -> None:
    before = world.come(keepalive_interval=10)
    world.later(49)
    assert ends(world)
    world.later(2)
    assert not ends(world) and world.store.lease("user:alice").up is False
    assert "silent for 5 intervals of 10 s" in world.logged("tunnel_closed")[0]["why"]
    assert world.come("bob").client.ipv6 != before.client.ipv6
    assert world.come(port=2).client.ipv6 == before.client.ipv6


def test_without_keepalive_silence_means_nothing(world: World) -> None:
    grant = world.come(keepalive=False)
    assert grant.keepalive is None
    world.later(86400)
    assert ends(world)


def test_a_lease_ends_unless_its_client_is_there(world: World) -> None:
    world.come(keepalive_interval=3600)
    world.come("bob", keepalive=False, peer="192.0.2.8")
    for _again in range(100):
        world.later(10_000)
        end = world.table.by_lease.get(1)
        if end is not None:
            end.last_seen = world.mono
    assert world.store.lease("user:alice") is not None, "a live client lost its lease"
    assert world.store.lease("user:bob") is None and ends(world) == [(HOME, 40000)]
    assert world.inventory.addresses[6].used == 1


def test_nothing_is_written_for_a_keepalive(world: World) -> None:
    world.come()
    other = Store(world.config.store)
    other.changed_by_others()
    for _again in range(50):
        world.table.by_lease[1].last_seen = world.mono
        world.later(25)
    assert not other.changed_by_others()
    other.close()


def test_the_interval_is_the_clients_wish_within_bounds(world: World) -> None:
    for wish, granted in ((1, 5), (5, 5), (77, 77), (86400, 3600)):
        keepalive = world.come(keepalive_interval=wish).keepalive
        assert keepalive is not None and keepalive.interval == granted and keepalive.address == IPv6Address("2001:db8:f::1")


def test_anonymous_leases_are_of_the_outer_end_and_short(world: World) -> None:
    one, two = world.come(None), world.come(None, port=40001)
    assert one.client.ipv6 != two.client.ipv6 and one.client.dns_name is None
    assert world.come(None).client.ipv6 == one.client.ipv6
    world.later(200)
    assert not ends(world) and world.store.count() == 2
    world.later(3700)
    assert world.store.count() == 0 and world.inventory.addresses[6].used == 0


def test_prefixes_for_anonymous_only_where_allowed(world: World, tmp_path: Path) -> None:
    assert world.refused(None, host_type="router") == 522
    assert world.inventory.addresses[6].used == 0, "the address of a refused request was kept"
    other = world.again(tmp_path, anonymous={"prefix": True})
    assert other.come(None, host_type="router").prefix.prefixlen == 56
    other.store.close()


@pytest.mark.parametrize(("length", "expected"), [(48, 48), (56, 56), (64, 64), (None, 56)])
def test_prefix_lengths(world: World, length: int | None, expected: int) -> None:
    assert world.come(host_type="router", prefix_length=length).prefix.prefixlen == expected


def test_lengths_that_are_not_given(world: World, tmp_path: Path) -> None:
    assert world.refused(host_type="router", prefix_length=52) == 518
    other = world.again(tmp_path, pools={"prefixes": []})
    assert other.refused(host_type="router", prefix_length=56) == 507
    small = other.again(tmp_path, pools={"prefixes": [{"network": "2001:db8:8000::/56", "lengths": [56]}]})
    small.come("bob", host_type="router", peer="192.0.2.8")
    assert small.refused(host_type="router", prefix_length=56) == 507
    small.store.close()


def test_no_address_left(tmp_path: Path) -> None:
    world = World(tmp_path, pools={"ipv6": "2001:db8:f::/126"})
    world.come()
    world.come("bob", peer="192.0.2.8")
    assert world.refused("fleet", peer="192.0.2.9") == 301
    world.store.close()


def test_limits_on_tunnels(tmp_path: Path) -> None:
    world = World(tmp_path, limits={"tunnels": 2}, accounts=[
        {"username": "a", "password": "x", "tunnels": 1}, {"username": "b", "password": "x", "tunnels": 1},
        {"username": "c", "password": "x"}])
    world.come("a")
    world.come("b", peer="192.0.2.8")
    assert world.refused("c", peer="192.0.2.9") == 301
    world.come("a")
    world.store.close()


def test_a_fleet_has_a_tunnel_per_outer_address_up_to_its_number(tmp_path: Path) -> None:
    world = World(tmp_path, accounts=[{"username": "fleet", "password": "x", "tunnels": 2, "proxy": True}])
    one = world.come("fleet", "192.0.2.101", mode="v6v4", proxy=True)
    two = world.come("fleet", "192.0.2.102", mode="v6v4", proxy=True)
    assert one.client.ipv6 != two.client.ipv6 and one.client.dns_name == "fleet-192-0-2-101.tunnels.example"
    assert world.refused("fleet", "192.0.2.103", mode="v6v4", proxy=True) == 301
    assert world.come("fleet", "192.0.2.101", mode="v6v4", proxy=True).client.ipv6 == one.client.ipv6
    world.later(100_000)
    assert len(ends(world)) == 2, "what is behind a proxy does not know of keepalives, so its silence means nothing"
    session, context = world.session("fleet")
    session.named_ipv4 = IPv4Address("192.0.2.102")
    world.policy.delete(session, context)
    assert [key for key, _port in ends(world)] == ["192.0.2.101"]
    world.store.close()


def test_fixed_addresses_are_kept_for_their_user(tmp_path: Path) -> None:
    accounts = [{"username": "alice", "password": "x", "ipv6": "2001:db8:f::2", "prefix": "2001:db8:8000::/48"},
                {"username": "bob", "password": "x"}]
    world = World(tmp_path, accounts=accounts)
    bob = world.come("bob", host_type="router", prefix_length=48, peer="192.0.2.8")
    alice = world.come(host_type="router")
    assert alice.client.ipv6 == IPv6Address("2001:db8:f::2") and alice.prefix == IPv6Network("2001:db8:8000::/48")
    assert bob.client.ipv6 == IPv6Address("2001:db8:f::3") and not bob.prefix.overlaps(alice.prefix)
    assert world.refused(host_type="router", prefix_length=56) == 507
    moved = world.again(tmp_path, accounts=[{**accounts[0], "ipv6": "2001:db8:f::aa"}, accounts[1]])
    assert moved.come().client.ipv6 == IPv6Address("2001:db8:f::aa")
    moved.store.close()


def test_who_comes_from_an_address_has_the_tunnel_there_a_proxy_does_not(world: World) -> None:
    world.come(mode="v6v4")
    assert world.refused("fleet", HOME, peer="192.0.2.50", mode="v6v4", proxy=True) == 506
    world.come("bob", mode="v6v4")
    assert world.table.by_outer[HOME, 0].lease == 2
    assert world.store.lease("user:alice").up is False and world.store.lease("user:bob").up is True
    world.come(mode="v6udpv4")
    assert len(ends(world)) == 2, "UDP tunnels share an address"


def test_info_and_delete(world: World) -> None:
    session, context = world.session("alice")
    with pytest.raises(Refusal) as no:
        world.policy.info(session, context)
    assert no.value.status == 310
    world.policy.delete(session, context)
    grant = world.come(host_type="router", dns_servers=("ns1.example",))
    assert world.policy.info(session, context) == grant and grant.dns_servers == ("ns1.example",)
    world.policy.delete(session, context)
    assert world.store.count() == 0 and not ends(world) and world.inventory.prefixes[6][0].used == 0


def test_an_anonymous_client_can_only_touch_what_is_at_its_own_end(world: World) -> None:
    world.come(None)
    session, context = world.session(None, peer="192.0.2.66", port=40000)
    session.named_ipv4 = IPv4Address(HOME)
    world.policy.delete(session, context)
    assert ends(world) == [(HOME, 40000)]


def test_ipv4_tunnels_have_their_own_pools_and_leave_ipv6_alone(world: World) -> None:
    six = world.come(peer=HOME)
    four = world.come(peer="2001:db8:1::7", mode="v4v6", host_type="router", prefix_length=28)
    assert four.client.ipv4 == IPv4Address("198.51.100.2") and four.server.ipv4 == IPv4Address("198.51.100.1")
    assert four.client.ipv6 == IPv6Address("2001:db8:1::7") and four.prefix.prefixlen == 28
    assert four.keepalive.address == IPv4Address("198.51.100.1")
    assert world.come(peer=HOME).client.ipv6 == six.client.ipv6


def test_a_proxy_over_the_other_family_needs_our_address_of_that_family(tmp_path: Path) -> None:
    world = World(tmp_path)
    assert world.come("fleet", "192.0.2.101", peer="2001:db8:1::9", mode="v6v4", proxy=True).server.ipv4 == IPv4Address("192.0.2.1")
    blind = world.again(tmp_path, listen={"addresses": ["0.0.0.0", "::"]})
    assert blind.refused("fleet", "192.0.2.101", peer="2001:db8:1::9", mode="v6v4", proxy=True) == 310
    told = blind.again(tmp_path, listen={"addresses": ["0.0.0.0", "::"]}, addresses={"outer_ipv4": "192.0.2.200"})
    assert told.come("fleet", "192.0.2.101", peer="2001:db8:1::9", mode="v6v4", proxy=True).server.ipv4 == IPv4Address("192.0.2.200")
    told.store.close()


@pytest.mark.parametrize(("mode", "elsewhere", "source"), [
    ("v6udpv4", False, "192.0.2.1"), ("v6udpv4", True, "192.0.2.1"), ("v6v4", False, "192.0.2.200"), ("v6v4", True, "192.0.2.1")])
def test_the_configured_outer_address_is_told_and_used_where_it_can_be(tmp_path: Path, mode: str, elsewhere: bool, source: str) -> None:
    """A v6udpv4 client is answered from where it spoke to, whatever it is told; so is everybody where a NAT has our address."""
    world = World(tmp_path, addresses={"outer_ipv4": "192.0.2.200"})
    if elsewhere:
        world.policy.elsewhere = frozenset((ip_address("192.0.2.200"),))
    assert world.come(mode=mode).server.ipv4 == IPv4Address("192.0.2.200")
    end = next(iter(world.table.by_lease.values()))
    assert end.local == source
    session, context = world.session("alice")
    assert world.policy.info(session, context).server.ipv4 == IPv4Address("192.0.2.200")
    world.store.close()


def test_a_full_disk_refuses_and_keeps_what_was(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    before = world.come(host_type="router", prefix_length=48)

    def full(_lease: Any) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(world.store, "save", full)
    for arguments in ({"user": "bob", "peer": "192.0.2.8"}, {"user": "alice", "host_type": "router", "prefix_length": 56}):
        with pytest.raises(sqlite3.OperationalError):
            world.ask(**arguments)
    monkeypatch.undo()
    assert world.inventory.addresses[6].used == 1 and world.inventory.prefixes[6][0].used == 1
    assert world.come(host_type="router").prefix == before.prefix


def test_a_disabled_or_removed_account_gets_nothing_more(world: World) -> None:
    assert world.refused("gone") == 300 and world.refused("nobody") == 300


def test_pools_that_were_changed_give_new_addresses(world: World, tmp_path: Path) -> None:
    world.come(host_type="router")
    world.store.close()
    changed = config_data(tmp_path)["pools"] | {"ipv6": "2001:db8:e::/64", "prefixes": [{"network": "2001:db8:9000::/40", "lengths": [56]}]}
    store = Store(tmp_path / "leases.db")
    inventory = Inventory(config.from_data(config_data(tmp_path, {"pools": changed})).pools, ())
    assert inventory.claim(store.lease("user:alice")) == ["2001:db8:f::2", "2001:db8:8000::/56"]
    store.close()


def test_what_the_operator_releases_is_free_again(world: World) -> None:
    before = world.come()
    other = Store(world.config.store)
    other.mark_released(1)
    other.close()
    assert world.store.changed_by_others()
    world.policy.purge_released()
    assert world.store.count() == 0 and not ends(world)
    assert world.inventory.addresses[6].take(before.client.ipv6)


def test_a_silent_kernel_tunnel_is_woken_by_a_packet_with_the_right_inner_source(world: World) -> None:
    grant = world.come(mode="v6v4", host_type="router", keepalive_interval=5)
    world.later(60)
    assert not ends(world)
    assert world.registry.wake("v6v4", HOME, IPv6Address("2001:db8:f::99").packed, world.mono) is None
    assert world.registry.wake("v6v4", "192.0.2.66", grant.client.ipv6.packed, world.mono) is None
    end = world.registry.wake("v6v4", HOME, grant.client.ipv6.packed, world.mono)
    assert end is not None and ends(world) == [(HOME, 0)] and world.store.lease("user:alice").up


def test_redirects_never_name_this_broker(tmp_path: Path) -> None:
    redirect = {"at": "create", "brokers": ["192.0.2.55", "192.0.2.1:99", "other.example"]}
    world = World(tmp_path, redirect=redirect, listen={"addresses": ["0.0.0.0"]})
    session, _context = world.session("alice")
    named = [b.address for b in world.policy.redirect(session, "create", Context(ip_address("192.0.2.55"), 3653))]
    assert named == ["192.0.2.1", "other.example"]
    assert world.policy.redirect(session, "version", Context(None, 3653)) == ()
    mapped = world.again(tmp_path, redirect=redirect, listen={"addresses": ["0.0.0.0"]}, addresses={"outer_ipv4": "192.0.2.55"})
    named = [b.address for b in mapped.policy.redirect(session, "create", Context(ip_address("10.0.0.2"), 3653))]
    assert named == ["192.0.2.1", "other.example"], "behind a NAT, too, we are what clients know us by"
    mapped.store.close()


@pytest.mark.parametrize(("user", "name"), [("alice", "alice.tunnels.example"), ("Alice", "alice.tunnels.example"), ("a.b", None),
                                            ('"x"', None), ("a b", None)])
def test_client_names_are_dns_names_or_not_given(world: World, user: str, name: str | None) -> None:
    world.come()
    from ansible_collections.tunnelbroker.tsp.plugins.module_utils._broker.accounts import Account
    assert client_name(world.store.lease("user:alice"), Account(user), "tunnels.example") == name


def test_failures_are_counted_per_address_and_forgiven_after_a_minute(world: World) -> None:
    session, context = world.session("alice")
    for _again in range(10):
        assert world.policy.capabilities(session, context)
        world.policy.auth_failed(session, context)
    with pytest.raises(Refusal) as no:
        world.policy.capabilities(session, context)
    assert no.value.status == 530
    assert world.policy.capabilities(*world.session("alice", peer="192.0.2.8"))
    world.mono += 61
    assert world.policy.capabilities(session, context)


@pytest.mark.parametrize(("user", "words"), [("nobody", "there is no account nobody"), ("gone", "the account gone is disabled"),
                                             ("alice", "wrong password for alice"), (None, "could not be read")])
def test_the_log_says_why_a_login_failed(world: World, user: str | None, words: str) -> None:
    session, context = world.session(user)
    world.policy.auth_failed(session, context)
    assert words in context.why

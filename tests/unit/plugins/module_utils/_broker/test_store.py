# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The store: what was saved is there after any end of the process, and nobody else writes at the same time."""

from __future__ import annotations

import os
import sqlite3
import stat
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._broker.accounts import Account
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._broker.store import Store, StoredLease
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.errors import LocalError


@pytest.fixture
def store(tmp_path: Path):
    one = Store(tmp_path / "state" / "leases.db")
    yield one
    one.close()


def lease(owner: str = "user:alice", **changes) -> StoredLease:
    values = {"username": "alice", "mode": "v6udpv4", "outer": IPv4Address("192.0.2.7"), "port": 40000, "local": IPv4Address("192.0.2.1"),
              "ipv6": IPv6Address("2001:db8:f::2"), "prefix6": IPv6Network("2001:db8:8000::/56"), "router": True,
              "dns_servers": ("ns1.example", "ns2.example"), "keepalive": 30, "created_at": 100, "renewed_at": 200, "expires_at": 300}
    return StoredLease(owner, **{**values, **changes})


def test_a_lease_comes_back_as_it_was(store: Store) -> None:
    one = lease(ipv4=IPv4Address("198.51.100.2"), prefix4=IPv4Network("203.0.113.0/29"))
    store.save(one)
    assert one.id and store.lease("user:alice") == one and store.lease_by_id(one.id) == one
    one.up, one.outer = True, IPv4Address("192.0.2.8")
    store.save(one)
    assert store.lease("user:alice") == one and store.count() == 1


def test_an_address_cannot_be_stored_for_two(store: Store) -> None:
    store.save(lease())
    with pytest.raises(sqlite3.IntegrityError):
        store.save(lease("user:bob", prefix6=None))


def test_what_waits_is_seen_by_every_read(store: Store) -> None:
    one = lease()
    store.save(one)
    one.up = True
    assert store.save_soon(one)
    other = sqlite3.connect(store.path)
    assert other.execute("SELECT up FROM lease").fetchone() == (0,)
    assert store.lease("user:alice").up
    assert other.execute("SELECT up FROM lease").fetchone() == (1,)
    one.up = False
    store.save_soon(one)
    store.set_up(one.id, True)
    assert store.lease_by_id(one.id).up, "an older wish was written after a newer fact"
    store.save_soon(one)
    store.remove(one.id)
    store.flush()
    assert store.count() == 0
    other.close()


def test_files_are_private_and_the_folder_is_made(store: Store) -> None:
    assert stat.S_IMODE(os.stat(store.path).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(store.path.parent).st_mode) == 0o700
    store.save(lease())
    for name in os.listdir(store.path.parent):
        assert stat.S_IMODE(os.stat(store.path.parent / name).st_mode) & 0o077 == 0, name


def test_what_root_makes_belongs_to_the_owner_of_the_folder(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: files are made for another user")
    os.chown(tmp_path, 12345, 12345)
    one = Store(tmp_path / "leases.db", exclusive=True)
    one.save(lease())
    for name in os.listdir(tmp_path):
        assert os.stat(tmp_path / name).st_uid == 12345, name
    one.close()


def test_one_broker_at_a_time_but_commands_beside_it(tmp_path: Path) -> None:
    broker = Store(tmp_path / "leases.db", exclusive=True)
    with pytest.raises(LocalError) as caught:
        Store(tmp_path / "leases.db", exclusive=True)
    assert caught.value.code == "store_busy"
    command = Store(tmp_path / "leases.db")
    assert command.broker_runs()
    assert not broker.changed_by_others()
    command.save(lease())
    assert broker.changed_by_others() and not broker.changed_by_others()
    broker.save(lease("user:bob", ipv6=None, prefix6=None))
    assert not broker.changed_by_others(), "own changes are not others'"
    broker.close()
    assert not command.broker_runs()
    command.close()
    Store(tmp_path / "leases.db", exclusive=True).close()


def test_a_store_of_a_newer_broker_and_a_broken_one_are_left_alone(tmp_path: Path) -> None:
    newer = tmp_path / "newer.db"
    Store(newer).close()
    with sqlite3.connect(newer) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(LocalError) as caught:
        Store(newer, exclusive=True)
    assert caught.value.code == "store_newer"
    broken = tmp_path / "broken.db"
    broken.write_bytes(b"this is no database" * 100)
    with pytest.raises(LocalError) as caught:
        Store(broken, exclusive=True)
    assert caught.value.code == "store_unusable"
    assert broken.read_bytes().startswith(b"this is no database")


def test_expired_silent_and_extended(store: Store) -> None:
    store.save(lease())
    store.save(lease("user:bob", username="bob", mode="v6v4", ipv6=IPv6Address("2001:db8:f::3"), prefix6=None, expires_at=1000, port=None))
    assert [one.owner for one in store.expired(500)] == ["user:alice"]
    assert store.silent_lease("v6v4", "192.0.2.7").owner == "user:bob" and store.silent_lease("v4v6", "192.0.2.7") is None
    store.extend([store.lease("user:alice").id], 5000)
    assert store.expired(1500)[0].owner == "user:bob" and store.lease("user:alice").expires_at == 5000
    assert store.count("bob") == 1
    assert store.mark_released(store.lease("user:bob").id) and not store.mark_released(99)
    assert [one.owner for one in store.leases("released = 1")] == ["user:bob"]


def test_accounts_come_back_as_they_were(store: Store) -> None:
    one = Account("alice", False, "$scrypt$x", b"0123456789abcdef", "r", 3, True, IPv6Address("2001:db8:f::5"),
                  IPv6Network("2001:db8:8000::/48"), IPv4Address("198.51.100.5"), origin="store")
    store.save_account(one)
    assert store.account("alice") == one and store.accounts() == [one] and store.account("bob") is None
    assert store.remove_account("alice") and not store.remove_account("alice")

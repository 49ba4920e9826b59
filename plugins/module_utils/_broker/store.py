# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""The lease store: one SQLite file in WAL mode. What was granted is committed here before the client is told.

One broker at a time (a lock file beside the store); `users` and `leases` may work on the same file while it runs, and the broker
notices by `changed_by_others`. Nothing is written for a keepalive.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from pathlib import Path
from typing import Any, Union

from .._tsp.errors import LocalError
from .accounts import Account

SCHEMA = 1
TABLES = """
CREATE TABLE account (
    username TEXT PRIMARY KEY, enabled INTEGER NOT NULL, scrypt TEXT, ha1 BLOB, realm TEXT NOT NULL, tunnels INTEGER NOT NULL,
    proxy INTEGER NOT NULL, ipv6 TEXT, prefix TEXT, ipv4 TEXT) WITHOUT ROWID;
CREATE TABLE lease (
    id INTEGER PRIMARY KEY, owner TEXT NOT NULL UNIQUE, username TEXT, mode TEXT NOT NULL,
    ipv6 TEXT UNIQUE, prefix6 TEXT UNIQUE, ipv4 TEXT UNIQUE, prefix4 TEXT UNIQUE,
    router INTEGER NOT NULL, dns_servers TEXT NOT NULL, outer TEXT NOT NULL, port INTEGER, local TEXT, proxy INTEGER NOT NULL,
    keepalive INTEGER, up INTEGER NOT NULL, created_at INTEGER NOT NULL, renewed_at INTEGER NOT NULL, expires_at INTEGER NOT NULL,
    released INTEGER NOT NULL DEFAULT 0);
CREATE INDEX lease_username ON lease (username);
CREATE INDEX lease_outer ON lease (outer, mode);
CREATE INDEX lease_expires ON lease (expires_at);
"""
COLUMNS = ("id", "owner", "username", "mode", "ipv6", "prefix6", "ipv4", "prefix4", "router", "dns_servers", "outer", "port", "local",
           "proxy", "keepalive", "up", "created_at", "renewed_at", "expires_at", "released")
SELECT = f"SELECT {', '.join(COLUMNS)} FROM lease"
INSERT = f"INSERT INTO lease ({', '.join(COLUMNS[1:])}) VALUES ({', '.join('?' * (len(COLUMNS) - 1))})"
UPDATE = f"UPDATE lease SET {', '.join(f'{c} = ?' for c in COLUMNS[1:])} WHERE id = ?"
Address = Union[IPv4Address, IPv6Address]


@dataclass
class StoredLease:
    """One row. owner: who may have it again (policy.py makes it). outer, port, local: the client's end and the address of ours that
    it spoke to. keepalive: seconds agreed, or None. up: the tunnel end is (or, after a restart, was) open. Times: Unix seconds.
    id 0: not stored yet. prefix6 and prefix4 stay reserved while the owner asks as a host; `router` says whether they are in use."""

    owner: str
    username: str | None
    mode: str
    outer: Address
    port: int | None
    local: Address | None
    ipv6: IPv6Address | None = None
    prefix6: IPv6Network | None = None
    ipv4: IPv4Address | None = None
    prefix4: IPv4Network | None = None
    router: bool = False
    dns_servers: tuple[str, ...] = ()
    proxy: bool = False
    keepalive: int | None = None
    up: bool = False
    created_at: int = 0
    renewed_at: int = 0
    expires_at: int = 0
    released: bool = False
    id: int = field(default=0)


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


class Store:
    """An open store. `exclusive`: be the broker of this store. Raises LocalError: `store_unusable`, `store_busy`, `store_newer`."""

    def __init__(self, path: Path, exclusive: bool = False, sync: str = "normal") -> None:
        self.path = Path(path)
        self._lock: int | None = None
        self._soon: dict[int, StoredLease] = {}
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if exclusive:
                self._take_lock()
            self._create(self.path)
            self._db = sqlite3.connect(str(self.path), isolation_level=None, timeout=5.0, check_same_thread=False)
        except OSError as exc:
            self._drop_lock()
            raise LocalError("store_unusable", f"The store {self.path} cannot be opened: {exc.strerror}.",
                             "Name a place in store.path that this user may write.") from None
        except LocalError:
            raise
        try:
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute(f"PRAGMA synchronous = {'FULL' if sync == 'full' else 'NORMAL'}")
            self._migrate()
            self._seen = self._data_version()
        except sqlite3.Error as exc:
            self.close()
            raise LocalError("store_unusable", f"The store {self.path} cannot be used: {exc}.",
                             "Restore it from a backup, or move it away to start with an empty one.") from None
        except LocalError:
            self.close()
            raise

    def close(self) -> None:
        """Close the store; the lock goes with it."""
        self._db.close()
        self._drop_lock()

    def _create(self, path: Path) -> None:
        """Make a file with its final mode: never readable by others, not even for a moment. What root makes here (`users` before the
        first start) belongs to whom the directory belongs, for the broker runs as somebody else."""
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            return
        try:
            if os.geteuid() == 0:
                owner = os.stat(path.parent)
                os.fchown(handle, owner.st_uid, owner.st_gid)
        finally:
            os.close(handle)

    # ---- one broker ----

    def _take_lock(self) -> None:
        self._create(Path(f"{self.path}.lock"))
        handle = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(handle)
            raise LocalError("store_busy", f"Another broker is running on the store {self.path}.",
                             "Stop it, or give this one a store.path of its own.") from None
        self._lock = handle

    def _drop_lock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def broker_runs(self) -> bool:
        """Whether a broker holds this store now (asked by the commands that share it)."""
        try:
            handle = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(handle)
        return False

    # ---- schema ----

    def _migrate(self) -> None:
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA:
            raise LocalError("store_newer", f"The store {self.path} was written by a newer broker: schema {version}, not {SCHEMA}.",
                             "Use the newer broker.")
        if version == 0:
            self._db.executescript(f"BEGIN IMMEDIATE; {TABLES} PRAGMA user_version = {SCHEMA}; COMMIT;")

    def _data_version(self) -> int:
        return int(self._db.execute("PRAGMA data_version").fetchone()[0])

    def changed_by_others(self) -> bool:
        """Whether another process committed something since the last call."""
        now = self._data_version()
        changed, self._seen = now != self._seen, now
        return changed

    # ---- leases ----

    def lease(self, owner: str) -> StoredLease | None:
        """The lease of this owner."""
        return self._one("owner = ?", owner)

    def lease_by_id(self, number: int) -> StoredLease | None:
        """The lease with this number."""
        return self._one("id = ?", number)

    def _one(self, where: str, value: Any) -> StoredLease | None:
        query = f"{SELECT} WHERE {where}"
        row = self._db.execute(query, (value,)).fetchone()
        if row is not None and row[0] in self._soon:
            self.flush()
            row = self._db.execute(query, (value,)).fetchone()
        return None if row is None else _lease(row)

    def leases(self, where: str = "1") -> Iterator[StoredLease]:
        """All leases, by number. where: a fixed condition of ours, never anybody's input."""
        self.flush()
        for row in self._db.execute(f"{SELECT} WHERE {where} ORDER BY id"):
            yield _lease(row)

    def silent_lease(self, mode: str, outer: str) -> StoredLease | None:
        """The lease of this mode that ends there and has no open end; the one renewed last where there are several."""
        self.flush()
        row = self._db.execute(f"{SELECT} WHERE outer = ? AND mode = ? AND up = 0 AND released = 0 ORDER BY renewed_at DESC LIMIT 1",
                               (outer, mode)).fetchone()
        return None if row is None else _lease(row)

    def expired(self, now: int, limit: int = 1000) -> list[StoredLease]:
        """Leases that ended before `now`, oldest first."""
        self.flush()
        rows = self._db.execute(f"{SELECT} WHERE expires_at < ? ORDER BY expires_at LIMIT ?", (now, limit))
        return [_lease(row) for row in rows.fetchall()]

    def count(self, username: str | None = None) -> int:
        """How many leases there are, of one user or of all."""
        if username is None:
            return int(self._db.execute("SELECT count(*) FROM lease").fetchone()[0])
        return int(self._db.execute("SELECT count(*) FROM lease WHERE username = ?", (username,)).fetchone()[0])

    def save(self, lease: StoredLease) -> None:
        """Insert (id 0; the number is filled in) or update; committed when this returns. Raises sqlite3.Error."""
        self._soon.pop(lease.id, None)
        self._write(lease)

    def save_soon(self, lease: StoredLease) -> bool:
        """Update with the next flush, which every read of this lease makes by itself. Returns whether it is the first that waits."""
        self._soon[lease.id] = lease
        return len(self._soon) == 1

    def flush(self) -> None:
        """Write what waits, in one transaction; what was removed meanwhile stays removed. Raises sqlite3.Error; then it waits on."""
        if not self._soon:
            return
        with _transaction(self._db):
            for lease in self._soon.values():
                self._write(lease)
        self._soon.clear()

    def _write(self, lease: StoredLease) -> None:
        values = (lease.owner, lease.username, lease.mode, _text(lease.ipv6), _text(lease.prefix6), _text(lease.ipv4), _text(lease.prefix4),
                  lease.router, " ".join(lease.dns_servers), str(lease.outer), lease.port, _text(lease.local), lease.proxy, lease.keepalive,
                  lease.up, lease.created_at, lease.renewed_at, lease.expires_at, lease.released)
        if lease.id:
            self._db.execute(UPDATE, (*values, lease.id))
        else:
            lease.id = int(self._db.execute(INSERT, values).lastrowid or 0)

    def set_up(self, number: int, up: bool) -> None:
        """Note whether the tunnel end of a lease is open."""
        if number in self._soon:
            self.flush()
        self._db.execute("UPDATE lease SET up = ? WHERE id = ?", (up, number))

    def extend(self, numbers: list[int], expires_at: int) -> None:
        """Live leases last on: move their end."""
        self.flush()
        with _transaction(self._db):
            self._db.executemany("UPDATE lease SET expires_at = ? WHERE id = ?", [(expires_at, n) for n in numbers])

    def mark_released(self, number: int) -> bool:
        """Ask the running broker to take this lease away. False when there is none of that number."""
        return self._db.execute("UPDATE lease SET released = 1 WHERE id = ?", (number,)).rowcount > 0

    def remove(self, number: int) -> None:
        """Forget a lease."""
        self._soon.pop(number, None)
        self._db.execute("DELETE FROM lease WHERE id = ?", (number,))

    # ---- accounts ----

    def account(self, username: str) -> Account | None:
        """One account."""
        row = self._db.execute("SELECT * FROM account WHERE username = ?", (username,)).fetchone()
        return None if row is None else _account(row)

    def accounts(self) -> list[Account]:
        """All accounts, by name."""
        return [_account(row) for row in self._db.execute("SELECT * FROM account ORDER BY username").fetchall()]

    def save_account(self, account: Account) -> None:
        """Insert or replace."""
        self._db.execute("INSERT OR REPLACE INTO account VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", (
            account.username, account.enabled, account.scrypt, account.digest, account.digest_realm, account.tunnels, account.proxy,
            _text(account.ipv6), _text(account.prefix), _text(account.ipv4)))

    def remove_account(self, username: str) -> bool:
        """Delete. False when there is none of that name."""
        return self._db.execute("DELETE FROM account WHERE username = ?", (username,)).rowcount > 0


class _transaction:
    """BEGIN … COMMIT, ROLLBACK on any failure."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self.db = db

    def __enter__(self) -> None:
        self.db.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: Any, *_rest: Any) -> None:
        self.db.execute("ROLLBACK" if kind else "COMMIT")


def _lease(row: tuple[Any, ...]) -> StoredLease:
    v = dict(zip(COLUMNS, row))
    return StoredLease(
        owner=v["owner"], username=v["username"], mode=v["mode"], outer=ip_address(v["outer"]), port=v["port"],
        local=None if v["local"] is None else ip_address(v["local"]), ipv6=None if v["ipv6"] is None else IPv6Address(v["ipv6"]),
        prefix6=None if v["prefix6"] is None else IPv6Network(v["prefix6"]), ipv4=None if v["ipv4"] is None else IPv4Address(v["ipv4"]),
        prefix4=None if v["prefix4"] is None else IPv4Network(v["prefix4"]), router=bool(v["router"]),
        dns_servers=tuple(v["dns_servers"].split()), proxy=bool(v["proxy"]), keepalive=v["keepalive"], up=bool(v["up"]),
        created_at=v["created_at"], renewed_at=v["renewed_at"], expires_at=v["expires_at"], released=bool(v["released"]), id=v["id"])


def _account(row: tuple[Any, ...]) -> Account:
    username, enabled, scrypt, digest, realm, tunnels, proxy, ipv6, prefix, ipv4 = row
    return Account(username, bool(enabled), scrypt, digest, realm, tunnels, bool(proxy), None if ipv6 is None else IPv6Address(ipv6),
                   None if prefix is None else IPv6Network(prefix), None if ipv4 is None else IPv4Address(ipv4), origin="store")

# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""The clients that are there now: opens and closes tunnel ends, and notices silence.

A lease outlives its end. The end goes after some intervals of silence, or when another takes its place; the address stays reserved
until the lease expires, which a client that is there never lets happen.
"""

from __future__ import annotations

import sqlite3
from typing import Optional

from .._tsp.errors import LocalError
from .config import Config
from .ends.port import DataPlane, EndTable, TunnelEnd
from .logs import Log
from .pools import Network
from .ratelimit import TokenBucket
from .store import Store, StoredLease

EXTEND_BATCH = 500


class Registry:
    """table and plane belong together; see ends/port.py. Times: mono = monotonic seconds, unix = Unix seconds."""

    def __init__(self, config: Config, store: Store, table: EndTable, plane: DataPlane, log: Log) -> None:
        self.config = config
        self.store = store
        self.table = table
        self.plane = plane
        self.log = log
        self._wakes = TokenBucket(50, 50)

    def open(self, lease: StoredLease, mono: float) -> None:
        """Open the end of a lease where the lease says; its earlier end, and whoever else ends there, are expelled.

        Raises LocalError `tunnel_failed`.
        """
        end = end_of(lease, mono)
        earlier = self.table.by_lease.get(end.lease)
        if earlier is not None:
            self.close(earlier, "the same user came again")
        for holder in (self.table.by_outer.get(end.key), self.table.by_inner.get(end.inner)):
            if holder is not None and self.table.by_lease.get(holder.lease) is holder:
                self.close(holder, "another tunnel ends there now")
                self.store.set_up(holder.lease, False)
        self.table.add(end)
        try:
            self.plane.open(end)
        except LocalError:
            self.table.remove(end)
            raise

    def close(self, end: TunnelEnd, why: str) -> None:
        """Close an end. The store is the caller's business."""
        self.plane.close(end)
        self.table.remove(end)
        self.log.info("tunnel_closed", lease=end.lease, mode=end.mode, client=end.remote, port=end.port or None, why=why,
                      received=end.received, sent=end.sent)

    def close_lease(self, number: int, why: str) -> None:
        """Close the end of a lease where it has one."""
        end = self.table.by_lease.get(number)
        if end is not None:
            self.close(end, why)

    def restore(self, mono: float) -> int:
        """After a restart: open again what was open. Returns how many."""
        count = 0
        for lease in self.store.leases("up = 1 AND released = 0"):
            try:
                self.open(lease, mono)
                count += 1
            except (LocalError, ValueError) as exc:
                self.log.warning("tunnel_not_restored", lease=lease.id, owner=lease.owner, why=str(exc))
        return count

    def wake(self, mode: str, remote: str, source: bytes, mono: float) -> Optional[TunnelEnd]:
        """A v6v4 or v4v6 packet from where no end is open: if a silent lease ends there and may send from this inner address, it is
        back. (A v6udpv4 client makes a new session instead: its NAT mapping is a new one.)"""
        if not self._wakes.take(mono):
            return None
        lease = self.store.silent_lease(mode, remote)
        if lease is None or not end_of(lease, mono).owns(source):
            return None
        try:
            self.open(lease, mono)
        except (LocalError, ValueError):
            return None
        self.store.set_up(lease.id, True)
        self.log.info("tunnel_woken", lease=lease.id, owner=lease.owner, mode=mode, client=remote)
        return self.table.by_lease.get(lease.id)

    def move(self, end: TunnelEnd, port: int, mono: float) -> None:
        """A v6udpv4 client is behind another port of its NAT now. The store is the caller's business."""
        self.log.info("tunnel_moved", lease=end.lease, client=end.remote, port=port, before=end.port)
        self.table.move(end, port)
        end.last_seen = mono

    def sweep(self, mono: float, unix: float) -> None:
        """Free the ends of silent clients, and let the leases of live ones last on."""
        self.plane.poll(mono)
        silence, watched, half = self.config.keepalive.silence, self.plane.watched, self.config.lifetime / 2
        silent: list[TunnelEnd] = []
        lasting: list[TunnelEnd] = []
        for end in self.table.by_lease.values():
            quiet = mono - end.last_seen
            if end.interval and quiet > silence * end.interval and end.mode in watched:
                silent.append(end)
            elif end.expires_at - unix < half and quiet < half and end.mode in watched:
                lasting.append(end)
        for end in silent:
            self.close(end, f"silent for {silence} intervals of {end.interval} s")
            self._note_silence(end, int(unix))
        for start in range(0, len(lasting), EXTEND_BATCH):
            batch = lasting[start:start + EXTEND_BATCH]
            expires_at = int(unix) + self.config.lifetime
            self.store.extend([end.lease for end in batch], expires_at)
            for end in batch:
                end.expires_at = expires_at

    def _note_silence(self, end: TunnelEnd, unix: int) -> None:
        try:
            lease = self.store.lease_by_id(end.lease)
            if lease is None:
                return
            lease.up = False
            if lease.username is None:
                lease.expires_at = min(lease.expires_at, unix + self.config.anonymous.lifetime)
            self.store.save(lease)
        except sqlite3.Error as exc:
            self.log.error("store_failed", what="noting a silent tunnel", lease=end.lease, why=str(exc))


def end_of(lease: StoredLease, mono: float) -> TunnelEnd:
    """The TunnelEnd that a lease describes."""
    inner, prefix = (lease.ipv4, lease.prefix4) if lease.mode == "v4v6" else (lease.ipv6, lease.prefix6)
    if inner is None:
        raise ValueError(f"lease {lease.id} has no address for {lease.mode}")
    network: Optional[Network] = prefix if lease.router else None
    # A machine behind a proxy does not know of the keepalive that the proxy agreed to.
    interval = 0 if lease.proxy else lease.keepalive or 0
    return TunnelEnd(lease.id, lease.mode, inner.packed, None if network is None else (int(network.network_address), network.prefixlen),
                     str(lease.outer), lease.port or 0, None if lease.local is None else str(lease.local), interval, mono, lease.expires_at)

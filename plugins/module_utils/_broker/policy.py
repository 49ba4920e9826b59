# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""What the broker decides: who gets what, and for how long. The Backend of `_tsp.server`, once for all sessions.

Who may have a lease again is its `owner`: a user ("user:alice"), a user at an outer address where the account has several tunnels
("user:fleet@192.0.2.7"), or the outer end of a nameless client ("anonymous:192.0.2.7", with "#port" for v6udpv4).

A create is committed to the store before it is answered, but holds only when it is accepted: until then a `Pending` says how to go
on and how to go back.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, ip_address
from typing import Any, Optional

from .._tsp import digest_md5, status
from .._tsp.errors import RemoteError
from .._tsp.events import BrokerAddress
from .._tsp.lease import Endpoint, Grant, Keepalive
from .._tsp.request import DNS_NAME, TunnelRequest
from .._tsp.server import Refusal, ServerSession
from .accounts import Account, AccountBook
from .config import Config, is_self
from .ends.port import TunnelEnd
from .inventory import Inventory
from .logs import Log
from .placement import Placement, place
from .pools import Address
from .ratelimit import FailureWindow, TokenBucket
from .registry import Registry
from .store import Store, StoredLease


@dataclass
class Pending:
    """A lease that was granted and not accepted yet. old: the row as it was, None when there was none. taken: what goes back to the
    pools on reject; dropped: what goes back on accept. void: a later create of the same owner took its place."""

    lease: StoredLease
    old: StoredLease | None
    taken: list[Any] = field(default_factory=list)
    dropped: list[Any] = field(default_factory=list)
    void: bool = False


@dataclass
class Context:
    """What a session's adapter knows: our address and port that the client speaks to, and what is pending."""

    local: Address | None
    port: int
    pending: Pending | None = None
    why: str = ""
    """Why the last request was refused, for the log."""
    served: bool = False
    """Whether an info or a delete was answered: then no tunnel is no failure."""


class Policy:
    """offered: upper-case mechanism names. defer(function): call it soon; what is deferred may be lost in a crash.
    clock: Unix seconds; mono: monotonic seconds."""

    def __init__(self, config: Config, store: Store, book: AccountBook, inventory: Inventory, registry: Registry, log: Log, *,
                 offered: frozenset[str], defer: Callable[[Callable[[], None]], Any] = lambda function: function(),
                 clock: Callable[[], float] = time.time, mono: Callable[[], float] = time.monotonic) -> None:
        self.config = config
        self.store = store
        self.book = book
        self.inventory = inventory
        self.registry = registry
        self.log = log
        self.offered = offered
        self.failures = FailureWindow(config.limits.auth_failures_per_minute)
        self.elsewhere: frozenset[Address] = frozenset()
        """Configured outer addresses that this host does not have: it is behind a NAT that maps them, one to one."""
        self._reports = TokenBucket(20, 2000)
        self._unreported = 0
        self._clock = clock
        self._mono = mono
        self._defer = defer
        self._pending: dict[int, Pending] = {}
        self._leases = store.count()

    def now(self) -> float:
        """Unix seconds."""
        return self._clock()

    # ---- what is said of sessions ----

    def may_report(self) -> bool:
        """Whether one more session without a tunnel may have its line in the log: some old clients come back for ever without a pause
        (tsp-protocol.md section 2), and would fill the disk."""
        allowed = self._reports.take(self._mono())
        self._unreported += not allowed
        return allowed

    def tell_unreported(self) -> None:
        """One line about those that had none."""
        if self._unreported:
            self.log.warning("sessions_unreported", count=self._unreported, why="too many sessions without a tunnel to tell of each")
            self._unreported = 0

    # ---- before a request ----

    def capabilities(self, session: ServerSession, context: Context) -> tuple[frozenset[str], frozenset[str]]:
        """See Backend. Refuses with 530 an address that failed too often of late."""
        self._check_failures(session)
        modes = self.registry.plane.modes
        return frozenset(mode.upper() for mode in self.config.modes if mode in modes), self.offered

    def redirect(self, session: ServerSession, step: str, context: Context) -> tuple[BrokerAddress, ...]:
        """See Backend. Never names ourselves: old clients would loop without a pause."""
        redirect = self.config.redirect
        if redirect is None or redirect.at != step:
            return ()
        return tuple(b for b in redirect.brokers if not is_self(b, self.config.name, context.port, self._own(context)))

    def _own(self, context: Context) -> tuple[Address, ...]:
        """Every outer address of ours that is known."""
        addresses = self.config.addresses
        known = (*self.config.listen.addresses, addresses.outer_ipv4, addresses.outer_ipv6, context.local)
        return tuple(address for address in known if address is not None)

    def lookup(self, session: ServerSession, username: str) -> Account | None:
        """See Backend. Looks at the failures again: many sessions may have come so far before the first of them failed."""
        self._check_failures(session)
        return self.book(username)

    def _check_failures(self, session: ServerSession) -> None:
        if self.failures.blocked(session.peer[0], self._mono()):
            raise Refusal(status.SERVER_TOO_BUSY, "too many failed logins from this address, wait a minute")

    def auth_failed(self, session: ServerSession, context: Context) -> None:
        """See Backend."""
        self.failures.add(session.peer[0], self._mono())
        context.why = self._why_not(session)

    def _why_not(self, session: ServerSession) -> str:
        name = session.username
        if name is None:
            return "the credentials could not be read"
        account = self.book(name)
        if account is None:
            return f"there is no account {name}"
        if not account.enabled:
            return f"the account {name} is disabled"
        if session.auth_method == "digest-md5" and account.ha1(self.config.realm) is None:
            return f"the account {name} has no HA1 for realm {self.config.realm}, so it cannot use DIGEST-MD5"
        if session.auth_method == "digest-md5" and digest_md5.secret_too_short(account.ha1(self.config.realm) or b"", session.version):
            return (f"wrong password for {name}, or its client ends the password's hash at a zero octet, as some do up to version 2.0.0: "
                    "another password helps, or a newer version")
        return f"wrong password for {name}"

    # ---- create ----

    def create(self, session: ServerSession, request: TunnelRequest, named: Address | None, context: Context) -> Grant:
        """See Backend."""
        account = self._account(session)
        modes = [mode for mode in self.config.modes if mode in self.registry.plane.modes]
        placement = place(request, named, session.transport, session.peer, offered=modes,
                          may_proxy=account is not None and account.proxy, own=self._own(context))
        owner = owner_of(account, placement.outer, placement.port)
        if context.pending is not None:
            self._undo(context.pending)
        old = self.store.lease(owner)
        if old is None:
            self._check_room(account)
        self._check_conflict(owner, placement)
        now = int(self._clock())
        keepalive = self._interval(request)
        local = self._local(placement, context)
        if old is None:
            lease = StoredLease(owner, session.username, placement.mode, placement.outer, placement.port, local, created_at=now)
        else:
            lease = replace(old, mode=placement.mode, outer=placement.outer, port=placement.port, local=local)
        lease.router = request.host_type == "router"
        lease.dns_servers = request.dns_servers
        lease.proxy, lease.keepalive = placement.proxy, keepalive
        lease.renewed_at, lease.expires_at = now, now + self.config.lifetime
        pending = Pending(lease, old)
        earlier = self._pending.get(old.id) if old is not None else None
        try:
            self._allocate(pending, account, request)
            grant = self._grant(lease, account)
            if old is None:
                self.store.save(lease)
            elif pending.taken:
                # The row keeps the end that is open until the client accepts, so that a crash in between restores what works.
                self.store.save(replace(lease, mode=old.mode, outer=old.outer, port=old.port, local=old.local, proxy=old.proxy,
                                        keepalive=old.keepalive, router=old.router))
        except BaseException:
            self.inventory.release(pending.taken)
            raise
        if old is None:
            self._leases += 1
        if earlier is not None:
            earlier.void = True
            pending.old = earlier.old
            pending.taken += earlier.taken
            pending.dropped += earlier.dropped
        self._pending[lease.id] = context.pending = pending
        if self.log.debugging:
            self.log.debug("granted", peer=_peer(session), user=session.username, **_facts(lease), again=old is not None)
        return grant

    def _account(self, session: ServerSession) -> Account | None:
        if session.username is None:
            return None
        account = self.book(session.username)
        if account is None or not account.enabled:
            raise Refusal(status.AUTHENTICATION_FAILED, "the account was removed or disabled")
        return account

    def _check_room(self, account: Account | None) -> None:
        if self._leases >= self.config.limits.tunnels:
            raise Refusal(status.NO_MORE_TUNNELS, "limits.tunnels is reached")
        if account is not None and account.tunnels > 1 and self.store.count(account.username) >= account.tunnels:
            raise Refusal(status.NO_MORE_TUNNELS, f"this account has its {account.tunnels} tunnels")

    def _check_conflict(self, owner: str, placement: Placement) -> None:
        """A v6v4 or v4v6 end is its address alone. Who comes from that address has it now; a proxy only says so."""
        holder = self.registry.table.by_outer.get((str(placement.outer), placement.port or 0))
        if holder is None or not placement.proxy:
            return
        lease = self.store.lease_by_id(holder.lease)
        if lease is not None and lease.owner != owner:
            raise Refusal(status.IPV4_IN_USE if placement.outer.version == 4 else status.INVALID_IPV6,
                          f"another tunnel ends at {placement.outer}")

    def _interval(self, request: TunnelRequest) -> int | None:
        """The client's wish, moved into the bounds; None when it wants none."""
        if not request.keepalive:
            return None
        rule = self.config.keepalive
        return max(rule.minimum, min(request.keepalive_interval or rule.interval, rule.maximum))

    def _outer(self, version: int) -> Address | None:
        """The outer address that is configured."""
        return self.config.addresses.outer_ipv4 if version == 4 else self.config.addresses.outer_ipv6

    def _local(self, placement: Placement, context: Context) -> Address | None:
        """Where our packets come from: what the client spoke to with v6udpv4, for its socket and its NAT know nothing else; otherwise
        the configured address, which the client is told. None leaves it to the kernel."""
        version = placement.outer.version
        configured = self._outer(version)
        known = [context.local, *self.config.listen.addresses]
        if configured is not None and placement.mode != "v6udpv4" and configured not in self.elsewhere:
            known.insert(0, configured)
        for address in known:
            if address is not None and address.version == version and not address.is_unspecified:
                return address
        if configured is not None:
            return None
        raise Refusal(status.SERVER_SIDE_ERROR, f"set addresses.outer_ipv{version}: this client came over the other family")

    def _allocate(self, pending: Pending, account: Account | None, request: TunnelRequest) -> None:
        """Fill in addresses and prefix of pending.lease: those it had, where they still fit, else new ones."""
        lease, version = pending.lease, 4 if pending.lease.mode == "v4v6" else 6
        had: Any = lease.ipv4 if version == 4 else lease.ipv6
        fixed = None if account is None else account.ipv4 if version == 4 else account.ipv6
        if not self.inventory.holds(had) or fixed is not None and had != fixed:
            new = self.inventory.address(version, fixed)
            pending.taken.append(new)
            if had is not None:
                pending.dropped.append(had)
            if isinstance(new, IPv4Address):
                lease.ipv4 = new
            else:
                lease.ipv6 = new
        if not lease.router:
            return
        if account is None and not self.config.anonymous.prefix:
            raise Refusal(status.PREFIX_FOR_ANONYMOUS)
        had = lease.prefix4 if version == 4 else lease.prefix6
        fixed_prefix = account.prefix if account is not None and version == 6 else None
        length = request.prefix_length
        if self.inventory.holds(had) and length in (None, had.prefixlen) and fixed_prefix in (None, had):
            return
        made: Any = self.inventory.prefix(version, length, fixed_prefix)
        pending.taken.append(made)
        if had is not None:
            pending.dropped.append(had)
        if version == 4:
            lease.prefix4 = made
        else:
            lease.prefix6 = made

    def _grant(self, lease: StoredLease, account: Account | None) -> Grant:
        """What the client is told of a lease."""
        addresses, v4v6 = self.config.addresses, lease.mode == "v4v6"
        outer = self._outer(lease.outer.version) or lease.local
        name = client_name(lease, account, self.config.dns_domain)
        if v4v6:
            client, server = Endpoint(lease.ipv4, lease.outer, name), Endpoint(addresses.inner_ipv4, outer)  # type: ignore[arg-type]
        else:
            client, server = Endpoint(lease.outer, lease.ipv6, name), Endpoint(outer, addresses.inner_ipv6)  # type: ignore[arg-type]
        inner = addresses.inner_ipv4 if v4v6 else addresses.inner_ipv6
        prefix: Any = (lease.prefix4 if v4v6 else lease.prefix6) if lease.router else None
        try:
            return Grant(lease.mode, client, server, prefix, lease.dns_servers if prefix is not None else (),
                         None if lease.keepalive is None else Keepalive(lease.keepalive, inner), self.config.lifetime)
        except RemoteError as exc:
            raise Refusal(status.SERVER_SIDE_ERROR, f"the configured addresses do not make a tunnel: {exc.message}"[:100]) from None

    # ---- what becomes of it ----

    def accept(self, session: ServerSession, context: Context) -> None:
        """See Backend."""
        pending, context.pending = context.pending, None
        if pending is None or pending.void:
            raise Refusal(status.SERVER_SIDE_ERROR, "a later request of the same user took the place of this one")
        lease = pending.lease
        self._pending.pop(lease.id, None)
        self.inventory.release(pending.dropped)
        self.registry.open(lease, self._mono())
        lease.up = True
        if self.store.save_soon(lease):
            self._defer(self.flush)
        self.log.info("tunnel_opened", peer=_peer(session), user=session.username, **_facts(lease))

    def flush(self) -> None:
        """Write down, in one transaction, which tunnels were opened. Their addresses were committed before they were granted; this is
        for a restart, which opens again what was open."""
        try:
            self.store.flush()
        except sqlite3.Error as exc:
            self.log.error("store_failed", what="noting open tunnels", why=str(exc))

    def reject(self, session: ServerSession, context: Context) -> None:
        """See Backend."""
        pending, context.pending = context.pending, None
        if pending is not None:
            self._undo(pending)
            self.log.info("grant_withdrawn", peer=_peer(session), user=session.username, lease=pending.lease.id,
                          why="the client refused it or went away before it accepted")

    def _undo(self, pending: Pending) -> None:
        if pending.void:
            return
        pending.void = True
        self._pending.pop(pending.lease.id, None)
        self.inventory.release(pending.taken)
        if pending.old is None:
            self.store.remove(pending.lease.id)
            self._leases -= 1
        else:
            self.store.save(pending.old)

    def info(self, session: ServerSession, context: Context) -> Grant:
        """See Backend."""
        account = self._account(session)
        lease = self._own_lease(session, account)
        if lease is None:
            raise Refusal(status.SERVER_SIDE_ERROR, "there is no tunnel to tell about")
        return self._grant(lease, account)

    def delete(self, session: ServerSession, context: Context) -> None:
        """See Backend. Deleting what is not there is no failure: afterwards it is not there."""
        lease = self._own_lease(session, self._account(session))
        if lease is None:
            self.log.info("nothing_to_delete", peer=_peer(session), user=session.username)
            return
        self.forget(lease, "deleted by the client")

    def _own_lease(self, session: ServerSession, account: Account | None) -> StoredLease | None:
        seen = ip_address(session.peer[0].partition("%")[0])
        named = [a for a in (session.named_ipv4, session.named_ipv6) if a is not None and account is not None]
        for outer in (*named, seen):
            for port in (session.peer[1], None):
                lease = self.store.lease(owner_of(account, outer, port))
                if lease is not None:
                    return lease
        return None

    # ---- without a client ----

    def forget(self, lease: StoredLease, why: str) -> None:
        """Close the end, give everything back, remove the row."""
        pending = self._pending.pop(lease.id, None)
        if pending is not None:
            pending.void = True
            self.inventory.release(t for t in pending.dropped if t not in (lease.ipv6, lease.prefix6, lease.ipv4, lease.prefix4))
        self.registry.close_lease(lease.id, why)
        self.store.remove(lease.id)
        self._leases -= 1
        self.inventory.release((lease.ipv6, lease.prefix6, lease.ipv4, lease.prefix4))
        self.log.info("lease_ended", lease=lease.id, owner=lease.owner, why=why)

    def move(self, end: TunnelEnd, port: int) -> None:
        """The client of a v6udpv4 tunnel is behind another port now (follow.py)."""
        try:
            lease = self.store.lease_by_id(end.lease)
            if lease is None or lease.id in self._pending:  # a session is under way, which will say where it ends
                return
            if lease.username is None:
                lease.owner = owner_of(None, lease.outer, port)
                other = self.store.lease(lease.owner)
                if other is not None:
                    self.forget(other, "its port is another client's now")
            lease.port = port
            self.store.save(lease)
        except sqlite3.Error as exc:
            self.log.error("store_failed", what="noting a moved tunnel", lease=end.lease, why=str(exc))
            return
        self.registry.move(end, port, self._mono())

    def purge(self) -> None:
        """Forget what expired, and what `leases release` asked for."""
        now = int(self._clock())
        for lease in self.store.expired(now):
            if lease.id not in self._pending:
                self.forget(lease, "expired")

    def purge_released(self) -> None:
        """Forget what `leases release` asked for."""
        for lease in list(self.store.leases("released = 1")):
            self.forget(lease, "released by the operator")


def owner_of(account: Account | None, outer: Address, port: Optional[int]) -> str:
    """Who may have the lease again."""
    if account is None:
        return f"anonymous:{outer}" + ("" if port is None else f"#{port}")
    return f"user:{account.username}" + (f"@{outer}" if account.tunnels > 1 else "")


def client_name(lease: StoredLease, account: Account | None, domain: str | None) -> str | None:
    """The DNS name of the client: `<user>.<domain>`, of one among several tunnels `<user>-<outer address>.<domain>`."""
    if domain is None or account is None:
        return None
    label = account.username.lower()
    if account.tunnels > 1:
        label += "-" + lease.outer.exploded.replace(".", "-").replace(":", "")
    name = f"{label}.{domain}"
    return name if "." not in label and DNS_NAME.match(name) else None


def _facts(lease: StoredLease) -> dict[str, Any]:
    """A lease in a log line."""
    v4v6 = lease.mode == "v4v6"
    prefix = (lease.prefix4 if v4v6 else lease.prefix6) if lease.router else None
    return {"lease": lease.id, "owner": lease.owner, "mode": lease.mode, "client": str(lease.outer), "port": lease.port,
            "inside": str(lease.ipv4 if v4v6 else lease.ipv6), "prefix": None if prefix is None else str(prefix),
            "proxy": lease.proxy or None, "keepalive": lease.keepalive}


def _peer(session: ServerSession) -> str:
    return f"{session.transport} {session.peer[0]} port {session.peer[1]}"

# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""All pools together: gives a lease what it needs and takes it back. Refuses with the TSP status that the client is to see."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network
from typing import Optional

from .._tsp import status
from .._tsp.server import Refusal
from .accounts import Account
from .config import Pools
from .pools import Address, AddressPool, Network, PrefixPool
from .store import StoredLease


class Inventory:
    """own: our addresses inside the tunnels, never given away."""

    def __init__(self, pools: Pools, own: Iterable[Address]) -> None:
        self._own = tuple(own)
        self.addresses: dict[int, AddressPool] = {6: AddressPool(pools.ipv6, self._own)}
        if pools.ipv4 is not None:
            self.addresses[4] = AddressPool(pools.ipv4, self._own)
        self.prefixes: dict[int, tuple[PrefixPool, ...]] = {
            6: tuple(PrefixPool(p.network, p.lengths, p.default) for p in pools.prefixes),
            4: tuple(PrefixPool(p.network, p.lengths, p.default) for p in pools.ipv4_prefixes)}

    def reserve(self, accounts: Iterable[Account]) -> None:
        """Keep what is fixed for these accounts, and only that, from everybody else."""
        accounts = list(accounts)
        addresses = [a for account in accounts for a in (account.ipv6, account.ipv4) if a is not None]
        for pool in self.addresses.values():
            pool.reserve([*self._own, *addresses])
        for prefix_pool in self.prefixes[6]:
            prefix_pool.reserve([account.prefix for account in accounts if account.prefix is not None])

    def claim(self, lease: StoredLease) -> list[str]:
        """At start: take what a stored lease holds. Returns what could not be had, because the pools were changed since."""
        lost = []
        for address in (lease.ipv6, lease.ipv4):
            if address is not None and not self._take_address(address):
                lost.append(str(address))
        for prefix in (lease.prefix6, lease.prefix4):
            if prefix is not None and not any(pool.take(prefix) for pool in self.prefixes[prefix.version]):
                lost.append(str(prefix))
        return lost

    def holds(self, thing: Address | Network | None) -> bool:
        """Whether an address or prefix still belongs to the pools."""
        if thing is None:
            return False
        if isinstance(thing, (IPv4Network, IPv6Network)):
            return any(thing in pool for pool in self.prefixes[thing.version])
        return thing.version in self.addresses and thing in self.addresses[thing.version]

    def address(self, version: int, fixed: Address | None) -> Address:
        """A free address, or the fixed one. Raises Refusal 301 when there is none, 310 when somebody else has the fixed one."""
        if fixed is not None:
            if self._take_address(fixed):
                return fixed
            raise Refusal(status.SERVER_SIDE_ERROR, f"the fixed address {fixed} is in use by another lease")
        pool = self.addresses.get(version)
        made = pool.allocate() if pool else None
        if made is None:
            raise Refusal(status.NO_MORE_TUNNELS)
        return made

    def prefix(self, version: int, length: int | None, fixed: Network | None) -> Network:
        """A free prefix of this length (None: the default of the first pool), or the fixed one.

        Raises Refusal 518 for a length that is never given, 507 for one that is used up, 310 when somebody has the fixed one.
        """
        pools = self.prefixes[version]
        if fixed is not None:
            if length not in (None, fixed.prefixlen):
                raise Refusal(status.PREFIX_LENGTH_UNAVAILABLE, f"this account has a fixed /{fixed.prefixlen}")
            if any(pool.take(fixed) for pool in pools):
                return fixed
            raise Refusal(status.SERVER_SIDE_ERROR, f"the fixed prefix {fixed} is in use by another lease")
        if not pools:
            raise Refusal(status.PREFIX_LENGTH_UNAVAILABLE, "this broker delegates no prefixes")
        wanted = pools[0].default if length is None else length
        fitting = [pool for pool in pools if wanted in pool.lengths]
        if not fitting:
            raise Refusal(status.UNSUPPORTED_PREFIX_LENGTH)
        for pool in fitting:
            made: Optional[Network] = pool.allocate(wanted)
            if made is not None:
                return made
        raise Refusal(status.PREFIX_LENGTH_UNAVAILABLE)

    def release(self, things: Iterable[Address | Network | None]) -> None:
        """Give back addresses and prefixes; what is of no pool any more is passed over."""
        for thing in things:
            if thing is None:
                continue
            if isinstance(thing, (IPv4Network, IPv6Network)):
                pool = next((pool for pool in self.prefixes[thing.version] if thing in pool), None)
                if pool is not None:
                    pool.release(thing)
            elif thing.version in self.addresses:
                self.addresses[thing.version].release(thing)

    def _take_address(self, address: Address) -> bool:
        pool = self.addresses.get(address.version)
        return pool is not None and address not in self._own and pool.take(address)

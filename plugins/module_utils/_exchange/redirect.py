# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""Where a redirect may lead: never twice to the same broker, at most MOST_HOPS in a row, the nearest first."""

from __future__ import annotations

from collections.abc import Sequence

from .._tsp.errors import LocalError, RemoteError
from .._tsp.events import Redirected
from .options import Address, Broker, from_redirect

MOST_HOPS = 5


class Visited:
    """The brokers that one exchange has spoken to, by name and by address: a broker under a second name is the same broker."""

    def __init__(self) -> None:
        self._named: set[Broker] = set()
        self._ends: dict[tuple[Address, int], Broker] = {}

    def enter(self, broker: Broker) -> bool:
        """Mark it; False when it was marked before."""
        if broker in self._named:
            return False
        self._named.add(broker)
        return True

    def enter_address(self, broker: Broker, address: Address) -> bool:
        """Mark one of its addresses; False when it was marked under another name before."""
        return self._ends.setdefault((address, broker.port), broker) == broker

    def known(self, broker: Broker) -> bool:
        """Whether it was spoken to."""
        address = broker.address
        return broker in self._named or (address is not None and (address, broker.port) in self._ends)


def candidates(redirected: Redirected, visited: Visited, hops: int) -> list[Broker]:
    """The brokers of a redirect list that are still new, in its order.

    hops: how many redirects led here, this one included. Raises RemoteError `redirect_loop` when none is new, `redirect_limit`.
    """
    if hops > MOST_HOPS:
        raise RemoteError("redirect_limit", f"The brokers redirected more than {MOST_HOPS} times in a row.",
                          "Report it to the operator of the broker that you configured.", redirected.status)
    named = []
    for entry in redirected.brokers:
        try:
            named.append(from_redirect(entry))
        except LocalError:  # the core checked it; still, an entry that names nobody is no reason to fail
            continue
    new = [broker for broker in dict.fromkeys(named) if not visited.known(broker)]
    if not new:
        raise RemoteError("redirect_loop", "The broker redirected to itself, or to brokers that had been asked already.",
                          "Report it to the broker's operator, or name another broker.", redirected.status)
    return new


def by_distance(brokers: Sequence[Broker], measured: dict[Broker, float | None]) -> list[Broker]:
    """Nearest first; those without a distance last, in the order in which the list named them."""
    return sorted(brokers, key=lambda broker: (measured.get(broker) is None, measured.get(broker) or 0.0))

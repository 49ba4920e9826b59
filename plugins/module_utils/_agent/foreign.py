# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""Whether a lease can be this host's: brokers err, and answer with somebody else's tunnel."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address

from .._exchange.options import Address
from .._exchange.source import is_own
from .._tsp.errors import RemoteError
from .._tsp.lease import Lease

NOBODYS = {4: ip_address("192.0.2.1"), 6: ip_address("2001:db8::1")}
"""For documentation only: a host that has these as well takes any address for its own (ip_nonlocal_bind), and cannot tell."""


def check_ours(lease: Lease, in_use: Lease | None, own: Callable[[Address], bool] = is_own) -> None:
    """in_use: the lease of the tunnel that is there, whose addresses this host has already.

    Raises RemoteError `foreign_grant`: this host has the granted address already, outside of the tunnel.
    """
    grant = lease.grant
    address = grant.inner_address(grant.client)
    if address is None or in_use is not None and address == in_use.grant.inner_address(in_use.grant.client):
        return
    if own(address) and not own(NOBODYS[address.version]):
        raise RemoteError("foreign_grant", f"The broker granted {address}, an address that this host has already, outside of the tunnel.",
                          "Another tunnel of this host may use the same account: give each its own. Else the broker mixes its clients up: "
                          "report it to its operator.")

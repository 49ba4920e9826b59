# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""What the client state machine tells its owner: one small frozen dataclass per event."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Union

from .errors import TspError
from .lease import Grant


@dataclass(frozen=True)
class CapabilitiesReceived:
    """The broker's offer (RFC 5572 section 4.4.2), upper-case tokens: {"V6V4", ...} and {"DIGEST-MD5", ...}."""

    version: str
    tunnels: frozenset[str]
    auths: frozenset[str]


@dataclass(frozen=True)
class Authenticated:
    """The broker accepted us; method is the SASL mechanism in lower case."""

    method: str


@dataclass(frozen=True)
class BrokerAddress:
    """One entry of a redirect list. family: ipv4 | ipv6 | dn; address: canonical text, checked; port None means 3653."""

    family: str
    address: str
    port: int | None = None


@dataclass(frozen=True)
class Redirected:
    """Go elsewhere: a checked, duplicate-free list, in the broker's order, never empty (RFC 5572 section 4.4.2)."""

    status: int
    brokers: tuple[BrokerAddress, ...]


@dataclass(frozen=True)
class Granted:
    """A tunnel was granted and checked. `warnings`: sentences about what differs from the request."""

    grant: Grant
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Deleted:
    """The broker forgot the tunnel."""


@dataclass(frozen=True)
class Completed:
    """Nothing more will be sent or is expected; the transport may be closed (v6udpv4: kept, data may flow)."""


@dataclass(frozen=True)
class Failed:
    """The session is over without success. `error` is a RemoteError, NetworkError or LocalError."""

    error: TspError


Event = Union[CapabilitiesReceived, Authenticated, Redirected, Granted, Deleted, Completed, Failed]

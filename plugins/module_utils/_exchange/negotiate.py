# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""The public face of the exchange: negotiate, delete, broker_info, each also in a form for callers without an event loop.

All of them raise one TspError and nothing else. It says which broker failed over which transport and how; `error.attempts` lists all
attempts (dicts as in ExchangeResult.attempts), `error.transcript` is the record when options.transcript was set.
"""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from typing import Any, Callable, Optional

from .._tsp.errors import LocalError
from .._tsp.lease import Address, Grant, Lease
from .._tsp.request import TunnelRequest
from .info import ask
from .options import ExchangeOptions
from .policy import Negotiation
from .runtime import Runtime
from .session import Limits, Outcome
from .source import Source, is_own, own_address
from .sync import run_sync

Progress = Optional[Callable[[str], None]]
"""Called with short sentences for people, for example `udp 192.0.2.1:3653: asking for v6anyv4`. Never holds a secret."""


@dataclass
class ExchangeResult:
    """A tunnel was granted.

    lease: client.udp_port and server.udp_port are filled in with v6udpv4. socket: the connected, non-blocking UDP socket when
    keep_socket was set and v6udpv4 granted (the caller closes it), else None. transcript: dicts t (seconds), direction ("C>S" | "S>C"),
    transport, peer, text; secrets struck out. attempts: dicts broker, transport, peer, version, ms, result ("granted" |
    "redirected" | "failed"), error (TspError.to_dict() or None), in the order they were made.
    warnings: sentences about our own side (state that could not be saved); those about the grant stand in lease.warnings.
    """

    lease: Lease
    socket: socket.socket | None = None
    transcript: list[dict[str, Any]] = field(default_factory=list)
    attempts: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


async def negotiate(request: TunnelRequest, options: ExchangeOptions, *, keep_socket: bool = False,
                    progress: Progress = None, runtime: Runtime | None = None) -> ExchangeResult:
    """Ask for a tunnel: order and fallbacks of tsp-protocol.md section 1.1, versions of section 2, redirects of section 6.

    keep_socket: with v6udpv4, hand over the UDP socket for the data that follows on the same ports. runtime: for tests.
    Cancelling it closes what it opened. Raises TspError.
    """
    exchange = Negotiation(request, options, keep_socket=keep_socket, progress=progress, runtime=runtime)
    outcome = await exchange.run()
    try:
        lease = _lease(outcome, request, options, exchange.led_by(outcome.target.broker))
        exchange.save_last_server(outcome)
    except BaseException:
        if outcome.socket is not None:
            outcome.socket.close()
        raise
    return ExchangeResult(lease, outcome.socket, exchange.transcript.records,
                          [attempt.to_dict() for attempt in exchange.attempts], exchange.warnings)


def _lease(outcome: Outcome, request: TunnelRequest, options: ExchangeOptions, via: str | None) -> Lease:
    """Who granted what, over what, when. With v6udpv4 the ports are those of the socket that the grant came over."""
    granted, target = outcome.granted, outcome.target
    if granted is None:
        raise AssertionError
    grant = granted.grant
    if grant.mode == "v6udpv4":
        grant = replace(grant, client=replace(grant.client, udp_port=outcome.local_port),
                        server=replace(grant.server, udp_port=target.broker.port))
    method = outcome.auth_method
    version = outcome.version if outcome.capabilities is None else outcome.capabilities.version
    return Lease(broker=target.broker.server, transport=target.label, protocol_version=version, auth_method=method, grant=grant,
                 request=request, obtained_at=datetime.now(timezone.utc).replace(microsecond=0), username=options.username,
                 quirks=outcome.quirks, warnings=granted.warnings, via=via,
                 local_address=None if request.proxy else _local_address(grant, Source.of(options)))


def _local_address(grant: Grant, source: Source) -> Address | None:
    """Where the tunnel ends at this host: at the address that the broker knows, or where a NAT made that one, at the one behind it."""
    client, server = grant.outer_address(grant.client), grant.outer_address(grant.server)
    if client is not None and is_own(client):
        return client
    return None if server is None else own_address(server, source)


def negotiate_sync(request: TunnelRequest, options: ExchangeOptions, *, keep_socket: bool = False,
                   progress: Progress = None, runtime: Runtime | None = None) -> ExchangeResult:
    """`negotiate` for callers without an event loop (modules, action plugins); also works where a loop already runs."""
    return run_sync(lambda: negotiate(request, options, keep_socket=keep_socket, progress=progress, runtime=runtime))


async def delete(lease_or_request: Lease | TunnelRequest, options: ExchangeOptions, *,
                 progress: Progress = None, runtime: Runtime | None = None) -> list[dict[str, Any]]:
    """Ask the broker to forget the tunnel; returns the attempts. A lease is deleted at lease.broker, a request at options.brokers.

    Raises RemoteError with the broker's status where it does not know how to delete (310, 500 …): the caller may then treat the
    tunnel as forgotten locally.
    """
    if isinstance(lease_or_request, Lease):
        request, grant = lease_or_request.request, lease_or_request.grant
        options = replace(options, brokers=(lease_or_request.broker,), always_use_same_server=False)
    else:
        request, grant = lease_or_request, None
    exchange = Negotiation(request, options, action="delete", grant=grant, progress=progress, runtime=runtime)
    await exchange.run()
    return [attempt.to_dict() for attempt in exchange.attempts]


def delete_sync(lease_or_request: Lease | TunnelRequest, options: ExchangeOptions, *,
                progress: Progress = None, runtime: Runtime | None = None) -> list[dict[str, Any]]:
    """`delete` for callers without an event loop."""
    return run_sync(lambda: delete(lease_or_request, options, progress=progress, runtime=runtime))


async def broker_info(options: ExchangeOptions, *, progress: Progress = None, runtime: Runtime | None = None) -> list[dict[str, Any]]:
    """What each of options.brokers offers. Asks for capabilities and echoes only: no authentication, nothing created, no backoff.

    One dict for each broker, in order: broker (str), reachable (bool), version (str | None: the newest spoken), tunnels (list of
    "v6v4" | "v6udpv4" | "v4v6"), auth_methods (list, lower case), echo_ms (float | None), redirect (list of broker strings),
    transports (list of dicts transport, address, port, reachable, version, tunnels, auth_methods, ms, redirect, error),
    error (TspError.to_dict() | None: set when no transport worked). An unreachable broker is a result, not an exception.
    Raises LocalError.
    """
    brokers = options.broker_list
    if not brokers:
        raise LocalError("invalid_option", "brokers: no broker was named.", "Name at least one.")
    runtime = runtime or Runtime()
    limits = Limits(asyncio.get_running_loop().time() + options.deadline, options.deadline, runtime.connect_timeout)
    say = progress or (lambda _sentence: None)
    return list(await asyncio.gather(*(ask(broker, options, runtime, say, limits) for broker in brokers)))


def broker_info_sync(options: ExchangeOptions, *, progress: Progress = None, runtime: Runtime | None = None) -> list[dict[str, Any]]:
    """`broker_info` for callers without an event loop."""
    return run_sync(lambda: broker_info(options, progress=progress, runtime=runtime))

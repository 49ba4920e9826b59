# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""What a broker offers, asked without authentication: capabilities over every transport and family, and the echo distance."""

from __future__ import annotations

import asyncio
import socket
from typing import Any, Callable

from .._tsp.client import ClientConfig, TspClient
from .._tsp.errors import LocalError, NetworkError, TspError
from .._tsp.request import TunnelRequest
from .attempts import VERSION, Attempt, failure, next_step
from .echo import distance
from .options import Address, Broker, ExchangeOptions, from_redirect
from .policy import OLD_VERSIONS, VERSIONS
from .resolve import resolve
from .runtime import Runtime
from .session import Limits, Outcome, Target, run_session
from .source import Source
from .transcript import Transcript


async def ask(broker: Broker, options: ExchangeOptions, runtime: Runtime, say: Callable[[str], None], limits: Limits) -> dict[str, Any]:
    """The dict of one broker, as described at negotiate.broker_info. Raises LocalError only."""
    loop = asyncio.get_running_loop()
    source = Source(options.source_address, options.source_interface)
    family = socket.AF_UNSPEC
    if options.source_address is not None:
        family = socket.AF_INET6 if ":" in options.source_address else socket.AF_INET
    found: dict[str, Any] = {"broker": broker.server, "reachable": False, "version": None, "tunnels": [], "auth_methods": [],
                             "echo_ms": None, "redirect": [], "transports": [], "error": None}
    try:
        addresses = await resolve(broker, family, max(0.001, limits.deadline - loop.time()), runtime.lookup)
    except NetworkError as error:
        found["error"] = error.to_dict()
        return found
    chosen = [next(a for a in addresses if a.version == version) for version in (4, 6) if any(a.version == version for a in addresses)]
    transports = ("udp", "tcp") if options.transports == "auto" else (options.transports,)
    targets = [Target(broker, address, transport) for address in chosen for transport in transports]
    for target in targets:
        say(f"{target}: asking what it offers")
    echo_timeout = min(runtime.echo_timeout, max(0.0, limits.deadline - loop.time()))
    sessions = asyncio.gather(*(_capabilities(target, runtime, source, limits) for target in targets))
    echoes = asyncio.gather(*(distance(address, broker.port, source, echo_timeout) for address in chosen))
    outcomes, distances = await asyncio.gather(sessions, echoes)
    for outcome in outcomes:
        if isinstance(outcome.error, LocalError):
            raise outcome.error
    near = [value for value in distances if value is not None]
    found["echo_ms"] = round(min(near), 3) if near else None
    found["transports"] = [_row(outcome) for outcome in outcomes]
    _merge(found, outcomes)
    return found


async def _capabilities(target: Target, runtime: Runtime, source: Source, limits: Limits) -> Outcome:
    """The newest version that the broker speaks over this transport."""
    recorder = Transcript(False, 0.0).session(target.label, target.peer)

    def maker(version: str) -> Callable[[Address], TspClient]:
        def make(local_address: Address) -> TspClient:
            return TspClient(ClientConfig(
                transport=target.transport, server=target.broker.server, request=TunnelRequest(), local_address=local_address,
                rng=runtime.rng, version=version, action="capabilities", auth_method="anonymous",
                peer_is_loopback=target.address.is_loopback, rudp=runtime.rudp, reply_timeout=runtime.reply_timeout))
        return make

    outcome: Outcome | None = None
    for version in VERSIONS + (OLD_VERSIONS if target.transport == "tcp" else ()):
        outcome = await run_session(target, version, maker(version), source=source, limits=limits, recorder=recorder)
        if outcome.error is None or next_step(outcome.error) != VERSION:
            break
    if outcome is None:
        raise AssertionError
    return outcome


def _row(outcome: Outcome) -> dict[str, Any]:
    offered = outcome.capabilities
    return {
        "transport": outcome.target.label, "address": str(outcome.target.address), "port": outcome.target.broker.port,
        "reachable": outcome.answered, "version": None if offered is None else offered.version,
        "tunnels": [] if offered is None else sorted(token.lower() for token in offered.tunnels),
        "auth_methods": [] if offered is None else sorted(token.lower() for token in offered.auths),
        "ms": round(outcome.seconds * 1000, 3), "redirect": _redirect(outcome),
        "error": None if outcome.error is None else outcome.error.to_dict()}


def _redirect(outcome: Outcome) -> list[str]:
    named = []
    for entry in outcome.redirected.brokers if outcome.redirected is not None else ():
        try:
            named.append(str(from_redirect(entry)))
        except LocalError:
            continue
    return named


def _merge(found: dict[str, Any], outcomes: list[Outcome]) -> None:
    """The answers over all transports together."""
    rows = found["transports"]
    found["reachable"] = any(row["reachable"] for row in rows)
    for name in ("tunnels", "auth_methods"):
        found[name] = sorted({value for row in rows for value in row[name]})
    found["redirect"] = list(dict.fromkeys(text for row in rows for text in row["redirect"]))
    spoken = [row["version"] for row in rows if row["version"] is not None]
    found["version"] = max(spoken, default=None, key=_version_key)
    if outcomes and all(outcome.error is not None for outcome in outcomes):
        error: TspError = failure([Attempt.of(outcome) for outcome in outcomes])
        found["error"] = error.to_dict()


def _version_key(version: str) -> tuple[int, ...]:
    return tuple(int(part) if part.isdigit() else 0 for part in version.split("."))

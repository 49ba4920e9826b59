# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""Whom the agent asks: the broker that gave the last lease first, so that address and prefix stay; a preferred one before all others."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from dataclasses import replace
from typing import Optional, Protocol

from .._exchange.negotiate import negotiate
from .._exchange.options import parse_broker
from .._exchange.source import Source
from .._exchange.transcript import lines
from .._module.pathmtu import Measure, measured, path_mtu
from .._tsp.errors import TspError
from .._tsp.lease import Lease
from .settings import AgentConfig

Answer = tuple[Lease, Optional[socket.socket], list[str]]
"""(lease, the connected UDP socket with v6udpv4, warnings)."""


class Negotiator(Protocol):
    """The port to the broker."""

    async def negotiate(self, last: Lease | None, source_port: int | None, mode: str | None = None, *, moved: bool = False,
                        brokers: tuple[str, ...] | None = None) -> Answer:
        """mode: ask for this one, whatever the request says. moved: this host's network is another one than at the last attempt.
        brokers: ask these, in this order. Raises TspError."""


class BrokerNegotiator:
    """The real one. log(sentence): what is done. measure: tells the MTU of the path to the broker's end. exchange(line): gets the exchange
    itself, secrets struck out; None where nobody wants it."""

    def __init__(self, config: AgentConfig, log: Callable[[str], None], measure: Measure = path_mtu,
                 exchange: Callable[[str], None] | None = None) -> None:
        self._config = config
        self._log = log
        self._measure = measure
        self._exchange = exchange

    async def negotiate(self, last: Lease | None, source_port: int | None, mode: str | None = None, *, moved: bool = False,
                        brokers: tuple[str, ...] | None = None) -> Answer:
        options = self._config.options
        if brokers is None:
            first = ((last.broker,) if last is not None else ()) + ((self._config.preferred,) if self._config.preferred else ())
            brokers = tuple(dict.fromkeys((*first, *options.brokers)))
            choose = "order" if first else options.choose
        else:
            choose = "order"
        request = self._config.request
        try:
            result = await negotiate(
                request if mode is None else replace(request, mode=mode),
                replace(options, brokers=brokers, source_port=source_port or options.source_port, moved=moved, choose=choose,
                        longest_delay=self._config.retry.longest_delay, transcript=self._exchange is not None),
                keep_socket=True, progress=self._log)
        except TspError as exc:
            self._show(exc.transcript)
            raise
        self._show(result.transcript)
        lease = replace(result.lease, request=request)
        if last is not None and lease.via is None and lease.broker == last.broker:
            lease = replace(lease, via=last.via)  # asked directly this time, but a configured broker had led there
        if last is not None and last.path_mtu is not None and not moved and _same_path(last, lease):
            lease = replace(lease, path_mtu=last.path_mtu)  # measuring takes up to three seconds, in which nothing passes
        else:
            source = Source.of(options)
            try:
                lease = await asyncio.get_running_loop().run_in_executor(None, measured, lease, source, self._measure)
            except BaseException:
                if result.socket is not None:
                    result.socket.close()
                raise
        return lease, result.socket, list(lease.warnings) + result.warnings

    def _show(self, records: list[dict[str, object]]) -> None:
        if self._exchange is not None:
            for record in records:
                for line in lines(record):
                    self._exchange(line)


def _same_path(last: Lease, lease: Lease) -> bool:
    def ends(of: Lease) -> tuple[object, ...]:
        return of.local_address, of.grant.outer_address(of.grant.server), of.grant.mode

    return ends(last) == ends(lease)


def same_broker(name: str, lease: Lease) -> bool:
    """Whether the lease is this broker's, or of one to which it redirected."""
    broker = parse_broker(name)
    return any(parse_broker(other) == broker for other in (lease.broker, lease.via) if other)


def to_return_to(config: AgentConfig, lease: Lease) -> tuple[str, ...] | None:
    """Whom to ask when we are told to: the preferred broker, then the one in use; None where that makes no difference."""
    if not config.preferred or same_broker(config.preferred, lease):
        return None
    return tuple(dict.fromkeys((config.preferred, lease.broker, *config.options.brokers)))

# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""What the agent does, when: prove the stored lease, keep the tunnel, ask the broker again when it is lost.

    starting ──► proving (a stored lease) ──► up ──► lost ──► negotiating ──► up …
                     │ no answer                                  │ failed
                     └──────────────► negotiating ◄── waiting ◄───┘

A tunnel that is lost keeps its device, addresses and routes while the broker is asked again, so connections survive when the same
addresses are granted, as brokers do for the same user. A renewal, before the lease ends or when told to, is negotiated beside the
tunnel in use and replaces it only when it is there.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import socket
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any, Protocol, TypeVar

from .._exchange.negotiate import negotiate
from .._exchange.source import Source
from .._module.pathmtu import Measure, measured, path_mtu
from .._tsp.errors import ApplyError, LocalError, NetworkError, RemoteError, TspError
from .._tsp.lease import Lease
from .keepalive import Keepalive, Lost, Ping, interval_for
from .kernel import write_public
from .leases import LeaseFile, Leases
from .settings import AgentConfig
from .tunnel import Tunnel, stored_socket

FIRST_DELAY, LONGEST_DELAY = 1.0, 300.0
"""Seconds before asking again; doubled with each failure. The exchange's own courtesy towards each broker comes on top."""
HOPELESS_DELAY = 300.0
"""Where asking again changes nothing until somebody changes something."""
HOPELESS = frozenset({"auth_failed", "no_common_mechanism", "server_key_unknown", "server_key_changed", "server_not_authentic",
                      "mode_refused", "credentials_missing", "prefix_for_anonymous", "version_unsupported", "tunnel_refused", "no_fou"})
HOUSEKEEPING = 5.0
"""Seconds between looks at the lease file and updates of the status file."""
PROVING_WAIT = 1.5
"""Seconds that a stored lease gets to answer each of its pings."""
SOONEST_RENEWAL = 30.0
"""Seconds after a grant before which it is not renewed."""
UNWATCHED_INTERVAL = 60.0
"""Seconds between pings where the broker wants no keepalive: their result is shown, and nothing follows from it."""
T = TypeVar("T")


class Negotiator(Protocol):
    """The port to the broker."""

    async def negotiate(self, last: Lease | None, source_port: int | None,
                        mode: str | None = None) -> tuple[Lease, socket.socket | None, list[str]]:
        """(lease, the connected UDP socket with v6udpv4, warnings). mode: ask for this one, whatever the request says. Raises TspError."""


class BrokerNegotiator:
    """The real one: the broker that gave the last lease first, then the others. measure: tells the MTU of the path to the broker's end."""

    def __init__(self, config: AgentConfig, log: Callable[[str], None], measure: Measure = path_mtu) -> None:
        self._config = config
        self._log = log
        self._measure = measure

    async def negotiate(self, last: Lease | None, source_port: int | None,
                        mode: str | None = None) -> tuple[Lease, socket.socket | None, list[str]]:
        options = self._config.options
        brokers = options.brokers if last is None else tuple(dict.fromkeys((last.broker, *options.brokers)))
        request = self._config.request
        result = await negotiate(request if mode is None else replace(request, mode=mode),
                                 replace(options, brokers=brokers, source_port=source_port or options.source_port),
                                 keep_socket=True, progress=self._log)
        lease = replace(result.lease, request=request)
        if last is not None and lease.via is None and lease.broker == last.broker:
            lease = replace(lease, via=last.via)  # asked directly this time, but a configured broker had led there
        source = Source.of(self._config.options)
        lease = await asyncio.get_running_loop().run_in_executor(None, measured, lease, source, self._measure)
        return lease, result.socket, list(lease.warnings) + result.warnings


class Agent:
    """One tunnel, kept until `stop`. All times from `now` are monotonic seconds, `wall` gives aware datetimes."""

    def __init__(self, config: AgentConfig, negotiator: Negotiator, make_tunnel: Callable[..., Tunnel], *,
                 leases: Leases | None = None, log: logging.Logger | None = None, jitter: Callable[[], float] = random.random,
                 wall: Callable[[], datetime] = lambda: datetime.now(timezone.utc)) -> None:
        self._config = config
        self._negotiator = negotiator
        self._leases: Leases = leases or LeaseFile(config.lease_file)
        self._log = log or logging.getLogger("tsp-agent")
        self._jitter = jitter
        self._wall = wall
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._stop = asyncio.Event()
        self._again = False
        self._trouble = False
        self._tunnel = make_tunnel(config, on_reply=self._replied, on_trouble=self._troubled)
        self._keepalive: Keepalive | None = None
        self._lease: Lease | None = None
        self._renew_at: datetime | None = None
        self._failures = 0
        self._negotiations = 0
        self._mode: str | None = None
        self._mode_why = ""
        self._seen = (0, 0)
        self._state = ""
        self._since = wall()
        self._error: dict[str, Any] | None = None

    def stop(self) -> None:
        """End cleanly: everything that was set up is taken away again."""
        self._stop.set()
        self._wake.set()

    def renegotiate(self) -> None:
        """Ask the broker again now, beside the tunnel in use."""
        self._again = True
        self._wake.set()

    @property
    def state(self) -> str:
        """starting | proving | negotiating | up | lost | waiting | stopped."""
        return self._state

    @property
    def lease(self) -> Lease | None:
        """The lease in use, or the last one."""
        return self._lease

    async def run(self) -> None:
        """Keep the tunnel until `stop`. Raises LocalError when it cannot even begin (`device_taken`)."""
        self._become("starting")
        if await self._tunnel.recover():
            self._log.warning("an earlier run was killed: what it left was taken away")
        try:
            self._lease = await self._stored()
            use_stored = self._lease is not None
            while not self._stop.is_set():
                try:
                    if use_stored and self._lease is not None:
                        alive = await self._prove(self._lease)
                    else:
                        alive = await self._ask(keep=False)
                    use_stored = False
                    while alive and not self._stop.is_set():
                        alive = await self._watch()
                except TspError as exc:
                    if self._otherwise(exc):
                        continue
                    # What this host refused, it will not refuse less with another lease.
                    use_stored = isinstance(exc, (ApplyError, LocalError)) and self._lease is not None
                    await self._rest(exc)
        finally:
            for command in await self._tunnel.down():
                self._log.info("%s", command)
            self._become("stopped")

    def _otherwise(self, exc: TspError) -> bool:
        """Whether to ask at once for a tunnel of another kind: any would do, and this host cannot make the one that was granted."""
        lease = self._lease
        if exc.code != "tunnel_refused" or lease is None or lease.grant.mode != "v6v4" or self._config.request.mode != "v6anyv4" or \
                self._mode is not None:
            return False
        self._mode = "v6udpv4"
        self._mode_why = f"This host cannot have the v6v4 tunnel that the broker granted: {exc.message}"
        self._log.warning("%s Asking for v6udpv4 instead.", self._mode_why)
        self._lease = None
        return True

    async def _watch(self) -> bool:
        """Keep an established tunnel until something happens, and deal with it; whether there still is a tunnel."""
        what = await self._keep()
        if what == "lost":
            self._become("lost")
            self._error = NetworkError("tunnel_lost", "The broker's end of the tunnel no longer answers.",
                                       "The broker is being asked again.").to_dict()
            self._log.warning("the broker's end does not answer any more; asking the broker again")
            return False
        if what == "changed":
            lease = await self._stored()
            if lease is not None:
                self._log.info("the stored lease was changed by somebody else: using that one")
                self._lease = lease
                return await self._prove(lease)
        elif what == "again":
            try:
                return await self._ask(keep=True)
            except TspError as exc:
                if self._tunnel.numbers is None:
                    raise
                self._failed(exc)
                self._renew_at = self._wall() + timedelta(seconds=self._delay(exc))
                self._become("up")
        return not self._stop.is_set()

    async def _prove(self, lease: Lease) -> bool:
        """Set a stored lease up and see whether the broker's end answers."""
        self._become("proving")
        await self._tunnel.disconnect()
        try:
            sock = stored_socket(self._config, lease) if lease.grant.mode == "v6udpv4" else None
        except NetworkError as exc:
            self._log.info("%s", exc.message)
            return False
        await self._up(lease, sock)
        self._keepalive = Keepalive(PROVING_WAIT, self._loop.time(), self._jitter, wait=PROVING_WAIT)
        self._keepalive.probe(self._loop.time())
        if await self._keep(until_reply=True) != "reply":
            if not self._stop.is_set():
                self._log.info("the stored lease does not answer; asking the broker again")
            return False
        self._established(lease)
        return True

    async def _ask(self, keep: bool) -> bool:
        """Negotiate. keep: the tunnel in use stays until the new one is there. Raises TspError."""
        if not keep or self._config.options.source_port is not None:
            await self._tunnel.disconnect()  # a port of the user's choice is needed for asking, too
        if self._state != "up" or not keep:
            self._become("negotiating")
        # The same port spares a firewall's rules; a second attempt takes another, for a NAT may be stuck with the first.
        port = self._lease.grant.client.udp_port if self._lease is not None and not keep and self._failures == 0 else None
        self._negotiations += 1
        result = await self._unless_stopped(self._negotiator.negotiate(self._lease, port, self._mode))
        if result is None:
            return False
        lease, sock, warnings = result
        for warning in warnings:
            self._log.warning("%s", warning)
        await self._store(lease)
        self._lease = lease
        await self._up(lease, sock)
        self._established(lease)
        return True

    async def _up(self, lease: Lease, sock: socket.socket | None) -> None:
        for command in await self._tunnel.up(lease, sock):
            self._log.info("%s", command)

    def _established(self, lease: Lease) -> None:
        now = self._loop.time()
        interval = interval_for(lease.grant, self._config.keepalive.longest_interval)
        watched = interval is not None
        before = self._keepalive
        self._keepalive = Keepalive(interval or UNWATCHED_INTERVAL, now, self._jitter, misses=3 if watched else 1 << 30)
        if before is not None and before.last_rtt is not None and self._state == "proving":
            self._keepalive.last_rtt, self._keepalive.last_reply = before.last_rtt, before.last_reply
        else:
            self._keepalive.probe(now)  # for the round trip in the status, and to see at once if nothing passes
        self._seen = self._tunnel.traffic()
        self._renew_at = _renewal(lease)
        self._failures = 0
        self._error = None
        self._become("up")
        grant = lease.grant
        self._log.info("up: %s %s from %s, prefix %s, keepalive every %s s, carried by %s: %s", grant.mode,
                       grant.inner_address(grant.client), lease.broker, grant.prefix or "none", f"{interval:g}" if interval else "never",
                       self._tunnel.data_plane, self._tunnel.data_plane_why)

    async def _keep(self, until_reply: bool = False) -> str:
        """Drive the keepalive until: reply (asked for) | lost | again | changed | stop."""
        keepalive = self._keepalive or Keepalive(UNWATCHED_INTERVAL, self._loop.time(), self._jitter)
        while True:
            self._wake.clear()
            now = self._loop.time()
            if self._stop.is_set():
                return "stop"
            if self._tunnel.lost:
                for command in await self._tunnel.down():
                    self._log.info("%s", command)
                raise ApplyError("device_lost", f"Somebody removed the device {self._config.device}.",
                                 "It is being made again. Find out who did it; to end the tunnel, stop the agent.")
            if until_reply and keepalive.last_reply is not None:
                return "reply"
            if not until_reply and (self._again or self._renew_at is not None and self._wall() >= self._renew_at):
                self._again = False
                return "again"
            if not until_reply and self._leases.changed():
                return "changed"
            if self._trouble:
                self._trouble = False
                keepalive.trouble(now)
            self._count(keepalive)
            action = keepalive.handle_timer(now)
            if isinstance(action, Ping):
                self._tunnel.ping(action.sequence)
            elif isinstance(action, Lost):
                return "lost"
            self._write_status()
            due = keepalive.next_timer()
            wait = HOUSEKEEPING if due is None else max(0.0, min(HOUSEKEEPING, due - now))
            try:
                await asyncio.wait_for(self._wake.wait(), wait)
            except asyncio.TimeoutError:
                pass

    def _count(self, keepalive: Keepalive) -> None:
        seen = self._tunnel.traffic()
        if seen[0] != self._seen[0]:
            keepalive.sent()
        if seen[1] != self._seen[1]:
            keepalive.received()
        self._seen = seen

    def _replied(self, sequence: int) -> bool:
        if self._keepalive is None or self._keepalive.reply(sequence, self._loop.time()) is None:
            return False
        self._wake.set()
        return True

    def _troubled(self, exc: OSError) -> None:
        if not self._trouble:
            self._log.debug("the network says: %s", exc.strerror)
            self._trouble = True
            self._wake.set()

    async def _stored(self) -> Lease | None:
        """The lease on disk, when it still answers what we are to ask for."""
        try:
            lease = await self._leases.load()
        except LocalError as exc:
            self._log.warning("%s", exc)
            return None
        if lease is None or not lease.answers(self._config.request, self._config.options.username, self._wall()):
            if lease is not None:
                self._log.info("the stored lease has ended or answers another request")
            return None
        if lease.grant.mode == "v6udpv4" and lease.grant.client.udp_port is None:
            return None
        return lease

    async def _store(self, lease: Lease) -> None:
        try:
            await self._leases.save(lease)
        except LocalError as exc:
            self._log.error("%s", exc)

    def _failed(self, exc: TspError) -> None:
        self._failures += 1
        self._error = exc.to_dict()
        self._log.error("%s", exc)

    async def _rest(self, exc: TspError) -> None:
        """Wait before the next attempt."""
        self._failed(exc)
        delay = self._delay(exc)
        self._become("waiting")
        self._log.info("next attempt in %.1f s", delay)
        until = self._loop.time() + delay
        while not self._stop.is_set() and not self._again and self._loop.time() < until:
            self._wake.clear()
            try:
                await asyncio.wait_for(self._wake.wait(), until - self._loop.time())
            except asyncio.TimeoutError:
                pass
        self._again = False

    def _delay(self, exc: TspError) -> float:
        delay = min(LONGEST_DELAY, FIRST_DELAY * 2.0 ** min(self._failures - 1, 16))
        if exc.code in HOPELESS and isinstance(exc, (RemoteError, LocalError, ApplyError)):
            delay = HOPELESS_DELAY
        delay *= 0.75 + 0.5 * self._jitter()
        return max(delay, float(getattr(exc, "retry_after", 0.0)))

    async def _unless_stopped(self, work: Awaitable[T]) -> T | None:
        """The result of `work`; None when told to stop meanwhile (work is cancelled then)."""
        task = asyncio.ensure_future(work)
        stopping = asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            return None
        finally:
            stopping.cancel()
            if not task.done():
                task.cancel()

    def _become(self, state: str) -> None:
        if state != self._state:
            self._state = state
            self._since = self._wall()
            self._log.debug("state: %s", state)
        self._write_status()

    def _write_status(self) -> None:
        write_public(self._config.runtime_file("status.json"), self.status())

    def status(self) -> dict[str, Any]:
        """The status file: JSON types, no secret. Times are UTC; last_rtt_ms is the keepalive's."""
        lease, keepalive = self._lease, self._keepalive
        summary = None
        if lease is not None:
            data = lease.to_dict()
            summary = {key: data[key] for key in ("broker", "mode", "client", "server", "prefix", "expires_at", "obtained_at", "username")}
        return {
            "schema": 1, "name": self._config.name, "device": self._config.device, "pid": os.getpid(), "state": self._state,
            "since": _iso(self._since), "updated_at": _iso(self._wall()), "lease": summary,
            "mtu": None if self._tunnel.numbers is None else self._tunnel.numbers["mtu"],
            "last_rtt_ms": None if keepalive is None or keepalive.last_rtt is None else round(keepalive.last_rtt * 1000, 3),
            "missed": 0 if keepalive is None else keepalive.missed,
            "data_plane": self._tunnel.data_plane, "data_plane_why": self._tunnel.data_plane_why, "mode_why": self._mode_why,
            "negotiations": self._negotiations, "failures": self._failures, "counters": self._tunnel.counters(),
            "last_error": self._error}


def _renewal(lease: Lease) -> datetime | None:
    """When to ask again: a tenth of the lifetime before its end, at most an hour; never at once, however short it is."""
    if lease.expires_at is None or lease.grant.lifetime is None:
        return None
    before = timedelta(seconds=min(3600.0, lease.grant.lifetime / 10))
    return max(lease.expires_at - before, lease.obtained_at + timedelta(seconds=SOONEST_RENEWAL))


def _iso(value: datetime) -> str:
    return value.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")

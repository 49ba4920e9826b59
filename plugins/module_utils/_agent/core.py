# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""What the agent does, when: prove the stored lease, keep the tunnel, ask the broker again when it is lost.

    starting ──► proving (a stored lease) ──► up ──► lost ──► negotiating ──► up …
                     │ no answer                                  │ failed
                     └──────────────► negotiating ◄── waiting ◄───┤
                                           ▲                      │ the broker refused who we are, several times
                                           └─ told to ─ refused ◄─┘

A tunnel that is lost keeps its device, addresses and routes while the broker is asked again, so connections survive when the same
addresses are granted, as brokers do for the same user. Whatever else is a reason to ask (the lease is to be renewed, the host is
elsewhere, the preferred broker may be back, somebody said so) is negotiated beside the tunnel in use, which goes on meanwhile and is
replaced only when the new one is there.
"""

from __future__ import annotations

import asyncio
import logging
import random
import socket
from collections.abc import Awaitable, Callable
from datetime import datetime, timezone
from typing import Any, TypeVar

from .._exchange.source import own_address
from .._tsp.errors import ApplyError, LocalError, NetworkError, TspError
from .._tsp.lease import Lease
from .beside import Beside
from .brokers import Answer, Negotiator, to_return_to
from .due import RENEW, RETURN, Due
from .foreign import check_ours
from .keepalive import Keepalive, Lost, Ping, behind_nat, interval_for
from .kernel import write_public
from .leases import LeaseFile, Leases
from .logs import NOTICE
from .natprobe import NatProbe, facts, memory_file
from .pace import Pace, stopped
from .roaming import AWAY, MOVED, Roaming, Standstill, Where
from .settings import AgentConfig
from .status import Facts, Status
from .traffic import Traffic
from .tunnel import Tunnel, stored_socket
from .watch import Watch, open_watch

HOUSEKEEPING = 5.0
"""Seconds between looks at the lease file and updates of the status file."""
UNCHANGED = 30.0
"""Seconds after which the status file is written although it says nothing new."""
PROVING_WAIT = 1.5
"""Seconds that a stored lease gets to answer each of its pings."""
UNWATCHED_INTERVAL = 60.0
"""Seconds between pings where the broker wants no keepalive: their result is shown, and nothing follows from it."""
LOST, TOLD, ELSEWHERE, ANSWERED, CHANGED, REPLY, STOP = "lost", "told to", "moved", "answered", "changed", "reply", "stop"
"""Why the keepalive was left; some of them are reasons to ask the broker."""
T = TypeVar("T")


class Agent:
    """One tunnel, kept until `stop`. All times from `now` are monotonic seconds, `wall` gives aware datetimes.

    watch: makes what tells of changes of this host's network (family -> Watch). where: the address from which it sends to another.
    """

    def __init__(self, config: AgentConfig, negotiator: Negotiator, make_tunnel: Callable[..., Tunnel], *,
                 leases: Leases | None = None, log: logging.Logger | None = None, jitter: Callable[[], float] = random.random,
                 wall: Callable[[], datetime] = lambda: datetime.now(timezone.utc), watch: Callable[[int], Watch] = open_watch,
                 where: Where = own_address) -> None:
        self._config = config
        self._negotiator = negotiator
        self._leases: Leases = leases or LeaseFile(config.lease_file)
        self._log = log or logging.getLogger("tsp-agent")
        self._jitter = jitter
        self._wall = wall
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._stop = asyncio.Event()
        self._told = False
        self._moved = False
        self._trouble = False
        self._pace = Pace(config.retry, jitter)
        mode = config.request.mode
        self._open_watch = watch
        self._family = socket.AF_INET6 if mode == "v4v6" else socket.AF_INET
        self._roaming = Roaming(config.options, mode, self._roamed, where)
        self._standstill = Standstill(wall, self._loop.time)
        self._beside: Beside | None = None
        self._probe: NatProbe | None = None
        self._mode: str | None = None
        self._due = Due(config, wall, jitter)
        self._written: tuple[Any, ...] = ()
        self._written_at = 0.0
        self._status = Status(wall())
        self.tunnel = make_tunnel(config, on_reply=self._replied, on_trouble=self._troubled)
        self._traffic = Traffic(self.tunnel)
        self.keepalive: Keepalive | None = None
        self.lease: Lease | None = None
        """The lease in use, or the last one."""
        self.state = ""
        """starting | proving | negotiating | up | lost | waiting | refused | stopped."""
        self.since = wall()
        self.mode_why = ""
        self.negotiations = 0
        self.lost_count = 0
        self.pings_sent = self.pings_answered = 0
        self.last_error: dict[str, Any] | None = None

    @property
    def failures(self) -> int:
        """Attempts in a row that came to nothing."""
        return self._pace.failures

    def stop(self) -> None:
        """End cleanly: everything that was set up is taken away again."""
        self._stop.set()
        self._wake.set()

    def renegotiate(self) -> None:
        """Ask the broker again now, beside the tunnel in use: the preferred one first, where there is one."""
        self._told = True
        self._wake.set()

    async def run(self) -> None:
        """Keep the tunnel until `stop`. Raises LocalError when it cannot even begin (`device_taken`); where nothing is to be tried
        again (`retry.reconnect`), TspError for what ended the tunnel."""
        self._become("starting")
        if await self.tunnel.recover():
            self._log.warning("an earlier run was killed: what it left was taken away")
        self._roaming.begin()
        watching = asyncio.ensure_future(self._roaming.run(self._open_watch(self._family))) if self._config.roaming else None
        try:
            await self._live()
        finally:
            if watching is not None:
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)
            await self._give_up_beside()
            for command in await self.tunnel.down():
                self._log.info("%s", command)
            self._become("stopped")

    async def _live(self) -> None:
        self.lease = await self._stored()
        use_stored = self.lease is not None
        while not self._stop.is_set():
            try:
                if use_stored and self.lease is not None:
                    alive = await self._prove(self.lease)
                else:
                    alive = await self._ask()
                use_stored = False
                while alive and not self._stop.is_set():
                    alive = await self._watch()
            except TspError as exc:
                await self._give_up_beside()
                if self._otherwise(exc):
                    continue
                if not self._config.retry.reconnect:
                    raise
                # What this host refused, it will not refuse less with another lease.
                use_stored = isinstance(exc, (ApplyError, LocalError)) and self.lease is not None
                use_stored = await self._rest(exc) or use_stored

    def _otherwise(self, exc: TspError) -> bool:
        """Whether to ask at once for a tunnel of another kind: any would do, and this host cannot make the one that was granted."""
        lease = self.lease
        if exc.code != "tunnel_refused" or lease is None or lease.grant.mode != "v6v4" or self._config.request.mode != "v6anyv4" or \
                self._mode is not None:
            return False
        self._mode = "v6udpv4"
        self.mode_why = f"This host cannot have the v6v4 tunnel that the broker granted: {exc.message}"
        self._log.warning("%s Asking for v6udpv4 instead.", self.mode_why)
        self.lease = None
        return True

    async def _watch(self) -> bool:
        """Keep an established tunnel until something happens, and deal with it; whether there still is a tunnel."""
        what = await self._keep()
        if what == LOST:
            return await self._lose()
        if what == CHANGED:
            lease = await self._stored()
            if lease is not None:
                self._log.info("the stored lease was changed by somebody else: using that one")
                await self._give_up_beside()
                self._pace.begin_anew()
                self.lease = lease
                return await self._prove(lease)
        elif what == ANSWERED:
            return await self._adopt()
        elif what in (TOLD, RENEW, RETURN, ELSEWHERE):
            await self._ask_beside(what)
        return not self._stop.is_set()

    async def _lose(self) -> bool:
        """The broker's end is silent: nothing of the tunnel is taken away, and the broker is asked again."""
        await self._give_up_beside()
        self.lost_count += 1
        if self._probe is not None:
            self._probe.lost_anyway()
        error = NetworkError("tunnel_lost", "The broker's end of the tunnel no longer answers.", "The broker is being asked again.")
        if not self._config.retry.reconnect:
            error.hint = "The agent ends, since it is told not to reconnect (retry.reconnect)."
            raise error
        self.last_error = error.to_dict()
        self._become("lost")
        self._log.warning("the broker's end does not answer any more; asking the broker again")
        return False

    async def _prove(self, lease: Lease) -> bool:
        """Set a stored lease up and see whether the broker's end answers."""
        self._become("proving")
        await self.tunnel.disconnect()
        try:
            sock = stored_socket(self._config, lease) if lease.grant.mode == "v6udpv4" else None
        except NetworkError as exc:
            self._log.info("%s", exc.message)
            return False
        await self._up(lease, sock)
        self.keepalive = Keepalive(PROVING_WAIT, self._loop.time(), self._jitter, wait=PROVING_WAIT)
        self.keepalive.probe(self._loop.time())
        if await self._keep(until_reply=True) != REPLY:
            if not self._stop.is_set():
                self._log.info("the stored lease does not answer; asking the broker again")
            return False
        self._established(lease)
        return True

    async def _ask(self) -> bool:
        """Negotiate while there is no tunnel that carries anything. Raises TspError."""
        await self.tunnel.disconnect()  # a port of the user's choice is needed for asking, too
        self._become("negotiating")
        while not self._stop.is_set():
            # The same port spares a firewall's rules; a second attempt takes another, for a NAT may be stuck with the first.
            port = self.lease.grant.client.udp_port if self.lease is not None and not self._moved and not self.failures else None
            self._told = False
            result = await self._unless_interrupted(self._negotiation(port))
            if result is not None:
                await self._take(*self._checked(result))
                return True
        return False

    def _negotiation(self, port: int | None = None, brokers: tuple[str, ...] | None = None) -> Awaitable[Answer]:
        """One exchange. What is said only now and then is said by name: a negotiator need not know of it."""
        said: dict[str, Any] = {}
        if self._moved:
            said["moved"] = True
            # Elsewhere another kind of tunnel may pass.
            self._mode, self.mode_why, self._moved = None, "", False
        if brokers is not None:
            said["brokers"] = brokers
        self.negotiations += 1
        return self._negotiator.negotiate(self.lease, port, self._mode, **said)

    async def _ask_beside(self, why: str) -> None:
        """Negotiate while the tunnel in use goes on."""
        lease, options = self.lease, self._config.options
        await self._give_up_beside()
        self._told = False
        if why == TOLD:
            self._pace.begin_anew()
        if why != RETURN:
            self._due.wanted = True
        brokers = (self._config.preferred,) if why == RETURN else to_return_to(self._config, lease) if why == TOLD and lease else None
        if options.source_port is not None and self.tunnel.data_plane in ("tun", "fou"):
            await self.tunnel.disconnect()  # there is but one port, and it is needed for asking
        self._beside = Beside(why, self._negotiation(None, brokers), self._wake)

    async def _adopt(self) -> bool:
        """What was negotiated beside the tunnel is there, or failed; whether there is a tunnel."""
        beside, self._beside = self._beside, None
        if beside is None:
            return True
        if beside.why == RETURN:
            self._due.looked(self._loop.time())
        try:
            result = self._checked(beside.result())
        except TspError as exc:
            if self._config.options.source_port is not None and self.lease is not None and self.tunnel.data_plane in ("tun", "fou"):
                counted = self._pace.failures, self._pace.refusals
                if not await self._prove(self.lease):  # the port is free again
                    return False
                self._pace.failures, self._pace.refusals = counted
            if beside.why == RETURN:
                self._log.info("the preferred broker %s gives no tunnel yet: %s", self._config.preferred, exc.message)
            else:
                self._failed(exc)
                self._due.wanted = True
                self._due.put_off(self._loop.time() + self._pace.delay(exc))
            return True
        await self._take(*result)
        return True

    async def _give_up_beside(self) -> None:
        beside, self._beside = self._beside, None
        if beside is not None:
            await beside.cancel()

    def _checked(self, answer: Answer) -> Answer:
        """The same, when the lease can be ours. Raises RemoteError `foreign_grant`."""
        if self._config.hooks.script_sets_up and self.tunnel.data_plane is None:
            return answer  # what an earlier run's script set up may still be there: the script knows
        try:
            check_ours(answer[0], self.lease)
        except TspError:
            if answer[1] is not None:
                answer[1].close()
            raise
        return answer

    async def _take(self, lease: Lease, sock: socket.socket | None, warnings: list[str]) -> None:
        """A lease was granted: keep it, and make it the tunnel. Raises TspError."""
        for warning in warnings:
            self._log.warning("%s", warning)
        now = lease.grant.inner_address(lease.grant.client)
        before = None if self.lease is None else self.lease.grant.inner_address(self.lease.grant.client)
        if before is not None and before != now:
            self._log.log(NOTICE, "the broker granted other addresses than before: %s instead of %s", now, before)
        await self._store(lease)
        self.lease = lease
        await self._up(lease, sock)
        self._established(lease)

    async def _up(self, lease: Lease, sock: socket.socket | None) -> None:
        for command in await self.tunnel.up(lease, sock):
            self._log.info("%s", command)

    def _established(self, lease: Lease) -> None:
        now, config = self._loop.time(), self._config
        self._roaming.settle(lease)
        nat = behind_nat(lease)
        interval = interval_for(lease.grant, config.keepalive.longest_interval, nat)
        watched = interval is not None
        self._probe = self._nat_probe(lease, nat)
        if self._probe is not None and self._probe.found:
            interval = self._probe.interval or interval
        before = self.keepalive
        self.keepalive = Keepalive(interval or UNWATCHED_INTERVAL, now, self._jitter, config.keepalive.misses if watched else None,
                                   idle_test=self._probe)
        if before is not None and before.last_rtt is not None and self.state == "proving":
            self.keepalive.last_rtt, self.keepalive.last_reply = before.last_rtt, before.last_reply
        else:
            self.keepalive.probe(now)  # for the round trip in the status, and to see at once if nothing passes
        self._traffic.begin(self._probe is not None)
        self._due.begin(lease, now)
        self._pace.succeeded()
        self.last_error = None
        self._become("up")
        grant = lease.grant
        self._log.log(NOTICE, "up: %s %s from %s, prefix %s, keepalive every %s s, carried by %s: %s", grant.mode,
                      grant.inner_address(grant.client), lease.broker, grant.prefix or "none", f"{interval:g}" if interval else "never",
                      self.tunnel.data_plane, self.tunnel.data_plane_why)

    def _nat_probe(self, lease: Lease, nat: bool) -> NatProbe | None:
        config, wish = self._config, lease.grant.keepalive
        if not config.keepalive.probe_nat or not nat or wish is None or not self.tunnel.data_plane:
            return None
        path = memory_file(config.options.state_dir, lease) if config.options.state_dir else None
        before = self._probe
        if before is not None and before.path == path and path is not None:
            return before
        longest = min(float(wish.interval), config.keepalive.longest_interval or float(wish.interval))
        return NatProbe(longest, path, self._nat_found)

    def _nat_found(self, sentence: str) -> None:
        self._log.log(NOTICE, "%s", sentence)
        if self.keepalive is not None and self._probe is not None and self._probe.interval is not None:
            self.keepalive.interval = self._probe.interval

    @property
    def nat(self) -> dict[str, Any] | None:
        """behind: whether there is a NAT before the broker; lifetime: seconds of silence that it forgives, None when not known; said."""
        return facts(self.lease, self._probe)

    async def _keep(self, until_reply: bool = False) -> str:
        """Drive the keepalive until something happens: one of the words above."""
        keepalive = self.keepalive or Keepalive(UNWATCHED_INTERVAL, self._loop.time(), self._jitter)
        while True:
            self._wake.clear()
            now = self._loop.time()
            if self._stop.is_set():
                return STOP
            if self.tunnel.lost:
                for command in await self.tunnel.down():
                    self._log.info("%s", command)
                raise ApplyError("device_lost", f"Somebody removed the device {self._config.device}.",
                                 "It is being made again. Find out who did it; to end the tunnel, stop the agent.")
            self._wake_up(keepalive, now)
            if not until_reply:
                happened = self._happened(now)
            else:
                happened = REPLY if keepalive.last_reply is not None else ELSEWHERE if self._moved else ""
            if happened:
                return happened
            if self._trouble:
                self._trouble = False
                keepalive.trouble(now)
            self._traffic.count(keepalive)
            action = keepalive.handle_timer(now)
            if isinstance(action, Ping):
                self.pings_sent += 1
                self.tunnel.ping(action.sequence)
            elif isinstance(action, Lost):
                return LOST
            self._write_status()
            ping_at = keepalive.next_timer()
            due = now + HOUSEKEEPING if ping_at is None else min(now + HOUSEKEEPING, ping_at)
            if self._due.at is not None and self._beside is None and not self._pace.refused:
                due = min(due, self._due.at)
            await self._sleep(max(0.0, due - now))

    def _wake_up(self, keepalive: Keepalive, now: float) -> None:
        """This host was asleep: the NAT may have forgotten the tunnel, and the lease may have ended."""
        slept = self._standstill.slept()
        if slept:
            self._log.log(NOTICE, "this host was asleep for %.0f s: looking whether the tunnel is still there", slept)
            self._due.slept(slept)
            keepalive.hurry(now)
            if self._config.roaming:
                self._roaming.look()

    def _happened(self, now: float) -> str:
        """What is to be done now besides the keepalive; "" for nothing."""
        if self._beside is not None and self._beside.done:
            return ANSWERED
        if self._told:
            return TOLD
        if self._moved and not self._pace.refused:
            return ELSEWHERE
        if self._leases.changed():
            return CHANGED
        return "" if self._beside is not None or self._pace.refused else self._due.what(self.lease, now)

    def _replied(self, sequence: int) -> bool:
        if self.keepalive is None or self.keepalive.reply(sequence, self._loop.time()) is None:
            return False
        self.pings_answered += 1
        self._traffic.begin(self._probe is not None)
        self._wake.set()
        return True

    def _troubled(self, exc: OSError) -> None:
        if not self._trouble:
            self._log.debug("the network says: %s", exc.strerror)
            self._trouble = True
            self._wake.set()

    def _roamed(self, what: str, sentence: str) -> None:
        """From `roaming`: this host is elsewhere, or cut off, or back."""
        self._log.log(NOTICE, "%s", sentence)
        if what == MOVED or what != AWAY and self.state == "waiting":
            self._moved = True
        elif self.keepalive is not None:
            self.keepalive.hurry(self._loop.time())
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
        again = self.last_error is not None and (self.last_error["code"], self.last_error["message"]) == (exc.code, exc.message)
        self._pace.failed(exc)
        if self._pace.refused:
            exc = stopped(exc, self._pace.refusals)
            again = False
        self.last_error = exc.to_dict()
        if again:
            self._log.info("still the same after %d attempts: %s", self.failures, exc.code)
        else:
            self._log.error("%s", exc)

    async def _rest(self, exc: TspError) -> bool:
        """Wait before the next attempt; whether there is a stored lease of somebody else's by now, to be tried first."""
        self._failed(exc)
        refused = self._pace.refused
        delay = self._pace.delay(exc)
        until = self._loop.time() + delay
        self._become("refused" if refused else "waiting")
        if not refused:
            self._log.info("next attempt in %.1f s", delay)
        changed = False
        while not self._stop.is_set() and not self._told and not changed and (refused or self._loop.time() < until and not self._moved):
            self._wake.clear()
            self._write_status()
            if self._standstill.slept():
                self._moved = True  # what was in the way may be gone
                continue
            await self._sleep(HOUSEKEEPING if refused else max(0.0, min(HOUSEKEEPING, until - self._loop.time())))
            changed = self._leases.changed()
        if self._told or changed or self._moved:
            self._pace.begin_anew()
            self._told = False
        if changed:
            lease = await self._stored()
            self.lease = lease or self.lease
            return lease is not None
        return False

    async def _sleep(self, seconds: float) -> None:
        """Until something wakes us, at most so long."""
        try:
            await asyncio.wait_for(self._wake.wait(), seconds)
        except asyncio.TimeoutError:
            pass

    async def _unless_interrupted(self, work: Awaitable[T]) -> T | None:
        """The result of `work`; None when told to stop meanwhile, or elsewhere (work is cancelled then)."""
        task = asyncio.ensure_future(work)
        try:
            while not task.done() and not self._stop.is_set() and not self._moved:
                self._wake.clear()
                waking = asyncio.ensure_future(self._wake.wait())
                try:
                    await asyncio.wait({task, waking}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    waking.cancel()
            if task.done():
                return task.result()
            return None
        finally:
            if not task.done():
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    def _become(self, state: str) -> None:
        if state != self.state:
            self.state = state
            self.since = self._wall()
            self._log.debug("state: %s", state)
        self._write_status()

    def _write_status(self) -> None:
        """When something is new; what only counts, every few seconds; nothing new, now and then."""
        now, keepalive = self._loop.time(), self.keepalive
        news = (self.state, self.since, self.lease, self.last_error, self.mode_why, self.lost_count, self.negotiations, self.failures,
                self.tunnel.data_plane, self._due.renew_at, keepalive is not None and (keepalive.missed, keepalive.last_rtt is None))
        counts = (self.pings_sent, self.pings_answered, self.tunnel.traffic())
        if (news, counts) == self._written and now < self._written_at + UNCHANGED:
            return
        if self._written and news == self._written[0] and now < self._written_at + HOUSEKEEPING:
            return
        self._written, self._written_at = (news, counts), now
        write_public(self._config.runtime_file("status.json"), self.status())

    def status(self) -> dict[str, Any]:
        """The status file: JSON types, no secret. What it means stands in `status`."""
        keepalive, tunnel, config = self.keepalive, self.tunnel, self._config
        return self._status.build(Facts(
            config.name, tunnel.name, self.state, self.since, self._wall(), self._loop.time(), self.lease, tunnel.numbers,
            tunnel.data_plane, tunnel.data_plane_why, self.mode_why, tunnel.counters(),
            None if keepalive is None else keepalive.last_rtt, 0 if keepalive is None else keepalive.missed,
            None if keepalive is None else keepalive.interval, self.pings_sent, self.pings_answered, self.negotiations, self.failures,
            self.lost_count, self.nat, self._due.renew_at, self.last_error))

# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""Which broker is asked when, over what, in which version of the protocol (tsp-protocol.md sections 1.1, 2, 6, 8)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Callable

from .._tsp.client import ClientConfig, Credentials, TspClient
from .._tsp.errors import LocalError, NetworkError, RemoteError, TspError
from .._tsp.knownkeys import KeyPolicy
from .._tsp.lease import Grant
from .._tsp.request import TunnelRequest
from .attempts import BROKER, STOP, VERSION, Attempt, answer_lost, failure, is_doubtful, next_step
from .backoff import Backoff, TooSoonError, who_asks
from .echo import distances
from .keyfile import key_policy, remember
from .options import Address, Broker, ExchangeOptions, parse_broker
from .others import FEW_SECONDS, GIVE_UP, Others
from .redirect import Visited, by_distance, candidates
from .resolve import check_source, family_of, resolve
from .runtime import Runtime
from .saved import SavedBrokers
from .session import Limits, Outcome, Target, deadline_passed, run_session
from .source import Source
from .transcript import Transcript

VERSIONS = ("2.0.2", "2.0.1", "2.0.0")
OLD_VERSIONS = ("1.0.1", "1.0.0")
"""TCP only, and without v6udpv4 and v4v6 (tsp-protocol.md section 2)."""
WITHOUT_OLD = ("v6udpv4", "v4v6")
MOST_AGAIN = 3
"""How often a session is begun again because answers were lost on the way: some brokers cannot repeat one."""
TURN_MARGIN = 1.0
"""Seconds that must be left for the exchange behind a wait."""


class _GiveUpError(Exception):
    """Nothing else is to be tried; the reason is the last attempt."""


def transports_for(mode: str, wanted: str) -> tuple[str, ...]:
    """In order. Raises LocalError `invalid_option` for v6udpv4 over TCP."""
    if mode == "v6udpv4":
        if wanted == "tcp":
            raise LocalError("invalid_option", "Mode v6udpv4 exists over UDP only, and TCP was asked for.",
                             "Let transport be auto, or use another mode.")
        return ("udp",)
    return ("udp", "tcp") if wanted == "auto" else (wanted,)


def versions_for(transport: str, mode: str, only_old: bool) -> tuple[str, ...]:
    """In order; only_old: the 2.0 versions were all refused over UDP already."""
    old = OLD_VERSIONS if transport == "tcp" and mode not in WITHOUT_OLD else ()
    return old if only_old else VERSIONS + old


class Negotiation:
    """One exchange about one tunnel. Use once."""

    def __init__(self, request: TunnelRequest, options: ExchangeOptions, *, action: str = "create", grant: Grant | None = None,
                 keep_socket: bool = False, progress: Callable[[str], None] | None = None, runtime: Runtime | None = None) -> None:
        """Raises LocalError when the options and the request contradict each other."""
        options.check_credentials()
        self._request, self._options, self._action, self._grant = request, options, action, grant
        self._keep_socket = keep_socket
        self._progress = progress
        self._runtime = runtime or Runtime()
        self._loop = asyncio.get_running_loop()
        self._limits = Limits(self._loop.time() + options.deadline, options.deadline, self._runtime.connect_timeout)
        self._transports = transports_for(request.mode, options.transports)
        self._family = family_of(request.mode)
        check_source(options.source_address, self._family)
        self._secret = None if options.credentials is None else options.credentials.password
        self._visited = Visited()
        self._client_address: Address | None = None
        self._via: str | None = None
        self._left: tuple[Broker, ...] = ()
        """Who could be asked instead of the one that is being asked."""
        self._others = Others(self._family, self._source(), self._runtime.lookup)
        self.attempts: list[Attempt] = []
        self.warnings: list[str] = []
        self.transcript = Transcript(options.transcript, self._loop.time(), self._secret)
        self._saved = SavedBrokers.of(options, self._warn)
        # Taking something back, or asking about it, is never hammering: only asking for tunnels is counted.
        self._backoff = Backoff(options.state_dir if action == "create" else None, who_asks(request, options),
                                min_interval=options.min_interval, wall=self._runtime.wall, jitter=self._runtime.jitter, warn=self._warn,
                                moved=options.moved, longest_delay=options.longest_delay)

    async def run(self) -> Outcome:
        """The session that brought the tunnel. Raises TspError with `attempts` and `transcript`."""
        try:
            outcome = await self._run()
        except _GiveUpError:
            outcome = None
        except TspError as error:
            error.attempts = [attempt.to_dict(self._secret) for attempt in self.attempts]
            error.transcript = self.transcript.records
            raise
        finally:
            await self._others.close()
        if outcome is None:
            told = failure(self.attempts, self._secret)
            told.transcript = self.transcript.records
            raise told
        return outcome

    async def _run(self) -> Outcome | None:
        options = self._options
        last = self._saved.last_server() if options.always_use_same_server else None
        brokers = [last] if last is not None else list(options.broker_list)
        if not brokers:
            raise LocalError("invalid_option", "brokers: no broker was named.", "Name at least one.")
        if options.choose == "nearest" and len(brokers) > 1:
            brokers = await self._nearest_first(brokers, [broker for broker in brokers if not self._backoff.failing(broker)])
        # who failed lately comes after who did not; a stable sort keeps the order otherwise
        outcome = await self._visit_each(sorted(brokers, key=self._backoff.failing), 0)
        if outcome is None and last is None:
            saved = [broker for broker in self._saved.broker_list(brokers) if not self._visited.known(broker)]
            outcome = await self._visit_each(saved, 0, "trying it, it stands in the saved broker list")
        return outcome

    async def _visit_each(self, brokers: Sequence[Broker], hops: int, why: str = "") -> Outcome | None:
        """One after the other until one is as it should be, those that are known to be silent last."""
        before, left = self._left, list(brokers)
        while left:
            broker = self._others.pick(left)
            left.remove(broker)
            self._left = tuple(other for other in left if not self._visited.known(other) and not self._backoff.failing(other))
            if why:
                self._say(f"{broker}: {why}")
            outcome = await self._visit(broker, hops)
            if outcome is not None:
                return outcome
        self._left = before
        return None

    async def _nearest_first(self, brokers: Sequence[Broker], asked: Sequence[Broker]) -> list[Broker]:
        timeout = min(self._runtime.echo_timeout, max(0.0, self._remaining()))
        return by_distance(brokers, await distances(asked, self._family, self._source(), timeout, self._runtime.lookup,
                                                    self._runtime.echo_grace))

    async def _visit(self, broker: Broker, hops: int) -> Outcome | None:
        """Everything that can be tried with one broker. None: go on with another one. Raises _GiveUpError, LocalError."""
        if not self._visited.enter(broker):
            return None
        first = len(self.attempts)
        try:
            await self._wait_turn(broker)
            addresses = await resolve(broker, self._family, self._remaining(), self._runtime.lookup)
        except NetworkError as error:
            self._note(Attempt(broker, "failed", error))
            if not isinstance(error, TooSoonError):
                self._backoff.failed(broker, error.code)
            return None
        only_old = False
        for address in addresses:
            if not self._visited.enter_address(broker, address):
                self._note(Attempt(broker, "failed", NetworkError(
                    "already_asked", f"It is {address}, which had been asked already under another name.", "Name another broker.")))
                continue
            for transport in self._transports:
                versions = versions_for(transport, self._request.mode, only_old)
                if not versions:
                    continue
                outcome = await self._speak(Target(broker, address, transport), versions)
                if outcome.error is None:
                    self._backoff.succeeded(broker)
                    return await self._follow(outcome, hops + 1) if outcome.redirected is not None else outcome
                step = next_step(outcome.error)
                only_old = only_old or (step == VERSION and transport == "udp")
                if step in (BROKER, STOP):
                    self._count(broker, first)
                    if step == STOP:
                        raise _GiveUpError
                    return None
        self._count(broker, first)
        return None

    def _count(self, broker: Broker, first: int) -> None:
        """Remember that `broker` failed, unless it was our own fault or our own deadline before it was spoken to."""
        failed = [attempt for attempt in self.attempts[first:] if attempt.broker == broker and attempt.error is not None
                  and attempt.transport is not None and not isinstance(attempt.error, LocalError)]
        if failed and failed[-1].error is not None:
            self._backoff.failed(broker, failed[-1].error.code)

    async def _follow(self, outcome: Outcome, hops: int) -> Outcome | None:
        """Go where a redirect leads, nearest first."""
        if outcome.redirected is None:
            raise AssertionError
        try:
            brokers = candidates(outcome.redirected, self._visited, hops)
        except RemoteError as error:
            self._note(Attempt(outcome.target.broker, "failed", error, outcome.target.label, outcome.target.peer, outcome.version))
            return None
        if len(brokers) > 1:
            self._say(f"{outcome.target}: redirected to {len(brokers)} brokers, measuring which is nearest")
            brokers = await self._nearest_first(brokers, brokers)
            via, origin = self.led_by(outcome.target.broker), outcome.target.broker
            self._saved.save_broker_list(brokers, origin if via is None else parse_broker(via))
        before, self._via = self._via, Attempt.of(outcome).where
        found = await self._visit_each(brokers, hops, f"trying it, {outcome.target} redirected there")
        if found is None:
            self._via = before
        return found

    async def _speak(self, target: Target, versions: tuple[str, ...]) -> Outcome:
        """One transport to one address, in one version after the other as long as the broker says 302."""
        outcome: Outcome | None = None
        again = MOST_AGAIN
        left = list(versions)
        while left:
            version = left.pop(0)
            key = key_policy(target.broker.server, self._options)
            asked = f"asking for {self._request.mode}" if self._action == "create" else f"asking to {self._action} the tunnel"
            self._say(f"{target}: {asked}" + ("" if version == VERSIONS[0] else f" in version {version}"))
            outcome = await self._session(target, version, key)
            if self._client_address is None or (self._client_address.is_loopback and not target.address.is_loopback):
                self._client_address = outcome.local_address
            begins_again = again > 0 and outcome.repeated and isinstance(outcome.error, RemoteError)
            if outcome.error is not None and is_doubtful(outcome, begins_again=begins_again):
                outcome.error = answer_lost(outcome.error)
            self._note(Attempt.of(outcome))
            if outcome.auth_method:
                remember(key, self._options.known_keys_file, self._warn)
            if begins_again:
                again -= 1
                left.insert(0, version)
                self._say(f"{target}: an answer was lost on the way, beginning again")
            elif outcome.error is None or next_step(outcome.error) != VERSION:
                break
        if outcome is None:
            raise AssertionError
        return outcome

    async def _session(self, target: Target, version: str, key: KeyPolicy) -> Outcome:
        """One session, left early where the broker is silent and others are not."""
        heard = asyncio.Event()
        session = asyncio.ensure_future(run_session(
            target, version, self._client_maker(target, version, key), source=self._source(),
            limits=replace(self._share(target), heard=heard),
            recorder=self.transcript.session(target.label, target.peer), keep_socket=self._keep_socket))
        patience = None if not self._left or target.broker in self._others.silent else asyncio.ensure_future(
            self._others.given_up(target.broker, heard, self._left))
        began = self._loop.time()
        try:
            await asyncio.wait({session} if patience is None else {session, patience}, return_when=asyncio.FIRST_COMPLETED)
            if session.done():
                return session.result()
            return Outcome(target, version, NetworkError(
                "no_answer", f"The broker did not answer within {GIVE_UP:g} s, and others do.",
                "Check that the broker runs, and that packets to it are let through both ways."), seconds=self._loop.time() - began)
        finally:
            for task in (session, patience):
                if task is not None and not task.done():
                    task.cancel()
                    await asyncio.gather(task, return_exceptions=True)

    def _share(self, target: Target) -> Limits:
        """What is left of the time; half of it where another transport could still be tried (silence costs up to 66 s)."""
        now = self._loop.time()
        if target.broker in self._others.silent:
            return replace(self._limits, connect=FEW_SECONDS, until=now + FEW_SECONDS + GIVE_UP)
        if target.transport == self._transports[-1]:
            return self._limits
        return replace(self._limits, until=now + (self._limits.deadline - now) / 2)

    def _client_maker(self, target: Target, version: str, key: KeyPolicy) -> Callable[[Address], TspClient]:
        options = self._options
        # `any` passes PASSDSS by where it could only fail; who asks for PASSDSS by name is told the unknown key's fingerprint
        judge = key if key.may_accept or options.auth_method != "any" else None

        def make(local_address: Address) -> TspClient:
            kept = self._client_address
            if kept is None or kept.version != local_address.version or (kept.is_loopback and not target.address.is_loopback):
                kept = local_address
            return TspClient(ClientConfig(
                transport=target.transport, server=target.broker.server, request=self._request, local_address=kept,
                rng=self._runtime.rng, version=version, action=self._action, grant=self._grant, auth_method=options.auth_method,
                credentials=options.credentials or Credentials(), allow_plaintext=options.allow_plaintext, verify_key=judge,
                peer_is_loopback=target.address.is_loopback, strict=options.strict, rudp=self._runtime.rudp,
                reply_timeout=self._runtime.reply_timeout))

        return make

    async def _wait_turn(self, broker: Broker) -> None:
        """Wait until `broker` may be asked. Raises TooSoonError when that is too late."""
        wait, why = self._backoff.wait(broker)
        if wait <= 0:
            return
        if wait + TURN_MARGIN > self._remaining():
            raise TooSoonError("too_soon", f"It is not to be asked again for {wait:.0f} s: {why}.",
                               "Try again later, or give a deadline long enough to wait.", wait)
        self._say(f"{broker}: waiting {wait:.1f} s, because {why}")
        await self._runtime.sleep(wait)

    def _source(self) -> Source:
        return Source.of(self._options)

    def _remaining(self) -> float:
        remaining = self._limits.deadline - self._loop.time()
        if remaining <= 0:
            self._note_deadline()
            raise _GiveUpError
        return remaining

    def _note_deadline(self) -> None:
        if not any(attempt.error is not None and attempt.error.code == "deadline" for attempt in self.attempts):
            brokers = self._options.broker_list
            if brokers:
                self._note(Attempt(brokers[0], "failed", deadline_passed(self._limits.total)))

    def _note(self, attempt: Attempt) -> None:
        attempt = replace(attempt, via=self._via)
        self.attempts.append(attempt)
        if attempt.error is not None:
            self._say(f"{attempt.where}: {attempt.error.message}")

    def led_by(self, broker: Broker) -> str | None:
        """The configured broker that led to `broker`, by a redirect now or (the saved lists) earlier; None when it is one itself."""
        configured = self._options.broker_list
        if broker in configured or not configured:
            return None
        redirected = [attempt.broker for attempt in self.attempts if attempt.result == "redirected" and attempt.broker in configured]
        return (redirected[-1] if redirected else configured[0]).server

    def save_last_server(self, outcome: Outcome) -> None:
        """After a tunnel was granted: the broker that always_use_same_server means from now on."""
        self._saved.save_last_server(outcome.target.broker)

    def _warn(self, sentence: str) -> None:
        if sentence not in self.warnings:
            self.warnings.append(sentence)
            self._say(sentence)

    def _say(self, sentence: str) -> None:
        if self._progress is not None:
            self._progress(sentence)

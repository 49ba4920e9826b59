# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause
"""The agent as a service: locks, log, the two processes, one loop for all tunnels, signals, and an end that leaves nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence

from .._apply.plan import Probe
from .._exchange.options import Address
from .._exchange.source import Source
from .._module.pathmtu import path_mtu
from .._tsp.errors import LocalError, TspError
from .._tsp.lease import Lease
from . import logs, processes
from .applier.host import HostApplier, private_folder
from .applier.local import LocalApplier
from .applier.port import Applier
from .applier.remote import Channel, RemoteApplier
from .core import Agent, BrokerNegotiator
from .daemon import Lock, Starter
from .drops import Drops
from .hooks import run as run_hook
from .kernel import HostKernel
from .leases import LeaseFile
from .metrics import Metrics
from .settings import AgentConfig
from .tunnel import Tunnel

PROGRAM = logs.PROGRAM
SETTLE, SETTLED, LONGEST_SETTLE = 1.0, 5.0, 300.0
"""Seconds between two looks at whether radvd knows of the lease: until it does, afterwards, and at most when it cannot be told."""
LOOK = 10.0
"""Seconds between two looks at what was dropped."""


def host_applier(config: AgentConfig, log: logging.Logger) -> HostApplier:
    """The part that changes this host, for one tunnel."""
    return HostApplier(config, HostKernel(), logs.of(log, config.name), hook=run_hook, advertise=_advertise)


def serve(configs: Sequence[AgentConfig], starter: Starter, foreground: bool) -> int:
    """Keep these tunnels until SIGTERM. Returns the exit code; what went wrong is in the log, and told to who started us."""
    log = logging.getLogger(PROGRAM)
    try:
        return _serve(configs, starter, foreground)
    except TspError as exc:
        if not starter.heard and not starter.failed(f"{PROGRAM}: {exc}"):
            _say(log, exc)
        return 1
    except Exception as exc:
        log.exception("a defect of the agent")
        starter.failed(f"{PROGRAM}: a defect of the agent: {type(exc).__name__}: {exc}")
        return 1
    finally:
        logs.close(log)


def _serve(configs: Sequence[AgentConfig], starter: Starter, foreground: bool) -> int:
    user = processes.user_of(configs)
    log = logging.getLogger(PROGRAM)
    child, sock, held_all = 0, None, False
    try:
        with contextlib.ExitStack() as held:
            for config in configs:
                held.enter_context(Lock(config.runtime_file("pid"), _uid(user)))
                held.callback(_remove, config, "status.json", "status.json.new")
            held_all = True
            log = _log(configs, foreground)
            if user:
                sock, child = processes.split(configs, host_applier, user, log, starter.leave_it)
            elif not processes.may_change_the_host():
                sock = processes.await_applier(configs)
            else:
                for config in configs:
                    private_folder(config)
            code = asyncio.run(_run(configs, sock, starter, log))
            if code == 0 and not foreground:
                _forget_log(configs)
        return code
    finally:
        if sock is not None:
            sock.close()
        if child:
            processes.ended(child, log)
        elif held_all:
            for config in configs:
                processes.tidy(config)


def apply(configs: Sequence[AgentConfig]) -> int:
    """Be the part that changes the host for an agent without rights (--apply). Returns the exit code."""
    log = _log(configs, True)
    try:
        processes.apply_for(configs, host_applier, log)
        return 0
    except TspError as exc:
        log.error("%s", exc)
        return 1
    finally:
        logs.close(log)


def _log(configs: Sequence[AgentConfig], foreground: bool) -> logging.Logger:
    secrets = [config.options.credentials.password for config in configs if config.options.credentials is not None]
    log = logs.set_up(configs[0], foreground, [secret for secret in secrets if secret], several=len(configs) > 1)
    for config in configs:
        for warning in config.warnings:
            logs.of(log, config.name).warning("%s", warning)
    return log


def _forget_log(configs: Sequence[AgentConfig]) -> None:
    """The log of an agent in the background that ended as it should, or whose end was told to who started it."""
    for config in configs:
        _remove(config, "log", "log.1")


def _say(log: logging.Logger, exc: TspError) -> None:
    """To the log where there is one already, else to stderr."""
    if log.handlers:
        log.error("%s", exc)
    else:
        sys.stderr.write(f"{PROGRAM}: {exc}\n")


async def _run(configs: Sequence[AgentConfig], sock: socket.socket | None, starter: Starter, log: logging.Logger) -> int:
    loop = asyncio.get_running_loop()
    agents: list[Agent] = []
    appliers: list[Applier] = []
    gone = asyncio.Event()

    def lost() -> None:
        gone.set()
        for agent in agents:
            agent.stop()

    metrics = Metrics(configs, lambda: [agent.status() for agent in agents])
    channel = None if sock is None else Channel(sock, lost, log)
    for config in configs:
        applier: Applier = LocalApplier(host_applier(config, log)) if channel is None else RemoteApplier(channel, config.name)
        appliers.append(applier)
        measure = functools.partial(_path_mtu, applier, loop) if channel is not None else path_mtu
        one = logs.of(log, config.name)
        negotiator = BrokerNegotiator(config, one.info, measure, logs.exchange(one))
        agents.append(Agent(config, negotiator, functools.partial(Tunnel, applier=applier),
                            leases=AppliedLeases(applier, config.lease_file), log=one))
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _each, agents, "stop")
    loop.add_signal_handler(signal.SIGHUP, _each, agents, "renegotiate")
    beside = [asyncio.ensure_future(_keep_advertised(agent, applier, logs.of(log, config.name)))
              for config, agent, applier in zip(configs, agents, appliers) if config.radvd is not None]
    beside.append(asyncio.ensure_future(_tell_drops(configs, agents, log)))
    await metrics.start()
    running = [asyncio.ensure_future(agent.run()) for agent in agents]
    try:
        while any(agent.state in ("", "starting") and not task.done() for agent, task in zip(agents, running)):
            await asyncio.sleep(0.01)
        failed = [task.exception() for task in running if task.done() and task.exception() is not None]
        if len(failed) == len(running) and failed[0] is not None:
            if starter.failed(f"{PROGRAM}: {failed[0]}"):
                _forget_log(configs)
            raise failed[0]
        for config, task in zip(configs, running):
            task.add_done_callback(functools.partial(_tell_end, logs.of(log, config.name)))
        if channel is not None:
            for lack in processes.confined(configs):
                log.debug("%s", lack)
        starter.ready()
        done = await asyncio.gather(*running, return_exceptions=True)
    finally:
        for work in beside:
            work.cancel()
        for agent, task in zip(agents, running):
            if not task.done():
                agent.stop()
        await asyncio.gather(*running, return_exceptions=True)
        await metrics.stop()
        if channel is not None:
            channel.let_go()
    code = 1 if any(isinstance(result, BaseException) for result in done) else 0
    if gone.is_set():
        log.error("the part of the agent that changes the host has ended")
        code = 1
    log.info("ended")
    return code


def _tell_end(log: logging.Logger, task: asyncio.Future[None]) -> None:
    """One of several tunnels came to its end; the others go on."""
    exc = None if task.cancelled() else task.exception()
    if isinstance(exc, TspError):
        log.error("%s", exc)
    elif exc is not None:
        log.error("a defect of the agent", exc_info=exc)


class AppliedLeases(LeaseFile):
    """The lease file, read and written by the part that may; whether it changed, everybody can see."""

    def __init__(self, applier: Applier, path: str) -> None:
        super().__init__(path)
        self._applier = applier

    async def load(self) -> Lease | None:
        self.note()
        return await self._applier.load()

    async def save(self, lease: Lease) -> None:
        try:
            await self._applier.save(lease)
        finally:
            self.note()


async def _keep_advertised(agent: Agent, applier: Applier, log: logging.Logger) -> None:
    """Tell radvd of each lease of a tunnel that is up. A run of a role that is at work on this host goes first."""
    told: Lease | None = None
    wait = SETTLE
    while True:
        lease = agent.lease
        if lease is not None and agent.state == "up" and (told is None or lease.grant.prefix != told.grant.prefix):
            try:
                await applier.advertise(lease)
                told, wait = lease, SETTLED
            except TspError as exc:
                (log.debug if exc.code == "busy" else log.warning)("radvd does not know of this lease yet: %s", exc)
                wait = min(wait * 2, LONGEST_SETTLE)
        await asyncio.sleep(wait)


async def _tell_drops(configs: Sequence[AgentConfig], agents: Sequence[Agent], log: logging.Logger) -> None:
    """Have the log tell what came from outside and was dropped, and how often counted messages came."""
    drops = [Drops(logs.of(log, config.name)) for config in configs]
    while True:
        await asyncio.sleep(LOOK)
        for drop, agent in zip(drops, agents):
            drop.look(agent.status().get("counters") or {})
        logs.flush(log)


def _path_mtu(applier: Applier, loop: asyncio.AbstractEventLoop, peer: Address, source: Source) -> int | None:
    """path_mtu with a socket of the part that may open one; called in a thread of its own."""

    def open_echo(probe: Probe) -> socket.socket:
        work = asyncio.run_coroutine_threadsafe(applier.echo_socket(probe.address), loop)
        try:
            sock = work.result(10)
        except (TspError, TimeoutError) as exc:
            raise OSError(0, str(exc)) from None
        if sock is None:
            raise OSError(0, "there is none")
        return sock

    return path_mtu(peer, source, open_echo)


def _advertise(config: AgentConfig, lease: Lease, log: logging.Logger) -> None:
    from .advertise import advertise

    advertise(config, lease, log)


def _each(agents: Sequence[Agent], verb: str) -> None:
    for agent in agents:
        getattr(agent, verb)()


def _uid(user: str) -> int:
    if not user:
        return 0
    import pwd

    try:
        return pwd.getpwuid(int(user)).pw_uid if user.isdigit() else pwd.getpwnam(user).pw_uid
    except KeyError:
        raise LocalError("cannot_drop", f"There is no user {user}, whom the agent is to become.",
                         "Name another `user`, or root to keep all rights.") from None


def _remove(config: AgentConfig, *suffixes: str) -> None:
    for suffix in suffixes:
        with contextlib.suppress(OSError):
            os.unlink(config.runtime_file(suffix))

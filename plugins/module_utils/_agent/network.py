# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause
"""The part of the agent that reads the network: one loop for all tunnels of a process, signals, and what goes on beside the tunnels."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import logging
import signal
import socket
from collections.abc import Callable, Sequence

from .._apply.plan import Probe
from .._exchange.options import Address
from .._exchange.source import Source
from .._module.pathmtu import path_mtu
from .._tsp.errors import TspError
from .._tsp.lease import Lease
from . import logs, processes
from .applier.host import HostApplier
from .applier.local import LocalApplier
from .applier.port import Applier
from .applier.remote import Channel, RemoteApplier
from .brokers import BrokerNegotiator
from .core import Agent
from .daemon import Starter, forget_log
from .drops import Drops
from .leases import LeaseFile
from .metrics import Metrics
from .settings import AgentConfig
from .tunnel import Tunnel

PROGRAM = logs.PROGRAM
SETTLE, SETTLED, LONGEST_SETTLE = 1.0, 5.0, 300.0
"""Seconds between two looks at whether radvd knows of the lease: until it does, afterwards, and at most when it cannot be told."""
LOOK = 10.0
"""Seconds between two looks at what was dropped."""
ECHO_PATIENCE = 10.0
"""Seconds for a socket from the part that may open one."""


def run(configs: Sequence[AgentConfig], sock: socket.socket | None, starter: Starter, log: logging.Logger,
        host_applier: Callable[[AgentConfig, logging.Logger], HostApplier]) -> int:
    """Keep these tunnels until a signal. sock: the connection to the part that changes the host; None: host_applier makes ours. Returns the
    exit code. Raises TspError when no tunnel can even begin."""
    return asyncio.run(_run(configs, sock, starter, log, host_applier))


async def _run(configs: Sequence[AgentConfig], sock: socket.socket | None, starter: Starter, log: logging.Logger,
               host_applier: Callable[[AgentConfig, logging.Logger], HostApplier]) -> int:
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
                forget_log(configs)
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
            except Exception:
                log.exception("a defect of the agent: radvd is not told of other prefixes any more")
                return
        await asyncio.sleep(wait)


async def _tell_drops(configs: Sequence[AgentConfig], agents: Sequence[Agent], log: logging.Logger) -> None:
    """Have the log tell what came from outside and was dropped, and how often counted messages came."""
    drops = [Drops(logs.of(log, config.name)) for config in configs]
    while True:
        await asyncio.sleep(LOOK)
        for drop, agent in zip(drops, agents):
            drop.look(agent.tunnel.counters())
        logs.flush(log)


def _path_mtu(applier: Applier, loop: asyncio.AbstractEventLoop, peer: Address, source: Source) -> int | None:
    """path_mtu with a socket of the part that may open one; called in a thread of its own."""

    def open_echo(probe: Probe) -> socket.socket:
        work = asyncio.run_coroutine_threadsafe(applier.echo_socket(probe.address), loop)
        try:
            sock = work.result(ECHO_PATIENCE)
        except concurrent.futures.TimeoutError:  # before Python 3.11 a class of its own
            work.cancel()
            raise OSError(0, "it took too long") from None
        except TspError as exc:
            raise OSError(0, str(exc)) from None
        if sock is None:
            raise OSError(0, "there is none")
        return sock

    return path_mtu(peer, source, open_echo)


def _each(agents: Sequence[Agent], verb: str) -> None:
    for agent in agents:
        getattr(agent, verb)()

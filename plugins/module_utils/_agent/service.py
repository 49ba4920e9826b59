# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause
"""The agent as a service: locks, log, the two processes, and an end that leaves nothing behind. What reads the network is `network`: it is
loaded where it runs, and not in the part that changes the host."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Sequence

from .._tsp.errors import LocalError, TspError
from .._tsp.lease import Lease
from . import logs, processes
from .applier.host import HostApplier, private_folder
from .daemon import Lock, Starter, forget_log, remove
from .kernel import HostKernel
from .lean import load_network
from .settings import AgentConfig

PROGRAM = logs.PROGRAM


def host_applier(config: AgentConfig, log: logging.Logger) -> HostApplier:
    """The part that changes this host, for one tunnel."""
    return HostApplier(config, HostKernel(), logs.of(log, config.name), hook=_hook, advertise=_advertise)


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
                held.callback(remove, config, "status.json", "status.json.new")
            held_all = True
            log = _log(configs, foreground)
            if user:
                sock, child = processes.split(configs, host_applier, user, log, starter.leave_it, load_network)
            elif not processes.may_change_the_host():
                sock = processes.await_applier(configs)
            else:
                for config in configs:
                    private_folder(config)
            load_network()
            from . import network

            code = network.run(configs, sock, starter, log, host_applier)
            if code == 0 and not foreground:
                forget_log(configs)
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


def _say(log: logging.Logger, exc: TspError) -> None:
    """To the log where there is one already, else to stderr."""
    if log.handlers:
        log.error("%s", exc)
    else:
        sys.stderr.write(f"{PROGRAM}: {exc}\n")


def _hook(config: AgentConfig, lease: Lease, operation: str, log: logging.Logger) -> None:
    from .hooks import run

    run(config, lease, operation, log)


def _advertise(config: AgentConfig, lease: Lease, log: logging.Logger) -> None:
    from .advertise import advertise

    advertise(config, lease, log)


def _uid(user: str) -> int:
    if not user:
        return 0
    import pwd

    try:
        return pwd.getpwuid(int(user)).pw_uid if user.isdigit() else pwd.getpwnam(user).pw_uid
    except KeyError:
        raise LocalError("cannot_drop", f"There is no user {user}, whom the agent is to become.",
                         "Name another `user`, or root to keep all rights.") from None

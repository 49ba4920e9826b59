# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""The program tsp-agent: keeps this host's tunnel. Exit codes: 0 ended as told, 1 an error that is explained, 2 wrong usage."""

from __future__ import annotations

import argparse
import json
import logging
import logging.handlers
import os
import shutil
import sys
from collections.abc import Sequence

from .._module import leasestore
from .._tsp.errors import LocalError, TspError
from . import config as configuration
from . import service
from .daemon import Starter, into_background
from .settings import AgentConfig
from .tun import CLONE

PROGRAM = "tsp-agent"
LOG_SIZE = 1 << 20


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit code."""
    parser = argparse.ArgumentParser(prog=PROGRAM, description="Keep this host's tunnel to a tunnel broker (RFC 5572).",
                                     epilog="SIGTERM ends it and takes the tunnel away; SIGHUP asks the broker again.")
    parser.add_argument("--config", required=True, metavar="FILE", help="configuration, JSON")
    parser.add_argument("--foreground", action="store_true", help="stay in the foreground and log to stderr (for systemd)")
    parser.add_argument("--apply", action="store_true", help="be the part that changes the host, for an agent without rights (for systemd)")
    parser.add_argument("--once-check", action="store_true",
                        help="check the configuration, the stored lease and what this host offers; print it as JSON; change nothing")
    arguments = parser.parse_args(argv)
    try:
        config = configuration.load(os.path.abspath(arguments.config))
        if arguments.once_check:
            return _check(config)
        # A wrong start is told to who typed it, before anything forks.
        starter = Starter() if arguments.foreground or arguments.apply else into_background()
    except TspError as exc:
        sys.stderr.write(f"{PROGRAM}: {exc}\n")
        return 1
    log = logging.getLogger(PROGRAM)
    try:
        _set_up_log(log, config, arguments.foreground)
        if arguments.apply:
            return service.apply([config], log)
        return service.serve([config], starter, log)
    except TspError as exc:
        log.error("%s", exc)
        starter.failed(f"{PROGRAM}: {exc}")
        return 1
    except Exception as exc:
        log.exception("a defect of the agent")
        starter.failed(f"{PROGRAM}: a defect of the agent: {type(exc).__name__}: {exc}")
        return 1


def _set_up_log(log: logging.Logger, config: AgentConfig, foreground: bool) -> None:
    handler: logging.Handler
    if foreground:
        handler = logging.StreamHandler(sys.stderr)
        form = "%(levelname)s: %(message)s"
    else:
        handler = logging.handlers.RotatingFileHandler(config.runtime_file("log"), maxBytes=LOG_SIZE, backupCount=1, encoding="utf-8")
        form = "%(asctime)s %(levelname)s: %(message)s"
    handler.setFormatter(logging.Formatter(form))
    log.addHandler(handler)
    log.setLevel(config.log_level.upper())
    log.propagate = False


def _check(config: AgentConfig) -> int:
    """What --once-check prints: problems is empty when the agent could start."""
    problems = []
    lease = None
    try:
        lease = leasestore.load(config.lease_file)
    except LocalError as exc:
        problems.append(str(exc))
    if not os.path.exists(CLONE):
        problems.append(f"{CLONE} is missing: v6udpv4 needs the kernel module tun.")
    if shutil.which("ip", path="/usr/sbin:/usr/bin:/sbin:/bin") is None:
        problems.append("The command ip is missing: install iproute2.")
    if os.geteuid() != 0:
        problems.append("Not root: the tunnel's device cannot be made.")
    found = {"name": config.name, "device": config.device, "brokers": list(config.options.brokers),
             "lease": None if lease is None else lease.to_dict(), "problems": problems}
    sys.stdout.write(json.dumps(found, indent=1) + "\n")
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main())

# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""Service managers of the BSDs and macOS, as one table of commands, each with the manual page that it is from.

One name for all of them, which is a word of the shell as well: of tsp-agent-home.service it is tsp_agent_home. Its file (a script of
rc.d, a property list) is one of the transaction's files; where rc.conf(5) decides what is started at boot, that file has its default.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass

from .._tsp.errors import ApplyError
from .plan import Service
from .runner import Completed, Runner
from .service import ServiceState

Argv = tuple[str, ...]
POLL = 0.1


@dataclass(frozen=True)
class Commands:
    """{} in a word is the service's name. check: 0 when it runs. enabled: 0 when it is started at boot; None where a file decides
    that."""

    system: str
    check: Argv
    start: Argv
    stop: Argv
    reload: Argv
    enabled: Argv | None = None
    enable: Argv | None = None
    disable: Argv | None = None
    pages: str = ""


COMMANDS = {
    "rc_subr": Commands("freebsd", ("service", "{}", "onestatus"), ("service", "{}", "onestart"), ("service", "{}", "onestop"),
                        ("service", "{}", "onereload"), pages="FreeBSD service(8), rc(8), rc.subr(8), rc.conf(5)"),
    "rcctl": Commands("openbsd", ("rcctl", "check", "{}"), ("rcctl", "-f", "start", "{}"), ("rcctl", "stop", "{}"),
                      ("rcctl", "reload", "{}"), ("rcctl", "get", "{}", "status"), ("rcctl", "enable", "{}"), ("rcctl", "disable", "{}"),
                      pages="OpenBSD rcctl(8), rc.d(8), rc.subr(8)"),
    "rc_d": Commands("netbsd", ("/etc/rc.d/{}", "onestatus"), ("/etc/rc.d/{}", "onestart"), ("/etc/rc.d/{}", "onestop"),
                     ("/etc/rc.d/{}", "onereload"), pages="NetBSD rc(8), rc.subr(8), rc.conf(5)"),
    "launchd": Commands("darwin", ("launchctl", "print", "system/{}"),
                        ("launchctl", "bootstrap", "system", "/Library/LaunchDaemons/{}.plist"), ("launchctl", "bootout", "system/{}"),
                        ("launchctl", "kill", "SIGHUP", "system/{}"), pages="macOS launchctl(1), launchd.plist(5)"),
}


def kind_here(platform: str = sys.platform) -> str | None:
    """The manager of this system, None where it is none of these."""
    return next((kind for kind, row in COMMANDS.items() if platform.startswith(row.system)), None)


class ByCommands:
    """The contract of `service.Manager` by a row of the table."""

    def __init__(self, kind: str, service: Service, runner: Runner) -> None:
        self.kind = kind
        self.name = re.sub(r"[^A-Za-z0-9_]", "_", service.name[:-len(".service")] if service.name.endswith(".service") else service.name)
        self._commands = COMMANDS[kind]
        self._runner = runner
        self._timeout = service.timeout

    def state(self) -> ServiceState:
        enabled = None if self._commands.enabled is None else self._run(self._commands.enabled).rc == 0
        return ServiceState(self._active(), enabled)

    def stop(self) -> None:
        if self._active():
            self._do(self._commands.stop)
            self._wait(False, "does not end")

    def start(self) -> None:
        self.stop()
        self.enable()
        self._do(self._commands.start)
        self._wait(True, "ended right after its start")

    def run(self, verb: str) -> None:
        active = self._active()
        if verb == "stop":
            self.stop()
        elif verb == "reload" and active:
            self._do(self._commands.reload)
        elif verb == "restart" or not active:
            # Not the manager's own restart: launchd would go on with the property list that it knows.
            self.stop()
            self._do(self._commands.start)
            self._wait(True, "ended right after its start")

    def enable(self) -> None:
        if self._commands.enable is not None and self._run(self._commands.enabled or ()).rc:
            self._do(self._commands.enable)

    def disable(self) -> None:
        if self._commands.disable is not None and self._run(self._commands.enabled or ()).rc == 0:
            self._do(self._commands.disable)

    def gone(self) -> None:
        """None of them remembers what has no file."""

    def restore(self, was: ServiceState) -> None:
        if was.enabled:
            self.enable()
        if was.active and not self._active():
            self._do(self._commands.start)

    def _active(self) -> bool:
        return self._run(self._commands.check).rc == 0

    def _wait(self, active: bool, otherwise: str) -> None:
        until = self._runner.clock() + self._timeout
        while self._active() is not active:
            if self._runner.clock() >= until:
                raise ApplyError("service_failed", f"{self.name} {otherwise}.", f"See {self._commands.pages}, and the service's own log.")
            self._runner.pause(POLL)

    def _run(self, argv: Argv) -> Completed:
        return self._runner.run([word.replace("{}", self.name) for word in argv], self._timeout + 15)

    def _do(self, argv: Argv) -> None:
        done = self._run(argv)
        if done.rc:
            raise ApplyError("service_failed", f"{' '.join(done.argv)} failed: {done.words}.",
                             f"See {self._commands.pages}, and the service's own log.")

# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""How a program is kept running on a host: adapters of one contract, chosen by what runs the host. Those of other systems than Linux
are in `rc_services`."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from typing import Any, Protocol

from .._tsp.errors import ApplyError
from .plan import Service
from .runner import Runner

SYSTEMD_RUNS = "/run/systemd/system"
"""Exists exactly when systemd is the init system (sd_booted(3))."""
POLL = 0.05


@dataclass(frozen=True)
class ServiceState:
    """active: it runs. enabled: it will be started at boot; None where nobody would, or where that is not ours to say."""

    active: bool
    enabled: bool | None = None

    def to_dict(self) -> dict[str, Any]:
        return {"active": self.active, "enabled": self.enabled}


class Manager(Protocol):
    """What a transaction does with a service. Raises ApplyError `service_failed` with the manager's own words."""

    kind: str

    def state(self) -> ServiceState:
        """As it is."""

    def stop(self) -> None:
        """Stop it, wait until it is gone. Not running is fine."""

    def start(self) -> None:
        """Start it with the files as they are now, and at each boot."""

    def run(self, verb: str) -> None:
        """start: unless it runs; restart; reload: have it read its files again; stop."""

    def enable(self) -> None:
        """At each boot."""

    def disable(self) -> None:
        """No longer at boot."""

    def gone(self) -> None:
        """Its files were taken away: forget it."""

    def restore(self, was: ServiceState) -> None:
        """Its files are the old ones again: make the old state true."""


def manager_for(service: Service, runner: Runner) -> Manager:
    """The adapter for this host."""
    from .rc_services import COMMANDS, ByCommands, kind_here

    kind = service.manager
    if kind == "auto":
        kind = "systemd" if runner.directory_mode(SYSTEMD_RUNS) is not None else kind_here() or "none"
    if kind == "systemd":
        return Systemd(service, runner)
    if kind in COMMANDS:
        return ByCommands(kind, service, runner)
    return Detached(service, runner)


class Systemd:
    """A unit of systemd. Its unit file is one of the transaction's files."""

    kind = "systemd"

    def __init__(self, service: Service, runner: Runner) -> None:
        self._unit = service.name if "." in service.name else f"{service.name}.service"
        self._runner = runner
        self._timeout = service.timeout
        self._reload_argv = service.reload_argv

    def state(self) -> ServiceState:
        done = self._runner.run(["systemctl", "show", "--property=ActiveState,UnitFileState", self._unit])
        if done.rc:
            raise ApplyError("service_failed", f"systemd does not tell the state of {self._unit}: {done.words}.", "")
        found = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
        file = found.get("UnitFileState", "")
        # static, indirect, generated, alias, …: systemd or somebody else decides; no unit file (yet): not enabled.
        enabled = True if file in ("enabled", "enabled-runtime") else False if file in ("", "disabled", "bad") else None
        return ServiceState(found.get("ActiveState") in ("active", "activating", "reloading"), enabled)

    def stop(self) -> None:
        if self.state().active:
            self._do("stop", self._unit)

    def start(self) -> None:
        self._do("daemon-reload")
        self._do("enable", self._unit)
        self._do("restart", self._unit)

    def run(self, verb: str) -> None:
        if verb == "reload" and self._reload_argv:
            _reload(self._reload_argv, self._unit, self._runner, self._timeout)
        else:
            self._do("reload-or-restart" if verb == "reload" else verb, self._unit)

    def enable(self) -> None:
        self._do("enable", self._unit)

    def disable(self) -> None:
        if self.state().enabled:
            self._do("disable", self._unit)

    def gone(self) -> None:
        self._do("daemon-reload")
        self._runner.run(["systemctl", "reset-failed", self._unit])  # fails when it never failed

    def restore(self, was: ServiceState) -> None:
        self._do("daemon-reload")
        if was.enabled:
            self._do("enable", self._unit)
        if was.active and not self.state().active:
            self._do("start", self._unit)

    def _do(self, verb: str, *units: str) -> None:
        done = self._runner.run(["systemctl", verb, *units], self._timeout + 15)
        if done.rc:
            raise ApplyError("service_failed", f"systemctl {' '.join((verb, *units))} failed: {done.words}.",
                             f"journalctl -u {self._unit} tells more." if units else "")


class Detached:
    """A program that puts itself into the background and writes its process id to a file. Nothing starts it at boot."""

    kind = "none"

    def __init__(self, service: Service, runner: Runner) -> None:
        self._service = service
        self._runner = runner
        self._argv = service.argv
        self._pid_file = service.pid_file or ""

    def state(self) -> ServiceState:
        return ServiceState(self._pid() is not None)

    def stop(self) -> None:
        pid = self._pid()
        if pid is not None:
            self._end(pid)
        self._runner.remove(self._pid_file)  # one that was killed could not

    def _end(self, pid: int) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            self._runner.signal(pid, number)
            until = self._runner.clock() + self._service.timeout
            while self._runner.clock() < until:
                if not self._ours(pid):
                    return
                self._runner.pause(POLL)
        raise ApplyError("service_failed", f"Process {pid} of {self._service.name} does not end.", "End it by hand.")

    def start(self) -> None:
        self.stop()
        done = self._runner.run(self._argv, self._service.timeout)
        if done.rc:
            raise ApplyError("service_failed", f"{self._argv[0]} did not start: {done.words}.", "")
        if self._pid() is None:
            raise ApplyError("service_failed", f"{self._argv[0]} ended right after its start.",
                             f"Look for its log beside {self._pid_file}.")

    def run(self, verb: str) -> None:
        pid = self._pid()
        if verb == "stop":
            self.stop()
        elif verb == "restart" or pid is None:
            self.start()
        elif verb == "reload" and self._service.reload_argv:
            _reload(self._service.reload_argv, self._service.name, self._runner, self._service.timeout)
        elif verb == "reload":
            self._runner.signal(pid, signal.SIGHUP)

    def enable(self) -> None:
        """Nothing starts it at boot."""

    def disable(self) -> None:
        """Nothing would start it."""

    def gone(self) -> None:
        self._runner.remove(self._pid_file)

    def restore(self, was: ServiceState) -> None:
        if was.active and self._pid() is None:
            self.start()

    def _pid(self) -> int | None:
        """The process that the file names, if it is alive and really this program (numbers are used again)."""
        found = self._runner.read(self._pid_file)
        text = found.content.strip() if found else b""
        if not text.isdigit() or not self._ours(int(text)):
            return None
        return int(text)

    def _ours(self, pid: int) -> bool:
        words = self._runner.process(pid)
        # By its name alone: somebody else may have started it otherwise. A script stands behind its interpreter.
        name = os.path.basename(self._argv[0])
        return words is not None and name in map(os.path.basename, words) and all(
            word in words for word in self._argv[1:] if word.startswith("/"))


def _reload(argv: tuple[str, ...], name: str, runner: Runner, timeout: float) -> None:
    done = runner.run(argv, timeout)
    if done.rc:
        raise ApplyError("service_failed", f"{name} cannot be reloaded: {' '.join(argv)} failed: {done.words}.", "")

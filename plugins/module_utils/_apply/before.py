# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""The host as it is, or as it will be once an interrupted run is undone: what a plan is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .items import Item
from .journal import CONFIRMED, Entry, Journal
from .kernel import State, key, read
from .plan import Command, Service
from .runner import FileState, Runner
from .service import ServiceState, manager_for


class Before:
    """journal: what an interrupted run left; None where there is none, or where it was undone already."""

    def __init__(self, runner: Runner, journal: Journal | None) -> None:
        self.runner = runner
        self._journal = journal
        undone = [] if journal is None or journal.phase == CONFIRMED else journal.entries[:journal.begun]
        self.undoes = bool(undone)
        """Whether there is something to be undone first, so that files are not what they will be."""
        self._paths: dict[str, Entry] = {}
        self._services: dict[str, ServiceState] = {}
        self._commands = [entry["argv"] for entry in undone if entry["kind"] == "command" and entry["undo"]]
        self._facts: list[dict[str, Any]] = []
        for entry in reversed(undone):
            if "path" in entry:
                self._paths[entry["path"]] = entry
            elif entry["kind"] == "kernel":
                self._facts = entry["facts"]
            elif "service" in entry and "was" in entry:
                self._services[entry["service"]["name"]] = ServiceState(**entry["was"])

    def file(self, path: str) -> FileState | None:
        """A file."""
        if path in self._paths and self._journal is not None:
            return self._journal.saved_file(self._paths[path])
        return self.runner.read(path)

    def directory(self, path: str) -> int | None:
        """The mode of a directory."""
        if path in self._paths:
            was: int | None = self._paths[path]["was"]
            return was
        return self.runner.directory_mode(path)

    def holds(self, command: Command) -> bool:
        """Whether there is nothing for this command to do."""
        if command.unless is None or list(command.argv) in self._commands:
            return False
        return self.runner.run(command.unless, command.timeout).rc == 0

    def service(self, service: Service) -> ServiceState:
        """A service."""
        return self._services.get(service.name) or manager_for(service, self.runner).state()

    def kernel(self, items: Sequence[Item]) -> State:
        """The kernel, as far as these are concerned."""
        state = read([*items, *self._facts], self.runner)
        for item in self._facts:
            if item["was"] is None:
                state.pop(key(item), None)
                if item["kind"] == "link":
                    _without(state, item["device"])
            else:
                state[key(item)] = item["was"]
        return state


def _without(state: State, device: str) -> None:
    """What goes with a device."""
    for name, found in list(state.items()):
        if isinstance(found, dict) and found.get("item", {}).get("device") == device:
            del state[name]

# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""The checkpoint of a transaction on disk, and how each kind of step is done and undone.

An entry is one step as JSON, with all that its undoing needs, so that a run that was killed is undone by the next one:

    {"kind": "service_stop",  "was": {active, enabled}, "disable": bool}
    {"kind": "command",       "argv": [...], "undo": [...] | null, "timeout": s}
    {"kind": "directory",     "path", "mode", "was": mode | null}       made, or given another mode
    {"kind": "file",          "path", "was": {saved, mode, uid, gid} | null}    `saved` names the copy in the checkpoint
    {"kind": "directory_gone","path", "was": mode | null}
    {"kind": "service_start", "was": {active, enabled}}
    {"kind": "service_gone"}

The journal is written before the first step, and again before each step with the number of steps begun. A step that was begun
may have been done, in part or not at all: undoing must be right in all three cases, and is, since it says what shall be.
"""

from __future__ import annotations

import json
import os
from typing import Any

from .._tsp.errors import ApplyError, TspError
from .deadman import disarm
from .plan import FileChange, Plan, Service
from .runner import FileState, Runner
from .service import ServiceState, manager_for

SCHEMA = 1
JOURNAL = "journal.json"
APPLYING = "applying"
PROVED = "proved"
CONFIRMED = "confirmed"
Entry = dict[str, Any]


class Journal:
    """One transaction's checkpoint in `directory` (0700)."""

    def __init__(self, runner: Runner, directory: str, service: Service | None, entries: list[Entry], begun: int = 0,
                 phase: str = APPLYING) -> None:
        self.runner = runner
        self.directory = directory
        self.service = service
        self.entries = entries
        self.begun = begun
        self.phase = phase

    @classmethod
    def load(cls, runner: Runner, directory: str) -> Journal | None:
        """What an interrupted run left, None when nothing. Raises ApplyError `journal_broken`."""
        found = runner.read(os.path.join(directory, JOURNAL))
        if found is None:
            return None
        try:
            data = json.loads(found.content)
            if data["schema"] != SCHEMA:
                raise ValueError("another schema")
            service = data["service"]
            if service is not None:
                service = Service(**{**service, "argv": tuple(service["argv"])})
            return cls(runner, directory, service, list(data["entries"]), int(data["begun"]), str(data["phase"]))
        except (ValueError, KeyError, TypeError) as exc:
            raise ApplyError("journal_broken", f"The checkpoint in {directory} cannot be read ({exc}).",
                             "It holds the files as they were before an interrupted run: put them back by hand and remove it.") from None

    def begin(self, contents: dict[str, FileState]) -> None:
        """Make the checkpoint: copies of the files as they are, then the journal itself."""
        self.runner.make_directory(self.directory, 0o700)
        for entry in self.entries:
            if entry["kind"] == "file" and entry["was"] is not None:
                self.runner.write(os.path.join(self.directory, entry["was"]["saved"]), contents[entry["path"]].content, 0o600)
        self._save()

    def step(self, number: int) -> None:
        """Say that this entry is begun, before it is."""
        self.begun = number + 1
        self._save()

    def prove(self) -> None:
        """The new state works. Somebody who comes in anew shall confirm it."""
        self.phase = PROVED
        self._save()

    def confirm(self) -> None:
        """From here on the new state is the right one."""
        self.phase = CONFIRMED
        self._save()

    def failed(self, number: int) -> None:
        """This step reported that it did nothing: there is nothing of it to undo."""
        self.begun = number
        self._save()

    def discard(self) -> None:
        """Forget the checkpoint. The journal goes first: copies without a journal mean nothing, and are cleared by the next run."""
        self.runner.remove(os.path.join(self.directory, JOURNAL))
        clear(self.runner, self.directory)

    def roll_back(self, interrupted: bool = False, rebooted: bool = False) -> list[str]:
        """Undo what was begun, last first; returns what could not be undone (empty: all is as it was).

        interrupted: nobody knows whether the last step was done; a command that cannot be undone was not.
        rebooted: the host was, since; what a command did to the running system is gone with it.
        """
        failed: list[str] = []
        last = self.begun
        for number, entry in reversed(list(enumerate(self.entries[:last], 1))):
            try:
                self._undo(entry)
            except TspError as exc:
                if not (entry["kind"] == "command" and (rebooted or interrupted and number == last)):
                    failed.append(exc.message)
            if not failed:
                self._undone(number)
        if not failed:
            self.discard()
        return failed

    def _undone(self, number: int) -> None:
        """Should this be killed, too: no command is taken back twice. Where that cannot be written down, undoing goes on."""
        self.begun = number - 1
        try:
            self._save()
        except ApplyError:
            pass

    def put_files_back(self) -> list[str]:
        """Of undoing only this, and the journal stays: for a host that is not up yet. Returns what could not be put back."""
        failed = []
        for entry in reversed(self.entries[:self.begun]):
            try:
                if "path" in entry:
                    self._undo(entry)
            except TspError as exc:
                failed.append(exc.message)
        return failed

    def saved_file(self, entry: Entry) -> FileState | None:
        """The file as it was, None when it was not."""
        was = entry["was"]
        if was is None:
            return None
        copy = self.runner.read(os.path.join(self.directory, was["saved"]))
        if copy is None:
            raise ApplyError("journal_broken", f"The copy of {entry['path']} is missing in {self.directory}.", "")
        return FileState(copy.content, was["mode"], was["uid"], was["gid"])

    def do(self, entry: Entry, changes: dict[str, FileChange]) -> None:
        """Do one step. Raises ApplyError."""
        kind = entry["kind"]
        runner = self.runner
        if kind == "service_stop":
            manager = manager_for(self._the_service(), runner)
            manager.stop()
            if entry["disable"]:
                manager.disable()
        elif kind == "command":
            done = runner.run(entry["argv"], entry["timeout"])
            if done.rc:
                raise ApplyError("apply_failed", f"{' '.join(entry['argv'])} failed: {done.words}.", "")
        elif kind == "directory":
            runner.make_directory(entry["path"], entry["mode"])
        elif kind == "directory_gone":
            runner.remove_directory(entry["path"])
        elif kind == "file":
            change = changes[entry["path"]]
            if change.content is None:
                runner.remove(change.path)
            else:
                runner.write(change.path, change.content, change.mode, entry["uid"], entry["gid"])
        elif kind == "service_start":
            manager_for(self._the_service(), runner).start()
        elif kind == "service_gone":
            manager_for(self._the_service(), runner).gone()

    def _undo(self, entry: Entry) -> None:
        kind = entry["kind"]
        runner = self.runner
        if kind == "service_stop":
            manager_for(self._the_service(), runner).restore(ServiceState(**entry["was"]))
        elif kind == "command" and entry["undo"]:
            done = runner.run(entry["undo"], entry["timeout"])
            if done.rc:
                raise ApplyError("rollback_failed", f"{' '.join(entry['undo'])} failed: {done.words}.", "")
        elif kind == "directory" and entry["was"] is None:
            runner.remove_directory(entry["path"])
        elif kind in ("directory", "directory_gone") and entry["was"] is not None:
            runner.make_directory(entry["path"], entry["was"])
        elif kind == "file":
            state = self.saved_file(entry)
            if state is None:
                runner.remove(entry["path"])
            else:
                runner.write(entry["path"], state.content, state.mode, state.uid, state.gid)
        elif kind == "service_start":
            manager = manager_for(self._the_service(), runner)
            manager.stop()
            if not entry["was"]["enabled"]:
                manager.disable()

    def _the_service(self) -> Service:
        if self.service is None:
            raise ApplyError("journal_broken", f"The checkpoint in {self.directory} names no service.", "")
        return self.service

    def _save(self) -> None:
        service = None if self.service is None else {
            "name": self.service.name, "manager": self.service.manager, "argv": list(self.service.argv),
            "pid_file": self.service.pid_file, "timeout": self.service.timeout}
        text = json.dumps({"schema": SCHEMA, "phase": self.phase, "begun": self.begun, "service": service, "entries": self.entries})
        self.runner.write(os.path.join(self.directory, JOURNAL), text.encode(), 0o600)


def describe(entry: Entry, plan: Plan) -> str:
    """The step for people, as it stands in results; nothing for one that does nothing this time."""
    kind = entry["kind"]
    name = plan.service.name if plan.service else ""
    if kind == "service_stop":
        return f"stop {name}" if entry["was"]["active"] else ""
    if kind == "service_start":
        return f"start {name}"
    if kind == "service_gone":
        return f"forget {name}"
    if kind == "command":
        return f"run {' '.join(entry['argv'])}"
    if kind == "directory":
        return f"make directory {entry['path']}" if entry["was"] is None else f"set mode of {entry['path']}"
    if kind == "directory_gone":
        return f"remove directory {entry['path']}"
    return f"{entry['verb']} {entry['path']}"


def clear(runner: Runner, directory: str) -> None:
    """Remove a checkpoint that has no journal, and its timer: its run was killed before it changed anything, or after it was done."""
    disarm(runner, *os.path.split(directory))
    for name in runner.names(directory):
        runner.remove(os.path.join(directory, name))
    runner.remove_directory(directory)

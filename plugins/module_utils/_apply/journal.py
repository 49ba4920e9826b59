# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""The checkpoint of a transaction on disk, and how each kind of step is done and undone.

An entry is one step as JSON, with all that its undoing needs, so that a run that was killed is undone by the next one. `service` is
plan.Service, `was` of a service {active, enabled}, facts and items are those of change.py and items.py:

    {"kind": "kernel",        "facts": [...], "timeout": s}             undoing: the kernel as it was. First, and so undone last;
                              with "goals", "leaving" (change.facts_of) the facts are looked up when this step comes
    {"kind": "service_stop",  "service", "was", "disable": bool}
    {"kind": "service_off",   "service", "was", "stop": bool, "disable": bool}
    {"kind": "command",       "argv": [...], "undo": [...] | null, "timeout": s}
    {"kind": "service_was",   "service", "was", "verb", "enable"}       undoing: with the old files in place, it is as it was
    {"kind": "settle",        "commands": [{argv, timeout}], "back": bool}    back: when undoing, after the files are back. A command with
                                                                              "left" is one of an earlier plan, and may fail
    {"kind": "units",         "back": bool, "timers": [name]}           systemd reads its units again, and stops timers that have gone
    {"kind": "directory",     "path", "mode", "was": mode | null}       made, or given another mode
    {"kind": "file",          "path", "was": {saved, mode, uid, gid} | null}    `saved` names the copy in the checkpoint
    {"kind": "directory_gone","path", "was": mode | null}
    {"kind": "kernel_back",   "facts": [...], "timeout": s}             away with what is no longer wanted, or was otherwise before us
    {"kind": "kernel_set",    "items": [...]}                           variables of the kernel
    {"kind": "test",          "argv", "timeout", "name"}                whether a service would take its new files
    {"kind": "service",       "service", "was", "verb": start | restart | reload | stop | null, "enable": bool | null}
    {"kind": "service_start", "service", "was"}
    {"kind": "service_gone",  "service"}
    {"kind": "kernel_make",   "items": [...], "name", "tunnels", "timeout"}   what the host's configuration system did not make

The journal is written before the first step, and again before each step with the number of steps begun. A step that was begun
may have been done, in part or not at all: undoing must be right in all three cases, and is, since it says what shall be.
"""

from __future__ import annotations

import json
import os
from typing import Any

from .._tsp.errors import ApplyError, TspError
from . import memory as memories
from .change import facts_of, make_missing, put_back, wait
from .deadman import disarm
from .items import describe as describe_item
from .kernel import holds, key, read
from .plan import FileChange, Service
from .runner import FileState, Runner
from .service import Manager, ServiceState, manager_for

SCHEMA = 2
JOURNAL = "journal.json"
APPLYING = "applying"
PROVED = "proved"
CONFIRMED = "confirmed"
MEMORY = "memory.json"
"""What shall be remembered, in the checkpoint until the new state is the right one."""
Entry = dict[str, Any]


class Journal:
    """One transaction's checkpoint in `directory` (0700)."""

    def __init__(self, runner: Runner, directory: str, entries: list[Entry], memory: dict[str, Any] | None = None, begun: int = 0,
                 phase: str = APPLYING) -> None:
        """memory: what shall be remembered once the new state is the right one (memory.py), None: nothing."""
        self.runner = runner
        self.directory = directory
        self.entries = entries
        self.memory = memory
        self.begun = begun
        self.phase = phase
        self._said: list[str] = []

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
            copy = runner.read(os.path.join(directory, MEMORY)) if data["memory"] else None
            return cls(runner, directory, list(data["entries"]), None if copy is None else json.loads(copy.content), int(data["begun"]),
                       str(data["phase"]))
        except (ValueError, KeyError, TypeError) as exc:
            raise ApplyError("journal_broken", f"The checkpoint in {directory} cannot be read ({exc}).",
                             "It holds the files as they were before an interrupted run: put them back by hand and remove it.") from None

    def begin(self, contents: dict[str, FileState]) -> None:
        """Make the checkpoint: copies of the files as they are, then the journal itself."""
        self.runner.make_directory(self.directory, 0o700)
        for entry in self.entries:
            if entry["kind"] == "file" and entry["was"] is not None:
                self.runner.write(os.path.join(self.directory, entry["was"]["saved"]), contents[entry["path"]].content, 0o600)
        self._save_memory()
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
        self.remember()

    def remember(self) -> None:
        """Write down what the run that takes this away must know."""
        memories.store(self.runner, *os.path.split(self.directory), self.memory)

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
        self._said = []
        last = self.begun
        for number, entry in reversed(list(enumerate(self.entries[:last], 1))):
            try:
                self._undo(entry, rebooted)
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
        if kind == "command":
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
        elif kind in ("settle", "units") and not entry["back"]:
            self._settle(entry)
        elif kind == "test":
            done = runner.run(entry["argv"], entry["timeout"])
            if done.rc:
                raise ApplyError("test_failed", f"{entry['name']} would not take its new files: {' '.join(entry['argv'])} failed: "
                                 f"{done.words}.", "Correct what it names, in these files or in the options of this task.")
        elif kind.startswith("kernel"):
            self._do_kernel(entry)
        elif kind.startswith("service"):
            self._do_service(entry)

    def _do_kernel(self, entry: Entry) -> None:
        if entry["kind"] == "kernel":
            self._look(entry)
        elif entry["kind"] == "kernel_back":
            failed = put_back(entry["facts"], self.runner, timeout=entry["timeout"])
            if failed:
                raise ApplyError("apply_failed", " ".join(failed), "")
        elif entry["kind"] == "kernel_set":
            for item in entry["items"]:
                value = self.runner.get_sysctl(item["name"])  # None: of an interface that is still to come
                if value is not None and not holds(item, {key(item): value}):
                    self.runner.set_sysctl(item["name"], str(item["value"]))
        elif entry["kind"] == "kernel_make":
            wait([item for item in entry["items"] if not item.get("make")], self.runner, entry["timeout"])
            make_missing([item for item in entry["items"] if item.get("make")], self.runner, entry["name"], entry["tunnels"])

    def _look(self, entry: Entry) -> None:
        """Before we change anything of it, after whoever did so before us has ended."""
        remembered = [] if self.memory is None else self.memory["facts"]
        state = read([*entry["goals"], *remembered], self.runner)
        entry["facts"] = facts_of(entry["goals"], entry["leaving"], self.runner, state)
        for item in remembered:
            if item.pop("fresh", False):
                item["was"] = state.get(key(item))
        known = {key(item) for item in remembered}
        remembered += [item for item in entry["facts"] if f"sysctl {item.get('because')}" in known and key(item) not in known]
        self._save_memory()
        self._save()

    def _do_service(self, entry: Entry) -> None:
        kind, manager = entry["kind"], self._manager(entry)
        if kind in ("service_stop", "service_off"):
            if entry.get("stop", True):
                manager.stop()
            if entry["disable"]:
                manager.disable()
        elif kind == "service":
            if entry["enable"]:
                manager.enable()
            if entry["verb"]:
                manager.run(entry["verb"])
            if entry["enable"] is False:
                manager.disable()
        elif kind == "service_start":
            manager.start()
        elif kind == "service_gone":
            manager.gone()

    def _undo(self, entry: Entry, rebooted: bool = False) -> None:
        kind = entry["kind"]
        runner = self.runner
        if kind == "command" and entry["undo"]:
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
        elif kind in ("settle", "units") and entry["back"]:
            self._undo_settle(entry)
        elif kind == "kernel":
            # What was there before a boot is there again if the old files say so. What we made may have come up with ours.
            facts = [item for item in entry["facts"] if not rebooted or item["was"] is None]
            failed = put_back(facts, runner, timeout=entry["timeout"])
            if failed:
                raise ApplyError("rollback_failed", " ".join([*failed, *self._said]), "")
        elif kind.startswith("service"):
            self._undo_service(entry)

    def _undo_service(self, entry: Entry) -> None:
        kind = entry["kind"]
        if kind == "service_gone":
            return
        manager, was = self._manager(entry), ServiceState(**entry["was"])
        if kind in ("service_stop", "service_off"):
            manager.restore(was)
        elif kind == "service_start":
            manager.stop()
            if not was.enabled:
                manager.disable()
        elif kind == "service":
            if not was.active:
                manager.stop()
            if entry["enable"] and not was.enabled:
                manager.disable()
        elif kind == "service_was":
            if entry["enable"] is False and was.enabled:
                manager.enable()
            if was.active:
                manager.run(entry["verb"] if entry["verb"] in ("restart", "reload") else "start")

    def _settle(self, entry: Entry) -> None:
        if entry["kind"] == "units":
            # A timer that runs while its file is gone has failed in the eyes of systemd, and the whole host is degraded.
            stops = [{"argv": ["systemctl", "stop", name], "timeout": 60.0, "left": True} for name in entry.get("timers", ())]
            entry = {"commands": [*stops, {"argv": ["systemctl", "daemon-reload"], "timeout": 60.0}]}
        for command in entry["commands"]:
            done = self.runner.run(command["argv"], command["timeout"])
            if done.rc and not command.get("left"):
                raise ApplyError("apply_failed", f"{' '.join(command['argv'])} failed: {done.words}.", "")

    def _undo_settle(self, entry: Entry) -> None:
        """Where the kernel is looked at afterwards, that tells whether the command did its work; what it said explains a failure."""
        for command in entry["commands"] if entry["kind"] == "settle" else [None]:
            try:
                self._settle(entry if command is None else {**entry, "commands": [command]})
            except ApplyError as exc:
                if not any(other["kind"] == "kernel" for other in self.entries):
                    raise
                self._said.append(exc.message)

    def _manager(self, entry: Entry) -> Manager:
        try:
            return manager_for(Service.from_dict(entry["service"]), self.runner)
        except (KeyError, TypeError) as exc:
            raise ApplyError("journal_broken", f"The checkpoint in {self.directory} names no service ({exc}).", "") from None

    def _save_memory(self) -> None:
        if self.memory is not None:
            self.runner.write(os.path.join(self.directory, MEMORY), json.dumps(self.memory).encode(), 0o600)

    def _save(self) -> None:
        text = json.dumps({"schema": SCHEMA, "phase": self.phase, "begun": self.begun, "memory": self.memory is not None,
                           "entries": self.entries})
        self.runner.write(os.path.join(self.directory, JOURNAL), text.encode(), 0o600)


def undo_only(entry: Entry) -> bool:
    """Whether there is nothing to do in this step."""
    return entry["kind"] == "kernel" and "goals" not in entry or entry["kind"] == "service_was" or bool(entry.get("back"))


def describe(entry: Entry) -> list[str]:
    """The step for people, as it stands in results; nothing for one that does nothing this time."""
    kind = entry["kind"]
    name = entry["service"]["name"] if "service" in entry else ""
    if kind == "service_stop":
        return [f"stop {name}"] if entry["was"]["active"] else []
    if kind == "service_off":
        return [f"{verb} {name}" for verb in ("stop", "disable") if entry[verb]]
    if kind == "service_start":
        return [f"start {name}"]
    if kind == "service_gone":
        return [f"forget {name}"]
    if kind == "service":
        return [f"{verb} {name}" for verb in ({True: "enable", False: "disable"}.get(entry["enable"]), entry["verb"]) if verb]
    if kind in ("command", "test"):
        return [f"run {' '.join(entry['argv'])}"]
    if kind == "settle" and not entry["back"]:
        return [f"run {' '.join(command['argv'])}" for command in entry["commands"]]
    if kind == "directory":
        return [f"make directory {entry['path']}" if entry["was"] is None else f"set mode of {entry['path']}"]
    if kind == "directory_gone":
        return [f"remove directory {entry['path']}"]
    if kind == "file":
        return [f"{entry['verb']} {entry['path']}"]
    if kind == "kernel_back":
        return [f"take away {describe_item(item)}" if item["was"] is None else f"put back {_as_it_was(item)}" for item in entry["facts"]
                if not item.get("because")]
    if kind == "kernel_set":
        return [f"set {describe_item(item)}" for item in entry["items"]]
    if kind == "kernel_make":
        return [f"{_verb(item)} {describe_item(item)}" for item in entry["items"] if item.get("missing") and item["kind"] != "sysctl"]
    return []


def _verb(item: dict[str, Any]) -> str:
    return "take away" if item.get("absent") else "make" if item.get("make") else "wait for"


def _as_it_was(item: dict[str, Any]) -> str:
    return describe_item({**item, "value": item["was"]} if item["kind"] == "sysctl" else item)


def clear(runner: Runner, directory: str) -> None:
    """Remove a checkpoint that has no journal, and its timer: its run was killed before it changed anything, or after it was done."""
    disarm(runner, *os.path.split(directory))
    for name in runner.names(directory):
        runner.remove(os.path.join(directory, name))
    runner.remove_directory(directory)

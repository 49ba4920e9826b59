# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""One transaction on a host: checkpoint, apply, probe, confirm; or everything as it was.

A run that is killed at any step leaves a journal. The next run finds it, and either undoes what was begun or, when the new state
had been confirmed, clears the journal away; then it does its own work. Two runs never work on one host at the same time.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .._tsp.errors import ApplyError
from .deadman import Deadman, load, rebooted
from .diff import file_diff
from .journal import APPLYING, CONFIRMED, PROVED, Entry, Journal, clear, describe
from .plan import Command, FileChange, Plan, Probe
from .probe import ProbeResult, explain
from .runner import FileState, Runner
from .service import ServiceState, manager_for

STATE_DIR = "/var/lib/tsp-apply"
"""Where checkpoints live while a transaction runs. Not below a directory that a transaction could remove."""
Prober = Callable[[Probe], ProbeResult]


@dataclass
class Outcome:
    """What was done, or would be done in check mode.

    steps: sentences in order. diff: as Ansible's diff mode shows it, secrets struck out. proof: None when nothing was probed.
    recovered: an interrupted run was found, and undone or completed, first. unconfirmed: seconds in which it must be
    confirmed; None where it need not be.
    """

    changed: bool = False
    steps: list[str] = field(default_factory=list)
    diff: list[dict[str, str]] = field(default_factory=list)
    proof: ProbeResult | None = None
    recovered: bool = False
    unconfirmed: float | None = None


@dataclass
class _Before:
    """The host as it is, or as it will be once an interrupted run is undone."""

    runner: Runner
    journal: Journal | None

    def __post_init__(self) -> None:
        undone = [] if self.journal is None or self.journal.phase == CONFIRMED else self.journal.entries[:self.journal.begun]
        self._entries: dict[str, Entry] = {}
        self._service: ServiceState | None = None
        self._commands = [entry["argv"] for entry in undone if entry["kind"] == "command" and entry["undo"]]
        for entry in reversed(undone):
            if "path" in entry:
                self._entries[entry["path"]] = entry
            elif entry["kind"] in ("service_stop", "service_start"):
                self._service = ServiceState(**entry["was"])

    def file(self, path: str) -> FileState | None:
        if path in self._entries and self.journal is not None:
            return self.journal.saved_file(self._entries[path])
        return self.runner.read(path)

    def directory(self, path: str) -> int | None:
        if path in self._entries:
            was: int | None = self._entries[path]["was"]
            return was
        return self.runner.directory_mode(path)

    def holds(self, command: Command) -> bool:
        """Whether there is nothing for this command to do."""
        if command.unless is None or list(command.argv) in self._commands:
            return False
        return self.runner.run(command.unless, command.timeout).rc == 0

    def service(self, plan: Plan) -> ServiceState | None:
        if plan.service is None:
            return None
        return self._service or manager_for(plan.service, self.runner).state()


def apply(plan: Plan, runner: Runner, prober: Prober, *, state_dir: str = STATE_DIR, check: bool = False,
          deadman: Deadman | None = None) -> Outcome:
    """Make the host what the plan says. check: compute the same, write nothing. deadman: undoes it unless `confirm` is called in time.

    Raises ApplyError: `apply_failed`, `service_failed`, `host_refused`, … when a step failed and all is as it was before;
    `not_proved` when no packet came back (as it was before, too, unless nothing had been changed); `rollback_failed` when the old
    state could not be brought back wholly (the checkpoint stays, the next run tries again); `busy`.
    """
    directory = os.path.join(state_dir, plan.name)
    if check:
        journal = Journal.load(runner, directory)
        entries, outcome, _contents = prepare(plan, _Before(runner, journal))
        if journal is not None:
            outcome.recovered = outcome.changed = True
            outcome.steps.insert(0, _recovery(journal))
        return outcome
    with runner.lock(state_dir):
        recovered = recover(runner, directory)
        entries, outcome, contents = prepare(plan, _Before(runner, None))
        if recovered:
            outcome.recovered = outcome.changed = True
            outcome.steps.insert(0, recovered)
        if not entries:
            outcome.proof = _prove(plan, prober, "Nothing had to be changed, and nothing was.")
            return outcome
        journal = Journal(runner, directory, plan.service, entries)
        try:
            journal.begin(contents)
            if deadman is not None:
                deadman.arm()
        except BaseException:
            journal.discard()
            raise
        _run(plan, journal, prober, outcome, deadman)
    return outcome


def confirm(name: str, runner: Runner, token: str, state_dir: str = STATE_DIR) -> bool:
    """Keep what the run of this token did. False when there is nothing of it to confirm (any more). Raises ApplyError `busy`."""
    with runner.lock(state_dir):
        journal, armed = Journal.load(runner, os.path.join(state_dir, name)), load(runner, state_dir, name)
        if journal is None or armed is None or armed["id"] != token or journal.phase == APPLYING:
            return False
        journal.confirm()
        journal.discard()
        return True


def prepare(plan: Plan, before: _Before) -> tuple[list[Entry], Outcome, dict[str, FileState]]:
    """The steps from `before` to the plan, as journal entries; empty when the host is as planned already."""
    outcome = Outcome()
    contents: dict[str, FileState] = {}
    places: list[Entry] = []
    files: list[Entry] = []
    if plan.present:
        places = _directories(plan, before)
    for change in plan.files:
        entry = _file(change, before, plan.present, contents, outcome)
        if entry is not None:
            entry["was"] = None if entry["was"] is None else {**entry["was"], "saved": f"{len(files)}.saved"}
            files.append(entry)
    gone = [] if plan.present else [
        {"kind": "directory_gone", "path": item.path, "was": mode} for item in sorted(plan.directories, key=lambda d: -d.path.count("/"))
        for mode in [before.directory(item.path)] if mode is not None]
    state = before.service(plan)
    wanted = [[command for command in commands if not before.holds(command)] for commands in (plan.stop, plan.start)]
    touched = bool(places or files or any(command.unless for commands in wanted for command in commands))
    if state is not None and not touched:
        touched = not state.active or state.enabled is False if plan.present else state.active or bool(state.enabled)
    if not touched and not _removable(gone, before):
        return [], outcome, contents
    entries: list[Entry] = []
    if state is not None:
        entries.append({"kind": "service_stop", "was": state.to_dict(), "disable": not plan.present})
    stop, start = ([{"kind": "command", "argv": list(c.argv), "undo": list(c.undo) if c.undo else None, "timeout": c.timeout}
                    for c in commands] for commands in wanted)
    entries += stop + places + files + start
    if state is not None:
        entries.append({"kind": "service_start", "was": state.to_dict()} if plan.present else {"kind": "service_gone"})
    entries += gone
    outcome.changed = True
    outcome.steps = [step for step in (describe(entry, plan) for entry in entries) if step]
    return entries, outcome, contents


def _directories(plan: Plan, before: _Before) -> list[Entry]:
    """What must be made: the directories of the plan, and those that its files would miss, parents first."""
    wanted = {item.path: item.mode for item in plan.directories}
    paths = [change.path for change in plan.files if change.content is not None] + list(wanted)
    for path in paths:
        parent = os.path.dirname(path)
        while parent not in wanted and parent != "/" and before.directory(parent) is None:
            wanted[parent] = 0o755
            parent = os.path.dirname(parent)
    entries: list[Entry] = []
    for path in sorted(wanted, key=lambda name: (name.count("/"), name)):
        was = before.directory(path)
        if was != wanted[path]:
            entries.append({"kind": "directory", "path": path, "mode": wanted[path], "was": was})
    return entries


def _file(change: FileChange, before: _Before, present: bool, contents: dict[str, FileState], outcome: Outcome) -> Entry | None:
    if not present and change.content is not None:
        change = FileChange(change.path, None, change.mode, change.owner, change.group, change.secret)
    state = before.file(change.path)
    uid = None if change.owner is None or change.content is None else before.runner.user_id(change.owner)
    gid = None if change.group is None or change.content is None else before.runner.group_id(change.group)
    if change.content is None:
        if state is None:
            return None
    elif state is not None and state.content == change.content and state.mode == change.mode and uid in (None, state.uid) and \
            gid in (None, state.gid):
        return None
    if state is not None:
        contents[change.path] = state
    outcome.diff.append(file_diff(change, state))
    verb = "remove" if change.content is None else "create" if state is None else \
        "set mode and owner of" if state.content == change.content else "change"
    return {"kind": "file", "path": change.path, "uid": uid if uid is not None or state is None else state.uid,
            "gid": gid if gid is not None or state is None else state.gid, "verb": verb,
            "was": None if state is None else {"mode": state.mode, "uid": state.uid, "gid": state.gid}}


def _removable(gone: list[Entry], before: _Before) -> bool:
    """Whether one of these directories is empty, or holds nothing but others of them."""
    paths = {entry["path"] for entry in gone}
    return any(all(os.path.join(entry["path"], name) in paths for name in before.runner.names(entry["path"])) for entry in gone)


def _run(plan: Plan, journal: Journal, prober: Prober, outcome: Outcome, deadman: Deadman | None) -> None:
    changes = {change.path: change if plan.present else FileChange(change.path, None) for change in plan.files}
    try:
        for number, entry in enumerate(journal.entries):
            journal.step(number)
            try:
                journal.do(entry, changes)
            except ApplyError as exc:
                if entry["kind"] == "command":
                    journal.failed(number)
                what = describe(entry, plan) or "prepare"
                raise ApplyError(exc.code, f"Step {number + 1} of {len(journal.entries)} ({what}): {exc.message}", exc.hint) from None
        outcome.proof = _prove(plan, prober, "")
        if deadman is None:
            journal.confirm()
        else:
            journal.prove()
            outcome.unconfirmed = deadman.extend()
    except BaseException as exc:
        left = journal.roll_back()
        if left:
            words = exc.message if isinstance(exc, ApplyError) else f"{type(exc).__name__}."
            raise ApplyError("rollback_failed", f"{words} And the old state could not be brought back wholly: {' '.join(left)}",
                             f"The files as they were stand in {journal.directory}; the next run tries again.") from None
        if isinstance(exc, ApplyError):
            raise ApplyError(exc.code, f"{exc.message} Everything is as it was before.", exc.hint) from None
        raise
    if deadman is None:
        journal.discard()


def _prove(plan: Plan, prober: Prober, otherwise: str) -> ProbeResult | None:
    if plan.probe is None or not plan.present:
        return None
    result = prober(plan.probe)
    if not result.proved:
        why = explain(plan.probe)
        raise ApplyError("not_proved", " ".join(filter(None, (
            f"No packet came back from {plan.probe.address} within {plan.probe.timeout:g} seconds: {result.reason}.",
            f"The tunnel's program says: {why}" if why else "", otherwise))),
            "Check that the broker answers, and that no firewall drops what the tunnel needs.")
    return result


def recover(runner: Runner, directory: str) -> str:
    """Deal with what an interrupted or unconfirmed run left; returns what was done about it, nothing when there was nothing.

    Whoever calls holds the lock.
    """
    journal = Journal.load(runner, directory)
    if journal is None:
        clear(runner, directory)
        return ""
    said = _recovery(journal)
    if journal.phase == CONFIRMED:
        journal.discard()
        return said
    failed = journal.roll_back(interrupted=True, rebooted=rebooted(runner, *os.path.split(directory)))
    if failed:
        raise ApplyError("rollback_failed", f"An interrupted run cannot be undone: {' '.join(failed)}",
                         f"The files as they were stand in {directory}. Put them back by hand and remove it.")
    return said


def _recovery(journal: Journal) -> str:
    return {CONFIRMED: "clear away what a completed run left", PROVED: "undo what nobody confirmed"}.get(
        journal.phase, "undo what an interrupted run began")


def to_result(outcome: Outcome) -> dict[str, Any]:
    """The outcome as JSON types, as modules return it."""
    return {"changed": outcome.changed, "steps": outcome.steps, "diff": outcome.diff, "recovered": outcome.recovered,
            "proof": None if outcome.proof is None else outcome.proof.to_dict(),
            **({"unconfirmed": outcome.unconfirmed} if outcome.unconfirmed else {})}

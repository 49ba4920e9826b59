# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""From a plan and a host to the steps between them: what check mode tells, and what a run then does.

The order, and why: services that must not run go first; then commands that need the old files, then the files. What the new files no
longer want leaves the kernel before the host's configuration system acts on them, since an old tunnel would be in the way of the new
one. That acts (settle), services follow, and last the transaction makes what is still missing. Undoing goes backwards, so what has to
happen after files are back (settle, services) stands before them.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

from .._tsp.errors import LocalError
from .before import Before
from .diff import file_diff
from .journal import Entry, describe
from .memory import Memory
from .plan import Command, FileChange, Plan
from .prepare_files import directories, directories_gone, removable, wanted_files
from .prepare_kernel import KernelWork, kernel_work
from .prepare_services import ServiceWork, of_the_plan, service_work
from .runner import FileState
from .service import SYSTEMD_RUNS

UNIT_FOLDERS = ("/etc/systemd/system/", "/run/systemd/system/", "/usr/local/lib/systemd/system/", "/usr/lib/systemd/system/",
                "/lib/systemd/system/")


@dataclass
class Prepared:
    """entries: the steps, none when the host is as planned. contents: files as they are, for the checkpoint. changes: files as they
    shall be. memory: what shall be remembered afterwards, None: nothing. steps, diff, warnings: for people."""

    entries: list[Entry] = field(default_factory=list)
    contents: dict[str, FileState] = field(default_factory=dict)
    changes: dict[str, FileChange] = field(default_factory=dict)
    memory: dict[str, Any] | None = None
    steps: list[str] = field(default_factory=list)
    diff: list[dict[str, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def prepare(plan: Plan, before: Before, remembered: Memory | None, now: float, shared: Memory) -> Prepared:
    """The steps. now: seconds since 1970. shared: the services that other transactions have in use, and the files that they extend.

    Raises LocalError or ApplyError for what cannot be done; nothing was touched by then.
    """
    out, new = Prepared(), Memory()
    old = remembered or Memory()
    changes, out.warnings = wanted_files(plan, before, remembered, new, now, shared)
    places = directories(plan, changes, before, old, new)
    files: list[Entry] = []
    for change in changes:
        entry = _file(change, before, out)
        if entry is not None:
            entry["was"] = None if entry["was"] is None else {**entry["was"], "saved": f"{len(files)}.saved"}
            files.append(entry)
            out.changes[change.path] = change
    gone = directories_gone(plan, changes, before, remembered)
    changed = [entry["path"] for entry in files]
    going = sorted(set(old.services) - {wish.service.name for wish in plan.services} - ({plan.service.name} if plan.service else set()))
    kernel = kernel_work(plan, before, old, new, bool(going) and plan.present)
    services = service_work(plan, before, remembered, new, changed, kernel.waits, shared)
    wanted = [[command for command in commands if not before.holds(command)] for commands in (plan.stop, plan.start)]
    stop, start = ([_command(command) for command in commands] for commands in wanted)
    looked_at = any(command.unless for commands in wanted for command in commands)
    single = None if plan.service is None else before.service(plan.service)
    of_the_plan(plan, single, remembered, new)
    touched = bool(places or files or looked_at or kernel.touched or services.touched or removable(gone, before))
    if single is not None and not touched:
        touched = not single.active or single.enabled is False if plan.present else single.active or bool(single.enabled)
    new.settle = [{"argv": list(item.argv), "timeout": item.timeout, "when": item.when} for item in plan.settle]
    if not plan.present:
        new.settle = [] if new.empty or not any((new.files, new.edits, new.facts)) else old.settle
    out.memory = None if new.empty else new.to_dict()
    if touched:
        _test_what_is_there(plan, before, set(changed), services)
        out.entries = _in_order(plan, before, old, _Parts(places, files, gone, stop, start, kernel, services), single)
        out.diff += kernel.diff
        out.steps = [step for entry in out.entries for step in describe(entry)]
    return out


def _test_what_is_there(plan: Plan, before: Before, changed: set[str], services: ServiceWork) -> None:
    """A file of the site's that is broken already would fail its test with our part in it as well: that can be known beforehand.

    Raises LocalError `test_failed`.
    """
    extended = {edit.path for edit in plan.edits if edit.path in changed and before.file(edit.path) is not None}
    for wish in plan.services:
        if before.undoes or not extended & set(wish.files) or not any(test["name"] == wish.service.name for test in services.tests):
            continue
        done = before.runner.run(wish.test_argv, wish.service.timeout)
        if done.rc:
            raise LocalError("test_failed", f"{wish.service.name} would not take its files as they are: {' '.join(wish.test_argv)} failed: "
                             f"{done.words}.", "Repair them by hand; nothing was changed.")


@dataclass
class _Parts:
    places: list[Entry]
    files: list[Entry]
    gone: list[Entry]
    stop: list[Entry]
    start: list[Entry]
    kernel: KernelWork
    services: ServiceWork


def _in_order(plan: Plan, before: Before, old: Memory, parts: _Parts, single: Any) -> list[Entry]:
    kernel, services = parts.kernel, parts.services
    name = {} if plan.service is None else {"service": plan.service.to_dict()}
    forward, back = _settle(plan, old)
    units = _units_change(plan, before, parts.files)
    late = any("goals" in entry for entry in kernel.undo)
    entries: list[Entry] = [] if late else list(kernel.undo)
    if single is not None:
        entries.append({"kind": "service_stop", **name, "was": single.to_dict(), "disable": not plan.present})
    if plan.present and not late:
        entries += parts.stop + services.off
    else:
        entries += services.off + parts.stop
    entries += kernel.undo if late else []
    entries += services.was
    entries += [{"kind": "settle", "commands": back, "back": True}] if back else []
    entries += [{**entry, "back": True, "timers": _timers(parts.files, "create")} for entry in units]
    entries += parts.places + parts.files
    entries += [{**entry, "back": False, "timers": _timers(parts.files, "remove")} for entry in units]
    if plan.present:
        entries += kernel.clear + kernel.set
    entries += services.tests
    entries += [{"kind": "settle", "commands": forward, "back": False}] if forward else []
    entries += parts.start + services.on
    if single is not None:
        entries.append({"kind": "service_start", **name, "was": single.to_dict()} if plan.present else {"kind": "service_gone", **name})
    entries += kernel.make if plan.present else kernel.clear
    return entries + parts.gone


def _settle(plan: Plan, old: Memory) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The commands after files changed, and those after they were put back.

    The commands of an earlier plan that this one lacks run too: they tell another configuration system that it has nothing to do any
    more, before the present one begins; and going back, that it has again. That system may be gone from the host, which is no failure.
    """
    given = [{"argv": list(item.argv), "timeout": item.timeout, "when": item.when} for item in plan.settle]
    left: list[dict[str, Any]] = []
    if not plan.present:
        given = given or old.settle
    else:
        known = [item["argv"] for item in given]
        left = [item for item in old.settle if item["argv"] not in known]

    def commands(of: list[dict[str, Any]], way: str, **more: Any) -> list[dict[str, Any]]:
        return [{"argv": item["argv"], "timeout": item["timeout"], **more} for item in of if item["when"] in ("always", way)]

    ways = ("present", "absent") if plan.present else ("absent", "present")
    return (commands(left, "absent", left=True) + commands(given, ways[0]),
            commands(given, ways[1]) + commands(left, "present", left=True))


def _units_change(plan: Plan, before: Before, files: list[Entry]) -> list[Entry]:
    """One entry where systemd must read its units again. The service of the plan does that by itself."""
    single = plan.service.name if plan.service else ""
    names = {os.path.basename(entry["path"]) for entry in files if entry["path"].startswith(UNIT_FOLDERS)}
    needed = names - {single, f"{single}.service"} and before.runner.directory_mode(SYSTEMD_RUNS) is not None
    return [{"kind": "units"}] if needed else []


def _timers(files: list[Entry], verb: str) -> list[str]:
    """Timers whose files this creates or removes."""
    return [os.path.basename(entry["path"]) for entry in files
            if entry["path"].startswith(UNIT_FOLDERS) and entry["path"].endswith(".timer") and entry["verb"] == verb]


def _command(command: Command) -> Entry:
    return {"kind": "command", "argv": list(command.argv), "undo": list(command.undo) if command.undo else None, "timeout": command.timeout}


def _file(change: FileChange, before: Before, out: Prepared) -> Entry | None:
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
        out.contents[change.path] = state
    out.diff.append(file_diff(change, state))
    verb = "remove" if change.content is None else "create" if state is None else \
        "set mode and owner of" if state.content == change.content else "change"
    return {"kind": "file", "path": change.path, "uid": uid if uid is not None or state is None else state.uid,
            "gid": gid if gid is not None or state is None else state.gid, "verb": verb,
            "was": None if state is None else {"mode": state.mode, "uid": state.uid, "gid": state.gid}}

# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""What files and directories a plan comes to: its own, the site's that it extends, and those that earlier runs made and it does not name.

What was in the place of a file of ours is remembered at the first run, and put back when the file is no longer wanted. A file that has
our content before we were ever here is taken for ours: a memory was lost.
"""

from __future__ import annotations

import os
from typing import Any

from .._tsp.errors import ApplyError
from .before import Before
from .edits import EditContext, Edited, edit
from .journal import Entry
from .memory import Memory, keep, kept
from .plan import FileChange, FileEdit, Plan


def wanted_files(plan: Plan, before: Before, remembered: Memory | None, new: Memory, now: float,
                 shared: Memory) -> tuple[list[FileChange], list[str]]:
    """Files as they shall be (those that are so already among them), and warnings. What is to be remembered of them goes to `new`.
    shared: what other transactions have in these files too. One that the first of them made goes with the last."""
    old = remembered or Memory()
    out: list[FileChange] = []
    for change in plan.files:
        if change.content is None:
            out.append(change)
        elif plan.present:
            out.append(change)
            new.files[change.path] = old.files.get(change.path) or _first(change, before)
        else:
            out.append(_given_back(change.path, old.files.get(change.path), change.secret))
    named = {change.path for change in out}
    out += [_given_back(path, entry, False) for path, entry in sorted(old.files.items()) if path not in named]
    warnings: list[str] = []
    edits = {item.path: item for item in plan.edits}
    for path, entry in old.edits.items():
        edits.setdefault(path, FileEdit(path, entry["editor"], entry["options"], entry["mode"]))
    for item in edits.values():
        present = plan.present and item in plan.edits
        changes, edited = _edited(item, present, plan.name, before, old.edits.get(item.path) or {}, remembered is not None, now)
        out += [change for change in changes if change.path not in named]
        warnings += edited.warnings
        if present or edited.state:
            known = old.edits.get(item.path) or shared.edits.get(item.path)
            made = known["made"] if known else before.file(item.path) is None
            new.edits[item.path] = {"editor": item.editor, "options": item.options, "made": made, "mode": item.mode, "state": edited.state}
    return out, warnings


def _first(change: FileChange, before: Before) -> dict[str, Any]:
    state = before.file(change.path)
    was = keep(None if state is None or state.content == change.content else state)
    return {**was, "secret": True} if change.secret else was


def _given_back(path: str, entry: dict[str, Any] | None, secret: bool) -> FileChange:
    """A file of ours that goes, or becomes what it was."""
    state = None if entry is None else kept(entry)
    secret = secret or bool(entry and entry.get("secret"))
    if state is None:
        return FileChange(path, None, secret=secret)
    return FileChange(path, state.content, state.mode, str(state.uid), str(state.gid), secret)


def _edited(item: FileEdit, present: bool, name: str, before: Before, entry: dict[str, Any], known: bool,
            now: float) -> tuple[list[FileChange], Edited]:
    def text_of(path: str) -> str | None:
        found = before.file(path)
        try:
            return None if found is None else found.content.decode("utf-8")
        except UnicodeDecodeError:
            raise ApplyError("not_text", f"{path} is not a text in UTF-8, and cannot be extended.", "Look at what it is.") from None

    text, state = text_of(item.path), before.file(item.path)
    edited = edit(item.editor, EditContext(item.path, text, present, item.options, name, entry.get("state") or {}, now, text_of))
    content = None if edited.text is None else edited.text.encode("utf-8")
    if content is None and state is not None and not entry.get("made", not known or present):
        content = b""
    mode = item.mode if state is None else state.mode
    own = FileChange(item.path, content, mode, item.owner if state is None else None, item.group if state is None else None)
    return [own, *(FileChange(path, None if other is None else other.encode("utf-8")) for path, other in edited.others.items())], edited


def directories(plan: Plan, changes: list[FileChange], before: Before, old: Memory, new: Memory) -> list[Entry]:
    """What must be made: the directories of the plan, and those that its files would miss, parents first."""
    wanted = {item.path: item.mode for item in plan.directories} if plan.present else {}
    for path in [change.path for change in changes if change.content is not None] + list(wanted):
        parent = os.path.dirname(path)
        while parent not in wanted and parent != "/" and before.directory(parent) is None:
            wanted[parent] = 0o755
            parent = os.path.dirname(parent)
    entries: list[Entry] = []
    for path in sorted(wanted, key=lambda name: (name.count("/"), name)):
        was = before.directory(path)
        if was != wanted[path]:
            entries.append({"kind": "directory", "path": path, "mode": wanted[path], "was": was})
            new.directories[path] = was
    if plan.present or new.edits:
        new.directories.update(old.directories)
    return entries


def directories_gone(plan: Plan, changes: list[FileChange], before: Before, remembered: Memory | None) -> list[Entry]:
    """Directories that this plan takes away, if they are empty by then: those that we made."""
    if plan.present:
        return []
    paths = {item.path for item in plan.directories}
    if remembered is not None:
        paths = {path for path, was in remembered.directories.items() if was is None}
    paths = {path for path in paths if not any(change.content is not None and change.path.startswith(f"{path}/") for change in changes)}
    return [{"kind": "directory_gone", "path": path, "was": mode} for path in sorted(paths, key=lambda name: (-name.count("/"), name))
            for mode in [before.directory(path)] if mode is not None]


def removable(gone: list[Entry], before: Before) -> bool:
    """Whether one of these directories is empty, or holds nothing but others of them that are."""
    paths = {entry["path"] for entry in gone}

    def empty(path: str) -> bool:
        inside = [os.path.join(path, name) for name in before.runner.names(path)]
        return all(name in paths and empty(name) for name in inside)

    return any(map(empty, paths))

# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""What a transaction made, and what was in its place before: kept across runs, for the run that takes it away.

One file for each transaction, `<state_dir>/<name>.before.json` (0600, since it may hold files as they were), written when a run is
confirmed:

    schema       1
    name         of the transaction
    devices      the tunnel devices that are ours
    files        path -> {"was": null | {content (base64), mode, uid, gid}}
    edits        path -> {"editor", "options", "made": bool, "mode", "state"}     made: there was no such file
    directories  path -> null | mode before
    items        the items of the last plan (items.py)
    facts        what was in the place of items (change.py), and of all that they brought along
    services     name -> {"spec": {...}, "was": {active, enabled}}
    settle       the commands of the last plan
"""

from __future__ import annotations

import base64
import json
import os
from dataclasses import dataclass, field
from typing import Any

from .._tsp.errors import ApplyError
from .runner import FileState, Runner

SCHEMA = 1
SUFFIX = ".before.json"


@dataclass
class Memory:
    """See above."""

    devices: list[str] = field(default_factory=list)
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    edits: dict[str, dict[str, Any]] = field(default_factory=dict)
    directories: dict[str, int | None] = field(default_factory=dict)
    items: list[dict[str, Any]] = field(default_factory=list)
    facts: list[dict[str, Any]] = field(default_factory=list)
    services: dict[str, dict[str, Any]] = field(default_factory=dict)
    settle: list[dict[str, Any]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """As in the file, without schema and name."""
        return {"devices": self.devices, "files": self.files, "edits": self.edits, "directories": self.directories, "items": self.items,
                "facts": self.facts, "services": self.services, "settle": self.settle}

    @property
    def empty(self) -> bool:
        """Whether there is nothing to remember."""
        return not any(self.to_dict().values())


def path_of(state_dir: str, name: str) -> str:
    """The file of a transaction's memory."""
    return os.path.join(state_dir, f"{name}{SUFFIX}")


def load(runner: Runner, state_dir: str, name: str) -> Memory | None:
    """None where nothing is remembered. Raises ApplyError `memory_broken`."""
    path = path_of(state_dir, name)
    found = runner.read(path)
    if found is None:
        return None
    try:
        data = json.loads(found.content)
        if data.pop("schema") != SCHEMA:
            raise ValueError("another schema")
        data.pop("name")
        return Memory(**data)
    except (ValueError, KeyError, TypeError) as exc:
        raise ApplyError("memory_broken", f"{path} cannot be read ({exc}).",
                         "It says what this host was like before: put that back by hand and remove the file.") from None


def store(runner: Runner, state_dir: str, name: str, data: dict[str, Any] | None) -> None:
    """Replace the memory of a transaction (Memory.to_dict); None forgets it."""
    path = path_of(state_dir, name)
    if data is None:
        runner.remove(path)
        return
    text = json.dumps({"schema": SCHEMA, "name": name, **data}, indent=1, sort_keys=True) + "\n"
    found = runner.read(path)
    if found is None or found.content != text.encode() or found.mode != 0o600:
        runner.write(path, text.encode(), 0o600)


def ours(runner: Runner, state_dir: str) -> dict[str, dict[str, list[str]]]:
    """All transactions that have something on this host: name -> {devices, files}. What cannot be read is left out."""
    out: dict[str, dict[str, list[str]]] = {}
    for entry in runner.names(state_dir):
        if entry.endswith(SUFFIX):
            name = entry[:-len(SUFFIX)]
            try:
                memory = load(runner, state_dir, name)
            except ApplyError:
                continue
            if memory is not None:
                out[name] = {"devices": list(memory.devices), "files": sorted({*memory.files, *memory.edits})}
    return out


def of_others(runner: Runner, state_dir: str, name: str) -> Memory:
    """What can be shared with other transactions, their `services` and `edits`, in one. What cannot be read is left out."""
    out = Memory()
    for entry in runner.names(state_dir):
        if entry.endswith(SUFFIX) and entry != f"{name}{SUFFIX}":
            try:
                other = load(runner, state_dir, entry[:-len(SUFFIX)])
            except ApplyError:
                continue
            if other is not None:
                out.services = {**other.services, **out.services}
                out.edits = {**other.edits, **out.edits}
    return out


def keep(state: FileState | None) -> dict[str, Any]:
    """A file as it was, for `files`."""
    return {"was": None if state is None else {"content": base64.b64encode(state.content).decode("ascii"), "mode": state.mode,
                                               "uid": state.uid, "gid": state.gid}}


def kept(entry: dict[str, Any]) -> FileState | None:
    """The file as it was."""
    was = entry["was"]
    return None if was is None else FileState(base64.b64decode(was["content"]), was["mode"], was["uid"], was["gid"])

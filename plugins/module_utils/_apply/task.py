# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""The task `apply_config`: from parameters to a plan, and from an outcome to a result.

Files of the controller come in two phases. First they are named with their checksum alone; where one is not on the host already,
the answer lists it in `need` and nothing is done. Then the action plugin copies exactly those and asks again, with `src` saying
where they are now. So a settled host costs one call and no copy.

With confirm_timeout a run that changed something answers with `unconfirmed`. Then the action plugin comes in anew, and says in the phase
`confirm` that the change is to stay. It chose the token by which the run is known, so that it can do so even if the answer is lost.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from hashlib import sha256
from typing import Any

from .._tsp.errors import ApplyError, LocalError
from . import radvd
from .deadman import Deadman
from .edits import register
from .management import insist
from .plan import (
    MANAGERS,
    STATES,
    WHEN,
    Command,
    Directory,
    FileChange,
    FileEdit,
    Plan,
    Probe,
    Service,
    ServiceWish,
    Settle,
)
from .probe import ping
from .runner import HostRunner, Runner
from .service import manager_for
from .transaction import STATE_DIR, Outcome, Prober, apply, confirm, to_result
from .undo import program

register("radvd", radvd.edit)
COMMAND_OPTIONS: dict[str, Any] = {
    "argv": {"type": "list", "elements": "str", "required": True},
    "undo": {"type": "list", "elements": "str"},
    "unless": {"type": "list", "elements": "str"},
    "timeout": {"type": "float", "default": 60.0},
}
SERVICE_OPTIONS: dict[str, Any] = {
    "name": {"type": "str", "required": True},
    "manager": {"type": "str", "choices": list(MANAGERS), "default": "auto"},
    "argv": {"type": "list", "elements": "str", "default": []},
    "pid_file": {"type": "path"},
    "timeout": {"type": "float", "default": 30.0},
}
SPEC: dict[str, Any] = {
    "name": {"type": "str", "required": True},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "files": {"type": "list", "elements": "dict", "default": [], "options": {
        "path": {"type": "path", "required": True},
        "content": {"type": "str"},
        "src": {"type": "path"},
        "secret_content": {"type": "str", "no_log": True},
        "checksum": {"type": "str"},
        "template": {"type": "path"},
        "vars": {"type": "dict", "default": {}},
        "edit": {"type": "dict"},
        "mode": {"type": "raw", "default": "0644"},
        "owner": {"type": "str"},
        "group": {"type": "str"},
        "only_with": {"type": "list", "elements": "str", "choices": list(MANAGERS[1:])},
    }, "mutually_exclusive": [("content", "src", "secret_content", "template"), ("content", "checksum", "secret_content"),
                              ("edit", "src", "secret_content"), ("edit", "checksum")]},
    "secrets": {"type": "dict", "no_log": True},
    "absent_files": {"type": "list", "elements": "path", "default": []},
    "directories": {"type": "list", "elements": "dict", "default": [], "options": {
        "path": {"type": "path", "required": True},
        "mode": {"type": "raw", "default": "0755"},
    }},
    "stop": {"type": "list", "elements": "dict", "default": [], "options": COMMAND_OPTIONS},
    "start": {"type": "list", "elements": "dict", "default": [], "options": COMMAND_OPTIONS},
    "settle": {"type": "list", "elements": "dict", "default": [], "options": {
        "argv": {"type": "list", "elements": "str", "required": True},
        "timeout": {"type": "float", "default": 60.0},
        "when": {"type": "str", "choices": list(WHEN), "default": "always"},
    }},
    "service": {"type": "dict", "options": SERVICE_OPTIONS},
    "services": {"type": "list", "elements": "dict", "default": [], "options": {
        **SERVICE_OPTIONS,
        "state": {"type": "str", "choices": list(STATES), "default": "started"},
        "enabled": {"type": "bool"},
        "files": {"type": "list", "elements": "path", "default": []},
        "reload_argv": {"type": "list", "elements": "str", "default": []},
        "test_argv": {"type": "list", "elements": "str", "default": []},
    }},
    "items": {"type": "list", "elements": "dict", "default": []},
    "items_timeout": {"type": "float", "default": 20.0},
    "probe": {"type": "dict", "options": {
        "address": {"type": "str", "required": True},
        "source": {"type": "str"},
        "interface": {"type": "str"},
        "count": {"type": "int", "default": 1},
        "timeout": {"type": "float", "default": 15.0},
        "status_file": {"type": "path"},
    }},
    "state_dir": {"type": "path", "default": STATE_DIR},
    "facts": {"type": "dict", "default": {}},
    "refused": {"type": "dict"},
    "proof_fact": {"type": "str"},
    "confirm_timeout": {"type": "float", "default": 0.0},
    "confirm_token": {"type": "str", "no_log": False},
    "confirm_phase": {"type": "str", "choices": ["apply", "confirm"], "default": "apply"},
}
LONGEST_WAIT = 86400


def run(params: dict[str, Any], *, check_mode: bool = False, runner: Runner | None = None, prober: Prober = ping) -> dict[str, Any]:
    """Do the task. Raises TspError. The result: changed, steps, diff, proof, recovered, unconfirmed (seconds) where it is so; or
    changed and need; or, asked to confirm, changed and confirmed."""
    runner = runner or HostRunner()
    present = params["state"] == "present"
    need: list[str] = []
    service, probe = _service(params["service"]), params["probe"]
    kind = None if service is None else manager_for(service, runner).kind
    edits = tuple(_edit(item, present) for item in params["files"] if item.get("edit"))
    files = [_file(item, present, runner, need) for item in _with_secrets(params["files"], params.get("secrets") or {})
             if not item.get("edit") and (not present or not item.get("only_with") or kind in item["only_with"])]
    files += [FileChange(path, None) for path in params["absent_files"]]
    confirming = params["confirm_phase"] == "confirm" and not check_mode
    token = params["confirm_token"] or os.urandom(8).hex()
    if need and not confirming:
        return {"changed": True, "need": need, "steps": [], "diff": [], "proof": None, "recovered": False}
    plan = Plan(
        name=params["name"], present=present,
        directories=tuple(Directory(item["path"], _mode(item["mode"], item["path"])) for item in params["directories"]),
        files=tuple(files), edits=edits, stop=_commands(params["stop"]), start=_commands(params["start"]),
        settle=tuple(Settle(tuple(item["argv"]), item["timeout"], item["when"]) for item in params["settle"]),
        service=service, services=tuple(map(_wish, params["services"])), items=tuple(params["items"]) if present else (),
        items_timeout=params["items_timeout"], probe=None if probe is None else Probe(
            probe["address"], probe["source"] or None, probe["interface"] or None, probe["count"], probe["timeout"],
            probe["status_file"] or None))
    if not params["state_dir"].startswith("/"):
        raise LocalError("invalid_plan", f"state_dir {params['state_dir']!r} is not an absolute path.", "")
    timeout, state_dir = params["confirm_timeout"], params["state_dir"]
    if not 0 <= timeout <= LONGEST_WAIT:
        raise LocalError("invalid_plan", f"confirm_timeout is 0 to {LONGEST_WAIT} seconds.", "")
    if confirming:
        # Nothing is written down about what was confirmed. When the answer to that was lost, the host itself says it: it is as planned.
        if not confirm(plan.name, runner, token, state_dir) and (
                need or apply(plan, runner, prober, state_dir=state_dir, check=True).changed):
            raise ApplyError("undone", "Nobody confirmed the change in time, and the host has undone what there was of it.",
                             "Give it more time (confirm_timeout), or find out why the host could not be reached.")
        return {**to_result(Outcome(changed=True)), "confirmed": True}
    if not timeout:
        insist(plan.name, plan.items, present, runner, state_dir, os.getpid())
    deadman = None
    if timeout and not check_mode:
        deadman = Deadman(runner, state_dir, plan.name, timeout, token, program(), sys.executable)
    return to_result(apply(plan, runner, prober, state_dir=state_dir, check=check_mode, deadman=deadman))


def _service(item: dict[str, Any] | None) -> Service | None:
    if item is None:
        return None
    return Service(item["name"], item["manager"], tuple(item["argv"]), item["pid_file"] or None, item["timeout"],
                   tuple(item.get("reload_argv") or ()))


def _wish(item: dict[str, Any]) -> ServiceWish:
    service = _service(item)
    if service is None:
        raise LocalError("invalid_plan", "A service has no name.", "")
    return ServiceWish(service, item["state"], item["enabled"], tuple(item["files"]), tuple(item["test_argv"]))


def _edit(item: dict[str, Any], present: bool) -> FileEdit:
    options = dict(item["edit"])
    editor = options.pop("editor", None)
    if not isinstance(editor, str):
        raise LocalError("invalid_plan", f"edit of {item['path']} names no editor.", "Say editor: block, for example.")
    if present and item.get("content") is not None:
        options["content"] = item["content"]
    return FileEdit(item["path"], editor, options, _mode(item["mode"], item["path"]), item.get("owner"), item.get("group"))


def _with_secrets(files: Sequence[dict[str, Any]], secrets: dict[str, str]) -> list[dict[str, Any]]:
    """The files with what came apart from them, by their number."""
    return [{**item, "secret_content": secrets[str(number)]} if str(number) in secrets else item for number, item in enumerate(files)]


def _file(item: dict[str, Any], present: bool, runner: Runner, need: list[str]) -> FileChange:
    path, secret = item["path"], item.get("secret_content")
    mode = _mode(item["mode"], path)
    content: bytes | None = b""  # whatever it was: it goes
    if present:
        if secret is not None:
            content = secret.encode("utf-8")
        elif item.get("content") is not None:
            content = item["content"].encode("utf-8")
        elif item.get("checksum"):
            content = _from_controller(item, runner, need)
        else:
            raise LocalError("invalid_plan", f"{path} has no content.",
                             "Give content, template, src or secret_content, or name it in absent_files.")
    return FileChange(path, content, mode, item.get("owner"), item.get("group"), secret=secret is not None)


def _from_controller(item: dict[str, Any], runner: Runner, need: list[str]) -> bytes:
    path = item["path"]
    found = runner.read(item["src"] if item.get("src") else path)
    if found is not None and sha256(found.content).hexdigest() == item["checksum"]:
        return found.content
    if item.get("src"):
        raise LocalError("copy_damaged", f"The copy of {path} did not arrive as it was sent.", "Run the task again.")
    need.append(path)
    return b""


def _commands(items: Sequence[dict[str, Any]]) -> tuple[Command, ...]:
    return tuple(Command(tuple(item["argv"]), tuple(item["undo"]) if item.get("undo") else None,
                         tuple(item["unless"]) if item.get("unless") else None, item["timeout"]) for item in items)


def _mode(given: Any, path: str) -> int:
    """An octal number as text; or the number that YAML makes of an unquoted 0640, which as text would mean another mode."""
    try:
        value = given if isinstance(given, int) and not isinstance(given, bool) else int(str(given), 8)
    except ValueError:
        value = -1
    if not 0 <= value <= 0o7777:
        raise LocalError("invalid_plan", f"The mode {given!r} of {path} is not an octal number.", "Write it as text, for example '0644'.")
    return value

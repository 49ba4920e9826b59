# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause
"""Radvd's part when the broker granted another prefix: what was advertised is deprecated, the new is advertised.

How a transaction of apply_config advertises for this tunnel is remembered on the host (_apply/memory.py): the options of the editor
`radvd`. The same editor is given the same options again, with the networks that follow from the new lease, and what it makes is written
and reloaded as at provisioning. A run of the role afterwards finds what it would have made itself.

The configuration says where: {"transactions": [names], "state_dir": "/var/lib/tsp-apply"}.
"""

from __future__ import annotations

import json
import logging
import os
import time
from typing import Any

from .._apply import memory
from .._apply.edits import EditContext, Edited
from .._apply.radvd import edit
from .._apply.runner import FileState, HostRunner, Runner
from .._apply.transaction import STATE_DIR
from .._module.plan import tunnel_plan
from .._tsp.errors import ApplyError
from .._tsp.lease import Lease
from .settings import AgentConfig

MTU = "/sys/class/net/{}/mtu"


def advertise(config: AgentConfig, lease: Lease, log: logging.Logger, runner: Runner | None = None) -> None:
    """Have radvd advertise what this lease gives, for each transaction that advertises for this tunnel; log what was changed.

    Raises ApplyError (`busy`, `test_failed`, …), LocalError; then radvd.conf is as it was.
    """
    runner = runner or HostRunner()
    told = config.radvd or {}
    state_dir = str(told.get("state_dir") or STATE_DIR)
    with runner.lock(state_dir):
        for name in told.get("transactions") or ():
            remembered = memory.load(runner, state_dir, str(name))
            if runner.directory_mode(os.path.join(state_dir, str(name))) is not None:
                raise ApplyError("busy", f"A change of this host ({name}) is not confirmed yet.", "The agent tries again by itself.")
            for path, entry in sorted(remembered.edits.items() if remembered is not None else ()):
                if entry["editor"] == "radvd" and not entry.get("state", {}).get("taken_out"):
                    _amend(config, lease, log, runner, state_dir, str(name), path)


def _amend(config: AgentConfig, lease: Lease, log: logging.Logger, runner: Runner, state_dir: str, name: str, path: str) -> None:
    remembered = memory.load(runner, state_dir, name) or memory.Memory()
    entry = remembered.edits[path]
    options = {**entry["options"], "interfaces": _wishes(config, lease, entry["options"].get("interfaces") or [])}
    found = runner.read(path)
    text = None if found is None else found.content.decode("utf-8", "surrogateescape")
    edited = edit(EditContext(path, text, True, options, name, entry.get("state") or {}, time.time()))
    files = {path: edited.text, **edited.others}
    before = {file: runner.read(file) for file in files}
    changed = [file for file in files if _content(files[file]) != _found(before[file])]
    entry["options"], entry["state"] = options, edited.state
    if not changed:
        memory.store(runner, state_dir, name, remembered.to_dict())
        return
    tidy = options.get("tidy") or {}
    try:
        for file in changed:
            _write(runner, file, _content(files[file]), before[file])
        _test(runner, tidy, path)
    except BaseException:
        for file in changed:
            _write(runner, file, _found(before[file]), before[file])
        raise
    # From here on the file says it, and the memory follows: either is enough for the next run.
    memory.store(runner, state_dir, name, remembered.to_dict())
    _reload(runner, remembered.services, path)
    for warning in edited.warnings:
        log.warning("%s", warning)
    log.info("radvd: %s", _said(edited))


def _wishes(config: AgentConfig, lease: Lease, before: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The interfaces as they were told, with the networks that this lease gives them."""
    link = config.link
    numbers = tunnel_plan(lease, lan_interfaces=list(link.lan_interfaces), mtu=link.mtu, link_mtu=link.link_mtu)
    if numbers["family"] != 6:
        return []
    known = {wish["name"]: wish for wish in before}
    plain: dict[str, Any] = {"rdnss": [], "dnssl": [], "default_lifetime": None, **(dict(before[0]) if before else {})}
    return [{**known.get(entry["interface"], plain), "name": entry["interface"], "prefixes": [entry["network"]],
             "mtu": _mtu(numbers["ra_mtu"], entry["interface"])} for entry in numbers["lan"]]


def _mtu(wanted: int, interface: str) -> int:
    """No more than the LAN itself carries (RFC 4861 section 6.2.1)."""
    try:
        with open(MTU.format(interface), encoding="ascii") as file:
            own = int(file.read())
    except (OSError, ValueError):
        return wanted
    return wanted if own < 1280 else min(wanted, own)


def _found(state: FileState | None) -> bytes | None:
    return None if state is None else state.content


def _content(text: str | None) -> bytes | None:
    return None if text is None else text.encode("utf-8", "surrogateescape")


def _write(runner: Runner, path: str, content: bytes | None, before: FileState | None) -> None:
    if content is None:
        runner.remove(path)
        return
    if runner.directory_mode(os.path.dirname(path)) is None:
        runner.make_directory(os.path.dirname(path), 0o755)
    runner.write(path, content, before.mode if before is not None else 0o644)


def _test(runner: Runner, tidy: dict[str, Any], path: str) -> None:
    program = str(tidy.get("radvd") or "/usr/sbin/radvd")
    done = runner.run([program, "--configtest", "--config", path])
    if done.rc:
        raise ApplyError("test_failed", f"radvd does not accept {path} with the new prefix: {done.words}.",
                         "Look at what the site has in it; until then the old prefix is advertised.")


def _reload(runner: Runner, services: dict[str, Any], path: str) -> None:
    """As the transaction that started it would."""
    from .._apply.plan import Service
    from .._apply.service import SYSTEMD_RUNS, manager_for

    if runner.directory_mode(SYSTEMD_RUNS) is not None:
        runner.run(["systemctl", "--no-ask-password", "daemon-reload"])
    for entry in services.values():
        if path in entry["files"]:
            manager_for(Service.from_dict(entry["spec"]), runner).run("reload")


def _said(edited: Edited) -> str:
    entries = edited.state.get("entries") or []
    return "; ".join(f"{kind} {value} on {interface} {'advertised' if deadline is None else 'goes'}"
                     for interface, kind, value, deadline, _valid in entries) or json.dumps(edited.state)

# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""What a plan comes to for services: those of the plan, and those that earlier runs of its name touched."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from .before import Before
from .journal import Entry
from .memory import Memory
from .plan import Plan, Service, ServiceWish
from .service import ServiceState


@dataclass
class ServiceWork:
    """off: end what must not run any more, while its files are there. was: undo only, see journal. tests, on: after the files."""

    off: list[Entry] = field(default_factory=list)
    was: list[Entry] = field(default_factory=list)
    tests: list[Entry] = field(default_factory=list)
    on: list[Entry] = field(default_factory=list)

    @property
    def touched(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.off or self.on)


def service_work(plan: Plan, before: Before, remembered: Memory | None, new: Memory, changed: Sequence[str], waits: bool,
                 shared: Memory) -> ServiceWork:
    """changed: the files that change. waits: the kernel lacks what one of the services may have to make. shared: the services that other
    transactions have in use: the last one to go makes them what they were before the first."""
    work, old = ServiceWork(), remembered or Memory()
    own_files = {os.path.basename(item.path) for item in plan.files if item.content is not None}
    wanted = {item.path for item in plan.edits} if plan.present else set()
    # A file of the site in which something of ours has to stay for a while yet (edits.py): who reads it goes on until then.
    lingering = set(new.edits) - wanted
    for wish in plan.services:
        entry = old.services.get(wish.service.name)
        first = entry or shared.services.get(wish.service.name)
        state = before.service(wish.service)
        if plan.present or lingering & set(wish.files):
            was = first["was"] if first else _first(wish.service, state, own_files)
            new.services[wish.service.name] = {"spec": wish.service.to_dict(), "state": wish.state, "files": list(wish.files), "was": was}
            if plan.present:
                _wanted(work, wish, state, changed, waits)
            elif state.active:
                _wanted(work, replace(wish, enabled=None), state, changed, False)
        else:
            was = entry["was"] if entry else _first(wish.service, state, own_files)
            back = state if wish.service.name in shared.services else ServiceState(**was)
            _back(work, wish.service, wish.state, state, back, wish.files, changed)
    named = {wish.service.name for wish in plan.services} | ({plan.service.name} if plan.service else set())
    for name, entry in sorted(old.services.items()):
        if name not in named:
            service = Service.from_dict(entry["spec"])
            state = before.service(service)
            if lingering & set(entry["files"]):
                new.services[name] = entry
                if state.active:
                    _wanted(work, ServiceWish(service, entry["state"], files=tuple(entry["files"])), state, changed, False)
            else:
                back = state if name in shared.services else ServiceState(**entry["was"])
                _back(work, service, entry["state"], state, back, entry["files"], changed)
    return work


def of_the_plan(plan: Plan, state: ServiceState | None, remembered: Memory | None, new: Memory) -> None:
    """Remember the plan's one service, for a later plan without it."""
    if plan.service is None or state is None or not plan.present:
        return
    entry = (remembered or Memory()).services.get(plan.service.name)
    own_files = {os.path.basename(item.path) for item in plan.files if item.content is not None}
    new.services[plan.service.name] = {"spec": plan.service.to_dict(), "state": "restarted", "files": [],
                                       "was": entry["was"] if entry else _first(plan.service, state, own_files)}


def _first(service: Service, state: ServiceState, own_files: Iterable[str]) -> dict[str, Any]:
    """What it was before us: a unit whose file is ours did not run."""
    names = {service.name, f"{service.name}.service"}
    return ServiceState(False, None if state.enabled is None else False).to_dict() if names & set(own_files) else state.to_dict()


def _wanted(work: ServiceWork, wish: ServiceWish, state: ServiceState, changed: Sequence[str], waits: bool) -> None:
    renewed = any(path in changed for path in wish.files) if wish.files else bool(changed)
    verb = None
    if wish.state == "stopped":
        verb = "stop" if state.active else None
    elif not state.active:
        verb = "start"
    elif wish.state == "reloaded":
        verb = "reload" if renewed else None
    elif wish.state == "restarted":
        verb = "restart" if renewed or waits else None
    enable = wish.enabled if wish.enabled is not None and state.enabled is not None and state.enabled != wish.enabled else None
    if verb is None and enable is None:
        return
    entry = {"service": wish.service.to_dict(), "was": state.to_dict(), "verb": verb, "enable": enable}
    work.was.append({"kind": "service_was", **entry})
    work.on.append({"kind": "service", **entry})
    if wish.test_argv and verb in ("start", "restart", "reload"):
        work.tests.append({"kind": "test", "argv": list(wish.test_argv), "timeout": wish.service.timeout, "name": wish.service.name})


def _back(work: ServiceWork, service: Service, how: str, state: ServiceState, was: ServiceState, files: Sequence[str],
          changed: Sequence[str]) -> None:
    """To what it was before us."""
    entry: Entry = {"service": service.to_dict(), "was": state.to_dict()}
    stop, disable = state.active and not was.active, bool(state.enabled) and was.enabled is False
    if stop or disable:
        work.off.append({"kind": "service_off", **entry, "stop": stop, "disable": disable})
    renewed = any(path in changed for path in files) if files else bool(changed)
    verb = None
    if was.active:
        verb = "start" if not state.active else ("reload" if how == "reloaded" else "restart") if renewed and how != "started" else None
    enable = True if was.enabled and state.enabled is False else None
    if verb or enable:
        work.was.append({"kind": "service_was", **entry, "verb": verb, "enable": enable})
        work.on.append({"kind": "service", **entry, "verb": verb, "enable": enable})

# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""What a plan comes to in the kernel: what is missing, what is in the way, what an earlier plan of its name made and this one lacks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .._tsp.errors import LocalError
from .before import Before
from .change import ALIAS, Fact, facts_of, true
from .items import Item, describe
from .journal import Entry
from .kernel import SPREADING, State, holds, key, same_tunnel, with_parts
from .memory import Memory
from .plan import Plan

BACK_TIMEOUT = 10.0


@dataclass
class KernelWork:
    """undo: the first entry; or, where services of an earlier plan made what this one is about, the first after they have ended.
    clear: what leaves the kernel. set: variables, before anything else. make: what is missing then.

    waits: something is missing that the host's configuration system makes.
    """

    undo: list[Entry] = field(default_factory=list)
    clear: list[Entry] = field(default_factory=list)
    set: list[Entry] = field(default_factory=list)
    make: list[Entry] = field(default_factory=list)
    diff: list[dict[str, str]] = field(default_factory=list)
    waits: bool = False
    touched: bool = False


def kernel_work(plan: Plan, before: Before, old: Memory, new: Memory, replaces: bool) -> KernelWork:
    """replaces: a service of an earlier plan goes, and its devices with it. Raises LocalError `device_taken`."""
    work = KernelWork()
    wanted = with_parts(plan.items) if plan.present else []
    if not wanted and not old.facts:
        return work
    state = before.kernel([*wanted, *old.facts])
    keys = {key(item) for item in wanted}
    spreading = {name for item in wanted if item["kind"] == "sysctl" for name in [item["name"]] if name in SPREADING}
    dropped = [item for item in old.facts if key(item) not in keys and item.get("because") not in spreading]
    leaving = _in_the_way(plan, wanted, state, old, replaces)
    missing = [item for item in wanted if not holds(item, state)]
    clear: list[Fact] = [{**item, "was": None} for item in wanted if item["kind"] == "link" and item["device"] in leaving]
    clear += _given_back(dropped, state)
    gone = leaving | {item["device"] for item in clear if item["kind"] == "link" and item["was"] is None}
    if plan.present:
        _remember(plan, wanted, dropped, state, before, old, new, replaces)
    work.touched = bool(missing or clear)
    work.waits = any(not item.get("make") for item in missing)
    goals = wanted + [_goal(item) for item in dropped if item["kind"] != "sysctl" or item["was"] is not None]
    undo = facts_of(goals, gone, before.runner, state)
    if undo:
        # What a service that goes has made goes with it: what was there before us is to be seen then.
        look = {"goals": goals, "leaving": sorted(gone)} if replaces else {}
        work.undo = [{"kind": "kernel", "facts": [] if replaces else undo, "timeout": BACK_TIMEOUT, **look}]
    if clear:
        work.clear = [{"kind": "kernel_back", "facts": clear, "timeout": BACK_TIMEOUT}]
    sysctls = [item for item in missing if item["kind"] == "sysctl" and item.get("make")]
    if sysctls:
        work.set = [{"kind": "kernel_set", "items": sysctls}]
    if wanted:
        lacking = {key(item) for item in missing}
        work.make = [{"kind": "kernel_make", "items": [{**item, "missing": True} if key(item) in lacking else item for item in wanted],
                      "name": plan.name, "tunnels": sorted({item["device"] for item in wanted if item["kind"] == "link"}),
                      "timeout": plan.items_timeout}]
    if work.touched:
        work.diff = _diff(clear, missing, state)
    return work


def _goal(item: Fact) -> Item:
    """A fact as what a run wants."""
    return {**item, "value": item["was"]} if item["kind"] == "sysctl" else item


def _given_back(dropped: Sequence[Fact], state: State) -> list[Fact]:
    """Of what is no longer wanted, what has to change. A variable that no longer has our value is somebody else's by now, and stays; also
    on an interface to which it spreads from a variable that goes back."""
    out = [item for item in dropped if not item.get("because") and not true(item, state, keep_changed=True)]
    parents = {item["name"] for item in out if item["kind"] == "sysctl"}
    for item in dropped:
        value = state.get(key(item))
        if item.get("because") in parents and value is not None:
            out.append(item if value == item["ours"] else {**item, "was": value})
    return out


def _in_the_way(plan: Plan, wanted: Sequence[Item], state: State, old: Memory, replaces: bool) -> set[str]:
    """Devices of ours that are another tunnel than the plan's."""
    out = set()
    for item in wanted:
        found = state.get(key(item)) if item["kind"] == "link" else None
        if found is None:
            continue
        if item["device"] not in old.devices and not (replaces and found["alias"].startswith(f"{ALIAS}:")):
            raise LocalError("device_taken", f"A device named {item['device']} exists already, and {plan.name} did not make it.",
                             "Choose another name for the tunnel's device, or remove that one.")
        if not same_tunnel(item, found):
            out.add(item["device"])
    return out


def _remember(plan: Plan, wanted: Sequence[Item], dropped: Sequence[Fact], state: State, before: Before, old: Memory, new: Memory,
              replaces: bool) -> None:
    new.devices = sorted({item["device"] for item in wanted if item["kind"] == "link"})
    new.items = [dict(item) for item in plan.items]
    known = {key(item): item for item in old.facts}
    away = {key(item) for item in dropped}
    facts: dict[str, Fact] = {}
    for item in wanted:
        was = known[key(item)]["was"] if key(item) in known else None if item["kind"] == "link" else state.get(key(item))
        facts[key(item)] = {**item, "was": was, **({"ours": item["value"]} if item["kind"] == "sysctl" else {})}
    for item in facts_of([item for item in wanted if item["kind"] == "sysctl"], (), before.runner, state):
        if item["kind"] == "sysctl" and item.get("because"):
            facts.setdefault(key(item), item)
    for name, item in known.items():
        if name not in away:
            facts[name] = {**facts.get(name, item), "was": item["was"]}
    new.facts = [{**item, "fresh": True} if replaces and name not in known and item["kind"] != "link" else item
                 for name, item in facts.items()]


def _diff(clear: Sequence[Fact], missing: Sequence[Item], state: State) -> list[dict[str, str]]:
    """As lines: what is there and changes, and what is there then."""
    lines: tuple[list[str], list[str]] = ([], [])
    for item in clear:
        found = state.get(key(item))
        if item.get("because"):
            continue
        if found is not None:
            lines[0].append(_described(item, found))
        if item["was"] is not None:
            lines[1].append(_described(item, item["was"]))
    cleared = {key(item) for item in clear}
    for item in missing:
        found = state.get(key(item))
        if found is not None and key(item) not in cleared:
            lines[0].append(_described(item, found))
        if not item.get("absent"):
            lines[1].append(_described(item, item if item["kind"] == "link" else item.get("value")))
    before, after = ("".join(f"{line}\n" for line in part) for part in lines)
    return [{"before": before, "after": after, "before_header": "the kernel", "after_header": "the kernel"}]


def _described(item: Item, found: Any) -> str:
    if item["kind"] == "sysctl":
        return describe({**item, "value": found})
    if item["kind"] == "link" and found.get("local") and found.get("remote"):
        return f"{describe({**item, **{name: found.get(name) for name in ('type', 'local', 'remote', 'encap')}})}, MTU {found.get('mtu')}"
    return describe(item)

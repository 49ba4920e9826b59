# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""One transaction on a host: checkpoint, apply, probe, confirm; or everything as it was.

A run that is killed at any step leaves a journal. The next run finds it, and either undoes what was begun or, when the new state
had been confirmed, clears the journal away; then it does its own work. Two runs never work on one host at the same time.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .._tsp.errors import ApplyError
from . import memory
from .before import Before
from .change import wait
from .deadman import Deadman, load, rebooted
from .journal import APPLYING, CONFIRMED, PROVED, Journal, clear, describe, undo_only
from .kernel import with_parts
from .plan import FileChange, Plan, Probe
from .prepare import Prepared, prepare
from .probe import ProbeResult, explain
from .runner import Runner

STATE_DIR = "/var/lib/tsp-apply"
"""Where checkpoints live while a transaction runs, and what is remembered of it afterwards. Not below a directory that one could remove."""
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
    warnings: list[str] = field(default_factory=list)


def apply(plan: Plan, runner: Runner, prober: Prober, *, state_dir: str = STATE_DIR, check: bool = False,
          deadman: Deadman | None = None) -> Outcome:
    """Make the host what the plan says. check: compute the same, write nothing. deadman: undoes it unless `confirm` is called in time.

    Raises LocalError `device_taken`, and others for a plan that does not fit this host, before anything is touched. Raises ApplyError:
    `apply_failed`, `service_failed`, `test_failed`, `host_refused`, … when a step failed, `not_in_kernel` when what was configured did
    not come about, and all is as it was before; `not_proved` when no packet came back (as it was before, too, unless nothing had been
    changed); `rollback_failed` when the old state could not be brought back wholly (the checkpoint stays, the next run tries again);
    `busy`.
    """
    directory = os.path.join(state_dir, plan.name)
    if check:
        journal = Journal.load(runner, directory)
        outcome = _outcome(_prepare(plan, runner, state_dir, journal))
        if journal is not None:
            outcome.recovered = outcome.changed = True
            outcome.steps.insert(0, _recovery(journal))
        return outcome
    with runner.lock(state_dir):
        recovered = recover(runner, directory)
        prepared = _prepare(plan, runner, state_dir, None)
        outcome = _outcome(prepared)
        if recovered:
            outcome.recovered = outcome.changed = True
            outcome.steps.insert(0, recovered)
        if not prepared.entries:
            outcome.proof = _prove(plan, prober, "Nothing had to be changed, and nothing was.")
            memory.store(runner, state_dir, plan.name, prepared.memory)
            return outcome
        journal = Journal(runner, directory, prepared.entries, prepared.memory)
        try:
            journal.begin(prepared.contents)
            if deadman is not None:
                deadman.arm()
        except BaseException:
            journal.discard()
            raise
        _run(plan, journal, prepared.changes, prober, outcome, deadman)
    return outcome


def _prepare(plan: Plan, runner: Runner, state_dir: str, journal: Journal | None) -> Prepared:
    remembered = memory.load(runner, state_dir, plan.name)
    if journal is not None and journal.phase == CONFIRMED:  # it was killed before it could write this down
        remembered = None if journal.memory is None else memory.Memory(**journal.memory)
    shared = memory.of_others(runner, state_dir, plan.name)
    return prepare(plan, Before(runner, journal), remembered, time.time(), shared)


def _outcome(prepared: Prepared) -> Outcome:
    return Outcome(bool(prepared.entries), list(prepared.steps), list(prepared.diff), warnings=list(prepared.warnings))


def confirm(name: str, runner: Runner, token: str, state_dir: str = STATE_DIR) -> bool:
    """Keep what the run of this token did. False when there is nothing of it to confirm (any more). Raises ApplyError `busy`."""
    with runner.lock(state_dir):
        journal, armed = Journal.load(runner, os.path.join(state_dir, name)), load(runner, state_dir, name)
        if journal is None or armed is None or armed["id"] != token or journal.phase == APPLYING:
            return False
        journal.confirm()
        journal.discard()
        return True


def _run(plan: Plan, journal: Journal, changes: dict[str, FileChange], prober: Prober, outcome: Outcome, deadman: Deadman | None) -> None:
    try:
        for number, entry in enumerate(journal.entries):
            if undo_only(entry):
                continue
            journal.step(number)
            try:
                journal.do(entry, changes)
            except ApplyError as exc:
                if entry["kind"] == "command":
                    journal.failed(number)
                what = ", ".join(describe(entry)) or "look at the kernel"
                raise ApplyError(exc.code, f"Step {number + 1} of {len(journal.entries)} ({what}): {exc.message}", exc.hint) from None
        if plan.present and plan.items:
            wait(with_parts(plan.items), journal.runner, plan.items_timeout)
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
        journal.remember()
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
            **({"warnings": outcome.warnings} if outcome.warnings else {}),
            **({"unconfirmed": outcome.unconfirmed} if outcome.unconfirmed else {})}

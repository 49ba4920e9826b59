# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A change to a router as one transaction: read, plan, enter, read again, prove, save; or put everything back and say why.

The order, and why: the configuration is read again after a change because IOS accepts lines without taking them over and hides
lines that say what holds anyway, so that only the comparison tells what changed. The proof comes before saving, so that a change
that did not work is not what the device wakes up with. The way back is computed from what the device holds at that moment, not
from what we believe we entered.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.errors import ApplyError, NetworkError
from ansible_collections.tunnelbroker.tsp.plugins.plugin_utils._router import blocks, claim, plan, probe, rules
from ansible_collections.tunnelbroker.tsp.plugins.plugin_utils._router.device import Device, Lost, Refused

SAVE_CHANGED, SAVE_NEVER, SAVE_ALWAYS = "changed", "never", "always"
_SHOW_TIMEOUT = 60.0


@dataclass(frozen=True)
class Task:
    """What is asked: text to merge or to take away, and what goes with it."""

    text: str
    state: str = plan.MERGED
    save: str = SAVE_CHANGED
    probe: probe.Probe | None = None
    check: bool = False
    mark: str | None = None
    """How the description of a tunnel of ours begins (claim.py)."""


@dataclass
class Outcome:
    """What happened. commands: lines sent (with `check`: that would be). undo: lines that take the change back."""

    changed: bool = False
    commands: list[str] = field(default_factory=list)
    undo: list[str] = field(default_factory=list)
    saved: bool = False
    before: str = ""
    after: str = ""
    proof: probe.Proof | None = None
    warnings: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        return {"changed": self.changed, "commands": self.commands, "undo": self.undo, "saved": self.saved,
                "proof": None if self.proof is None else self.proof.to_dict()}


def run(device: Device, task: Task) -> Outcome:
    """Carry out `task`. Raises ApplyError (`line_refused`, `probe_failed`, `save_failed`, `undo_failed`), NetworkError
    (`session_lost`), LocalError. After an ApplyError other than `undo_failed` and `save_failed` the device is as before."""
    this = _Run(device, task)
    try:
        return this.run()
    except Lost as exc:
        raise _lost(exc, this.entered) from None


class _Run:
    def __init__(self, device: Device, task: Task) -> None:
        self.device, self.task = device, task
        self.wanted = plan.wanted_blocks(task.text)
        self.scope = plan.Scope(self.wanted, task.state)  # as far as the text alone tells
        self.before: list[blocks.Block] = []
        self.outcome = Outcome()
        self.entered = False
        """Whether all lines were accepted."""

    def run(self) -> Outcome:
        self.before = blocks.parse(self.device.running())
        self._claim()
        self._drop_what_holds()
        made = plan.make(self.before, self.wanted, self.task.state, self.scope)
        out = self.outcome
        out.commands, out.undo, out.before, out.after = list(made.commands), list(made.undo), made.before, made.after
        if self.task.check:
            out.changed = bool(made.commands)
            return out
        now = self._apply(made) if made.commands else self.before
        self._prove()
        self._save(now)
        return out

    def _claim(self) -> None:
        """See what on the device is ours. Raises LocalError `interface_taken`."""
        claimed = claim.make(self.before, self.wanted, self.task.mark, self.task.state == plan.DELETED)
        self.wanted = list(claimed.wanted)
        self.scope = plan.Scope(self.wanted, self.task.state, claimed)
        self.outcome.warnings += [f"{name} is not of this task: its description does not begin with {self.task.mark!r}. It was left "
                                  "as it is." for name in claimed.foreign]

    def _drop_what_holds(self) -> None:
        """Leave out wanted lines that the device does not show because they say what holds anyway: it is asked."""
        if self.task.state != plan.MERGED:
            return
        known = {block.header for block in self.before}
        holds = {(header, line) for header, line in plan.missing(self.before, self.wanted) if header in known and self._holds(header, line)}
        if holds:
            self.wanted = [block._replace(body=tuple(line for line in block.body if (block.header, line.strip()) not in holds))
                           for block in self.wanted]

    def _holds(self, header: str, line: str) -> bool:
        """Whether a line that is not shown is in force all the same; the device is asked."""
        for pattern, question, answer in rules.HIDDEN:
            found = pattern.fullmatch(line) if header.startswith("interface ") else None
            if found:
                return answer.format(value=found[1]) in self.device.ask(question.format(interface=header.split()[1]), _SHOW_TIMEOUT)
        return False

    def _apply(self, made: plan.Plan) -> list[blocks.Block]:
        """Enter the lines. Returns the blocks that the device shows afterwards."""
        try:
            self.device.configure(made.commands)
        except Refused as exc:
            self._undo(ApplyError("line_refused", f"The device refused the line {exc.line!r}: {exc.words}.",
                                  "The device is as it was before. Correct the line, or leave it out."))
        self.entered = True
        now = blocks.parse(self.device.running())
        shown = self.scope.of(now)
        self.outcome.changed = not blocks.same(shown, self.scope.of(self.before))
        self.outcome.after = plan.shown(shown)
        if not self.outcome.changed:
            self.outcome.undo = []
        if self.task.state == plan.MERGED:
            hidden = [line for header, line in plan.missing(now, self.wanted) if not self._holds(header, line)]
            if hidden:
                self.outcome.warnings.append(f"The device accepted these lines and does not show them: {'; '.join(hidden)}.")
        return now

    def _prove(self) -> None:
        wanted = self.task.probe
        if wanted is None:
            return
        for _try in range(probe.TRIES):
            self.outcome.proof = probe.read(wanted, self.device.ask(wanted.command, wanted.patience))
            if self.outcome.proof.proved:
                return
        if self.outcome.proof is None:
            raise AssertionError
        message = f"Nothing came back from {wanted.address} through the tunnel. The device said: {self.outcome.proof.answer}"
        if self.outcome.changed:
            self._undo(ApplyError("probe_failed", message, "The device is as it was before. Look at the tunnel's source and destination, "
                                  "and whether protocol 41 (4 with v4v6) passes between them."))
        raise ApplyError("probe_failed", message, "Nothing had been changed by this run: the tunnel was configured, and is dead. Ask the "
                         "broker for it again (renew: true).")

    def _undo(self, why: ApplyError) -> None:
        """Put back what was there, make sure of it, and raise `why`; or raise `undo_failed`."""
        refused = ""
        try:
            way_back = plan.back(blocks.parse(self.device.running()), self.before, self.scope)
            if way_back.commands:
                try:
                    self.device.configure(way_back.commands)
                except Refused as exc:
                    refused = f" On the way back it refused {exc.line!r}: {exc.words}."
            rest = plan.back(blocks.parse(self.device.running()), self.before, self.scope).commands
        except Lost as exc:
            raise ApplyError("undo_failed", f"{why.message} The session then broke while the change was being taken back ({exc.reason}).",
                             "Run the play again, or look at the device.") from None
        if rest:
            raise ApplyError("undo_failed", f"{why.message}{refused} These lines are still missing to what was there before: "
                             f"{'; '.join(line.strip() for line in rest)}.", "Enter them by hand, or correct the play and run it again.")
        raise why

    def _save(self, now: list[blocks.Block]) -> None:
        """`changed`: when the startup configuration lacks what this task is about, whoever failed to save it; `always`: when it
        differs from the running one at all. A configuration that is already safe is not written again."""
        if self.task.save == SAVE_NEVER:
            return
        stored = blocks.parse(self.device.startup())
        if self.task.save == SAVE_CHANGED:
            if blocks.same(self.scope.of(stored), self.scope.of(now)):
                return
        elif blocks.same(stored, now):
            return
        try:
            self.device.save()
        except Refused as exc:
            raise ApplyError("save_failed", f"The change is in force, and was not saved: {exc.words}.",
                             "Save by hand (write memory), or the device forgets it at its next restart.") from None
        self.outcome.saved = True


def _lost(exc: Lost, entered: bool) -> NetworkError:
    again = "Run the play again: it starts from what the device then holds."
    if entered:
        return NetworkError("session_lost", f"The session broke ({exc.reason}). The change had been entered; it was not proved, or not "
                            "saved.", again)
    if not exc.sent and not exc.pending:
        return NetworkError("session_lost", f"The session to the device broke ({exc.reason}). Nothing had been entered.", again)
    known = "no line had been acknowledged"
    if exc.sent:
        count = "one line" if len(exc.sent) == 1 else f"{len(exc.sent)} lines"
        known = f"{count} had been acknowledged, the last was {exc.sent[-1].strip()!r}"
    pending = f"; {exc.pending.strip()!r} had no answer" if exc.pending else ""
    return NetworkError("session_lost", f"The session broke while the device was being configured ({exc.reason}): {known}{pending}.",
                        f"Nothing was saved. {again}")

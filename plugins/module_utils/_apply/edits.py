# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""Files of the site that we extend instead of own: an editor turns what is there into what shall be there, and takes ours out again.

An editor is a function. It computes and touches nothing; check mode calls it as well. It must be idempotent: its own answer, given to
it again with the same options, comes back unchanged. `register` makes it known by the name that files[].edit.editor gives.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .._tsp.errors import LocalError

Reader = Callable[[str], "str | None"]


@dataclass(frozen=True)
class EditContext:
    """What an editor knows.

    text: the file as it is, None when there is none. present: False takes ours out. options: files[].edit without `editor`, and
    `content` where the file has one (or a template). state: what this editor wanted remembered for this file at the last confirmed
    run, {} at the first. now: seconds since 1970 by the host's clock. read: the text of another file of the host, None without it.
    """

    path: str
    text: str | None
    present: bool
    options: dict[str, Any]
    name: str
    state: dict[str, Any] = field(default_factory=dict)
    now: float = 0.0
    read: Reader = field(default=lambda path: None)


@dataclass(frozen=True)
class Edited:
    """What shall be in the file; None: nothing of it is left to keep (the transaction removes it only if it had made it).

    state: to be remembered, until it is {} even after the file was taken out of use. others: files that go along with this one,
    path -> text, None to remove it. warnings: sentences for the user.
    """

    text: str | None
    state: dict[str, Any] = field(default_factory=dict)
    others: dict[str, str | None] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


Editor = Callable[[EditContext], Edited]
EDITORS: dict[str, Editor] = {}


def register(name: str, editor: Editor) -> None:
    """Make an editor known."""
    EDITORS[name] = editor


def edit(editor: str, context: EditContext) -> Edited:
    """Have the file edited. Raises LocalError `unknown_editor`, and what the editor raises."""
    if editor not in EDITORS:
        raise LocalError("unknown_editor", f"There is no editor {editor!r} for {context.path}.",
                         f"Use one of {', '.join(sorted(EDITORS))}.")
    return EDITORS[editor](context)


def block(context: EditContext) -> Edited:
    """Lines between two marks, at the end of the file or (where: start) at its beginning; everything else stays byte for byte.

    Options: content (text), comment (what begins a comment, "#"), where (end | start), marker (defaults to the transaction's name).
    """
    options = context.options
    unknown = set(options) - {"content", "comment", "where", "marker"}
    if unknown:
        raise LocalError("invalid_plan", f"The editor block does not know the option {', '.join(sorted(unknown))}.",
                         "Use content, comment, where and marker.")
    comment, marker = options.get("comment") or "#", options.get("marker") or context.name
    marks = [f"{comment} {word} tunnelbroker.tsp {marker}\n" for word in ("BEGIN", "END")]
    before, old, after = _parts(context, marks)
    if not context.present:
        if old is not None and context.state.get("line_end") and not after:
            before = before[:-1]
        return Edited(before + after or None)
    content = str(options.get("content") or "")
    if any(mark in content for mark in marks):
        raise LocalError("invalid_plan", f"The block for {context.path} holds its own marks.", "Choose another marker.")
    ours = marks[0] + content + ("" if content.endswith("\n") or not content else "\n") + marks[1]
    if old is not None:
        return Edited(before + ours + after, dict(context.state))
    if options.get("where", "end") == "start":
        return Edited(ours + before)
    if before and not before.endswith("\n"):  # a last line without its end would swallow our mark
        return Edited(f"{before}\n{ours}", {"line_end": True})
    return Edited(before + ours)


def _parts(context: EditContext, marks: list[str]) -> tuple[str, str | None, str]:
    """What stands before our block, the block (None without one), and what stands behind it."""
    text = context.text or ""
    lines = text.splitlines(keepends=True)
    places = [[number for number, line in enumerate(lines) if line.rstrip("\r\n") == mark.rstrip("\n")] for mark in marks]
    if not places[0] and not places[1]:
        return text, None, ""
    if len(places[0]) != 1 or len(places[1]) != 1 or places[0][0] > places[1][0]:
        raise LocalError("marks_damaged", f"{context.path} does not hold one whole block between '{marks[0].strip()}' and its end.",
                         "Remove what is left of these marks by hand.")
    first, last = places[0][0], places[1][0]
    return "".join(lines[:first]), "".join(lines[first:last + 1]), "".join(lines[last + 1:])


register("block", block)

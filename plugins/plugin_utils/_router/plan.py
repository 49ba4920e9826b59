# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A plan is a value: what the device has, what it will have, the lines between the two, and the lines back.

Only what the wanted text touches is looked at and compared: its sections, and the static routes it names.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.errors import LocalError
from ansible_collections.tunnelbroker.tsp.plugins.plugin_utils._router import rules
from ansible_collections.tunnelbroker.tsp.plugins.plugin_utils._router.blocks import Block, parse, render
from ansible_collections.tunnelbroker.tsp.plugins.plugin_utils._router.canon import is_virtual, leaves_by, route_key
from ansible_collections.tunnelbroker.tsp.plugins.plugin_utils._router.claim import Claim

try:
    from hier_config import WorkflowRemediation, get_hconfig_fast_load
    from hier_config.exceptions import DuplicateChildError
except ImportError:
    pass  # rules.MISSING tells, and the action plugin says so before it comes here

MERGED, DELETED = "merged", "deleted"


@dataclass(frozen=True)
class Plan:
    """commands: lines to send, as the device wants them (sections indented, left by `exit`). undo: the lines back, from `after`.
    before, after: text of the touched parts."""

    commands: tuple[str, ...]
    undo: tuple[str, ...]
    before: str
    after: str


class Scope:
    """What a wanted text touches: headers, static routes and, where an interface goes, the routes that leave by it.

    claimed: what belongs to the task besides, and which interfaces do (claim.make).
    """

    def __init__(self, wanted: Iterable[Block], state: str = MERGED, claimed: Claim | None = None) -> None:
        self.wanted = list(wanted)
        self.leftovers = list(claimed.leftovers) if claimed else []
        self._headers = {_positive(block.header) for block in self.wanted + self.leftovers}
        self._routes = {key for header in self._headers if (key := route_key(header))}
        going = self.wanted if state == DELETED else [b for b in self.wanted if b.header.startswith("no ")]
        self.removed = {_positive(b.header).split()[1] for b in going if is_virtual(_positive(b.header))}
        """Names of the interfaces that go as a whole."""
        if state == DELETED and claimed is not None and claimed.ours is not None:
            self.removed &= claimed.ours

    def touches(self, block: Block) -> bool:
        header = _positive(block.header)
        if header in self._headers or route_key(header) in self._routes - {None}:
            return True
        return any(leaves_by(header, name) for name in self.removed) or any(
            header.split()[0] == wanted.split()[0] == "hostname" for wanted in self._headers)

    def of(self, configuration: Iterable[Block]) -> list[Block]:
        """The touched part of a configuration."""
        return [block for block in configuration if self.touches(block)]


def make(running: list[Block], wanted: list[Block], state: str, scope: Scope | None = None) -> Plan:
    """The plan that merges `wanted` into `running`, or takes it away. Raises LocalError `config_unreadable`."""
    scope = scope or Scope(wanted, state)
    before = scope.of(running)
    have, target = _tree(render(before)), _tree(render(before))
    if state == MERGED:
        _delete(target, scope.leftovers, scope.removed)
        _merge(target, _tree(render(wanted)))
    else:
        _delete(target, [*wanted, *scope.leftovers], scope.removed)
    for child in list(target.children):
        if any(leaves_by(child.text, name) for name in scope.removed):
            child.delete()
    return _between(have, target)


def back(now: list[Block], before: list[Block], scope: Scope) -> Plan:
    """The plan that makes the touched part of `now` what it was in `before`."""
    return _between(_tree(render(scope.of(now))), _tree(render(scope.of(before))))


def missing(running: list[Block], wanted: list[Block]) -> list[tuple[str, str]]:
    """(section header or "", line) of everything wanted that `running` does not show."""
    shown = {block.header: {line.strip() for line in block.body} for block in running}
    out: list[tuple[str, str]] = []
    for block in wanted:
        if block.header not in shown and not block.body:
            out.append(("", block.header))
        out += [(block.header, line.strip()) for line in block.body if line.strip() not in shown.get(block.header, ())]
    return [(header, line) for header, line in out if not line.startswith("no ")]


def _between(have: Any, target: Any) -> Plan:
    work = WorkflowRemediation(have, target)
    return Plan(commands=tuple(work.remediation_config.dump_simple(sectional_exiting=True)),
                undo=tuple(work.rollback_config.dump_simple(sectional_exiting=True)),
                before=_text(have), after=_text(target))


def shown(blocks: Iterable[Block]) -> str:
    """Blocks as text, in the form of Plan.before and Plan.after."""
    return _text(_tree(render(blocks)))


def _text(tree: Any) -> str:
    return "".join(f"{line}\n" for line in tree.dump_simple())


def _tree(text: str) -> Any:
    try:
        return get_hconfig_fast_load(rules.driver(), parse_again(text))
    except (DuplicateChildError, ValueError) as exc:  # what it cannot hold, such as a line twice in one section
        raise LocalError("config_unreadable", f"This configuration cannot be compared: {exc}",
                         "Leave out the section concerned, or configure it by hand.") from None


def parse_again(text: str) -> list[str]:
    """Lines for the differ. A `no ip address`, which is how IOS shows that there is none, says nothing."""
    return [line for line in text.splitlines() if line.strip() != "no ip address"]


def _positive(line: str) -> str:
    return line[3:] if line.startswith("no ") else line


def _merge(target: Any, wanted: Any) -> None:
    """Put the children of `wanted` into `target` as the device would."""
    for child in wanted.children:
        text = child.text
        if text.startswith("no "):
            _negate(target, text)
            continue
        held = target.children.get(text)
        if held is not None:
            _merge(held, child)
            continue
        old = target.root.driver.idempotent_for(child, target.children)
        route = route_key(text)
        if old is None and route:
            old = next((other for other in target.children if route_key(other.text) == route), None)
        if old is None:
            old = target.children.get(f"no {text}")
        if old is not None:
            old.delete()
        target.add_deep_copy_of(child)


def _negate(target: Any, text: str) -> None:
    setting = _positive(text)
    gone = [child for child in target.children if child.text == setting or child.text.startswith(setting + " ")]
    for child in gone:
        child.delete()
    if not gone and target.children.get(text) is None and not rules.off_when_absent(setting):
        target.add_child(text)


def _delete(target: Any, wanted: list[Block], whole: set[str]) -> None:
    """Take away what `wanted` holds: single lines of interfaces, but those named in `whole`; anything else entirely."""
    for block in wanted:
        if block.header.startswith("no "):
            continue
        held = target.children.get(block.header)
        route = route_key(block.header)
        if held is None and route:
            held = next((child for child in target.children if route_key(child.text) == route), None)
        if held is None:
            continue
        if not block.header.startswith("interface ") or block.header.split()[1] in whole:
            held.delete()
            continue
        for child in _tree(block.text()).children.get(block.header).children:
            old = held.children.get(child.text)
            if old is None and child.text.startswith("ipv6 nd prefix "):
                old = target.root.driver.idempotent_for(child, held.children)
            if old is not None:
                old.delete()


def wanted_blocks(text: str) -> list[Block]:
    """What the play asks for. Raises LocalError `config_empty`, `line_unusable`."""
    blocks = parse(text)
    if not blocks:
        raise LocalError("config_empty", "There is no configuration line in what was given.", "Give lines, content or src.")
    for line in (line for block in blocks for line in (block.header, *block.body)):
        if not line.isascii() or not line.isprintable() or "?" in line:
            raise LocalError("line_unusable", f"The line {line!r} cannot be entered at a command line.",
                             "Use printable ASCII characters, and no question mark: it asks for help.")
    return blocks

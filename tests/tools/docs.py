# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The generated parts of docs/: `python -m tests.tools.docs --check | --write`.

A document marks them with `<!-- generated: NAME -->` … `<!-- end of generated: NAME -->`; between the two stands what the function
of that name in PARTS makes of the code.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "plugins"))

from module_utils._tsp import states, status  # noqa: E402

MARK = re.compile(r"<!-- generated: (?P<name>[a-z-]+) -->\n(?P<body>.*?)<!-- end of generated: (?P=name) -->\n", re.DOTALL)
KINDS = {"LocalError": "local", "RemoteError": "remote", "NetworkError": "network", "TooSoonError": "network", "ApplyError": "apply"}


class Code(NamedTuple):
    """One error as the code raises it."""

    code: str
    kind: str
    sentence: str
    hint: str


def client_states() -> str:
    return f"```mermaid\n{states.mermaid(states.CLIENT)}```\n"


def broker_states() -> str:
    return f"```mermaid\n{states.mermaid(states.SERVER)}```\n"


def status_codes() -> str:
    rows = ["| status | `error.code` | what it means | what to do |", "| --- | --- | --- | --- |"]
    rows += [f"| {number} | `{row.code}` | {row.sentence} | {row.hint} |"
             for number, row in sorted(status.MEANINGS.items()) if number != status.SUCCESS]
    return "\n".join(rows) + "\n"


def error_codes() -> str:
    rows = ["| `error.code` | `error.kind` | what it says | what to do |", "| --- | --- | --- | --- |"]
    known = {row.code for row in status.MEANINGS.values()}
    found: dict[tuple[str, str], Code] = {}
    for path in sorted((ROOT / "plugins").rglob("*.py")):
        for code in codes_in(ast.parse(path.read_text(encoding="utf-8"))):
            # The first that says what to do stands for all that share a code.
            key = (code.code, code.kind)
            if key not in found or (code.hint and not found[key].hint):
                found[key] = code
    for code in sorted(found.values()):
        if code.code not in known or code.kind != "remote":
            rows.append(f"| `{code.code}` | {code.kind} | {_cell(code.sentence)} | {_cell(code.hint)} |")
    return "\n".join(rows) + "\n"


def codes_in(tree: ast.AST) -> list[Code]:
    """Every error raised with its code spelled out."""
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.id if isinstance(node.func, ast.Name) else node.func.attr if isinstance(node.func, ast.Attribute) else ""
        given = {"code": 0, "message": 1, "hint": 2}
        values = {word.arg: word.value for word in node.keywords if word.arg}
        values.update({key: node.args[at] for key, at in given.items() if at < len(node.args)})
        code = values.get("code")
        if name in KINDS and isinstance(code, ast.Constant) and isinstance(code.value, str):
            found.append(Code(code.value, KINDS[name], _text(values.get("message")), _text(values.get("hint"))))
    return found


def _text(node: ast.AST | None) -> str:
    """A string as people read it; what is filled in at run time is an ellipsis."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) if isinstance(part, ast.Constant) else "…" for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _text(node.left) + _text(node.right)
    return "" if node is None else "…"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ").strip()


PARTS: dict[str, Callable[[], str]] = {
    "client-states": client_states,
    "broker-states": broker_states,
    "status-codes": status_codes,
    "error-codes": error_codes,
}


def renew(text: str) -> str:
    """A document with its generated parts made anew. Raises KeyError for a part that nobody makes."""

    def make(match: re.Match[str]) -> str:
        name = match["name"]
        return f"<!-- generated: {name} -->\n{PARTS[name]()}<!-- end of generated: {name} -->\n"

    return MARK.sub(make, text)


def main() -> int:
    parser = argparse.ArgumentParser(description="Check or write the generated parts of docs/.")
    choice = parser.add_mutually_exclusive_group(required=True)
    choice.add_argument("--check", action="store_true")
    choice.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    stale = []
    for path in sorted((ROOT / "docs").glob("*.md")):
        text = path.read_text(encoding="utf-8")
        new = renew(text)
        if new != text:
            stale.append(path.relative_to(ROOT))
            if arguments.write:
                path.write_text(new, encoding="utf-8")
    for path in stale:
        print(f"{path}: {'written' if arguments.write else 'out of date, run make docs'}")
    return 1 if stale and arguments.check else 0


if __name__ == "__main__":
    sys.exit(main())

# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Hosts as `linux_info` saw them, recorded on real ones: tests/fixtures/hosts/<name>.json holds every question and its answer.

To record one, run this file on the host as root, with the folder above `module_utils` first on PYTHONPATH:
`python3 _recorded.py > name.json`. Environments of processes are kept to SSH_CONNECTION alone.
"""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from typing import Any

VERBS = ("text", "names", "exists", "real", "writable", "tool", "run")


class Recorder:
    """Passes questions on to a Look, and keeps them with the answers."""

    def __init__(self, look: Any) -> None:
        self.look = look
        self.kept: dict[str, Any] = {verb: {} for verb in VERBS}

    def __getattr__(self, verb: str) -> Any:
        def ask(*question: Any) -> Any:
            answer = getattr(self.look, verb)(*question)
            if verb == "identity":
                self.kept["identity"] = answer
            elif verb == "run":
                self.kept["run"][" ".join(question[0])] = [answer.rc, answer.stdout, answer.stderr]
            else:
                self.kept[verb][question[0]] = _short(question[0], answer)
            return answer

        return ask


def _short(path: str, answer: Any) -> Any:
    if not isinstance(answer, str):
        return answer
    if path.endswith("/environ"):
        return "\0".join(value for value in answer.split("\0") if value.startswith("SSH_CONNECTION="))
    if path.endswith("/status"):
        return "".join(line for line in answer.splitlines(keepends=True) if line.startswith(("Name:", "PPid:")))
    if path.endswith("modules.builtin"):
        return "".join(answer.splitlines(keepends=True)[:3])
    return answer


class Recorded:
    """A host out of its record. What nobody asked there is not there."""

    def __init__(self, record: dict[str, Any], completed: Any) -> None:
        self.record = copy.deepcopy(record)
        self.completed = completed

    def text(self, path: str) -> Any:
        return self.record["text"].get(path)

    def names(self, path: str) -> Any:
        return self.record["names"].get(path, [])

    def exists(self, path: str) -> Any:
        return self.record["exists"].get(path, False)

    def real(self, path: str) -> Any:
        return self.record["real"].get(path, path)

    def writable(self, path: str) -> Any:
        return self.record["writable"].get(path, True)

    def tool(self, name: str) -> Any:
        return self.record["tool"].get(name)

    def run(self, argv: Any) -> Any:
        return self.completed(tuple(argv), *self.record["run"].get(" ".join(argv), [127, "", f"{argv[0]}: No such file or directory"]))

    def identity(self) -> Any:
        return self.record["identity"]


def load(fixtures: Path, name: str) -> dict[str, Any]:
    """The record of a host."""
    record: dict[str, Any] = json.loads((fixtures / "hosts" / f"{name}.json").read_text(encoding="utf-8"))
    return record


if __name__ == "__main__":
    from module_utils._linux.info import gather
    from module_utils._linux.look import HostLook

    recorder = Recorder(HostLook())
    gather(recorder)
    sys.stdout.write(json.dumps(recorder.kept, indent=1, sort_keys=True) + "\n")

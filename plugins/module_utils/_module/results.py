# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""The one place where failures become results: `error` with a stable code, a sentence, never a traceback, never a secret."""

from __future__ import annotations

import os
import traceback
from typing import Any, Callable

from .._tsp.errors import LocalError, TspError

LONGEST = 4000
"""Characters of a message; the longest of ours quotes a server key."""


def guarded(work: Callable[[], dict[str, Any]], let_pass: tuple[type[Exception], ...] = ()) -> dict[str, Any]:
    """What `work` returns, or the failed result of what it raised. let_pass: types that somebody further out understands."""
    try:
        return work()
    except TspError as exc:
        return failure(exc)
    except let_pass:
        raise
    except Exception as exc:
        return failure(_internal(exc))


def failure(error: TspError) -> dict[str, Any]:
    """The result of a failed task: failed, msg, error {kind, code, message, hint, status}, attempts, changed: false.

    Messages may quote a broker, a device or a command. Whatever those said, a terminal gets printable text of bounded length.
    """
    return {"failed": True, "changed": False, "msg": printable(str(error)), "error": _printable(error.to_dict()),
            "attempts": error.attempts}


def refusal(error: dict[str, Any]) -> dict[str, Any]:
    """The result of a task whose options could not be computed: the same, out of that error's own dict."""
    told = _printable({name: error.get(name) for name in ("kind", "code", "message", "hint", "status")})
    return {"failed": True, "changed": False, "msg": f"{told['message']} {told['hint'] or ''}".strip(), "error": told, "attempts": []}


def _printable(error: dict[str, Any]) -> dict[str, Any]:
    return {name: printable(value) if isinstance(value, str) else value for name, value in error.items()}


def printable(text: str) -> str:
    """One line of `text`: control characters become spaces, what is very long is cut."""
    line = text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text)
    return line if len(line) <= LONGEST else line[:LONGEST] + "…"


def _internal(exc: Exception) -> LocalError:
    """A defect of ours. Its text might quote anything, so that only its type and its place are told."""
    frames = traceback.extract_tb(exc.__traceback__)
    where = f" in {os.path.basename(frames[-1].filename)}, line {frames[-1].lineno}" if frames else ""
    return LocalError("internal", f"This is a defect of the collection: {type(exc).__name__}{where}.",
                      "Please report this line, with the versions of ansible-core and of tunnelbroker.tsp.")


def finish(module: Any, work: Callable[[], dict[str, Any]]) -> None:
    """End an AnsibleModule with the outcome of `work`. Called outside of any except block, so that no traceback is attached."""
    result = guarded(work)
    for warning in result.pop("warnings", ()):
        module.warn(warning)
    if result.pop("failed", False):
        module.fail_json(**result)
    module.exit_json(**result)

# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""What changed in a file, for people: Ansible's diff form. What is secret, or not text, is named and not shown.

A plan that takes a file away does not know what is in it: one that nobody but its owner could read is taken for a secret.
"""

from __future__ import annotations

from hashlib import sha256

from .plan import FileChange
from .runner import FileState

SECRET = "(secret, changed)\n"
PRIVATE = "(not shown: only its owner could read it)\n"
LONGEST = 100_000


def file_diff(change: FileChange, before: FileState | None) -> dict[str, str]:
    """{before, after, before_header, after_header}; Ansible makes the unified diff of it."""
    after_mode = "" if change.content is None else f" mode {change.mode:04o}"
    before_mode = "" if before is None else f" mode {before.mode:04o}"
    same = before is not None and before.content == change.content
    if change.secret:
        old, new = ("", SECRET) if before is None else (SECRET, "") if change.content is None else ("(secret)\n", SECRET)
        if same:
            old = new = "(secret)\n"
    else:
        old = "" if before is None else PRIVATE if _private(change, before) else _shown(before.content)
        new = "" if change.content is None else _shown(change.content)
    if same:  # only mode or owner: the headers alone would print nothing
        old, new = f"mode{before_mode[5:]}\n", f"mode{after_mode[5:]}\n"
    return {"before": old, "after": new,
            "before_header": f"{change.path}{' (absent)' if before is None else before_mode}",
            "after_header": f"{change.path}{' (absent)' if change.content is None else after_mode}"}


def _private(change: FileChange, before: FileState) -> bool:
    """Whether what was readable to its owner only would come to light, in a file that goes or that everybody may read from now on."""
    return before.mode & 0o077 == 0 and (change.content is None or change.mode & 0o077 != 0)


def _shown(content: bytes) -> str:
    if len(content) <= LONGEST and b"\0" not in content:
        try:
            return content.decode("utf-8")
        except UnicodeDecodeError:
            pass
    return f"(binary, {len(content)} bytes, sha256 {sha256(content).hexdigest()})\n"

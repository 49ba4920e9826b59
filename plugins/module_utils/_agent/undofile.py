# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""The file that says what has to be undone, for the next agent if this one is killed: key of a step -> words of what undoes it."""

from __future__ import annotations

import json
import os

from .linkplan import Undo


def load(path: str) -> dict[str, Undo] | None:
    """What it says, empty without a file; None where it is broken: half a file is possible only when nothing of it was done yet."""
    try:
        with open(path, encoding="utf-8") as file:
            return {str(key): tuple(str(word) for word in words) for key, words in json.load(file).items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError, TypeError):
        return None


def save(path: str, undo: dict[str, Undo]) -> None:
    """Replace it; with nothing to undo there is no file. Raises OSError."""
    if not undo:
        if os.path.exists(path):
            os.unlink(path)
        return
    temporary = f"{path}.new"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    with open(os.open(temporary, flags, 0o600), "w", encoding="utf-8") as file:
        json.dump(undo, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)

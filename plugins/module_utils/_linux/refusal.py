# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""A refusal as a value: for roles, where the filters that compute options cannot fail with words of their own.

What a filter raises reaches the user wrapped in what Ansible thinks of the template, and without the `error` that plays decide by. So a
role lets the refusal pass through as `refused`, and the task that would have made the change (option `refused` of apply_config and
tunnel) fails with it instead.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from .._tsp.errors import TspError

EMPTY: dict[str, Any] = {
    "backend": "none", "data_plane": None, "device": None, "numbers": {"mode": None, "mtu": None, "family": 6, "lan": [], "probe": None},
    "why": [], "warnings": [], "files": [], "directories": [], "stop": [], "start": [], "settle": [], "services": [], "items": [],
    "absent_files": [], "probe": None}
"""What a setup holds that was refused: nothing to do, in the shape in which roles look at it."""


def told(work: Callable[[], dict[str, Any]], otherwise: dict[str, Any]) -> dict[str, Any]:
    """What `work` returns with refused: None; or `otherwise` with refused: the error's dict (kind, code, message, hint, status)."""
    try:
        return {**work(), "refused": None}
    except TspError as exc:
        return {**otherwise, "refused": exc.to_dict()}


def telling(setup: Callable[..., dict[str, Any]], otherwise: dict[str, Any]) -> Callable[..., dict[str, Any]]:
    """`setup` with one option more: with `tell` a refusal is given back by `told`, where it would be raised."""
    @functools.wraps(setup)
    def wrapped(lease: Any, host: Any, *, tell: bool = False, **options: Any) -> dict[str, Any]:
        return told(lambda: setup(lease, host, **options), otherwise) if tell else setup(lease, host, **options)
    return wrapped

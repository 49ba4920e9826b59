# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""The task `linux_info`: what the host is, as a result and, when asked for, as a fact."""

from __future__ import annotations

import re
from typing import Any

from .._apply.transaction import STATE_DIR
from .._tsp.errors import LocalError
from .info import gather
from .look import Look

SPEC: dict[str, Any] = {
    "fact": {"type": "str"},
    "state_dir": {"type": "path", "default": STATE_DIR},
}
FACT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


def run(params: dict[str, Any], *, look: Look | None = None) -> dict[str, Any]:
    """{changed: false, host, warnings} and ansible_facts. Raises LocalError `invalid_option`."""
    fact = params["fact"]
    if fact and not FACT.match(fact):
        raise LocalError("invalid_option", f"{fact!r} cannot be the name of a fact.", "Use letters, digits and underscores.")
    host, warnings = gather(look, state_dir=params["state_dir"])
    result: dict[str, Any] = {"changed": False, "host": host, "warnings": warnings}
    if fact:
        result["ansible_facts"] = {fact: host}
    return result

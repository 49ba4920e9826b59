# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""What --once-check tells: could the agent start here, as it is configured?"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Sequence
from typing import Any, TextIO

from .._module import leasestore
from .._tsp.errors import LocalError
from .settings import AgentConfig
from .tun import CLONE


def check(configs: Sequence[AgentConfig], out: TextIO) -> int:
    """Print what is found as JSON, an object for one tunnel, a list for several. Returns 0 where nothing is wrong, else 1."""
    found = [_look(config) for config in configs]
    out.write(json.dumps(found[0] if len(found) == 1 else found, indent=1) + "\n")
    return 1 if any(entry["problems"] for entry in found) else 0


def _look(config: AgentConfig) -> dict[str, Any]:
    problems = []
    lease = None
    try:
        lease = leasestore.load(config.lease_file)
    except LocalError as exc:
        problems.append(str(exc))
    if sys.platform.startswith("linux"):
        if not os.path.exists(CLONE):
            problems.append(f"{CLONE} is missing: v6udpv4 needs the kernel module tun.")
        if shutil.which("ip", path="/usr/sbin:/usr/bin:/sbin:/bin") is None:
            problems.append("The command ip is missing: install iproute2.")
    if os.geteuid() != 0:
        problems.append("Not root: the tunnel's device cannot be made.")
    return {"name": config.name, "device": config.device, "brokers": list(config.options.brokers),
            "lease": None if lease is None else lease.to_dict(), "warnings": list(config.warnings), "problems": problems}

# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""The units of systemd that run the program of radvd_tidy.py: there while something is advertised for the last time.

A timer has it look at the file once a step. A drop-in of radvd's unit has it look before each start, and starts the timer along with
radvd, at a reload too: so nothing needs to be enabled, and everything is text. (After files of systemd change, it must be told:
systemctl daemon-reload, before radvd is reloaded.)
"""

from __future__ import annotations

import json
import re
from typing import Any

from .radvd_tidy import program

UNITS = "/etc/systemd/system"
LIBRARY = "/usr/local/lib/tsp"
HEAD = "# Kept by the Ansible collection tunnelbroker.tsp; it goes by itself.\n"


def units(name: str, config: str, step: int, tidy: dict[str, Any], waiting: bool) -> dict[str, str | None]:
    """Path -> text, or None where it must not be there. name: of the transaction. tidy: see radvd.py. step: seconds."""
    unit = f"tsp-deprecate-{name}"
    path = f"{LIBRARY}/deprecate-{name}.py"
    files = [path, f"{UNITS}/{unit}.service", f"{UNITS}/{unit}.timer", f"{UNITS}/{tidy['unit']}.d/tsp-{name}.conf"]
    if not waiting:
        return dict.fromkeys(files)
    job = json.dumps({"name": name, "config": config, "step": step, "radvd": tidy["radvd"], "unit": tidy["unit"],
                      "state_dir": tidy["state_dir"], "timer": f"{unit}.timer", "files": files}, sort_keys=True)
    words = " ".join(_quoted(word) for word in (tidy["python"], "-B", "-E", "-s", path))
    title = f"Description=End of what radvd advertises for the last time ({name})"
    early = max(1, step * 9 // 10)  # a timer is never on time
    service = f"{HEAD}[Unit]\n{title}\nStartLimitIntervalSec=0\n\n[Service]\nType=oneshot\nExecStart={words} --now {_quoted(job)}\n"
    timer = f"{HEAD}[Unit]\n{title}\n\n[Timer]\nOnActiveSec={early}\nOnUnitActiveSec={early}\nAccuracySec=1\n"
    # The plus: outside of the sandbox of radvd, to which /etc is read-only. The dash: radvd starts without it, if need be.
    drop_in = (f"{HEAD}[Unit]\nWants={unit}.timer\n\n[Service]\nExecStartPre=-+{words} --begin {_quoted(job)}\n"
               f"ExecReload=-+/usr/bin/env systemctl --no-block start {unit}.timer\n")
    return dict(zip(files, (program(), service, timer, drop_in)))


def _quoted(word: str) -> str:
    """A word of a command line in a unit (systemd.service(5))."""
    if re.fullmatch(r"[A-Za-z0-9_./=-]+", word):
        return word
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"'

# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Runs the tests of `guest/` on a distribution's kernel in a virtual machine, whatever this machine's own kernel can do."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from ansible_collections.tunnelbroker.tsp.tests.lab import vm

GUEST = Path(__file__).resolve().parent / "guest"
WHY_NOT = vm.why_not()
# Emulated, Python takes a minute to compile the broker's libraries at each start: unpacked and compiled once, it takes a second.
COMMAND = """
for program in broker agent; do python3 -m zipfile -e dist/tsp-$program.pyz /opt/$program; done
python3 -m compileall -q /opt/broker /opt/agent plugins/module_utils
TSP_GUEST=1 python3 -m pytest --color=no -p no:cacheprovider -v -rA tests/kernel/guest
"""


@pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))
def test_on_a_distribution_kernel(tmp_path: Path, repository: Path) -> None:
    """Every test in guest/ passes there: none is skipped, none forgotten."""
    built = {"broker": ["_broker.build"], "agent": ["_agent.bundle", "agent"]}
    for program, (module, *words) in built.items():
        subprocess.run([sys.executable, "-m", f"module_utils.{module}", *words, str(tmp_path / f"tsp-{program}.pyz")], cwd=repository,
                       check=True, env={**os.environ, "PYTHONPATH": "plugins"})
    expected = sum(len(re.findall(r"^def test_", path.read_text(encoding="utf-8"), re.M)) for path in GUEST.glob("test_*.py"))
    report = vm.boot(COMMAND, folder=tmp_path, timeout=2400,
                     extra={f"dist/tsp-{program}.pyz": tmp_path / f"tsp-{program}.pyz" for program in built})
    assert report.status == 0, report.output or report.log
    assert re.search(rf"\b{expected} passed\b", report.output) and "skipped" not in report.output, report.output

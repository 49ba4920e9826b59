# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What carries a tunnel's packets, and how fast: the plain path, sit, sit over FOU, the agent's pump, and socat, a program in C.

The first table of figures is one run on one kernel (Debian's, in a virtual machine), between two namespaces, with the kernel at the far
end of each tunnel. The machine's clock counts instructions, 250 million a second, about what a small router executes; so the figures are
the same however busy the computer is. Sender, receiver and both ends of the tunnel share that one processor. The wire offloads
nothing, as a simple network card.

- `*_mbit`, `*_in_mbit`: a TCP stream from the near end to the far one, and back. `*_kpps`: UDP datagrams of 200 bytes that arrived,
  thousands a second. `*_cpu`: percent of the processor while TCP carries 20 Mbit/s.
- `fou_vs_sit`, `pump_vs_plain`, `pump_vs_socat`: ratios of the streams.

`native_*` is measured on this computer's own kernel, which need not know sit: the pump, or socat, at both ends of a wire between two
namespaces, the rates depending on what else the computer does. `native_*_cpu_gigabyte`: seconds of processor time that both ends
took for a gigabyte.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import _collection  # noqa: E402, F401  pylint: disable=unused-import
import _pump  # noqa: E402
from ansible_collections.tunnelbroker.tsp.tests.lab.vm import boot, why_not  # noqa: E402

SECONDS = 2
TIMEOUT = 1800
CASES = ("plain", "sit", "fou", "pump", "socat")
TARGETS: dict[str, tuple[str, float]] = {"fou_vs_sit": (">=", 0.85)}
"""Figure -> (relation, bound); run.py compares, nothing fails."""


def counted() -> dict[str, dict[str, float]]:
    """Case to its measures (_dataplane_guest.measure), by a machine that counts instructions. Raises RuntimeError with what it said."""
    with tempfile.TemporaryDirectory() as folder:
        report = boot(f"python3 benchmarks/_dataplane_guest.py {SECONDS}", folder=Path(folder), timeout=TIMEOUT, counted=True)
    found = {words[1]: json.loads(words[2]) for words in (line.split(maxsplit=2) for line in report.output.splitlines())
             if len(words) == 3 and words[0] == "@@case"}
    if report.status != 0 or set(found) != set(CASES):
        raise RuntimeError(f"the guest ended with {report.status}: {(report.output or report.log)[-2000:]}")
    return found


def figures(cases: dict[str, dict[str, float]], native: dict[str, dict[str, float]]) -> dict[str, float]:
    """All figures, out of the measures of both halves."""
    out: dict[str, float] = {f"{name}_{what}": round(value, 1) for name in CASES for what, value in cases[name].items()}
    for name, one, other in (("fou_vs_sit", "fou", "sit"), ("pump_vs_plain", "pump", "plain"), ("pump_vs_socat", "pump", "socat")):
        out[name] = round(cases[one]["mbit"] / cases[other]["mbit"], 3)
    for carrier, measured in native.items():
        label = "pump" if carrier == "agent" else carrier
        out.update({f"native_{label}_{what}": value for what, value in measured.items()
                    if what in ("mbit", "kpps") or what == "cpu_gigabyte" and carrier != "plain"})
    return out


def run() -> dict[str, float]:
    """The figures. Raises RuntimeError where this computer cannot run the machine."""
    missing = why_not()
    if missing:
        raise RuntimeError(missing)
    native: dict[str, Any] = _pump.compare()
    return figures(counted(), native)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(run(), indent=1) + "\n")

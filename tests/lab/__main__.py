# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""`python -m tests.lab demo [--broker FILE]`: run the demonstration; without root in a user namespace made for it.

`python -m tests.lab molecule [SCENARIO…]`: the molecule scenarios on virtual machines (all of them, some, or `short`). Needs root.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

from . import scenarios
from .demo import Demo
from .machine import LabError, why_not
from .namespace import PROJECT

NAMES = {"demo": "demonstration", "molecule": "run of molecule"}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.lab", description="The laboratory of the collection.")
    parser.add_argument("what", choices=["demo", "molecule"])
    parser.add_argument("scenarios", nargs="*", help="for molecule: which ones; none means all")
    parser.add_argument("--broker", type=Path, default=PROJECT / "dist/tsp-broker.pyz", help="the broker's program")
    arguments = parser.parse_args()
    reason = why_not()
    if reason:
        print(f"The demonstration cannot run on this machine. {reason}", file=sys.stderr)
        return 1
    if os.geteuid() and arguments.what == "demo":
        # Root of a user namespace of our own: as good as root for namespaces, and harmless to the machine.
        os.execvp("unshare", ["unshare", "--user", "--map-root-user", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc",
                              sys.executable, "-m", "tests.lab", *sys.argv[1:]])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        if arguments.what == "molecule":
            return scenarios.main(arguments.scenarios)
        Demo(arguments.broker.resolve()).run()
    except LabError as exc:
        print(f"The {NAMES[arguments.what]} failed: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\nInterrupted. Nothing of the {NAMES[arguments.what]} is left.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())

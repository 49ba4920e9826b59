# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""Build tsp-broker.pyz: the broker with PyYAML and pyroute2 inside, so that it runs on any Python >= 3.9 with nothing installed.

    PYTHONPATH=plugins python3 -m module_utils._broker.build dist/tsp-broker.pyz

The libraries are taken from the Python that builds, without their compiled parts and with their licences. (cryptography is compiled
and stays outside: PASSDSS-3DES-1 is offered where it is installed.)
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from .._agent.bundle import BROKER, build
from .._tsp.errors import LocalError

LIBRARIES = {"yaml": "PyYAML", "pyroute2": "pyroute2"}
"""Package to import -> distribution that brings it."""


def trees() -> dict[str, Path]:
    """Name in the archive -> directory or file here, for bundle.build. Raises LocalError `bundle_incomplete`."""
    found: dict[str, Path] = {}
    for package, distribution in LIBRARIES.items():
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise LocalError("bundle_incomplete", f"The Python package {distribution} is not installed here.",
                             f"Install {distribution} for the Python that builds.")
        found[package] = Path(next(iter(spec.submodule_search_locations)))
        licences = [file for file in importlib.metadata.files(distribution) or () if "licen" in file.name.lower()
                    and "dist-info" in file.parts[0]]
        if not licences:
            raise LocalError("bundle_incomplete", f"The licence of {distribution} is not installed with it.", "Install it as a wheel.")
        found.update({f"licenses/{distribution}/{file.name}": Path(str(file.locate())) for file in licences})
    return found


def main(argv: Optional[Sequence[str]] = None) -> int:
    """The command line: OUTPUT. Returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if len(words) != 1:
        sys.stderr.write("usage: build OUTPUT\n")
        return 2
    try:
        changed = build(BROKER, Path(words[0]), trees())
    except LocalError as exc:
        sys.stderr.write(f"{exc}\n")
        return 1
    sys.stdout.write(f"{words[0]}: {'written' if changed else 'up to date'}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Make `ansible_collections.tunnelbroker.tsp` mean this checkout, for programs that pytest does not start. Import it first."""

from __future__ import annotations

import sys
import types
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def _expose() -> None:
    parent: types.ModuleType | None = None
    for name, paths in (("ansible_collections", []), ("ansible_collections.tunnelbroker", []),
                        ("ansible_collections.tunnelbroker.tsp", [str(ROOT)])):
        module = sys.modules.get(name)
        if module is None:
            module = types.ModuleType(name)
            module.__path__ = paths
            sys.modules[name] = module
        if parent is not None:
            setattr(parent, name.rpartition(".")[2], module)
        parent = module


_expose()

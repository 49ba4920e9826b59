# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What every test may rely on, under plain pytest and under `ansible-test units` alike.

- `ansible_collections.tunnelbroker.tsp` is this checkout, wherever it lies. A test imports what it tests, and the helpers
  beside it, by that full name: `from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._tsp._pair import …`.
- `--update-golden` rewrites golden files instead of comparing (`tests/golden`, fixture `golden`).
- Mark `root`: the test needs root and network namespaces; elsewhere it is skipped with the reason, and counted as skipped.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any, Callable

import pytest

ROOT = Path(__file__).resolve().parent.parent


def _expose_checkout() -> None:
    """Make the collection's name resolve to this checkout, unless something (ansible-test) made it resolve already."""
    name = "ansible_collections.tunnelbroker.tsp"
    try:
        known = importlib.import_module(name)
    except ImportError:
        pass
    else:
        if any(os.path.realpath(entry) == str(ROOT) for entry in known.__path__):
            return
        for loaded in [m for m in sys.modules if m == name or m.startswith(name + ".")]:
            del sys.modules[loaded]
    parent: types.ModuleType | None = None
    for part, paths in (("ansible_collections", []), ("ansible_collections.tunnelbroker", []), (name, [str(ROOT)])):
        module = sys.modules.get(part)
        if module is None:
            module = types.ModuleType(part)
            module.__path__ = paths
            sys.modules[part] = module
        if parent is not None:
            setattr(parent, part.rpartition(".")[2], module)
        parent = module


_expose_checkout()
if "ansible_collections.tunnelbroker.tsp.tests" not in sys.modules:  # ansible-test looks after this itself
    pytest.register_assert_rewrite("ansible_collections.tunnelbroker.tsp.tests")


def _why_no_namespaces() -> str | None:
    """None where this process may make network namespaces; else the reason, as a sentence."""
    if sys.platform != "linux":
        return "network namespaces are a thing of Linux"
    if os.geteuid() != 0:
        return "needs root (network namespaces): run the tests as root"
    try:
        done = subprocess.run(["unshare", "--net", "--mount", "true"], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              check=False)
    except FileNotFoundError:
        return "needs the program unshare (Debian: apt-get install util-linux)"
    if done.returncode:
        return f"this machine forbids network namespaces: {done.stderr.strip()}"
    return None


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", default=False, help="rewrite the golden files instead of comparing with them")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "root: needs root and network namespaces; skipped elsewhere")


SLOWEST_FIRST = ("tests/machines/", "tests/kernel/", "tests/integration/", "tests/interop/")
"""The files that take minutes are begun first (with --no-loadscope-reorder): at the end a processor would wait for the last of them."""


def _turn(item: pytest.Item) -> int:
    path = item.path.relative_to(ROOT).as_posix() if item.path.is_relative_to(ROOT) else ""
    return next((number for number, part in enumerate(SLOWEST_FIRST) if path.startswith(part)), len(SLOWEST_FIRST))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    items.sort(key=_turn)
    marked = [item for item in items if item.get_closest_marker("root")]
    if not marked:
        return
    reason = _why_no_namespaces()
    if reason is None:
        return
    for item in marked:
        item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture
def repository() -> Path:
    """The root folder of the checkout."""
    return ROOT


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """golden(name, text): compare `text` with tests/golden/`name`, or rewrite that file with --update-golden."""

    def check(name: str, text: str) -> None:
        path = ROOT / "tests" / "golden" / name
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            return
        assert path.exists(), f"tests/golden/{name} is missing: run pytest with --update-golden and review what it wrote"
        expected: Any = path.read_text(encoding="utf-8")
        assert text == expected, f"differs from tests/golden/{name}; if the change is meant, run pytest with --update-golden"

    return check

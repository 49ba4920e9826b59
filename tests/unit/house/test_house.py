# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Rules of the house that no other tool checks."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml
from ansible_collections.tunnelbroker.tsp.tests.tools import stage

ROOT = Path(__file__).resolve().parent.parent.parent.parent
FILES = stage.sources(ROOT)
CODE = [name for name in FILES if name.endswith((".py", ".sh")) and Path(ROOT, name).stat().st_size]
ON_TARGETS = ("_tsp", "_exchange", "_apply", "_agent", "_linux", "_module")
# What other packages of module_utils each of these may import.
MAY_KNOW = {
    "_tsp": set(),
    "_exchange": {"_tsp"},
    "_apply": {"_tsp"},
    "_agent": {"_tsp", "_exchange", "_apply", "_module"},
    "_broker": {"_tsp", "_agent"},
    "_linux": {"_tsp", "_apply", "_module"},
    "_module": {"_tsp", "_exchange", "_apply", "_agent"},
}
SANS_IO = {"asyncio", "socket", "select", "selectors", "time", "os", "subprocess", "random", "secrets", "threading", "pathlib"}


@pytest.mark.parametrize("name", CODE)
def test_each_file_names_its_licence(name: str) -> None:
    head = "\n".join((ROOT / name).read_text(encoding="utf-8").splitlines()[:8])
    licence = "BSD-2-Clause" if name.startswith("plugins/module_utils/") else "GPL-3.0-or-later"
    assert f"SPDX-License-Identifier: {licence}" in head


@pytest.mark.parametrize("package", sorted(MAY_KNOW))
def test_packages_know_only_what_they_may(package: str) -> None:
    for path in sorted((ROOT / "plugins/module_utils" / package).rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        for other in re.findall(r"^\s*from \.\.(_[a-z]+)", text, re.MULTILINE):
            assert other == package or other in MAY_KNOW[package], f"{path.name} of {package} imports {other}"
        assert "ansible_collections" not in re.sub(r'""".*?"""', "", text, flags=re.DOTALL), f"{path.name}: import relatively"


def test_the_protocol_is_sans_io() -> None:
    for path in sorted((ROOT / "plugins/module_utils/_tsp").rglob("*.py")):
        for module in re.findall(r"^\s*(?:import|from) ([a-z_]+)", path.read_text(encoding="utf-8"), re.MULTILINE):
            assert module not in SANS_IO, f"_tsp/{path.name} imports {module}"


def test_files_are_small() -> None:
    large = {name: size for name in CODE if (size := len((ROOT / name).read_text(encoding="utf-8").splitlines())) > 600}
    assert not large


def test_initialisers_are_empty() -> None:
    assert not [p for p in (ROOT / "plugins").rglob("__init__.py") if p.stat().st_size], "ansible-core 2.16 wants them empty"


def test_the_collection_is_described() -> None:
    galaxy = yaml.safe_load((ROOT / "galaxy.yml").read_text(encoding="utf-8"))
    assert (galaxy["namespace"], galaxy["name"]) == ("tunnelbroker", "tsp")
    assert len(galaxy["tags"]) <= 20 and "networking" in galaxy["tags"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", galaxy["version"])
    for licence in galaxy["license"]:
        assert (ROOT / "LICENSES" / f"{licence}.txt").exists()


def test_action_groups_name_modules_that_exist() -> None:
    runtime = yaml.safe_load((ROOT / "meta/runtime.yml").read_text(encoding="utf-8"))
    for name in {name for group in runtime["action_groups"].values() for name in group}:
        assert (ROOT / "plugins/modules" / f"{name}.py").exists()


def test_every_role_has_a_readme_and_an_argument_spec() -> None:
    for role in sorted(p for p in (ROOT / "roles").glob("*") if p.is_dir()):
        assert (role / "README.md").exists(), f"roles/{role.name}/README.md is missing"
        assert (role / "meta/argument_specs.yml").exists(), f"roles/{role.name}/meta/argument_specs.yml is missing"


def test_no_integration_target_is_called_like_a_role() -> None:
    # ansible-test runs a target as a role of its name, and would find the collection's own first.
    named = {kind: {path.name for path in (ROOT / kind).iterdir() if path.is_dir()} for kind in ("roles", "tests/integration/targets")}
    assert not named["roles"] & named["tests/integration/targets"]


def test_the_pinned_sets_follow_what_users_are_told() -> None:
    for name in re.findall(r"^([A-Za-z0-9-]+)>=", (ROOT / "requirements.txt").read_text(encoding="utf-8"), re.MULTILINE):
        for pinned in ("test.txt", "test-3.11.txt"):
            assert re.search(rf"^{name}==", (ROOT / "requirements" / pinned).read_text(encoding="utf-8"), re.MULTILINE | re.IGNORECASE)


def test_no_path_of_a_developers_machine_is_tracked() -> None:
    try:
        tracked = subprocess.run(["git", "-C", str(ROOT), "grep", "-nIE", r"(^|[^A-Za-z0-9_.])/(work|farm|root)/[A-Za-z.]", "--", "."],
                                 stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("git is not installed")
    assert tracked.stdout == "" and tracked.returncode in (1, 128)

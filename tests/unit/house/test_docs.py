# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The documentation says what the code says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.lease import Lease
from ansible_collections.tunnelbroker.tsp.tests.tools import docs

ROOT = Path(__file__).resolve().parent.parent.parent.parent
DOCUMENTS = sorted([*(ROOT / "docs").glob("*.md"), *ROOT.glob("*.md"), *(ROOT / "roles").glob("*/README.md")])


@pytest.mark.parametrize("path", sorted((ROOT / "docs").glob("*.md")), ids=lambda path: path.name)
def test_generated_parts_are_up_to_date(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert docs.renew(text) == text, f"{path.name} is out of date: run make docs"


def test_every_generated_part_has_its_place() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md"))
    assert {match["name"] for match in docs.MARK.finditer(text)} == set(docs.PARTS)


def test_a_stale_part_is_noticed() -> None:
    stale = "<!-- generated: client-states -->\nold\n<!-- end of generated: client-states -->\n"
    assert "stateDiagram" in docs.renew(stale)


def test_the_example_of_a_lease_is_one() -> None:
    text = (ROOT / "docs/lease-schema.md").read_text(encoding="utf-8")
    example = json.loads(re.search(r"```json\n(.*?)```", text, re.DOTALL).group(1))
    assert Lease.from_dict(example).to_dict() == example


def test_every_field_of_a_lease_is_documented() -> None:
    text = (ROOT / "docs/lease-schema.md").read_text(encoding="utf-8")
    example = json.loads(re.search(r"```json\n(.*?)```", text, re.DOTALL).group(1))
    names = " ".join(line.split("|")[1] for line in text.splitlines() if line.startswith("| `"))
    assert set(example) == set(re.findall(r"`([a-z_]+)[^`]*`", names))


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_between_documents_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", path.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (path.parent / target).exists(), f"{path.name} links to {target}, which is not there"

# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The programs of tests/fuzz work: each runs some inputs, and a target that fails is reported and can be run again."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[4] / "fuzz"
TARGETS = sorted(path.stem for path in FOLDER.glob("fuzz_*.py"))


@pytest.fixture
def run(monkeypatch, tmp_path):
    """The runner; whatever it writes goes to a folder of the test."""
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.chdir(tmp_path)
    return importlib.import_module("_run")


def test_there_is_a_target_for_each_reader():
    readers = ("broker", "capability", "client", "frame", "known_keys", "rudp", "sasl", "xml")
    assert TARGETS == [f"fuzz_{reader}" for reader in readers]


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_runs_and_states_its_invariant(run, name, tmp_path):
    source = (FOLDER / f"{name}.py").read_text(encoding="utf-8")
    comments = [line for line in source.splitlines() if line.startswith("#")]
    assert re.match(r"# Invariant: .*\.$", comments[3]), "the first comment behind the licence"
    target = importlib.import_module(name)
    assert run.main(target.fuzz, ["--runs", "25", "--seed", "3"]) == 0
    assert list(tmp_path.iterdir()) == []


def failing(data: bytes) -> None:
    assert len(data) < 200


def test_a_failure_is_kept_and_can_be_run_again(run, tmp_path, capsys):
    assert run.main(failing, ["--runs", "500", "--seed", "3"]) == 1
    (crash,) = tmp_path.glob("crash-*")
    assert crash.name in capsys.readouterr().err
    with pytest.raises(AssertionError):
        run.main(failing, [str(crash)])


def test_seeds_are_written(run, tmp_path):
    assert run.main(failing, ["--seeds", str(tmp_path / "seeds")]) == 0
    assert len(list((tmp_path / "seeds").iterdir())) > 100


def test_without_atheris_it_says_so(run, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "atheris", None)
    assert run.main(failing, ["--atheris"]) == 2
    assert "pip install atheris" in capsys.readouterr().err

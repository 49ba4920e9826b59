# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The program around the benchmarks: what it prints and writes. No figure is judged here."""

from __future__ import annotations

import importlib.util
import json
import sys

import pytest


@pytest.fixture
def bench(repository, monkeypatch, tmp_path):
    """benchmarks/run.py, with a folder of its own to measure and to write in."""
    folder = tmp_path / "benchmarks"
    folder.mkdir()
    monkeypatch.setattr(sys, "path", [str(folder), str(repository / "benchmarks"), *sys.path])
    spec = importlib.util.spec_from_file_location("benchmarks_run", repository / "benchmarks" / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "HERE", folder)
    monkeypatch.setattr(module._collection, "ROOT", tmp_path)

    def add(name, text):
        (folder / f"{name}.py").write_text(text)
        monkeypatch.delitem(sys.modules, name, raising=False)

    module.add = add
    return module


def measure(bench, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["run.py", *arguments])
    return bench.main()


def test_every_benchmark_is_run_and_its_figures_are_written(bench, monkeypatch, tmp_path, capsys):
    bench.add("bench_one", '"""One."""\nTARGETS = {"fast_ms": ("<=", 2.0), "much": (">=", 10.0)}\n'
              'def run(): return {"fast_ms": 1.0, "much": 5.0, "other": 3}\n')
    bench.add("bench_two", '"""Two."""\ndef run(): return {"two": 2.0}\n')
    bench.add("_helper", "raise SystemExit('not a benchmark')\n")
    assert measure(bench, monkeypatch, "--report") == 0
    assert json.loads((tmp_path / "build" / "bench.json").read_text()) == {"fast_ms": 1.0, "much": 5.0, "other": 3, "two": 2.0}
    rows = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines() if line}
    assert rows["fast_ms"] == ["fast_ms", "1", "<=", "2", "0.50", "met"]
    assert rows["much"] == ["much", "5", ">=", "10", "0.50", "MISSED"]
    assert rows["two"] == ["two", "2"]
    report = (tmp_path / "docs" / "benchmarks.md").read_text()
    assert "| `much` | 5 | >= 10 | 0.50 | MISSED |" in report and "## bench_two" in report and str(tmp_path) not in report


def test_one_that_breaks_is_told_and_does_not_hide_the_others(bench, monkeypatch, tmp_path, capsys):
    bench.add("bench_bad", "def run(): raise OSError('no socket')\n")
    bench.add("bench_good", "def run(): return {'x': 1.0}\n")
    assert measure(bench, monkeypatch) == 1
    assert json.loads((tmp_path / "build" / "bench.json").read_text()) == {"x": 1.0}
    assert "bench_bad broke: OSError: no socket" in capsys.readouterr().err

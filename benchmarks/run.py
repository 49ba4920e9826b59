# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Run every benchmark of this folder, print a table, write build/bench.json (figure -> number), and with --report docs/benchmarks.md.

A benchmark is a module with `run() -> dict[str, float]`; its TARGETS, figure -> (relation, bound), are shown beside the figures. Nothing
fails for being slow: the machine may be busy. Usage: run.py [--report] [module ...]
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import os
import platform
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import _collection  # noqa: E402

RELATIONS = {"<=": lambda value, bound: value <= bound, "<": lambda value, bound: value < bound, ">=": lambda value, bound: value >= bound,
             ">": lambda value, bound: value > bound, "=": lambda value, bound: value == bound}


def modules() -> list[str]:
    """Names of the benchmarks, in order."""
    return sorted(path.stem for path in HERE.glob("*.py") if path.stem != "run" and not path.stem.startswith("_"))


def measure(name: str) -> tuple[dict[str, float], dict[str, tuple[str, float]], str]:
    """(figures, targets, first paragraph of its documentation) of one benchmark; figures are empty where it has no run()."""
    module = importlib.import_module(name)
    if not hasattr(module, "run"):
        return {}, {}, ""
    print(f"{name} …", flush=True)
    return module.run(), getattr(module, "TARGETS", {}), inspect.getdoc(module) or ""


def row(figure: str, value: float, target: tuple[str, float] | None) -> list[str]:
    """figure, value, target, ratio to it, verdict."""
    if target is None:
        return [figure, f"{value:g}", "", "", ""]
    relation, bound = target
    ratio = f"{value / bound:.2f}" if bound else ""
    return [figure, f"{value:g}", f"{relation} {bound:g}", ratio, "met" if RELATIONS[relation](value, bound) else "MISSED"]


HEAD = ["figure", "value", "target", "value / target", ""]


def table(rows: list[list[str]]) -> str:
    """Columns for a terminal."""
    widths = [max(len(line[column]) for line in [HEAD, *rows]) for column in range(len(HEAD))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in [HEAD, *rows])


def machine() -> str:
    """What the figures were measured on."""
    model = platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    scheduler = getattr(os, "sched_getscheduler", lambda _pid: 0)(0)
    ahead = ", at real-time priority (ahead of whatever else the machine was doing)" if scheduler in (
        getattr(os, "SCHED_FIFO", -1), getattr(os, "SCHED_RR", -1)) else ""
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return (f"{os.cpu_count()} × {model}, {platform.system()} {platform.release()}, Python {platform.python_version()}; "
            f"load averages at the end {load}{ahead}")


def report(rows: list[list[str]], sections: list[tuple[str, str]], took: float) -> str:
    """docs/benchmarks.md."""
    lines = ["# Benchmarks", "", "<!-- Written by `benchmarks/run.py --report`; change that, not this. -->", "",
             "Figures of one run of `make bench`. Times are medians; a ratio below 1 is better than an upper bound,",
             "above 1 better than a lower one. Nothing is tested against them: a busy machine is no defect.", "",
             f"- Date: {datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC, took {took:.0f} s", f"- Machine: {machine()}", "",
             "| " + " | ".join(HEAD[:4]) + " | |", "|---|---:|---|---:|---|"]
    lines += ["| " + " | ".join([f"`{line[0]}`", *line[1:]]) + " |" for line in rows]
    for name, text in sections:
        lines += ["", f"## {name}", "", text]
    return "\n".join(lines) + "\n"


def main() -> int:
    """The exit status: 0, or 1 when a benchmark broke."""
    parser = argparse.ArgumentParser(description="Run the benchmarks.")
    parser.add_argument("--report", action="store_true", help="write docs/benchmarks.md as well")
    parser.add_argument("modules", nargs="*", help=f"of {', '.join(modules())}; all when none is named")
    options = parser.parse_args()
    unknown = set(options.modules) - set(modules())
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    began = time.monotonic()
    figures: dict[str, float] = {}
    rows: list[list[str]] = []
    sections: list[tuple[str, str]] = []
    broken: list[str] = []
    for name in options.modules or modules():
        try:
            measured, targets, text = measure(name)
        except Exception as exc:  # the other benchmarks are worth having all the same
            print(f"{name} broke: {type(exc).__name__}: {exc}", file=sys.stderr)
            broken.append(name)
            continue
        if not measured:
            continue
        figures.update(measured)
        rows += [row(figure, value, targets.get(figure)) for figure, value in measured.items()]
        sections.append((name, text))
    print(table(rows))
    print(machine())
    _write(_collection.ROOT / "build" / "bench.json", figures)
    if options.report and not broken:
        path = _collection.ROOT / "docs" / "benchmarks.md"
        path.parent.mkdir(exist_ok=True)
        path.write_text(report(rows, sections, time.monotonic() - began), encoding="utf-8")
        print(f"wrote {path.relative_to(_collection.ROOT)}")
    return 1 if broken else 0


def _write(path: Path, figures: dict[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)
    print(f"wrote {path.relative_to(_collection.ROOT)}")


if __name__ == "__main__":
    raise SystemExit(main())

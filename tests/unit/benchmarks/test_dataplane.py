# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the comparison of data planes makes of its measures; that they are taken is for `make bench` to see."""

from __future__ import annotations

import importlib
import sys

import pytest
from ansible_collections.tunnelbroker.tsp.tests.lab.vm import Report


@pytest.fixture
def dataplane(repository, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(repository / "benchmarks"), *sys.path])
    return importlib.import_module("dataplane")


MBITS = {"plain": 200.0, "sit": 100.0, "fou": 90.0, "pump": 20.0, "socat": 10.0}
NATIVE = {"agent": {"mbit": 500.0, "kpps": 30.0, "cpu_gigabyte": 9.0, "cpu_million": 8.0},
          "plain": {"mbit": 4000.0, "kpps": 60.0, "cpu_gigabyte": 0.0, "cpu_million": 0.0}}


def guest(dataplane, monkeypatch, cases, status=0):
    """A machine that says this."""
    lines = [f'@@case {name} {{"mbit": {mbit}, "in_mbit": 1.0, "kpps": 2.0, "cpu": 3.0}}' for name, mbit in cases.items()]
    monkeypatch.setattr(dataplane, "boot", lambda *_words, **_options: Report(status, "\n".join(["noise", *lines]), "the console"))


def test_ratios_are_those_of_one_run(dataplane, monkeypatch):
    guest(dataplane, monkeypatch, MBITS)
    found = dataplane.figures(dataplane.counted(), NATIVE)
    assert (found["fou_vs_sit"], found["pump_vs_plain"], found["pump_vs_socat"]) == (0.9, 0.1, 2.0)
    assert found["pump_mbit"] == 20.0 and found["sit_cpu"] == 3.0
    assert found["native_pump_mbit"] == 500.0 and "native_plain_cpu_gigabyte" not in found


@pytest.mark.parametrize(("cases", "status"), [({"plain": 200.0}, 0), (MBITS, 1), (MBITS, None)])
def test_a_machine_that_did_not_come_to_its_end_gives_no_figures(dataplane, monkeypatch, cases, status):
    guest(dataplane, monkeypatch, cases, status)
    with pytest.raises(RuntimeError, match="noise"):
        dataplane.counted()

# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Runs the molecule scenarios of extensions/molecule on machines of the laboratory: one lab, booted once, shared by all of them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..tools.stage import stage
from .lab import Lab
from .machine import LabError
from .network import Segment
from .vm.machine import Machine, Nic
from .vm.rig import Rig
from .vm.site import Site

SHORT = ("nat_host", "router_two_lans")
"""What a run of CI has time for."""
LANS = ("lan1", "lan2")


@dataclass(frozen=True)
class Cast:
    """The machine of a scenario: its name in the inventory, whose configuration its network is, where its uplink leads, its LANs."""

    host: str
    governor: str
    number: int
    nat: bool = False
    lans: bool = False


SCENARIOS = {
    "nat_host": Cast("branch", "networkd", 2, nat=True),
    "router_two_lans": Cast("router", "networkd", 31, lans=True),
    "backend_networkd": Cast("host-networkd", "networkd", 32),
    "backend_networkmanager": Cast("host-networkmanager", "networkmanager", 33),
    "backend_netplan": Cast("host-netplan", "netplan", 34),
    "backend_ifupdown": Cast("host-ifupdown", "ifupdown", 35),
    "backend_script": Cast("host-script", "none", 36),
}


class Scenarios:
    """Run scenarios, at most `at_once` at a time. `say` gets a line for each thing that happened."""

    def __init__(self, lab: Lab, say: Callable[[str], Any] = print) -> None:
        self.lab = lab
        self.say = say
        self.collections = lab.folder / "collections"
        self.copy = stage(self.collections)
        self.rig = Rig(lab)
        self.site = Site(lab)
        self.lans: dict[str, Segment] = {}
        self._began = time.monotonic()

    def run(self, names: Sequence[str], at_once: int = 2) -> dict[str, bool]:
        """Scenario to whether it passed. What molecule said is in the lab's folder, and printed where it failed."""
        unknown = sorted(set(names) - set(SCENARIOS))
        if unknown:
            raise LabError(f"there is no scenario {', '.join(unknown)}; there are {', '.join(SCENARIOS)}")
        casts = {name: SCENARIOS[name] for name in names}
        self.site.start_broker([cast.host for cast in casts.values()], plugins=self.copy / "plugins")
        machines = self._boot(casts.values())
        inventory = self._inventory(casts, machines)
        with ThreadPoolExecutor(at_once) as pool:
            results = dict(zip(names, pool.map(lambda name: self._molecule(name, inventory), names)))
        return results

    def _boot(self, casts: Iterable[Cast]) -> dict[str, Machine]:
        machines: dict[str, Machine] = {}
        for cast in casts:
            uplink = self.site.behind_nat(cast.number) if cast.nat else self.site.outside(cast.number)
            nics = [uplink]
            if cast.lans:
                self.lans = {name: self.lab.segment(name) for name in LANS}
                nics += [Nic(name, segment, f"192.168.{index}.1/24") for index, (name, segment) in enumerate(self.lans.items(), 1)]
            machines[cast.host] = self.rig.start(cast.host, *nics, governor=cast.governor)
        if self.lans:  # somebody who lives in both LANs
            machines["neighbour"] = self.rig.start("neighbour", *(Nic(name, segment) for name, segment in self.lans.items()), kind="lean")
        for machine in machines.values():
            machine.wait()
            self._note(f"{machine.name} is up")
        if self.lans:
            machines["neighbour"].run("; ".join(f"ip link set {name} up" for name in LANS))
        return machines

    def _inventory(self, casts: dict[str, Cast], machines: dict[str, Machine]) -> Path:
        data = self.rig.inventory(machines)
        for cast in casts.values():
            data["all"]["hosts"][cast.host].update(self.site.variables(cast.host))
        # Ansible's own files for all scenarios: a home, a configuration, collections.
        self.ansible = self.rig.ansible(self.lab.folder / "ansible", ANSIBLE_COLLECTIONS_PATH=str(self.collections),
                                        ANSIBLE_FORCE_COLOR="0", NO_COLOR="1", TERM="dumb")
        return self.ansible.write_inventory(data)

    def _molecule(self, name: str, inventory: Path) -> bool:
        environment = {**self.ansible.environment, "TSP_INVENTORY": str(inventory),
                       "MOLECULE_EPHEMERAL_DIRECTORY": str(self.lab.folder / f"m-{name}")}
        del environment["ANSIBLE_CONFIG"]  # molecule writes one
        log = self.lab.folder / f"molecule-{name}.log"
        program = Path(sys.executable).parent / "molecule"
        began = time.monotonic()
        with log.open("w", encoding="utf-8") as output:
            done = subprocess.run(self.rig.control.wrap(str(program), "test", "-s", name), cwd=self.copy, env=environment,
                                  stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, check=False)
        passed = done.returncode == 0
        self._note(f"{name}: {'passed' if passed else 'FAILED'} in {time.monotonic() - began:.0f} s")
        if not passed:
            self.say(log.read_text(encoding="utf-8", errors="replace"))
        return passed

    def _note(self, text: str) -> None:
        self.say(f"[{time.monotonic() - self._began:5.1f} s] {text}")


def main(names: Sequence[str]) -> int:
    """All scenarios where none is named; the short set for `short`. Returns what a program ends with."""
    chosen = list(SHORT) if list(names) == ["short"] else list(names) or list(SCENARIOS)
    if not (Path(sys.executable).parent / "molecule").exists():
        raise LabError("molecule is not installed beside this Python. Run this by make lab, which makes an environment with it.")
    with Lab("molecule") as lab:
        results = Scenarios(lab, say=lambda text: print(text, flush=True)).run(chosen, at_once=min(2, os.cpu_count() or 1))
        failed = sum(not passed for passed in results.values())
        if failed:
            print(f"what it looked like is in {lab.keep()}", file=sys.stderr)
    # The form that .ci/run adds up.
    print(f"{len(results) - failed} passed, {failed} failed in {time.process_time():.2f}s")
    return 1 if failed else 0

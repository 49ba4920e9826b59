# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""The kernel's side of the tunnel on FreeBSD, OpenBSD, NetBSD and macOS: the counterpart of `..link`, of the same contract.

What is there already is read (`read`), so nothing is added twice and nothing of others is taken away. Before a step is done its undo is
written to a file, so that an agent that was killed is cleaned up after by the next one. It is written for each step, also for what would
go with the device: on these systems not all of it does.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from ..._tsp.errors import ApplyError, LocalError
from .. import undofile
from ..link import Kernel
from ..linkplan import ALIAS, SYSCTL, LinkPlan, LinkStep, Undo, cidr_key, sysctl_step
from ..tun import TunDevice
from .plan import ANYWHERE, FAMILY, FORWARDING
from .read import Interface, Route, interfaces, routes
from .systems import NAME, System, device_name
from .tundev import open_device

GONE = ("does not exist", "no such interface", "not in table", "can't assign requested address", "device not configured",
        "no such process", "not found")
"""What these programs say of something that is not there (any more), in small letters."""
LOOKS, BETWEEN = 100, 0.05
"""How often, and after how many seconds each, it is looked whether a closed device is gone."""


class BsdLink:
    """The plan in force on this host, and its undo. One for each agent. open_tun: how a tun device is opened, in the tests another."""

    def __init__(self, kernel: Kernel, undo_file: str, system: System,
                 open_tun: Callable[[System, str], tuple[TunDevice, bool]] | None = None) -> None:
        self._kernel = kernel
        self._undo_file = undo_file
        self._system = system
        self._open_tun = open_tun or open_device
        self._undo: dict[str, Undo] = {}
        self._open = ""
        self._going: set[str] = set()
        self.plan: LinkPlan | None = None
        self.left_out: list[str] = []
        """Sentences on what of the plan was not done, since this system cannot do it beside what it has. The log has them too."""

    def recover(self, device: str, name: str) -> bool:
        """Clean up after an agent of this name that was killed; returns whether there was anything. device: as the configuration has it.

        Raises LocalError `device_taken`: a device that we would use exists and is somebody else's.
        """
        left = undofile.load(self._undo_file)
        found, self._undo = left is None, left or {}
        if self._undo:
            found = True
            self._open = ""
            self.remove()
        there = self._interfaces()
        for own in self._own_names(device):
            if own in there:
                if there[own].description != f"{ALIAS}:{name}":
                    raise LocalError("device_taken", f"A device named {own} exists already, and is not of this agent.",
                                     "Set another device in the configuration (its number is what counts), or remove that one.")
                self._must(("ifconfig", own, "destroy"))
                found = True
        return found

    def open_tun(self, device: str) -> TunDevice:
        """Make and open the tun device for `device` of the configuration; its name here is in what comes back.

        Raises LocalError as tundev.open_device does, and `device_taken`; ApplyError `link_failed`.
        """
        name = device_name(self._system, device, "tun")
        self._wait_for_the_end(name)
        if name in self._interfaces():
            raise LocalError("device_taken", f"A device named {name} exists already.",
                             "Set another device in the configuration (its number is what counts), or remove that one.")
        key = f"device {name}"
        if self._system.stays:
            self._undo[key] = ("ifconfig", name, "destroy")
            self._save()
        try:
            if self._system.stays:
                self._must(("ifconfig", name, "create"))
            made, goes = self._open_tun(self._system, name)
        except BaseException:
            if self._undo.get(key):
                self._undo_these([key])
            raise
        if goes and self._undo.pop(key, ()):
            self._save()
        self._open = name
        return made

    def apply(self, plan: LinkPlan, give_port: Callable[[], None] | None = None) -> list[str]:
        """Make the plan true; what the plan before it needed and this one does not is undone first. Returns the commands.

        give_port is never called: no kernel of this family takes a UDP port. Raises ApplyError with the command's own words; what was
        done of the new plan is undone then: `tunnel_refused` where the device cannot be had, `link_failed` for all the rest.
        """
        before, self.left_out = self.left_out, []
        steps = self._fitting(plan)
        for sentence in self.left_out:
            if sentence not in before:
                logging.getLogger("tsp-agent").info("%s", sentence)
        keys = {step.key for step in steps} | {f"device {plan.device}"}
        done = self._undo_these([key for key in self._undo if key not in keys])
        state = self.state()
        added: list[str] = []
        for step in steps:
            if step.key in state or step.do[0] == SYSCTL and self._sysctl(step.do[1]) == step.do[2]:
                continue
            undo = self._undo_of(step)
            if undo is not None and step.key not in self._undo:
                self._undo[step.key] = undo
                added.append(step.key)
                self._save()
            try:
                done.append(self._do(step.do))
            except ApplyError as exc:
                self._undo_these(added)
                if not step.key.startswith(("device ", "tunnel ")):
                    raise
                raise ApplyError("tunnel_refused", exc.message, "Load gif(4) into the kernel, or ask for a tunnel over UDP (v6udpv4), "
                                 "which needs a tun device only.") from None
        self.plan = plan
        return done

    def remove(self) -> list[str]:
        """Take everything away again; what fails is gone already, or is reported as `failed: …` and left."""
        self.plan = None
        done = self._undo_these(list(self._undo))
        self._open = ""
        return done

    def free_port(self) -> None:
        """Nothing: no kernel of this family holds a UDP port for us."""

    def state(self) -> set[str]:
        """The kernel's state as the keys of `plan`."""
        keys: set[str] = set()
        for name, here in self._interfaces().items():
            keys.update((f"device {name}", f"mtu {name} {here.mtu}"))
            if "UP" in here.flags:
                keys.add(f"up {name}")
            if here.description:
                keys.add(f"mark {name} {here.description}")
            if "NO_DAD" in here.neighbours:
                keys.add(f"no_dad {name}")
            if here.tunnel:
                keys.add(f"tunnel {name} {here.tunnel[0]} {here.tunnel[1]}")
            keys.update(f"address {name} {cidr_key(entry.address, entry.length)}" for entry in here.addresses)
        for family in (6, 4):
            keys.update(f"reject {route.destination}" if set(route.flags) & set("RB") else f"route {route.destination} {route.gateway}"
                        for route in self._routes(family))
        return keys

    def _fitting(self, plan: LinkPlan) -> list[LinkStep]:
        """The steps that this host takes: no default route beside a native one without a metric, and settings that keep a new router
        listening."""
        steps = []
        for step in plan.steps:
            if step.key.startswith(f"route {ANYWHERE[plan.family]} ") and self._system.priority is None and \
                    self._native(plan.family, step.key.split()[-1]):
                self.left_out.append(f"{self._system.name} has one default route, and the native one stays.")
                continue
            if step.do[0] == SYSCTL and step.do[1] == FORWARDING[6]:
                steps += self._keep_listening()
            steps.append(step)
        return steps

    def _native(self, family: int, ours: str) -> bool:
        return any(route.is_default and route.gateway != ours for route in self._routes(family))

    def _keep_listening(self) -> list[LinkStep]:
        """A host that starts to forward would stop listening to router advertisements."""
        if not any("ACCEPT_RTADV" in here.neighbours for here in self._interfaces().values()):
            return []
        return [sysctl_step(name, "1") for name in self._system.keep_listening if self._sysctl(name) is not None]

    def _wait_for_the_end(self, name: str) -> None:
        """A device of ours that FreeBSD takes away as soon as it is closed, which its owner has done by now."""
        if name in self._going:
            self._going.remove(name)
            for _turn in range(LOOKS):
                if name not in self._interfaces():
                    return
                time.sleep(BETWEEN)

    def _own_names(self, device: str) -> list[str]:
        own = NAME.match(device)
        kinds = ("tun", "gif") if own is None else ("gif",) if own.group(1) == "gif" else ("tun",)
        return [device_name(self._system, device, kind) for kind in kinds]

    def _undo_of(self, step: LinkStep) -> Undo | None:
        if step.do[0] == SYSCTL:
            value = self._sysctl(step.do[1])
            return None if value is None else (SYSCTL, step.do[1], value)
        return step.undo

    def _undo_these(self, keys: Sequence[str]) -> list[str]:
        done = []
        for key in reversed(keys):
            words = self._undo.pop(key)
            if key == f"device {self._open}" and words[0] == "ifconfig":
                # FreeBSD waits with this until the descriptor is closed, and whoever has it may wait for us.
                if self._system.name == "FreeBSD":
                    words = ("daemon", "-f", *words)
                    self._going.add(self._open)
            try:
                done.append(self._do(words))
            except ApplyError as exc:
                if not any(phrase in exc.message.lower() for phrase in GONE):
                    done.append(f"failed: {exc.message}")
        if keys:
            self._save()
        return done

    def _do(self, words: Sequence[str]) -> str:
        if words[0] == SYSCTL:
            words = (*self._system.set_sysctl, f"{words[1]}={words[2]}")
        self._must(words)
        return " ".join(words)

    def _must(self, words: Sequence[str]) -> str:
        done = self._kernel.run(words)
        if done.rc:
            raise ApplyError("link_failed", f"{' '.join(words)} failed: {done.words}.", "")
        return done.stdout

    def _sysctl(self, name: str) -> str | None:
        done = self._kernel.run(("sysctl", "-n", name))
        return done.stdout.strip() if done.rc == 0 else None

    def _interfaces(self) -> dict[str, Interface]:
        return interfaces(self._must(("ifconfig", "-a")))

    def _routes(self, family: int) -> list[Route]:
        return routes(self._must((*self._system.routes, FAMILY[family])))

    def _save(self) -> None:
        undofile.save(self._undo_file, self._undo)

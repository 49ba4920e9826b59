# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""The kernel's side of the tunnel: a plan is a list of steps, each with the key under which it shows when it is done.

What is there already is read from the kernel (`ip -j`, /proc/sys) as a set of the same keys, so reconciling is a difference of
sets: nothing is ever added blindly, and what was there before us is neither touched nor taken away at the end. Before a step is
done its undo is written to a file in the runtime directory, so that an agent that was killed is cleaned up after by the next one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any, Protocol

from .._apply.runner import Completed
from .._tsp.errors import ApplyError, LocalError
from .config import LinkConfig

ALIAS = "tunnelbroker.tsp"
"""A device of ours carries the alias `tunnelbroker.tsp:<name>`; one that does not is somebody else's."""
UNREACHABLE_METRIC = 65535
"""Metric of the route to nowhere that covers the delegated prefix: everything more specific or better wins."""
PEER_METRIC = 64
SYSCTL = "sysctl"
"""First word of a step that sets a kernel variable: ("sysctl", "net/ipv6/conf/all/forwarding", "1"); interface names may hold dots."""
FORWARDING = {6: "net/ipv6/conf/all/forwarding", 4: "net/ipv4/ip_forward"}
Undo = tuple[str, ...]


class Kernel(Protocol):
    """The port to the kernel. `kernel.HostKernel` is the real one."""

    def run(self, argv: Sequence[str]) -> Completed:
        """Run a command; never raises for its failure."""

    def get_sysctl(self, name: str) -> str | None:
        """The value, None when the kernel has none of that name."""

    def set_sysctl(self, name: str, value: str) -> None:
        """Raises ApplyError `host_refused`."""


@dataclass(frozen=True)
class LinkStep:
    """key: how the kernel's state shows that it holds. do, undo: argv, or ("sysctl", name, value); undo None: goes with the device."""

    key: str
    do: tuple[str, ...]
    undo: Undo | None = None


@dataclass(frozen=True)
class LinkPlan:
    """device: name of the tunnel device; kind: tun (the agent holds it open), sit or ip6tnl (the kernel's own)."""

    device: str
    kind: str
    alias: str
    mtu: int
    steps: tuple[LinkStep, ...]

    @property
    def device_key(self) -> tuple[Any, ...]:
        """Plans with the same one can share a device."""
        return (self.device, self.kind, *(step.do for step in self.steps if step.key.startswith("tunnel ")))


def make_plan(numbers: dict[str, Any], link: LinkConfig, device: str, name: str) -> LinkPlan:
    """The steps for a tunnel, in order. numbers: what tunnel_plan computed out of the lease."""
    mode, family = numbers["mode"], numbers["family"]
    kind = {"v6udpv4": "tun", "v6v4": "sit", "v4v6": "ip6tnl"}[mode]
    ip = ("ip", "-6") if family == 6 else ("ip", "-4")
    alias = f"{ALIAS}:{name}"
    steps = []
    if kind != "tun":
        local, remote = numbers["tunnel"]["local"], numbers["tunnel"]["remote"]
        how = ("ip", "tunnel", "add", device, "mode", "sit", "local", local, "remote", remote, "ttl", "64") if kind == "sit" else (
            "ip", "-6", "tunnel", "add", device, "mode", "ipip6", "local", local, "remote", remote, "encaplimit", "none")
        steps.append(LinkStep(f"tunnel {device} {local} {remote}", how, ("ip", "link", "del", "dev", device)))
    steps += [
        LinkStep(f"alias {device} {alias}", ("ip", "link", "set", "dev", device, "alias", alias)),
        LinkStep(f"mtu {device} {numbers['mtu']}", ("ip", "link", "set", "dev", device, "mtu", str(numbers["mtu"]))),
        LinkStep(f"up {device}", ("ip", "link", "set", "dev", device, "up")),
        _address(ip, device, numbers["address_cidr"])]
    # Without a default route the broker's end, and whom we ping, must still be reached through the tunnel.
    for peer in dict.fromkeys((numbers["peer"], numbers["probe"])):
        if ip_address(peer) != ip_address(numbers["address"]):
            steps.append(_route(ip, f"{peer}/{numbers['address_length']}", device, PEER_METRIC))
    steps += _lan(numbers, link, ip)
    if link.default_route == "metric":
        steps.append(_route(ip, numbers["default_route"]["destination"], device, link.metric))
    return LinkPlan(device, kind, alias, numbers["mtu"], tuple(steps))


def _lan(numbers: dict[str, Any], link: LinkConfig, ip: tuple[str, ...]) -> list[LinkStep]:
    steps = []
    if numbers["unreachable"]:
        metric = str(UNREACHABLE_METRIC)
        route = (*ip, "route", "add", "unreachable", numbers["unreachable"], "metric", metric)
        steps.append(LinkStep(f"unreachable {ip_network(numbers['unreachable'])} {metric}", route,
                              (*ip, "route", "del", "unreachable", numbers["unreachable"], "metric", metric)))
    for entry in numbers["lan"]:
        step = _address(ip, entry["interface"], entry["cidr"])
        steps.append(LinkStep(step.key, step.do, (*ip, "addr", "del", entry["cidr"], "dev", entry["interface"])))
    if link.forwarding or link.forwarding is None and numbers["lan"]:
        steps.append(_sysctl(FORWARDING[numbers["family"]], "1"))
    return steps


def _address(ip: tuple[str, ...], device: str, cidr: str) -> LinkStep:
    nodad = ("nodad",) if ip[1] == "-6" else ()
    return LinkStep(f"address {device} {_cidr(*cidr.split('/'))}", (*ip, "addr", "add", cidr, "dev", device, *nodad))


def _route(ip: tuple[str, ...], destination: str, device: str, metric: int) -> LinkStep:
    where = (destination, "dev", device, "metric", str(metric))
    return LinkStep(f"route {ip_network(destination)} {device} {metric}", (*ip, "route", "add", *where))


def _sysctl(name: str, value: str) -> LinkStep:
    return LinkStep(f"sysctl {name}={value}", (SYSCTL, name, value))


def _cidr(address: str, length: Any) -> str:
    return f"{ip_address(address)}/{length}"


class Link:
    """The plan in force on this host, and its undo. One for each agent."""

    def __init__(self, kernel: Kernel, undo_file: str) -> None:
        self._kernel = kernel
        self._undo_file = undo_file
        self._undo: dict[str, Undo] = {}
        self.plan: LinkPlan | None = None

    def recover(self, device: str, name: str) -> bool:
        """Clean up after an agent of this name that was killed; returns whether there was anything.

        Raises LocalError `device_taken`: the device exists and is somebody else's.
        """
        found = False
        try:
            with open(self._undo_file, encoding="utf-8") as file:
                self._undo = {str(key): tuple(str(word) for word in words) for key, words in json.load(file).items()}
        except FileNotFoundError:
            pass
        except (OSError, ValueError, AttributeError, TypeError):
            found = True  # half a file is possible only when nothing of it was done yet
        if self._undo:
            found = True
            self.remove()
        link = self._links().get(device)
        if link is not None:
            if link.get("ifalias") != f"{ALIAS}:{name}":
                raise LocalError("device_taken", f"A device named {device} exists already, and is not of this agent.",
                                 "Set another device in the configuration, or remove that one.")
            self._must(("ip", "link", "del", "dev", device))
            found = True
        return found

    def apply(self, plan: LinkPlan) -> list[str]:
        """Make the plan true; what the plan before it needed and this one does not is undone first. Returns the commands.

        Raises ApplyError `link_failed` with the command's own words; what was done of the new plan is undone then.
        """
        keys = {step.key for step in plan.steps}
        if any(step.do[:2] == (SYSCTL, FORWARDING[6]) for step in plan.steps):
            keys.update(key for key in self._undo if key.endswith("/accept_ra=2"))
        done = self._undo_these([key for key in self._undo if key not in keys])
        if self.plan is not None:
            done += self._forget_device_state([step for step in self.plan.steps if step.key not in keys])
        missing = self._missing(plan)
        added: list[str] = []
        try:
            for step in missing:
                undo = self._undo_of(step)
                if undo is not None and step.key not in self._undo:
                    self._undo[step.key] = undo
                    added.append(step.key)
                    self._save()
                self._do(step.do)
                done.append(" ".join(step.do))
        except ApplyError:
            self._undo_these(added)
            raise
        self.plan = plan
        return done

    def remove(self) -> list[str]:
        """Take everything away again; what fails is gone already, or is reported as `failed: …` and left."""
        self.plan = None
        return self._undo_these(list(self._undo))

    def state(self) -> set[str]:
        """The kernel's state as keys."""
        keys: set[str] = set()
        for name, link in self._links().items():
            keys.add(f"mtu {name} {link.get('mtu')}")
            if "UP" in link.get("flags", ()):
                keys.add(f"up {name}")
            if link.get("ifalias"):
                keys.add(f"alias {name} {link['ifalias']}")
            data = (link.get("linkinfo") or {}).get("info_data") or {}
            if data.get("local") and data.get("remote"):
                keys.add(f"tunnel {name} {data['local']} {data['remote']}")
            for address in link.get("addr_info", ()):
                if address.get("local"):
                    keys.add(f"address {name} {_cidr(address['local'], address.get('prefixlen'))}")
        for family in ("-6", "-4"):
            for route in self._json("ip", "-j", family, "route", "show", "table", "main"):
                keys.add(_route_key(route, family))
        return keys

    def _missing(self, plan: LinkPlan) -> list[LinkStep]:
        state = self.state()
        for step in plan.steps:
            if step.do[0] == SYSCTL and self._kernel.get_sysctl(step.do[1]) == step.do[2]:
                state.add(step.key)
        missing = []
        for step in plan.steps:
            if step.key not in state:
                if step.do[:2] == (SYSCTL, FORWARDING[6]):
                    missing += self._keep_listening()
                missing.append(step)
        return missing

    def _keep_listening(self) -> list[LinkStep]:
        """A host that starts to forward stops listening to router advertisements, and would lose the native default route that it
        has from them: accept_ra 2 keeps it (Linux ip-sysctl, accept_ra)."""
        devices = {str(route["dev"]) for route in self._json("ip", "-j", "-6", "route", "show", "default")
                   if route.get("protocol") == "ra" and route.get("dev")}
        return [_sysctl(f"net/ipv6/conf/{device}/accept_ra", "2") for device in sorted(devices)
                if self._kernel.get_sysctl(f"net/ipv6/conf/{device}/accept_ra") == "1"]

    def _links(self) -> dict[str, dict[str, Any]]:
        return {str(link.get("ifname")): link for link in self._json("ip", "-j", "-d", "addr", "show")}

    def _undo_of(self, step: LinkStep) -> Undo | None:
        if step.do[0] == SYSCTL:
            value = self._kernel.get_sysctl(step.do[1])
            return None if value is None else (SYSCTL, step.do[1], value)
        return step.undo

    def _forget_device_state(self, steps: list[LinkStep]) -> list[str]:
        """Addresses and routes on our device that the new plan does not want: they have no undo, they go with the device."""
        done = []
        for step in steps:
            if step.undo is None and "add" in step.do:
                words = tuple("del" if word == "add" else word for word in step.do if word != "nodad")
                if self._kernel.run(words).rc == 0:
                    done.append(" ".join(words))
        return done

    def _undo_these(self, keys: list[str]) -> list[str]:
        done = []
        for key in reversed(keys):
            words = self._undo.pop(key)
            try:
                self._do(words)
                done.append(" ".join(words))
            except ApplyError as exc:
                done.append(f"failed: {exc.message}")
        if keys:
            self._save()
        return done

    def _do(self, words: Sequence[str]) -> None:
        if words[0] == SYSCTL:
            self._kernel.set_sysctl(words[1], words[2])
        else:
            self._must(words)

    def _must(self, words: Sequence[str]) -> None:
        done = self._kernel.run(words)
        if done.rc:
            raise ApplyError("link_failed", f"{' '.join(words)} failed: {done.words}.", "")

    def _json(self, *words: str) -> list[dict[str, Any]]:
        done = self._kernel.run(words)
        try:
            if done.rc:
                raise ValueError(done.words)
            data = json.loads(done.stdout or "[]")
            return [entry for entry in data if entry]
        except ValueError as exc:
            raise ApplyError("link_failed", f"{' '.join(words)} does not work here: {exc}.", "Install iproute2 (4.17 or newer).") from None

    def _save(self) -> None:
        if not self._undo:
            if os.path.exists(self._undo_file):
                os.unlink(self._undo_file)
            return
        temporary = f"{self._undo_file}.new"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        with open(os.open(temporary, flags, 0o600), "w", encoding="utf-8") as file:
            json.dump(self._undo, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, self._undo_file)


def _route_key(route: dict[str, Any], family: str) -> str:
    destination = route.get("dst", "")
    try:
        network = ip_network("::/0" if destination == "default" and family == "-6" else "0.0.0.0/0" if destination == "default"
                             else destination)
    except ValueError:
        return f"other {destination}"
    if route.get("type", "unicast") == "unreachable":
        return f"unreachable {network} {route.get('metric', 0)}"
    return f"route {network} {route.get('dev')} {route.get('metric', 0)}"

# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""The kernel's side of the tunnel: makes a plan (`linkplan`) true, and takes it back.

What is there already is read from the kernel (`ip -j`, /proc/sys) as a set of the keys that a plan's steps have, so reconciling is a
difference of sets: nothing is ever added blindly, and what was there before us is neither touched nor taken away at the end. Before a
step is done its undo is written to a file in the runtime directory, so that an agent that was killed is cleaned up after by the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ipaddress import ip_network
from typing import Any, Protocol

from .._apply.kernel import entries
from .._apply.runner import Completed
from .._tsp.errors import ApplyError, LocalError
from . import linkplan, undofile
from .linkplan import ALIAS, FORWARDING, REPLACING_METRIC, SYSCTL, LinkPlan, LinkStep, Undo, cidr_key, route_key, rule_key, sysctl_step

NATIVE = "native "
"""Begins the key of a default route of somebody else that had to go."""
ANYWHERE = {6: "::/0", 4: "0.0.0.0/0"}


class Kernel(Protocol):
    """The port to the kernel. `kernel.HostKernel` is the real one."""

    def run(self, argv: Sequence[str]) -> Completed:
        """Run a command; never raises for its failure."""

    def get_sysctl(self, name: str) -> str | None:
        """The value, None when the kernel has none of that name."""

    def set_sysctl(self, name: str, value: str) -> None:
        """Raises ApplyError `host_refused`."""


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
        left = undofile.load(self._undo_file)
        found, self._undo = left is None, left or {}
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

    def apply(self, plan: LinkPlan, give_port: Callable[[], None] | None = None) -> list[str]:
        """Make the plan true; what the plan before it needed and this one does not is undone first. Returns the commands.

        give_port: called right before the kernel takes a UDP port, so that its user up to then lets go no earlier.
        Raises ApplyError with the command's own words; what was done of the new plan is undone then: `tunnel_refused` where the device
        itself, or its UDP port, cannot be had, `link_failed` for all the rest.
        """
        plan = linkplan.beside(plan, self._routes(plan.family))
        keys = {step.key for step in plan.steps}
        if any(step.do[1] in FORWARDING.values() for step in plan.steps):
            keys.update(key for key in self._undo if key.startswith(SYSCTL) and key.endswith(("/accept_ra=2", "/forwarding=1")))
        if plan.replace:
            keys.update(key for key in self._undo if key.startswith(NATIVE))
        changing = self._hand_over(plan)
        done = self._undo_these([key for key in self._undo if key not in keys])
        if self.plan is not None:
            done += self._forget_device_state([step for step in self.plan.steps if step.key not in keys])
        missing = self._missing(plan)
        added: list[str] = []
        for step in missing:
            undo = self._undo_of(step, plan.device)
            if undo is not None and step.key not in self._undo:
                self._undo[step.key] = undo
                added.append(step.key)
                self._save()
            words = step.change if changing and step.change else step.do
            if give_port is not None and step.key.startswith("fou "):
                give_port()
            try:
                self._do(words)
            except ApplyError as exc:
                self._undo_these(added)
                if not step.key.startswith(("tunnel ", "fou ")):
                    raise
                raise ApplyError("tunnel_refused", exc.message, "Load the kernel module that is missing (sit, fou or ip6_tunnel), or let "
                                 "the agent carry the tunnel itself: mode v6udpv4 with data plane tun.") from None
            done.append(" ".join(words))
        self.plan = plan
        return done

    def remove(self) -> list[str]:
        """Take everything away again; what fails is gone already, or is reported as `failed: …` and left."""
        self.plan = None
        return self._undo_these(list(self._undo))

    def free_port(self) -> None:
        """Take the UDP port back from the kernel, for a negotiation from there; the device stays, and goes on sending."""
        self._undo_these([key for key in self._undo if key.startswith("fou ")])

    def _hand_over(self, plan: LinkPlan) -> bool:
        """Whether the device is there and only gets other ends; then it is the new plan's to take away, at its old place in the order."""
        mine = f"tunnel {plan.device} "
        wanted = next((step.key for step in plan.steps if step.change and step.key.startswith(mine)), None)
        if wanted is None or plan.device not in self._links() or not any(key.startswith(mine) for key in self._undo):
            return False
        self._undo = {wanted if key.startswith(mine) else key: undo for key, undo in self._undo.items()}
        self._save()
        return True

    def state(self, plan: LinkPlan | None = None) -> set[str]:
        """The kernel's state as keys: links, addresses, the main routing table, and what else `plan` is about."""
        keys: set[str] = set()
        for name, link in self._links().items():
            keys.add(f"mtu {name} {link.get('mtu')}")
            if "UP" in link.get("flags", ()):
                keys.add(f"up {name}")
            if link.get("ifalias"):
                keys.add(f"alias {name} {link['ifalias']}")
            data = (link.get("linkinfo") or {}).get("info_data") or {}
            if data.get("local") and data.get("remote"):
                encap = data.get("encap") or {}
                over = f" fou {encap.get('sport')} {encap.get('dport')}" if encap.get("type") == "fou" else ""
                keys.add(f"tunnel {name} {data['local']} {data['remote']}{over}")
            for address in link.get("addr_info", ()):
                if address.get("local"):
                    keys.add(f"address {name} {cidr_key(address['local'], address.get('prefixlen'))}")
        keys |= self._routes(6) | self._routes(4)
        return keys if plan is None else keys | self._special(plan)

    def _routes(self, family: int) -> set[str]:
        """Keys of the main routing table."""
        return {_route_key(route, family) for route in self._json("ip", "-j", f"-{family}", "route", "show", "table", "main")}

    def _special(self, plan: LinkPlan) -> set[str]:
        """UDP ports of the kernel, a table of our own and rules. What cannot be shown is not there: the kernel may not know the word."""
        keys: set[str] = set()
        if any(step.key.startswith("fou ") for step in plan.steps):
            for port in self._json("ip", "-j", "fou", "show", strict=False):
                keys.add("fou " + " ".join(str(part) for part in (port.get("port"), "local", port.get("local"), "peer", port.get("peer"),
                                                                  "peer_port", port.get("peer_port"))))
        if plan.table is not None:
            for route in self._json("ip", "-j", f"-{plan.family}", "route", "show", "table", str(plan.table), strict=False):
                keys.add(_route_key(route, plan.family, str(plan.table)))
            for rule in self._json("ip", "-j", f"-{plan.family}", "rule", "show", strict=False):
                source = str(rule.get("src", "all"))
                if source != "all":
                    whole = 128 if plan.family == 6 else 32
                    keys.add(rule_key(f"{source}/{rule.get('srclen', whole)}", rule.get("priority"), str(rule.get("table"))))
        return keys

    def _missing(self, plan: LinkPlan) -> list[LinkStep]:
        state = self.state(plan)
        for step in plan.steps:
            if step.do[0] == SYSCTL and self._kernel.get_sysctl(step.do[1]) == step.do[2]:
                state.add(step.key)
        missing = []
        for step in plan.steps:
            if plan.replace and step.key == route_key(ANYWHERE[plan.family], plan.device, REPLACING_METRIC):
                missing += self._in_the_way(plan)
            if step.key not in state:
                if step.do[1] in FORWARDING.values():
                    missing += self._keep_settings(plan)
                missing.append(step)
        return missing

    def _in_the_way(self, plan: LinkPlan) -> list[LinkStep]:
        """Default routes of others that ours, with the best metric but one, would not win against."""
        ip = ("ip", f"-{plan.family}")
        steps = []
        for route in self._json("ip", "-j", f"-{plan.family}", "route", "show", "table", "main"):
            if route.get("dst") == "default" and not route.get("from") and route.get("metric", 0) <= REPLACING_METRIC and \
                    route.get("dev") != plan.device and route.get("type", "unicast") == "unicast":
                words = _route_words(route)
                steps.append(LinkStep(NATIVE + " ".join(words), (*ip, "route", "del", *words), (*ip, "route", "add", *words)))
        return steps

    def _keep_settings(self, plan: LinkPlan) -> list[LinkStep]:
        """What forwarding everywhere would change beside itself, so that it is as before afterwards: where packets were forwarded
        already, and who listens to router advertisements."""
        version = f"ipv{plan.family}"
        names = [f"net/{version}/conf/{name}/forwarding" for name in ("default", *sorted(self._links())) if name != plan.device]
        kept = [sysctl_step(name, "1") for name in names if self._kernel.get_sysctl(name) == "1"]
        return kept + (self._keep_listening() if plan.family == 6 else [])

    def _keep_listening(self) -> list[LinkStep]:
        """A host that starts to forward stops listening to router advertisements, and would lose the native default route that it
        has from them: accept_ra 2 keeps it (Linux ip-sysctl, accept_ra)."""
        devices = {str(route["dev"]) for route in self._json("ip", "-j", "-6", "route", "show", "default")
                   if route.get("protocol") == "ra" and route.get("dev")}
        return [sysctl_step(f"net/ipv6/conf/{device}/accept_ra", "2") for device in sorted(devices)
                if self._kernel.get_sysctl(f"net/ipv6/conf/{device}/accept_ra") == "1"]

    def _links(self) -> dict[str, dict[str, Any]]:
        return {str(link.get("ifname")): link for link in self._json("ip", "-j", "-d", "addr", "show")}

    def _undo_of(self, step: LinkStep, device: str) -> Undo | None:
        if step.do[0] == SYSCTL:
            value = self._kernel.get_sysctl(step.do[1])
            return None if value is None or f"/{device}/" in step.do[1] else (SYSCTL, step.do[1], value)
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
            raise ApplyError("link_failed", f"{' '.join(words)} failed: {done.words}.",
                             "Look with `ip addr` and `ip route` at what is in the way, or change `link` in the configuration.")

    def _json(self, *words: str, strict: bool = True) -> list[dict[str, Any]]:
        try:
            return entries(self._kernel.run(words))
        except ApplyError:
            if strict:
                raise
            return []

    def _save(self) -> None:
        undofile.save(self._undo_file, self._undo)


def _route_key(route: dict[str, Any], family: int, table: str | None = None) -> str:
    destination = ANYWHERE[family] if route.get("dst") == "default" else str(route.get("dst", ""))
    try:
        if route.get("type", "unicast") == "unreachable":
            return f"unreachable {ip_network(destination)} {route.get('metric', 0)}"
        return route_key(destination, route.get("dev"), route.get("metric", 0), route.get("from"), table)
    except ValueError:
        return f"other {destination}"


def _route_words(route: dict[str, Any]) -> tuple[str, ...]:
    """A route as `ip route add` takes it, out of what `ip -j route show` says."""
    words = [str(route["dst"])]
    hops = route.get("nexthops") or [route]
    for hop in hops:
        words += ["nexthop"] if hop is not route else []
        via = hop.get("via") or {}
        words += ["via", str(hop["gateway"])] if hop.get("gateway") else \
            ["via", str(via.get("family")), str(via.get("host"))] if via else []
        words += ["dev", str(hop["dev"])] if hop.get("dev") else []
        words += ["weight", str(hop["weight"])] if hop is not route and hop.get("weight") else []
        words += ["onlink"] if "onlink" in hop.get("flags", ()) else []
    for key, word in (("protocol", "proto"), ("scope", "scope"), ("prefsrc", "src"), ("metric", "metric")):
        words += [word, str(route[key])] if route.get(key) is not None else []
    return tuple(words)

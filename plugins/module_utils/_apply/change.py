# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""How the kernel is changed: items made, awaited, and put back to what was in their place.

A fact is an item with `was`: what the kernel said of it before (as in a state of kernel.py), None when it was not there; a sysctl's
fact may have `ours`, the value that we gave it. `put_back` makes facts true, whatever of them is true already.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from .._tsp.errors import ApplyError
from .items import Item, describe
from .kernel import SPREADING, State, addresses_on, advertised_routes, dependents, holds, key, read, routes_on, same_tunnel
from .runner import Runner

ALIAS = "tunnelbroker.tsp"
"""What the alias of a device that we made begins with."""
FOREVER = 4294967295
POLL = 0.2
TRIES = 3
"""However slow the host: a device must be there again before its addresses can be, and those before routes that lead by them."""
Fact = dict[str, Any]


def fact(item: Item, state: State) -> Fact:
    """The item and what is in its place."""
    out = {**item, "was": state.get(key(item))}
    if item["kind"] == "sysctl":
        out["ours"] = item["value"]
    return out


def facts_of(items: Sequence[Item], leaving: Iterable[str], runner: Runner, state: State) -> list[Fact]:
    """All that a run which makes these items, and deletes the devices `leaving`, could change."""
    out = {key(item): fact(item, state) for item in items}
    for device in leaving:
        for item in (*addresses_on(device, state), *routes_on(device, state)):
            out.setdefault(key(item), {**item, "was": state[key(item)]})
    for item in items:
        if item["kind"] == "sysctl" and not holds(item, state):
            for name in dependents(item["name"], runner):
                out.setdefault(f"sysctl {name}", {"kind": "sysctl", "name": name, "ours": item["value"], "value": item["value"],
                                                  "because": item["name"], "was": runner.get_sysctl(name)})
            if item["name"].endswith("/forwarding"):
                for route in advertised_routes(state):
                    out.setdefault(key(route), {**route, "was": state[key(route)]})
    return list(out.values())


def make(item: Item, runner: Runner, state: State, name: str, tunnels: Iterable[str] = ()) -> None:
    """Make one item. name: of the transaction. tunnels: the devices on which an address needs no duplicate detection."""
    kind = item["kind"]
    if kind == "sysctl":
        runner.set_sysctl(item["name"], str(item["value"]))
    elif item.get("absent"):
        _run(runner, *_delete(item))
    elif kind == "link":
        found = state.get(key(item))
        if found is not None and not same_tunnel(item, found):
            _run(runner, "ip", "link", "del", "dev", item["device"])
            found = None
        _link(item, runner, found is not None, f"{ALIAS}:{name}")
    elif kind == "address":
        family = "-6" if ":" in item["cidr"] else "-4"
        still = ("nodad",) if family == "-6" and item["device"] in tunnels else ()
        _run(runner, "ip", family, "addr", "replace", item["cidr"], "dev", item["device"], *still)
    elif kind == "route":
        _run(runner, *_route("add", item), "proto", "static")
    elif kind == "rule":
        _run(runner, *_rule("add", item))
    else:
        _run(runner, *FOU, "add", "port", str(item["port"]), "ipproto", "41")


def make_missing(items: Sequence[Item], runner: Runner, name: str, tunnels: Iterable[str]) -> None:
    """Make those of the items that are not there, in their order. Raises ApplyError `apply_failed`."""
    state = read(items, runner)
    for item in items:
        if not holds(item, state):
            make(item, runner, state, name, tunnels)


def wait(items: Sequence[Item], runner: Runner, timeout: float) -> None:
    """Until the kernel has all of them. Raises ApplyError `not_in_kernel`, which says what is missing and why that may be."""
    until = runner.clock() + timeout
    while True:
        state = read(items, runner)
        missing = [item for item in items if not holds(item, state, ready=True)]
        if not missing:
            return
        if runner.clock() >= until:
            break
        runner.pause(POLL)
    raise ApplyError("not_in_kernel", f"After {timeout:g} seconds the kernel does not have what was configured: "
                     f"{'; '.join(_lack(item, state) for item in missing[:4])}{'; …' if len(missing) > 4 else ''}.", _cause(missing, state))


def put_back(facts: Sequence[Fact], runner: Runner, *, timeout: float = 10.0) -> list[str]:
    """Make the facts true; returns what could not be, as sentences."""
    until, said, tries = runner.clock() + timeout, "", 0
    while True:
        state = read(facts, runner)
        wrong = [item for item in facts if not true(item, state)]
        if not wrong:
            return []
        if tries >= TRIES and runner.clock() >= until:
            return [f"{describe(item)} is not as it was ({said})." for item in wrong]
        if tries:
            runner.pause(POLL)
        tries, said = tries + 1, "the host changed it again"
        for item in _order(wrong):
            try:
                _put_back(item, state.get(key(item)), runner)
            except ApplyError as exc:
                said = exc.message.rstrip(".")


def _order(facts: Sequence[Fact]) -> list[Fact]:
    """Away with what was not there, last made first; then what was there, in the order in which one thing needs another.

    A host that begins to forward drops its default routes out of router advertisements, unless accept_ra is 2 by then; and a variable
    of all interfaces is written to each of them: so what ends forwarding comes first, what begins it last, single interfaces at the end.
    """
    gone = [item for item in facts if item["was"] is None and item["kind"] != "sysctl"]
    back = [item for item in facts if item["was"] is not None]
    ranks = {"fou": 0, "link": 1, "address": 2, "route": 4, "rule": 5}
    away = {"rule": 0, "route": 1, "address": 2, "link": 3, "fou": 4}

    def rank(item: Fact) -> tuple[int, int]:
        if item["kind"] != "sysctl":
            return ranks[item["kind"]], 0
        if item["name"] in SPREADING:
            return 3, 0 if item["was"] == "0" else 2
        return 3, 3 if item["name"].endswith(("/forwarding", "/disable_ipv6")) else 1

    return sorted(gone, key=lambda item: away[item["kind"]]) + sorted(back, key=rank)


def true(item: Fact, state: State, keep_changed: bool = False) -> bool:
    """Whether the kernel is as it was, as far as this fact is concerned. keep_changed: or has a variable that is not as we set it."""
    found, was = state.get(key(item)), item["was"]
    if item["kind"] == "sysctl":
        if found is None or was is None:
            return True  # the variable of an interface that came or went
        return str(found).split() == str(was).split() or keep_changed and str(found).split() != str(item.get("ours", "")).split()
    if was is None or found is None:
        if found is None and was is not None and item["kind"] in ("address", "route") and item.get("device"):
            return state.get(f"link {item['device']}") is None  # nothing to put it on
        return was is None and found is None
    if item["kind"] == "link":
        return same_tunnel(was, found) and (was["mtu"], was["up"]) == (found["mtu"], found["up"])
    return True


def _put_back(item: Fact, found: Any, runner: Runner) -> None:
    """found: what was there when this round began. What an earlier step of it took along or made room for, the next round sees."""
    was, kind = item["was"], item["kind"]
    if kind == "sysctl":
        runner.set_sysctl(item["name"], was)
    elif was is None:
        _run(runner, *_delete(item))
    elif kind == "link":
        if found is not None and not same_tunnel(was, found):
            _run(runner, "ip", "link", "del", "dev", item["device"])
            found = None
        _link({**was, "device": item["device"]}, runner, found is not None, was["alias"], up=was["up"])
    elif found is None:
        if kind == "address":
            _run(runner, *_address_as_it_was(item, was))
        elif kind == "route":
            _run(runner, *_route_as_it_was(item, was))
        elif kind == "rule":
            _run(runner, *_rule("add", item))
        else:
            _run(runner, *FOU, "add", "port", str(item["port"]), "ipproto", str(was.get("ipproto", 41)))


FOU = ("ip", "fou")


def _link(item: Item, runner: Runner, there: bool, alias: str, up: bool = True) -> None:
    device = item["device"]
    if not there:
        words = ["ip", "link", "add", "name", device, "type", item["type"]]
        if item["type"] == "sit":
            words += ["mode", "ip6ip", "remote", item["remote"], "local", item["local"], "ttl", str(item.get("ttl") or 64)]
            encap = item.get("encap")
            if encap:
                # Without a checksum of its own a NAT that rewrites it may make it a wrong one.
                words += ["encap", encap["type"], "encap-sport", str(encap["sport"]), "encap-dport", str(encap["dport"]),
                          "encap-csum" if encap.get("csum", True) else "noencap-csum"]
        else:
            words += ["mode", "ipip6", "remote", item["remote"], "local", item["local"], "encaplimit", "none"]
        _run(runner, *words)
    mtu = () if item["mtu"] is None else ("mtu", str(item["mtu"]))
    _run(runner, "ip", "link", "set", "dev", device, *mtu, *(("alias", alias) if alias and not there else ()), "up" if up else "down")


def _delete(item: Item) -> tuple[str, ...]:
    kind = item["kind"]
    if kind == "link":
        return ("ip", "link", "del", "dev", item["device"])
    if kind == "address":
        return ("ip", "-6" if ":" in item["cidr"] else "-4", "addr", "del", item["cidr"], "dev", item["device"])
    if kind == "route":
        return _route("del", item)
    if kind == "rule":
        return _rule("del", item)
    return (*FOU, "del", "port", str(item["port"]), "ipproto", "41")


def _route(verb: str, item: Item) -> tuple[str, ...]:
    kind = () if item["type"] == "unicast" else (item["type"],)
    source = ("from", item["from"]) if item["from"] else ()
    via = ("via", item["gateway"]) if item["gateway"] and item["type"] == "unicast" else ()
    device = ("dev", item["device"]) if item["device"] and item["type"] == "unicast" else ()
    return ("ip", f"-{item['family']}", "route", verb, *kind, item["destination"], *source, *via, *device, "metric", str(item["metric"]),
            "table", str(item["table"]))


def _rule(verb: str, item: Item) -> tuple[str, ...]:
    more = () if item["suppress_prefixlength"] is None else ("suppress_prefixlength", str(item["suppress_prefixlength"]))
    return ("ip", f"-{item['family']}", "rule", verb, "from", item["from"], "table", str(item["table"]),
            "priority", str(item["priority"]), *more)


def _address_as_it_was(item: Fact, was: dict[str, Any]) -> tuple[str, ...]:
    family = "-6" if ":" in item["cidr"] else "-4"
    words = ["ip", family, "addr", "add"]
    if was.get("address"):  # of a point-to-point interface: the other end
        words += [str(was["local"]), "peer", f"{was['address']}/{was['prefixlen']}"]
    else:
        words += [item["cidr"]]
    words += ["dev", item["device"]]
    for name, word in (("broadcast", "broadcast"), ("label", "label"), ("scope", "scope"), ("metric", "metric")):
        if was.get(name) not in (None, ""):
            words += [word, str(was[name])]
    for name, word in (("valid_life_time", "valid_lft"), ("preferred_life_time", "preferred_lft")):
        if was.get(name, FOREVER) != FOREVER:
            words += [word, str(was[name])]
    flags = [flag for flag in ("noprefixroute", "home", "mngtmpaddr") if was.get(flag)]
    return (*words, *flags, *(("nodad",) if family == "-6" else ()))


def _route_as_it_was(item: Fact, was: dict[str, Any]) -> tuple[str, ...]:
    """The whole route as `ip -j -d` told it."""
    words = list(_route("add", item))
    hops = was.get("nexthops") or []
    if hops:
        for hop in hops:
            via = hop.get("gateway") or (hop.get("via") or {}).get("host")
            words += ["nexthop", *(("via", str(via)) if via else ()), "dev", str(hop.get("dev")), "weight", str(hop.get("weight", 1)),
                      *_onlink(hop)]
    else:
        words += _onlink(was)
    for name, word in (("protocol", "proto"), ("prefsrc", "src"), ("pref", "pref")):
        if was.get(name) not in (None, ""):
            words += [word, str(was[name])]
    if was.get("scope") and item["family"] == 4:
        words += ["scope", str(was["scope"])]
    for metrics in was.get("metrics") or []:
        for name in ("mtu", "advmss", "hoplimit"):
            if name in metrics:
                words += [name, str(metrics[name])]
    if was.get("expires"):
        words += ["expires", str(was["expires"])]
    return tuple(words)


def _onlink(hop: dict[str, Any]) -> list[str]:
    return ["onlink"] if "onlink" in (hop.get("flags") or []) else []


def _run(runner: Runner, *words: str) -> None:
    done = runner.run(words, 30.0)
    if done.rc:
        raise ApplyError("apply_failed", f"{' '.join(words)} failed: {done.words}.", "")


def _lack(item: Item, state: State) -> str:
    found = state.get(key(item))
    if found is None or item.get("absent"):
        return describe(item) + (" is still there" if found is not None else "")
    if item["kind"] == "link":
        if not same_tunnel(item, found):
            return f"{describe(item)} (there is another one of this name)"
        return f"{describe(item)} ({'it is down' if not found['up'] else 'its MTU is ' + str(found['mtu']) + ', not ' + str(item['mtu'])})"
    if item["kind"] == "sysctl":
        return f"{describe(item)} (it is {found})"
    return f"{describe(item)} ({'another host has it' if found.get('dadfailed') else 'it is not ready'})"


def _cause(missing: Sequence[Item], state: State) -> str:
    absent = {item["device"] for item in missing if item["kind"] == "link" and key(item) not in state}
    if absent:
        return (f"The host's configuration system did not make {', '.join(sorted(absent))}: look at its log. A module of the kernel may be "
                "missing, or another tunnel may have the same end points.")
    for item in missing:
        device = item.get("device")
        if device and f"link {device}" not in state:
            return f"There is no interface {device}."
        if item["kind"] == "address" and (state.get(key(item)) or {}).get("dadfailed"):
            return "Choose another address, or find the host that has this one."
    return "The host's configuration system did not do it, or something else on the host took it back: look at its log."

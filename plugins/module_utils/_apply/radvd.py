# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""The editor `radvd`: what a tunnel has to advertise, in the site's radvd.conf; and what it advertised before, until it may be forgotten.

Options (files[].edit):

    interfaces          [{name, prefixes: [network], rdnss: [address], dnssl: [domain], mtu: int or null, default_lifetime: int or null}]
    valid_lifetime, preferred_lifetime   seconds, of a prefix in use
    deprecation         seconds for which a prefix that went is advertised on, deprecated; 0 withdraws it at once
    tidy                {python, radvd, unit, state_dir} where systemd runs the host, else null: who ends that, when no run does

What the site says in its block stays and counts. A prefix that is no longer wanted is advertised with a preferred lifetime of 0 and a
valid lifetime that goes down to 0 at a deadline: `deprecation` from now, two hours at most, or what its hosts had left, if that is less
(RFC 7084 L-13, RFC 9096 section 3.5; RFC 4862 section 5.5.3 has hosts keep an address that long anyway). A DNS server or search domain
goes with a lifetime of 0. The new stands in the same advertisement, before the old.

The memory of all this is the editor's state, and once more the file itself, where each stanza names its deadline: so neither a memory
that was lost nor a file that the site wrote anew makes a prefix disappear unseen.

state: {entries: [[interface, kind, value, deadline, valid]], taken_out: true where the transaction no longer wants this file}
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from ipaddress import IPv6Address, IPv6Network
from typing import Any

from .._tsp.errors import LocalError
from . import radvd_conf as conf
from .edits import EditContext, Edited, register
from .radvd_tidy import STANZA, VALID, lifetime, moment, stamp
from .radvd_units import units

LONGEST = 7200
WITHDRAWN = 600
"""Seconds for which a lifetime of 0 is sent: radvd's longest interval between two advertisements, unless the site chose another."""
STEP, STEPS = 300, 24
DEFAULT_LIFETIME = 1800
"""What radvd itself takes: three times MaxRtrAdvInterval."""
KINDS = ("prefix", "RDNSS", "DNSSL")
OPTIONS = {"interfaces", "valid_lifetime", "preferred_lifetime", "deprecation", "tidy"}
INTERFACE_OPTIONS = {"name", "prefixes", "rdnss", "dnssl", "mtu", "default_lifetime"}
NAME = re.compile(r"[a-zA-Z0-9_.:@-]{1,15}")
DOMAIN = re.compile(r"(?=.{1,253}\Z)[a-zA-Z0-9_]([a-zA-Z0-9_-]*[a-zA-Z0-9_])?(\.[a-zA-Z0-9_]([a-zA-Z0-9_-]*[a-zA-Z0-9_])?)*")


@dataclass(frozen=True)
class Entry:
    """One thing advertised. kind: one of KINDS. deadline: None while it is in use, else seconds since 1970. valid: its valid lifetime."""

    interface: str
    kind: str
    value: str
    deadline: int | None = None
    valid: int = 0

    @property
    def key(self) -> tuple[str, str, str]:
        return self.interface, self.kind, self.value


def edit(context: EditContext) -> Edited:
    """The editor. Raises LocalError `invalid_plan`, `radvd_config_invalid`, `radvd_off`, `radvd_twice`."""
    if re.search(r"\s", context.name):
        raise LocalError("invalid_plan", f"{context.name!r} cannot stand in a mark in {context.path}.", "Use a name without blanks.")
    options = _options(context.options)
    try:
        return _edit(context, options)
    except conf.ConfError as exc:
        raise LocalError("radvd_config_invalid", f"{context.path} cannot be extended: {exc}.",
                         "Repair it by hand; radvd --configtest tells more.") from None


def _edit(context: EditContext, options: dict[str, Any]) -> Edited:
    text, name, now = context.text or "", context.name, int(context.now)
    wishes = {wish["name"]: wish for wish in options["interfaces"]} if context.present else {}
    warnings: list[str] = []
    wanted = [entry for wish in wishes.values() for entry in _wanted(wish, _site(text, wish["name"]), options, warnings)]
    going = _going(wanted, known(context.state, text, name), now, options["deprecation"])
    text, used = _beside(text, name, wanted)
    going = [entry for entry in going if entry.key not in used]
    here = conf.own(text, name)
    names = [*wishes, *sorted(({entry.interface for entry in going} | set(here)) - set(wishes))]
    written = {entry.key: entry.valid for entry in _written(here) if entry.deadline is not None}
    for interface in names:
        stanzas = [_stanza(entry, options, now, written) for entry in [*wanted, *going] if entry.interface == interface]
        if not stanzas:
            text = conf.take(text, name, interface)
            continue
        in_use = any(entry.interface == interface for entry in wanted)
        head = _head(text, name, interface, wishes.get(interface) if in_use else None, warnings)
        text = conf.put(text, name, interface, "".join([*head, *stanzas]))
    entries = [*wanted, *going]
    state: dict[str, Any] = {}
    if entries:
        state["entries"] = [[entry.interface, entry.kind, entry.value, entry.deadline, entry.valid] for entry in entries]
        if not context.present:
            state["taken_out"] = True
    others = units(name, context.path, step_of(options["deprecation"]), options["tidy"], bool(going)) if options["tidy"] else {}
    return Edited(text if text or context.present and context.text is not None else None, state, others, tuple(warnings))


def known(state: dict[str, Any], text: str, owner: str) -> list[Entry]:
    """What was advertised so far: what is remembered, and what stands in the file beside that."""
    out = {entry.key: entry for entry in _written(conf.own(text, owner))}
    for interface, kind, value, deadline, valid in state.get("entries", ()):
        entry = Entry(interface, kind, value, deadline, valid)
        out[entry.key] = entry
    return list(out.values())


def _written(parts: dict[str, str]) -> list[Entry]:
    out = []
    for interface, lines in parts.items():
        for kind, value, deadline, inner in STANZA.findall(lines):
            valid = VALID.search(inner)
            out.append(Entry(interface, kind, value, moment(deadline) if deadline else None, int(valid.group(2)) if valid else 0))
    return out


def _wanted(wish: dict[str, Any], site: conf.Interface | None, options: dict[str, Any], warnings: list[str]) -> list[Entry]:
    """What is to be advertised on an interface, without what the site advertises there itself."""
    lists = site.lists if site is not None else {}
    of_site = {"prefix": set(map(_network, lists.get("prefix", ()))), "RDNSS": set(map(_address, lists.get("rdnss", ()))),
               "DNSSL": {name.lower() for name in lists.get("dnssl", ())}}
    if wish["prefixes"] and "::/64" in of_site["prefix"]:
        warnings.append(f"On {wish['name']} the site advertises all networks of the interface (prefix ::/64), and so those of the tunnel, "
                        "with lifetimes of its own: a network that goes cannot be deprecated there.")
    out = []
    for kind, values in (("prefix", wish["prefixes"]), ("RDNSS", wish["rdnss"]), ("DNSSL", wish["dnssl"])):
        for value in values:
            if value in of_site[kind]:
                warnings.append(f"The site itself advertises {kind} {value} on {wish['name']}: it is left to the site.")
            else:
                out.append(Entry(wish["name"], kind, value, None, options["valid_lifetime"] if kind == "prefix" else 0))
    return out


def _beside(text: str, name: str, wanted: list[Entry]) -> tuple[str, set[tuple[str, str, str]]]:
    """What other transactions have in the file. Returns the text without what is going there and wanted here, and the keys of what is
    in use there. Raises LocalError `radvd_twice`: two with one prefix would end it for one another."""
    used: set[tuple[str, str, str]] = set()
    ours = {entry.key for entry in wanted}
    for other in sorted({part.owner for part in conf.parts(text) if not part.whole} - {name}):
        here = conf.own(text, other)
        for entry in _written(here):
            if entry.deadline is not None and entry.key in ours:
                lines = here[entry.interface] = _without(here[entry.interface], entry)
                text = conf.put(text, other, entry.interface, lines) if STANZA.search(lines) else conf.take(text, other, entry.interface)
            elif entry.deadline is None:
                used.add(entry.key)
                if entry.key in ours and entry.kind == "prefix":
                    raise LocalError("radvd_twice", f"The transaction {other} advertises {entry.value} on {entry.interface} already.",
                                     "Use either linux_radvd: true or the role radvd. To change, take the prefix out there first: "
                                     "with linux_radvd: false, or with tunnel_state: absent for the role.")
    return text, used


def _without(lines: str, entry: Entry) -> str:
    """A part without the stanza of an entry."""
    for found in STANZA.finditer(lines):
        if found.group(1, 2) == (entry.kind, entry.value):
            return lines[:found.start()] + lines[found.end():]
    return lines


def _going(wanted: list[Entry], before: list[Entry], now: int, deprecation: int) -> list[Entry]:
    """What was advertised and is not wanted, until its deadline."""
    kept = {entry.key for entry in wanted}
    out = []
    for entry in before:
        if entry.key in kept:
            continue
        if entry.deadline is None:
            span = min(deprecation, entry.valid) if entry.kind == "prefix" else 0
            entry = replace(entry, deadline=now + (span or WITHDRAWN), valid=span)
        if entry.deadline is not None and entry.deadline > now:
            out.append(entry)
    return sorted(out, key=lambda entry: (KINDS.index(entry.kind), entry.deadline, entry.key))


def step_of(deprecation: int) -> int:
    """Seconds between two looks at what is going."""
    return max(1, min(STEP, (deprecation or WITHDRAWN) // STEPS))


def _stanza(entry: Entry, options: dict[str, Any], now: int, written: dict[tuple[str, str, str], int]) -> str:
    going = "" if entry.deadline is None else f" # goes at {stamp(entry.deadline)}"
    if entry.kind == "prefix":
        valid, preferred = options["valid_lifetime"], options["preferred_lifetime"]
        if entry.deadline is not None:
            preferred, valid = 0, min(entry.valid, lifetime(entry.deadline, now, step_of(options["deprecation"])))
            if entry.key in written and written[entry.key] <= entry.deadline - now:  # true still: a run leaves it, the program sees to it
                valid = min(entry.valid, written[entry.key])
        lines = [f"AdvValidLifetime {valid};", f"AdvPreferredLifetime {preferred};"]
    else:
        lines = [] if entry.deadline is None else [f"Adv{entry.kind}Lifetime 0;"]
    return f"    {entry.kind} {entry.value} {{{going}\n{''.join(f'        {line}{chr(10)}' for line in lines)}    }};\n"


def _head(text: str, owner: str, interface: str, wish: dict[str, Any] | None, warnings: list[str]) -> list[str]:
    """Settings of the block that must be ours. wish: None where nothing is advertised any more but what is going."""
    site, other = _site(text, interface), conf.others(text, owner, interface)
    settings = {} if other is None else other.settings
    block = conf.interfaces(text).get(interface)
    alone = block is None or not any(block.start < part.start < block.close and part.owner != owner for part in conf.parts(text))
    out = []
    if conf.wholly_ours(text, interface):
        if wish is not None and (wish["default_lifetime"] is not None or not alone):
            out.append(f"AdvDefaultLifetime {DEFAULT_LIFETIME if wish['default_lifetime'] is None else wish['default_lifetime']};")
        elif wish is None and alone:  # nothing leads through this router any more (RFC 7084 G-5)
            out.append("AdvDefaultLifetime 0;")
    elif site is not None and "advsendadvert" not in site.settings:
        out.append("AdvSendAdvert on;")
    elif site is not None and site.settings["advsendadvert"].lower() == "off" and wish is not None:
        raise LocalError("radvd_off", f"The site's radvd.conf says AdvSendAdvert off for {interface}.",
                         "Nothing would be advertised there: set it to on, or leave the interface out.")
    if wish is not None and wish["mtu"] is not None:
        present = settings.get("advlinkmtu", "0")
        found = int(present) if present.isdigit() else 0
        if not 0 < found <= wish["mtu"]:
            out.append(f"AdvLinkMTU {wish['mtu']};")
            if found:
                warnings.append(f"The site advertises an MTU of {found} on {interface}; the tunnel carries {wish['mtu']}, so that is "
                                "advertised instead.")
    return [f"    {line}\n" for line in out]


def _site(text: str, interface: str) -> conf.Interface | None:
    """The block of an interface as the site wrote it, None without one."""
    for part in conf.parts(text):
        if not part.whole:
            text = conf.take(text, part.owner, interface)
    return conf.interfaces(text).get(interface)


def _network(text: str) -> str:
    try:
        return str(IPv6Network(text, strict=False))
    except ValueError:
        return text


def _address(text: str) -> str:
    try:
        return str(IPv6Address(text))
    except ValueError:
        return text


def _options(given: dict[str, Any]) -> dict[str, Any]:
    """All of them, in their types. The text of a network, an address and a domain is the one form that it is compared by."""
    unknown = sorted(set(given) - OPTIONS)
    if unknown:
        raise _invalid(f"{', '.join(unknown)} is not known", f"The options are {', '.join(sorted(OPTIONS))}.")
    out: dict[str, Any] = {"interfaces": [], "tidy": given.get("tidy")}
    for option, default, most in (("valid_lifetime", 5400, 2 ** 32 - 1), ("preferred_lifetime", 2700, 2 ** 32 - 1),
                                  ("deprecation", LONGEST, LONGEST)):
        out[option] = _number(given.get(option, default), option, 0, most)
    if not 0 < out["preferred_lifetime"] <= out["valid_lifetime"]:
        raise _invalid("preferred_lifetime is not between 1 and valid_lifetime", "RFC 9096 recommends 2700 and 5400.")
    for wish in given.get("interfaces") or []:
        if not isinstance(wish, dict) or set(wish) - INTERFACE_OPTIONS or not NAME.fullmatch(str(wish.get("name") or "")):
            raise _invalid(f"{wish!r} is no interface", f"Its keys are {', '.join(sorted(INTERFACE_OPTIONS))}.")
        if wish["name"] in (other["name"] for other in out["interfaces"]):
            raise _invalid(f"the interface {wish['name']} is named twice", "Name each once.")
        out["interfaces"].append(_interface(wish))
    return out


def _interface(wish: dict[str, Any]) -> dict[str, Any]:
    try:
        prefixes = [str(IPv6Network(value)) for value in wish.get("prefixes") or []]
        servers = [str(IPv6Address(value)) for value in wish.get("rdnss") or []]
    except ValueError as exc:
        raise _invalid(f"interface {wish['name']}: {exc}", "Write IPv6 networks and addresses.") from None
    domains = [str(value).rstrip(".").lower() for value in wish.get("dnssl") or []]
    for domain in domains:
        if not DOMAIN.fullmatch(domain):
            raise _invalid(f"{domain!r} is no domain", "Write it as example.net.")
    mtu, default_lifetime = wish.get("mtu"), wish.get("default_lifetime")
    return {"name": wish["name"], "prefixes": list(dict.fromkeys(prefixes)), "rdnss": list(dict.fromkeys(servers)),
            "dnssl": list(dict.fromkeys(domains)), "mtu": None if mtu is None else _number(mtu, "mtu", 1280, 65535),
            "default_lifetime": None if default_lifetime is None else _number(default_lifetime, "default_lifetime", 0, 9000)}


def _number(value: Any, name: str, least: int, most: int) -> int:
    try:
        number = int(value)
    except (TypeError, ValueError):
        number = -1
    if not least <= number <= most:
        raise _invalid(f"{name} is not a number from {least} to {most}", "Lifetimes are seconds.")
    return number


def _invalid(message: str, hint: str) -> LocalError:
    return LocalError("invalid_plan", f"The editor radvd: {message}.", hint)


register("radvd", edit)

# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the old clients send as XML and what they accept, byte for byte and no more (tsp-protocol.md sections 1.5, 4.1, 4.3, 6, 9)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

CONTENT_LENGTH = b"Content-length:"
ACCEPT = b'<tunnel action="accept"></tunnel>\r\n'
TAG = re.compile(r'<(/?)([a-z_0-9]+)((?: [a-z_]+="[^"<>]*")*) ?(/?)>')
ATTRIBUTE = re.compile(r' ([a-z_]+)="([^"<>]*)"')
ADDRESS = re.compile(r"[0-9A-Fa-f:.]+\Z")
NAME = re.compile(r"[A-Za-z0-9.-]+\Z")
TAG_BUFFER = 1024


class NotUnderstood(Exception):
    """What the client makes of an answer that it cannot read."""


def with_length(body: bytes) -> bytes:
    """A message as it stands on the wire after the authentication."""
    return b"Content-length: %d\r\n%s" % (len(body), body)


def create(*, mode: str, proxy: bool, address: str, keepalive: int | None, prefix_length: int | None, dns_servers: list[str]) -> bytes:
    """The create request. prefix_length None: host."""
    v4v6 = mode == "v4v6"
    lines = [f'<tunnel action="create" type="{mode}" proxy="{"yes" if proxy else "no"}">', " <client>",
             f'  <address type="{"ipv6" if v4v6 else "ipv4"}">{address}</address>']
    if keepalive is not None:
        target = '<address type="ipv4">127.0.0.1</address>' if v4v6 else '<address type="ipv6">::</address>'
        lines += [f'  <keepalive interval="{keepalive}">', f"    {target}", "  </keepalive>"]
    if prefix_length is not None:
        lines += ["  <router>", f'   <prefix length="{prefix_length or (24 if v4v6 else 48)}"/>']
        if dns_servers:
            lines += ["   <dns_server>", *(f'     <address type="dn">{name}</address>' for name in dns_servers), "   </dns_server>"]
        lines += ["  </router>"]
    return "".join(line + "\r\n" for line in (*lines, " </client>", "</tunnel>")).encode()


def elements(text: str) -> list[tuple[tuple[str, ...], dict[str, str], str]]:
    """(path, attributes, text) of every element, in the order of their ends. The text of an element with children is not kept.

    Raises NotUnderstood for whatever the clients' own little parser is known not to take: prolog, comments, single quotes, upper-case
    names, more than one space before an attribute.
    """
    found: list[tuple[tuple[str, ...], dict[str, str], str]] = []
    stack: list[tuple[str, dict[str, str], int]] = []
    position = 0
    text = text.rstrip("\0\r\n \t")
    while position < len(text):
        start = text.find("<", position)
        if start < 0 or (not stack and text[position:start].strip()):
            raise NotUnderstood(f"text outside of elements: {text[position:position + 40]!r}")
        match = TAG.match(text, start)
        if match is None or len(match[0]) > TAG_BUFFER:
            raise NotUnderstood(f"not a tag it knows: {text[start:start + 60]!r}")
        closing, name, raw, empty = match.groups()
        position = match.end()
        attributes = {key: value.lower() for key, value in ATTRIBUTE.findall(raw)}
        if closing:
            if not stack or stack[-1][0] != name:
                raise NotUnderstood(f"</{name}> closes nothing")
            path = tuple(entry[0] for entry in stack)
            _name, attributes, inner = stack.pop()
            found.append((path, attributes, text[inner:start]))
        elif empty:
            found.append(((*(entry[0] for entry in stack), name), attributes, ""))
        else:
            stack.append((name, attributes, position))
    if stack:
        raise NotUnderstood(f"<{stack[-1][0]}> has no end")
    return found


@dataclass
class Info:
    """What was understood of an answer to create. problems: sentences; with one of them no tunnel is set up."""

    mode: str = ""
    lifetime: str = ""
    addresses: dict[str, str] = field(default_factory=dict)
    dns_name: str | None = None
    prefix: str | None = None
    prefix_length: int | None = None
    keepalive_interval: int = 0
    keepalive_address: str | None = None
    problems: list[str] = field(default_factory=list)


def info(text: str) -> Info:
    """Read the XML of a 200 answer. Never raises: what is wrong stands in `problems`."""
    out = Info()
    try:
        found = elements(text)
    except NotUnderstood as exc:
        out.problems.append(f"the whole answer is taken for empty: {exc}")
        return out
    for path, attributes, value in found:
        if path == ("tunnel",):
            out.mode, out.lifetime = attributes.get("type", ""), attributes.get("lifetime", "")
            if attributes.get("action") != "info":
                out.problems.append(f"action {attributes.get('action')}")
        elif path in (("tunnel", "client", "address"), ("tunnel", "server", "address")):
            kind, side = attributes.get("type", ""), path[1]
            if kind == "dn":
                out.dns_name = value
                if not NAME.match(value):
                    out.problems.append(f"bad value for a name: {value!r}")
            elif not ADDRESS.match(value):
                out.problems.append(f"bad value received for {side}_address_{kind}: {value!r}")
            else:
                out.addresses[f"{side}_{kind}"] = value
        elif path == ("tunnel", "client", "router", "prefix"):
            out.prefix = value
            out.prefix_length = int(attributes["length"]) if attributes.get("length", "").isdigit() else None
            if not ADDRESS.match(value) or out.prefix_length is None:
                out.problems.append(f"bad value received for the prefix: {value!r}")
        elif path == ("tunnel", "client", "keepalive"):
            out.keepalive_interval = int(attributes.get("interval", "0"))
        elif path == ("tunnel", "client", "keepalive", "address"):
            out.keepalive_address = value
            if not ADDRESS.match(value):
                out.problems.append(f"bad value received for the keepalive address: {value!r}")
    for name in ("client_ipv4", "client_ipv6", "server_ipv4", "server_ipv6"):
        if name not in out.addresses:
            out.problems.append(f"bad value received for {name}: none")
    return out


def prefix_text(prefix: str, length: int) -> str:
    """TSP_PREFIX: the text cut after as many full groups as the length touches, not looking at what it cuts."""
    return prefix[:-(-length // 16) * 5 - 1]


def redirect_list(text: str) -> list[str]:
    """The brokers of a redirect in the clients' order: reversed within a family, IPv4 before IPv6 before names. Raises NotUnderstood."""
    families: dict[str, list[str]] = {"ipv4": [], "ipv6": [], "dn": []}
    root: dict[str, str] = {}
    for path, attributes, value in elements(text):
        if path == ("tunnel",):
            root = attributes
        elif path == ("tunnel", "broker", "address"):
            kind = attributes.get("type", "")
            if kind not in families or not value or len(value) >= 255 or value != value.strip():
                raise NotUnderstood(f"broker address {value!r} of type {kind!r}")
            families[kind].insert(0, f"[{value}]" if kind == "ipv6" else value)
    if root.get("action") != "list" or root.get("type") != "broker":
        raise NotUnderstood("no list of brokers")
    return [name for kind in ("ipv4", "ipv6", "dn") for name in families[kind]][:50]

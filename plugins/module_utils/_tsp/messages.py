# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""What the XML of the wire means, as checked values (RFC 5572 sections 4.4.2, 4.7; tsp-protocol.md sections 4, 6).

A broker reads a client's tunnel element as a `ClientMessage`; a client reads a broker's as a `Grant` or a list of `BrokerAddress`.
Whatever leaves this file is an address, a number in range, a word of ours or a DNS name: no free text of the wire passes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Callable, NamedTuple, NoReturn, Union

from . import status
from .errors import LocalError, RemoteError
from .events import BrokerAddress
from .lease import MAX_LIFETIME, Endpoint, Grant, Keepalive, Network
from .request import DNS_NAME, MODES, TunnelRequest
from .xml_read import Element, XmlError, parse

Address = Union[IPv4Address, IPv6Address]
Quirk = Callable[[str], None]

ACCEPT_BODY = b'<tunnel action="accept"></tunnel>'
"""What nearly every client sends, known without parsing."""
MAX_BROKERS = 50
MAX_DNS_SERVERS = 16
MAX_KEEPALIVE = 86400

_IPV4 = re.compile(r"(?:0|[1-9][0-9]{0,2})(?:\.(?:0|[1-9][0-9]{0,2})){3}\Z")  # 010 is eight to some and ten to others
_IPV6 = re.compile(r"[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*\Z")  # no zone: `%` may be followed by anything
_NUMBER = re.compile(r"[0-9]{1,20}\Z")  # as far as 64 bits reach: the largest of them says "for ever"


class Refusal(Exception):
    """A broker's no: a TSP status code and, where the standard phrase does not do, a short printable reason."""

    def __init__(self, code: int, text: str = "") -> None:
        super().__init__(f"{code} {text}".strip())
        self.status = code
        self.text = text


class ClientMessage(NamedTuple):
    """What a client asked. action: create | accept | reject | delete | info. request: with create only.

    ipv4, ipv6: the client addresses it named; may be private or loopback, never multicast or unspecified.
    """

    action: str
    request: TunnelRequest | None = None
    ipv4: IPv4Address | None = None
    ipv6: IPv6Address | None = None


def protocol_error(what: str) -> RemoteError:
    """The broker broke the protocol; `what` is a clause without a full stop that quotes nothing unchecked."""
    return RemoteError("protocol_error", f"The broker broke the protocol: {what}.",
                       "Check that the address is that of a TSP broker; if it is, report this to its operator.")


def _bad(what: str) -> NoReturn:
    raise RemoteError("bad_grant", f"The broker granted something unusable: {what}.",
                      "Nothing was changed. Report it to the broker's operator.")


@lru_cache(maxsize=512)  # the broker's own addresses come again and again
def read_address(text: str) -> Address | None:
    """A literal address without zone, None when it is none."""
    try:
        if _IPV4.match(text):
            return IPv4Address(text)
        if _IPV6.match(text):
            return IPv6Address(text)
    except ValueError:
        pass
    return None


# A broker's answers, read by a client.


def read_brokers(body: bytes, quirk: Quirk, *, loopback: bool = False) -> tuple[BrokerAddress, ...]:
    """The entries of a broker list, checked, without duplicates, in the broker's order. loopback: such entries are allowed.

    Raises RemoteError `redirect_empty` when no usable one is left, `protocol_error` when the XML is none.
    """
    if not body:
        raise _redirect_empty()
    root = _parse_reply(body, quirk)
    if root.attributes.get("action", "").lower() != "list":
        quirk("action_unexpected")
    found: dict[BrokerAddress, None] = {}
    for element in root.walk():
        if element.tag != "address":
            continue
        broker = _broker(element, quirk, loopback)
        if broker is None:
            quirk("redirect_entry_dropped")
        elif broker in found:
            quirk("redirect_entry_repeated")
        elif len(found) == MAX_BROKERS:
            quirk("redirect_list_cut")
            break
        else:
            found[broker] = None
    if not found:
        raise _redirect_empty()
    return tuple(found)


def _redirect_empty() -> RemoteError:
    return RemoteError("redirect_empty", "The broker sends us elsewhere, but names no other broker that could be used.",
                       "Name another broker, or ask this one's operator.")


def _broker(element: Element, quirk: Quirk, loopback: bool) -> BrokerAddress | None:
    """address, name, address:port, [address]:port or name:port; None when unusable."""
    text = _text(element, quirk)
    kind = _value(element, "type", quirk)
    host, port = text, None
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            return None
        digits = rest[1:] if rest else None
    elif text.count(":") == 1:
        host, _colon, digits = text.partition(":")
    else:
        digits = None
    if digits is not None:
        if not _NUMBER.match(digits) or not 1 <= int(digits) <= 65535:
            return None
        port = int(digits)
    address = read_address(host)
    if address is None:
        if kind not in ("dn", "ns", "") or not DNS_NAME.match(host) or _IPV4.match(host):
            return None
        return BrokerAddress("dn", host.lower().rstrip("."), port)
    if address.is_multicast or address.is_unspecified or address.is_link_local or (address.is_loopback and not loopback):
        return None
    if kind != f"ipv{address.version}":
        quirk("address_type_wrong" if kind else "address_type_missing")
    return BrokerAddress(f"ipv{address.version}", str(address), port)


def read_grant(body: bytes, quirk: Quirk, request: TunnelRequest, *, server_port: int | None = None) -> Grant:
    """The tunnel in an info message, checked. server_port: the broker's UDP port, goes into a v6udpv4 grant.

    Raises RemoteError `bad_grant` for a tunnel that cannot be used, `protocol_error` for what is none.
    """
    quirk = _once(quirk)
    root = _parse_reply(body, quirk)
    action = _value(root, "action", quirk)
    server, client = _only(root, "server"), _only(root, "client")
    if server is None or client is None:
        raise protocol_error("its answer names no tunnel with two ends")
    if action != "info":
        quirk("action_unexpected")
    mode = _value(root, "type", quirk)
    grant_mode = mode if mode in MODES else ""
    return Grant(
        mode=grant_mode,
        server=_endpoint(server, "server", quirk, server_port if grant_mode == "v6udpv4" else None),
        client=_endpoint(client, "client", quirk, None),
        prefix=_prefix(client, quirk), dns_servers=_dns_servers(client, quirk),
        keepalive=_read_keepalive(root, quirk, request, 4 if grant_mode == "v4v6" else 6),
        lifetime=_lifetime(root, quirk))


def _once(quirk: Quirk) -> Quirk:
    """A broker's style is one tolerance per message, however many addresses show it."""
    seen: set[str] = set()

    def note(name: str) -> None:
        if name not in seen:
            seen.add(name)
            quirk(name)

    return note


def _parse_reply(body: bytes, quirk: Quirk) -> Element:
    try:
        return parse(body, quirk)
    except XmlError as error:
        raise protocol_error(f"its XML cannot be accepted, {error}") from None


def _only(root: Element, tag: str) -> Element | None:
    found = list(root.all(tag))
    if len(found) > 1:
        _bad(f"there is more than one {tag} element")
    return found[0] if found else None


def _value(element: Element, name: str, quirk: Quirk) -> str:
    """An attribute that is one of the protocol's words, in lower case; "" when missing."""
    raw = element.attributes.get(name, "")
    value = raw.strip().lower()
    if value != raw:
        quirk("xml_value_case")
    return value


def _text(element: Element, quirk: Quirk) -> str:
    value = element.text.strip()
    if value != element.text:
        quirk("xml_blank_in_value")
    return value


def _number(element: Element, name: str, what: str, quirk: Quirk) -> int | None:
    raw = element.attributes.get(name)
    if raw is None:
        return None
    if raw != raw.strip():
        quirk("xml_blank_in_value")
    if not _NUMBER.match(raw.strip()):
        _bad(f"{what} is not a number")
    return int(raw.strip())


def _endpoint(end: Element, side: str, quirk: Quirk, udp_port: int | None) -> Endpoint:
    found: dict[str, Address] = {}
    name: str | None = None
    for element in end.all("address"):
        kind, text = _value(element, "type", quirk), _text(element, quirk)
        if kind == "ns":
            quirk("address_type_ns")
        elif kind == "dn":
            if name not in (None, text):
                _bad(f"the {side} has two names")
            name = text
        elif kind in ("ipv4", "ipv6", ""):
            address = read_address(text)
            if address is None:
                _bad(f"the {side} has an address that is none")
            family = f"ipv{address.version}"
            if kind != family:
                quirk("address_type_wrong" if kind else "address_type_missing")
            if family in found:
                if found[family] != address:
                    _bad(f"the {side} has two {family} addresses")
                quirk("address_repeated")
            found[family] = address
            _note_form(text, address, quirk)
        else:
            quirk("address_type_unknown")
    ipv4, ipv6 = found.get("ipv4"), found.get("ipv6")
    return Endpoint(ipv4 if isinstance(ipv4, IPv4Address) else None, ipv6 if isinstance(ipv6, IPv6Address) else None, name, udp_port)


def _note_form(text: str, address: Address, quirk: Quirk) -> None:
    if address.version == 6 and ("::" in text or text.count(":") != 7):
        quirk("address_compressed")


def _prefix(client: Element, quirk: Quirk) -> Network | None:
    found: set[Network] = set()
    for element in client.walk():
        if element.tag != "prefix":
            continue
        text, slash, tail = _text(element, quirk).partition("/")
        length = _number(element, "length", "the length of the prefix", quirk)
        if not text:
            quirk("prefix_empty")
            continue
        if slash:
            quirk("prefix_with_length")
            if not _NUMBER.match(tail) or length not in (None, int(tail)):
                _bad("the prefix has two lengths")
            length = int(tail)
        address = read_address(text)
        if address is None:
            _bad("the delegated prefix is no address")
        if length is None or length > address.max_prefixlen:
            _bad("the delegated prefix has no usable length")
        _note_form(text, address, quirk)
        prefix = ip_network((address, length), strict=False)
        if prefix.network_address != address:
            quirk("prefix_host_bits")
        found.add(prefix)
    if len(found) > 1:
        _bad("there are two delegated prefixes")
    return found.pop() if found else None


def _dns_servers(client: Element, quirk: Quirk) -> tuple[str, ...]:
    names: dict[str, None] = {}
    for kind, text in _name_servers(client, quirk):
        if kind in ("dn", "ns", "") and read_address(text) is None:
            names[text] = None
        else:
            quirk("dns_server_address")
    if len(names) > MAX_DNS_SERVERS:
        _bad("there are too many DNS servers")
    return tuple(names)


def _name_servers(client: Element, quirk: Quirk) -> Iterator[tuple[str, str]]:
    for element in client.walk():
        if element.tag == "dns_server":
            for address in element.all("address"):
                kind = _value(address, "type", quirk)
                if kind == "ns":
                    quirk("address_type_ns")
                yield kind, _text(address, quirk)


def _read_keepalive(root: Element, quirk: Quirk, request: TunnelRequest, version: int) -> Keepalive | None:
    element = next((one for one in root.walk() if one.tag == "keepalive"), None)
    if element is None:
        if request.keepalive:
            quirk("keepalive_missing")
        return None
    if element.parent is None or element.parent.tag != "client":
        quirk("keepalive_misplaced")
    interval = _number(element, "interval", "the keepalive interval", quirk)
    if interval is None:
        quirk("keepalive_interval_missing")
        interval = request.keepalive_interval
    if interval == 0:
        quirk("keepalive_zero")
        return None
    elif interval > MAX_KEEPALIVE:
        quirk("keepalive_capped")
        interval = MAX_KEEPALIVE
    target = element.find("address")
    if target is None:
        quirk("keepalive_address_missing")
        return Keepalive(interval)
    text = _text(target, quirk)
    address = read_address(text)
    if address is None or address.version != version or address.is_loopback or address.is_multicast or address.is_unspecified:
        quirk("keepalive_address_unusable")
        return Keepalive(interval)
    _note_form(text, address, quirk)
    return Keepalive(interval, address)


def _lifetime(root: Element, quirk: Quirk) -> int | None:
    lifetime = _number(root, "lifetime", "the lifetime", quirk)
    if lifetime is None:
        quirk("lifetime_missing")
    elif lifetime == 0:
        quirk("lifetime_zero")
        return None
    elif lifetime > MAX_LIFETIME:
        quirk("lifetime_capped")
        return MAX_LIFETIME
    return lifetime


# A client's messages, read by a broker.


def _ignore(_name: str) -> None:
    """A broker does not count what clients do differently."""


def read_client(body: bytes) -> ClientMessage:
    """What a client's tunnel element asks. Lenient in form (tsp-protocol.md section 12 row 8). Raises Refusal with the status to answer."""
    if body == ACCEPT_BODY:
        return ClientMessage("accept")
    try:
        root = parse(body.replace(b"\r\x08", b"\r\n"), _ignore)  # CR BS ends lines in one client
    except XmlError as error:
        raise Refusal(status.INVALID_REQUEST, f"Invalid request format: {error}") from None
    action = _value(root, "action", _ignore)
    if action in ("accept", "reject"):
        return ClientMessage(action)
    if action not in ("create", "delete", "info"):
        raise Refusal(status.INVALID_REQUEST, "Invalid request format: unknown action")
    client = root.find("client")
    ipv4, ipv6 = (None, None) if client is None else _named(client)
    if action != "create":
        return ClientMessage(action, None, ipv4, ipv6)
    return ClientMessage(action, _read_request(root, client, ipv4, ipv6), ipv4, ipv6)


def _named(client: Element) -> tuple[IPv4Address | None, IPv6Address | None]:
    """The client addresses named; the first of each family."""
    ipv4: IPv4Address | None = None
    ipv6: IPv6Address | None = None
    for element in client.all("address"):
        kind = _value(element, "type", _ignore)
        if kind not in ("ipv4", "ipv6", ""):
            continue
        address = read_address(element.text.strip())
        if address is None or address.is_multicast or address.is_unspecified or address.is_link_local:
            raise Refusal(status.INVALID_IPV6 if kind == "ipv6" else status.INVALID_IPV4)
        if isinstance(address, IPv4Address):
            if address.is_reserved:
                raise Refusal(status.INVALID_IPV4)
            ipv4 = ipv4 or address
        else:
            ipv6 = ipv6 or address
    return ipv4, ipv6


def _read_request(root: Element, client: Element | None, ipv4: IPv4Address | None, ipv6: IPv6Address | None) -> TunnelRequest:
    mode = _value(root, "type", _ignore)
    if mode not in MODES:
        raise Refusal(status.UNSUPPORTED_TUNNEL_TYPE)
    router = None if client is None else client.find("router")
    length, names = (None, ()) if router is None else _wanted(router, mode)
    interval = 0
    keepalive = next((one for one in root.walk() if one.tag == "keepalive"), None)
    if keepalive is not None:
        raw = keepalive.attributes.get("interval", "30").strip()
        interval = min(int(raw), MAX_KEEPALIVE) if _NUMBER.match(raw) else 30
    try:
        return TunnelRequest(
            mode=mode, host_type="host" if router is None else "router", prefix_length=length, dns_servers=names,
            client_ipv4=None if ipv4 is None or ipv4.is_loopback else ipv4,
            client_ipv6=None if ipv6 is None or ipv6.is_loopback else ipv6,
            proxy=_value(root, "proxy", _ignore) == "yes", keepalive=interval > 0, keepalive_interval=interval or 30)
    except LocalError as error:
        # The one contradiction left: a proxy asking for v6udpv4.
        raise Refusal(status.UNSUPPORTED_TUNNEL_TYPE, error.message.rstrip(".")) from None


def _wanted(router: Element, mode: str) -> tuple[int | None, tuple[str, ...]]:
    """Prefix length (None: the default, also for 0) and DNS server names of a router."""
    length: int | None = None
    prefix = router.find("prefix")
    if prefix is not None:
        raw = prefix.attributes.get("length", "0").strip()
        if not _NUMBER.match(raw) or int(raw) > (32 if mode == "v4v6" else 128):
            raise Refusal(status.UNSUPPORTED_PREFIX_LENGTH)
        length = int(raw) or None
    names: dict[str, None] = {}
    for kind, text in _name_servers(router, _ignore):
        if kind not in ("dn", "ns", "") or not DNS_NAME.match(text) or len(names) >= MAX_DNS_SERVERS:
            raise Refusal(status.DNS_DELEGATION_ERROR)
        names[text] = None
    return length, tuple(names)

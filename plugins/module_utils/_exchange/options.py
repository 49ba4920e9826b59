# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""What an exchange may be told, checked before a socket is opened; and how a broker is named."""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Union

from .._tsp import sasl
from .._tsp.client_config import Credentials
from .._tsp.errors import LocalError
from .._tsp.events import BrokerAddress
from .._tsp.knownkeys import POLICIES, decode_key
from .._tsp.request import DNS_NAME

PORT = 3653
"""RFC 5572 section 7, TCP and UDP."""
AUTH_METHODS = sasl.AUTH_METHODS
KEY_POLICIES = POLICIES
TRANSPORTS = ("auto", "udp", "tcp")
CHOICES = ("order", "nearest")
ZONE = re.compile(r"[A-Za-z0-9_.-]{0,15}\Z")
INTERFACE = re.compile(r"[^\s/\x00]{1,15}\Z")

Address = Union[IPv4Address, IPv6Address]


def _refuse(name: str, message: str, hint: str = "") -> LocalError:
    return LocalError("invalid_option", f"{name}: {message}", hint)


@dataclass(frozen=True)
class Broker:
    """One broker: host is a DNS name in lower case or a canonical address (no brackets); port 1-65535; text: as it was written.

    Two spellings of the same broker are equal.
    """

    host: str
    port: int = PORT
    text: str = field(default="", compare=False)

    @property
    def address(self) -> Address | None:
        """The host as an address, None when it is a name."""
        try:
            return ip_address(self.host)
        except ValueError:
            return None

    @property
    def server(self) -> str:
        """The server string of the old client, as configured: goes into digest-uri, the known-keys file and the lease."""
        return self.text or str(self)

    def __str__(self) -> str:
        """host, host:port, [v6] or [v6]:port; the default port is left out."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORT else f"{host}:{self.port}"


def parse_broker(text: str) -> Broker:
    """`host`, `host:port`, `192.0.2.1:port`, `[2001:db8::1]`, `[2001:db8::1]:port` or a bare IPv6 address -> Broker.

    Raises LocalError `invalid_option` (tsp-protocol.md sections 1.1 and 10).
    """
    return _parse(text if isinstance(text, str) else "")


@lru_cache(maxsize=1024)
def _parse(text: str) -> Broker:
    forms = "Use host, host:port, 192.0.2.1:3653 or [2001:db8::1]:3653."

    def refuse(why: str) -> LocalError:
        return _refuse("broker", f"{text!r} {why}.", forms)

    if not text.strip():
        raise _refuse("broker", "is empty.", forms)
    value = text.strip()
    port_text = None
    if value.startswith("["):
        host, bracket, rest = value[1:].partition("]")
        if not bracket:
            raise refuse("has no closing bracket")
        if rest:
            if not rest.startswith(":"):
                raise refuse("has something behind the bracket that is not a port")
            port_text = rest[1:]
        try:
            host = _ipv6(host)
        except ValueError:
            raise refuse("has no IPv6 address between its brackets") from None
    elif value.count(":") > 1:
        host = value
        try:
            host = _ipv6(value)
        except ValueError:
            raise refuse("is neither a name nor an address; an IPv6 address with a port needs brackets") from None
    else:
        host, colon, rest = value.partition(":")
        port_text = rest if colon else None
        if re.match(r"[0-9.]+\Z", host):
            try:
                host = str(IPv4Address(host))
            except ValueError:
                raise refuse("is not an IPv4 address") from None
        elif not DNS_NAME.match(host):
            raise refuse("is not a host name")
        host = host.lower()
    if port_text is None:
        return Broker(host, text=value)
    if not re.match(r"[0-9]{1,5}\Z", port_text) or not 1 <= int(port_text) <= 65535:
        raise refuse("has a port that is not a number from 1 to 65535")
    return Broker(host, int(port_text), value)


def _ipv6(text: str) -> str:
    """The canonical form. Raises ValueError, also for a zone that is not the name of an interface: anything may stand in one."""
    address = str(IPv6Address(text))
    if not ZONE.match(address.partition("%")[2]):
        raise ValueError("zone")
    return address


def from_redirect(entry: BrokerAddress) -> Broker:
    """An entry of a redirect list (already checked by the protocol core) as a Broker. Raises LocalError when it names nobody."""
    host = f"[{entry.address}]" if ":" in entry.address else entry.address
    return parse_broker(host if entry.port is None else f"{host}:{entry.port}")


@dataclass(frozen=True)
class ExchangeOptions:
    """How to reach which brokers, and as whom. Raises LocalError `invalid_option` when something cannot be meant.

    brokers: tried in this order; may be empty only for delete(lease), which asks the lease's broker.
    auth_method: any | anonymous | plain | digest-md5 | passdss-3des-1; `any` never falls to ANONYMOUS, and to PLAIN only with
        allow_plaintext.
    credentials: None or without a name means anonymous.
    strict: refuse a prefix of another length than asked, instead of warning.
    server_key_policy: what to do with a PASSDSS server key seen for the first time. server_key: the one right key, base64 (then the file
        is not consulted). known_keys_file: old client's format; None with accept_new remembers nothing.
    source_address, source_interface, source_port: where the exchange leaves from; source_port is a local UDP port to use again.
    deadline: seconds for everything: waiting for backoff, names, redirects, all brokers.
    transports: auto is UDP then TCP (v6udpv4: UDP only).
    state_dir: folder (made when missing, 0700) of the backoff memory, tsp-last-server.txt and tsp-broker-list.txt; None remembers nothing.
    min_interval: least seconds between two exchanges that ask the same broker for the same thing as the same user (needs state_dir).
    longest_delay: seconds that a broker which failed is left alone at most; never more than 300, and nothing against one that is busy.
    identity: for whom the tunnel is, when one controller asks for many devices (for example the inventory name): backoff and
        minimum interval are counted for each broker, user and identity, and each identity has its own last server.
    always_use_same_server: ask only the broker named in tsp-last-server.txt, when there is one.
    last_server_file, broker_list_file: an old client's files, in place of tsp-last-server.txt and tsp-broker-list.txt in state_dir.
    transcript: keep a record of the exchange, secrets struck out.
    choose: which of several brokers is asked first: order as they stand, nearest by the time of an ECHO REQUEST.
    moved: this host's network is another one since the last exchange, so that delays which came from the network do not count any more.
    """

    brokers: tuple[str, ...] = ()
    auth_method: str = "any"
    credentials: Credentials | None = None
    allow_plaintext: bool = False
    strict: bool = False
    server_key_policy: str = "reject"
    server_key: str | None = None
    known_keys_file: str | None = None
    source_address: str | None = None
    source_interface: str | None = None
    source_port: int | None = None
    deadline: float = 60.0
    transports: str = "auto"
    state_dir: str | None = None
    min_interval: float = 5.0
    longest_delay: float = 300.0
    identity: str = ""
    always_use_same_server: bool = False
    last_server_file: str | None = None
    broker_list_file: str | None = None
    transcript: bool = False
    choose: str = "order"
    moved: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.brokers, str):
            raise _refuse("brokers", "is a list of brokers, not a single text.")
        for text in self.brokers:
            parse_broker(text)
        for name, known in (("auth_method", AUTH_METHODS), ("transports", TRANSPORTS), ("server_key_policy", KEY_POLICIES),
                            ("choose", CHOICES)):
            if getattr(self, name) not in known:
                raise _refuse(name, f"{getattr(self, name)!r} is unknown.", f"Use one of {', '.join(known)}.")
        self._check_numbers()
        if self.source_address is not None:
            try:
                ip_address(self.source_address)
            except ValueError:
                raise _refuse("source_address", f"{self.source_address!r} is not an address.") from None
        if self.source_interface is not None and not INTERFACE.match(self.source_interface):
            raise _refuse("source_interface", f"{self.source_interface!r} cannot be the name of an interface.")
        if self.server_key is not None:
            try:
                decode_key(self.server_key)
            except ValueError as exc:
                raise _refuse("server_key", f"{exc}.", "Give the base64 text that stands behind ssh-dss in a known-keys file.") from None
        for name in ("known_keys_file", "state_dir", "last_server_file", "broker_list_file"):
            path = getattr(self, name)
            if path is not None and (not os.fspath(path) or "\0" in os.fspath(path)):
                raise _refuse(name, "is not a path.")

    def _check_numbers(self) -> None:
        if self.source_port is not None and not 1 <= self.source_port <= 65535:
            raise _refuse("source_port", f"{self.source_port} is out of range.", "Use 1 to 65535.")
        if not 0 < self.deadline <= 3600:
            raise _refuse("deadline", f"{self.deadline} is out of range.", "Use up to 3600 seconds.")
        if not (math.isfinite(self.min_interval) and 0 <= self.min_interval <= 86400):
            raise _refuse("min_interval", f"{self.min_interval} is out of range.", "Use 0 to 86400 seconds.")
        if not self.longest_delay >= 1:
            raise _refuse("longest_delay", f"{self.longest_delay} is out of range.", "Use a second at least.")

    @property
    def broker_list(self) -> tuple[Broker, ...]:
        """The brokers parsed, in order, each once."""
        return tuple(dict.fromkeys(parse_broker(text) for text in self.brokers))

    @property
    def username(self) -> str | None:
        """Whom we are to the broker; None when anonymous."""
        if self.auth_method == "anonymous" or self.credentials is None:
            return None
        return self.credentials.username

    def check_credentials(self) -> None:
        """Raises LocalError `credentials_missing` when the auth_method cannot work with what was given."""
        if self.auth_method == "anonymous":
            return
        given = self.credentials
        if given is None or not given.username or not given.password:  # an empty one is a variable that nobody set
            raise LocalError("credentials_missing", f"auth_method {self.auth_method} needs a username and a password.",
                             "Set both, or auth_method: anonymous.")

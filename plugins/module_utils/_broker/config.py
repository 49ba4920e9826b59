# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""The broker's configuration: examples/broker.yml as dataclasses, checked as a whole before anything is started."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from pathlib import Path
from typing import Any, Union

from .._tsp.events import BrokerAddress
from . import schema
from .accounts import Account
from .config_accounts import read_accounts, read_accounts_file
from .schema import Problems, Section, Wrong

Address = Union[IPv4Address, IPv6Address]
Network = Union[IPv4Network, IPv6Network]

PORT = 3653
MODES = ("v6v4", "v6udpv4", "v4v6")
VERSIONS = ("2.0.2", "2.0.1", "2.0.0", "1.0.1", "1.0.0")
STEPS = ("version", "authenticate", "create")
DATA_PLANES = ("auto", "kernel", "userspace", "none")
LEVELS = ("debug", "info", "warning", "error")
STATE = Path("/var/lib/tsp-broker")


@dataclass(frozen=True)
class Listen:
    """Where the broker listens: each address on one port, with each transport ("udp", "tcp"). Port 0 takes a free one."""

    addresses: tuple[Address, ...]
    port: int
    transports: tuple[str, ...]


@dataclass(frozen=True)
class Auth:
    """The mechanisms offered. passdss: True, False, or "auto" = where the package cryptography is installed."""

    anonymous: bool
    plain: bool
    digest_md5: bool
    passdss: Any


@dataclass(frozen=True)
class Anonymous:
    """What nameless users get. lifetime: seconds that their address stays reserved after the tunnel fell silent."""

    prefix: bool
    lifetime: int


@dataclass(frozen=True)
class Addresses:
    """Our own ends. outer_*: None = the address that the client spoke to."""

    outer_ipv4: IPv4Address | None
    outer_ipv6: IPv6Address | None
    inner_ipv6: IPv6Address
    inner_ipv4: IPv4Address | None


@dataclass(frozen=True)
class PrefixPool:
    """Prefixes to delegate: the network that they come from, the lengths to be had, and the one for a router that names none."""

    network: Network
    lengths: tuple[int, ...]
    default: int


@dataclass(frozen=True)
class Pools:
    """What there is to give."""

    ipv6: IPv6Network
    prefixes: tuple[PrefixPool, ...]
    ipv4: IPv4Network | None
    ipv4_prefixes: tuple[PrefixPool, ...]

    def routed(self) -> tuple[Network, ...]:
        """Every network that is reached through tunnels."""
        out: list[Network] = [self.ipv6, *(p.network for p in self.prefixes), *(p.network for p in self.ipv4_prefixes)]
        if self.ipv4 is not None:
            out.append(self.ipv4)
        return tuple(out)


@dataclass(frozen=True)
class KeepaliveRule:
    """Seconds; silence: how many intervals without a packet free the tunnel end."""

    interval: int
    minimum: int
    maximum: int
    silence: int


@dataclass(frozen=True)
class DataPlane:
    """kind: auto | kernel | userspace | none; the name and MTU of the TUN device."""

    kind: str
    device: str
    mtu: int


@dataclass(frozen=True)
class Redirect:
    """Send everybody elsewhere at one step of the session."""

    at: str
    brokers: tuple[BrokerAddress, ...]


@dataclass(frozen=True)
class Limits:
    """Bounds of what strangers may cost."""

    auth_failures_per_minute: int
    sessions: int
    tcp_connections: int
    tcp_connections_per_address: int
    negotiation_seconds: int
    tunnels: int


@dataclass(frozen=True)
class Log:
    """file: None = standard error."""

    level: str
    format: str
    file: Path | None


@dataclass(frozen=True)
class Config:
    """Everything. `warnings`: what is allowed but perhaps not meant."""

    source: str
    name: str
    realm: str
    listen: Listen
    modes: tuple[str, ...]
    versions: tuple[str, ...]
    auth: Auth
    anonymous: Anonymous
    addresses: Addresses
    pools: Pools
    lifetime: int
    keepalive: KeepaliveRule
    data_plane: DataPlane
    store: Path
    store_sync: str
    key_file: Path
    accounts: tuple[Account, ...]
    redirect: Redirect | None
    limits: Limits
    log: Log
    dns_domain: str | None
    warnings: tuple[str, ...] = ()


def load(path: Path) -> Config:
    """The configuration in a file. Raises LocalError `config_unreadable` | `config_invalid` naming every problem."""
    path = Path(path)
    return from_data(schema.load_yaml(path), path.parent, str(path), path)


def from_data(data: Any, base: Path = Path("."), source: str = "the configuration", path: Path | None = None) -> Config:
    """The same from plain data. base: what relative file names count from. path: the file, whose permissions are looked at."""
    problems = Problems(source)
    top = Section(problems, "", data)
    file_name = schema.path_from(base)

    name = top.take("name", schema.dns_name)
    realm = top.take("realm", _realm, name or "")
    modes = top.take("modes", schema.list_of(schema.choice(MODES), 1), ("v6v4", "v6udpv4"))
    versions = top.take("versions", schema.list_of(schema.choice(VERSIONS), 1), VERSIONS)
    listen = _listen(top.section("listen"))
    auth = _auth(top.section("auth"))
    section = top.section("anonymous")
    anonymous = Anonymous(section.take("prefix", schema.boolean, False), section.take("lifetime", schema.number(60, 604800), 3600))
    section.close()
    pools = _pools(top.section("pools"))
    addresses = _addresses(top.section("addresses"), pools)
    lifetime = top.take("lifetime", schema.number(300, 31536000), 604800)
    keepalive = _keepalive(top.section("keepalive"))
    data_plane = _data_plane(top)
    section = top.section("store")
    store = section.take("path", file_name, STATE / "leases.db")
    store_sync = section.take("sync", schema.choice(("normal", "full")), "normal")
    section.close()
    key_file = top.take("key_file", file_name, STATE / "passdss-key.pem")
    dns_domain = top.take("dns_domain", schema.dns_name, None)
    redirect = _redirect(top)
    limits = _limits(top.section("limits"))
    section = top.section("log")
    log = Log(section.take("level", schema.choice(LEVELS), "info"), section.take("format", schema.choice(("json", "text")), "json"),
              section.take("file", file_name, None))
    section.close()
    accounts = read_accounts(problems, top.items("accounts"), realm, path)
    accounts_file = top.take("accounts_file", file_name, None)
    if accounts_file is not None:
        accounts += read_accounts_file(problems, accounts_file, realm)
    top.close()
    problems.raise_if_any()
    config = Config(source, name, realm, listen, modes, versions, auth, anonymous, addresses, pools, lifetime, keepalive, data_plane,
                    store, store_sync, key_file, tuple(accounts), redirect, limits, log, dns_domain)
    warnings = _check_together(problems, config)
    problems.raise_if_any()
    object.__setattr__(config, "warnings", tuple(warnings))
    return config


def _realm(value: Any) -> str:
    made = schema.text(value)
    if '"' in made or "\\" in made or len(made) > 64 or not made.isascii():
        raise Wrong("expected at most 64 ASCII characters without quotes and backslashes.")
    return made


def _listen(section: Section) -> Listen:
    def address(value: Any) -> Address:
        try:
            return ip_address(value) if isinstance(value, str) and "%" not in value else _fail()
        except ValueError:
            raise Wrong('expected an IPv4 or IPv6 address; "0.0.0.0" and "::" mean all.') from None

    listen = Listen(section.take("addresses", schema.list_of(address, 1), (IPv4Address("0.0.0.0"), IPv6Address("::"))),
                    section.take("port", schema.number(0, 65535), PORT),
                    section.take("transports", schema.list_of(schema.choice(("udp", "tcp")), 1), ("udp", "tcp")))
    section.close()
    for family in (4, 6):
        same = [a for a in listen.addresses or () if a.version == family]
        if len(same) > 1 and any(a.is_unspecified for a in same):
            section.problems.add(section.where("addresses"),
                                 f"names all IPv{family} addresses and single ones as well; leave one of both out.")
    return listen


def _fail() -> Any:
    raise ValueError


def _auth(section: Section) -> Auth:
    auth = Auth(section.take("anonymous", schema.boolean, False), section.take("plain", schema.boolean, False),
                section.take("digest-md5", schema.boolean, True),
                section.take("passdss-3des-1", schema.choice((True, False, "auto")), "auto"))
    section.close()
    if not (auth.anonymous or auth.plain or auth.digest_md5 or auth.passdss):
        section.problems.add("auth", "no mechanism is left: nobody could log in.")
    return auth


def _pools(section: Section) -> Pools:
    def prefixes(key: str, network: Any, longest: int) -> tuple[PrefixPool, ...]:
        out = []
        for path, value in section.items(key):
            entry = Section(section.problems, path, value)
            net = entry.take("network", network)
            allowed = entry.take("lengths", schema.lengths(longest))
            default = entry.take("default", schema.number(1, longest), min(allowed) if allowed else 0)
            entry.close()
            if net is None or not allowed:
                continue
            if allowed[0] < net.prefixlen:
                section.problems.add(f"{path}.lengths", f"/{allowed[0]} is larger than {net}, which the prefixes are cut from.")
            if default not in allowed:
                section.problems.add(f"{path}.default", f"/{default} is not one of the lengths.")
            out.append(PrefixPool(net, allowed, default))
        return tuple(out)

    ipv6 = section.take("ipv6", schema.network6)
    if ipv6 is not None and ipv6.prefixlen > 126:
        section.problems.add(section.where("ipv6"), "holds no address for a client; use a /64.")
    ipv4 = section.take("ipv4", schema.network4, None)
    if ipv4 is not None and ipv4.prefixlen > 30:
        section.problems.add(section.where("ipv4"), "holds no address for a client.")
    pools = Pools(ipv6, prefixes("prefixes", schema.network6, 126), ipv4, prefixes("ipv4_prefixes", schema.network4, 32))
    section.close()
    return pools


def _addresses(section: Section, pools: Pools) -> Addresses:
    def auto(convert: Any) -> Any:
        return lambda value: None if value == "auto" else convert(value)

    addresses = Addresses(
        section.take("outer_ipv4", auto(schema.ipv4), None), section.take("outer_ipv6", auto(schema.ipv6), None),
        section.take("inner_ipv6", schema.ipv6, None if pools.ipv6 is None else pools.ipv6[1]),
        section.take("inner_ipv4", schema.ipv4, None if pools.ipv4 is None else pools.ipv4[1]))
    section.close()
    return addresses


def _keepalive(section: Section) -> KeepaliveRule:
    seconds = schema.number(1, 86400)
    rule = KeepaliveRule(section.take("interval", seconds, 30), section.take("minimum", seconds, 5),
                         section.take("maximum", seconds, 3600), section.take("silence", schema.number(2, 1000), 5))
    section.close()
    if not rule.minimum <= rule.interval <= rule.maximum:
        section.problems.add("keepalive", f"interval {rule.interval} is not between minimum {rule.minimum} and maximum {rule.maximum}.")
    return rule


def _data_plane(top: Section) -> DataPlane:
    value = top.values.get("data_plane")
    if isinstance(value, str):
        return DataPlane(top.take("data_plane", schema.choice(DATA_PLANES), "auto"), "tsp0", 1280)
    section = top.section("data_plane")

    def device(name: Any) -> str:
        if not isinstance(name, str) or not re.fullmatch(r"(?!\.{1,2}\Z)[A-Za-z0-9_.-]{1,15}", name):
            raise Wrong("expected the name of a network device, 1 to 15 letters, digits, dots, - or _.")
        return name

    plane = DataPlane(section.take("kind", schema.choice(DATA_PLANES), "auto"), section.take("device", device, "tsp0"),
                      section.take("mtu", schema.number(1280, 9000), 1280))
    section.close()
    return plane


def broker_address(value: Any) -> BrokerAddress:
    """host, host:port, [v6] or [v6]:port as an entry of a redirect list."""
    words = "expected host, host:port, an IPv4 address or [IPv6 address]:port."
    if not isinstance(value, str):
        raise Wrong(words)
    found = (re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\[\]:]+))(?::(\d{1,5}))?", value)
             or re.fullmatch(r"([0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*)()()", value))
    if not found:
        raise Wrong(words)
    host, port = found[1] or found[2], int(found[3]) if found[3] else None
    if port is not None and not 1 <= port <= 65535:
        raise Wrong("the port is out of range 1-65535.")
    try:
        address = ip_address(host)
        return BrokerAddress(f"ipv{address.version}", str(address), port)
    except ValueError:
        if re.fullmatch(r"[\d.]+", host):
            raise Wrong(words) from None
        return BrokerAddress("dn", schema.dns_name(host), port)


def _redirect(top: Section) -> Redirect | None:
    section = top.section("redirect")
    if not section.values:
        return None
    at = section.take("at", schema.choice(STEPS), "version")
    brokers = section.take("brokers", schema.list_of(broker_address, 1))
    section.close()
    return Redirect(at, brokers) if brokers else None


def _limits(section: Section) -> Limits:
    many = schema.number(1, 10_000_000)
    limits = Limits(
        section.take("auth_failures_per_minute", many, 10), section.take("sessions", many, 20_000),
        section.take("tcp_connections", many, 1000), section.take("tcp_connections_per_address", many, 50),
        section.take("negotiation_seconds", schema.number(5, 600), 60), section.take("tunnels", many, 1_000_000))
    section.close()
    return limits


def is_self(broker: BrokerAddress, name: str, port: int, own: tuple[Address, ...]) -> bool:
    """Whether a redirect entry means this very broker: old clients would loop for ever (tsp-protocol.md section 12 row 15)."""
    if (broker.port or PORT) != port:
        return False
    return broker.address == name if broker.family == "dn" else ip_address(broker.address) in own


def _check_together(problems: Problems, config: Config) -> list[str]:
    """What only shows when all keys are known. Returns warnings."""
    pools, addresses, listen = config.pools, config.addresses, config.listen
    named = [("pools.ipv6", pools.ipv6), *((f"pools.prefixes[{i}]", p.network) for i, p in enumerate(pools.prefixes)),
             *([("pools.ipv4", pools.ipv4)] if pools.ipv4 is not None else []),
             *((f"pools.ipv4_prefixes[{i}]", p.network) for i, p in enumerate(pools.ipv4_prefixes))]
    for index, (path, net) in enumerate(named):
        for other_path, other in named[:index]:
            if net.version == other.version and net.overlaps(other):
                problems.add(path, f"{net} overlaps {other_path} {other}.")
    delegated = [(path, net) for path, net in named if "prefixes" in path]
    own: list[tuple[str, Address | None]] = [(f"addresses.{key}", getattr(addresses, key)) for key in (
        "inner_ipv6", "inner_ipv4", "outer_ipv4", "outer_ipv6")]
    for path, address in [*own, *((f"listen.addresses[{i}]", a) for i, a in enumerate(listen.addresses))]:
        for pool, net in delegated if path.startswith("addresses.inner") else named:
            if address is not None and address.version == net.version and address in net:
                problems.add(path, f"{address} lies inside {pool} {net}, which is given away.")
    if "v4v6" in config.modes and pools.ipv4 is None:
        problems.add("modes", "v4v6 needs pools.ipv4.")
    if config.redirect is not None:
        for entry in config.redirect.brokers:
            if is_self(entry, config.name, listen.port, listen.addresses):
                problems.add("redirect.brokers", f"{entry.address} is this broker itself: clients would loop.")
    seen: dict[str, int] = {}
    fixed: dict[Any, str] = {}
    for account in config.accounts:
        seen[account.username] = seen.get(account.username, 0) + 1
        for value in (account.ipv6, account.prefix, account.ipv4):
            if value is not None and fixed.setdefault(value, account.username) != account.username:
                problems.add("accounts", f"{value} is fixed for {fixed[value]} and for {account.username}.")
        for sentence in fixed_problems(config, account):
            problems.add("accounts", sentence)
    for username, count in seen.items():
        if count > 1:
            problems.add("accounts", f"{username} is there {count} times.")
    warnings = []
    families = {a.version for a in listen.addresses}
    if "v6udpv4" in config.modes and (4 not in families or "udp" not in listen.transports):
        warnings.append("modes has v6udpv4, which needs UDP on an IPv4 address: no client will get it")
    if "v4v6" in config.modes and 6 not in families:
        warnings.append("modes has v4v6, but the broker listens on no IPv6 address: only proxies will get it")
    if config.auth.plain:
        warnings.append("auth.plain is on: passwords cross the network readable")
    return warnings


def fixed_problems(config: Config, account: Account) -> list[str]:
    """What is wrong with the fixed addresses of an account, as sentences."""
    out = []
    who, pools = account.username, config.pools
    if account.ipv6 is not None and (account.ipv6 not in pools.ipv6 or account.ipv6 in (config.addresses.inner_ipv6, pools.ipv6[0])):
        out.append(f"ipv6 {account.ipv6} of {who} is not an address for clients in pools.ipv6 {pools.ipv6}.")
    if account.ipv4 is not None and (pools.ipv4 is None or account.ipv4 not in pools.ipv4
                                     or account.ipv4 in (config.addresses.inner_ipv4, pools.ipv4[0], pools.ipv4[-1])):
        out.append(f"ipv4 {account.ipv4} of {who} is not an address for clients in pools.ipv4.")
    networks = [p.network for p in pools.prefixes if isinstance(p.network, IPv6Network)]
    if account.prefix is not None and not any(account.prefix.subnet_of(network) for network in networks):
        out.append(f"prefix {account.prefix} of {who} lies in none of pools.prefixes.")
    if account.tunnels > 1 and (account.ipv6 or account.prefix or account.ipv4):
        out.append(f"{who} has several tunnels and a fixed address; only one of both goes.")
    return out

# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""The keys of gw6c.conf and gogoc.conf: values, defaults, limits (tsp-protocol.md section 10)."""

from __future__ import annotations

import re
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from .._exchange.options import parse_broker
from .._tsp.errors import LocalError
from .._tsp.request import DNS_NAME
from .tun import DEVICE_NAME

STOCK_TEMPLATES = ("checktunnel", "cisco", "darwin", "dongle6", "freebsd", "gogocpe", "linux", "netbsd", "openbsd", "openwrt", "solaris",
                   "sunos", "windows")
MODES = ("v6anyv4", "v6v4", "v6udpv4", "v4v6", "dslite")
DEVICES = {
    "linux": ("sit1", "tun", "sit0"), "freebsd": ("gif0", "tun0", "gif0"), "netbsd": ("gif0", "tun0", "gif0"),
    "openbsd": ("gif0", "tun0", "gif0"), "darwin": ("gif0", "tun0", "gif0"), "sunos": ("ip.tun0", "ip.tun0", "ip.tun0"),
    "windows": ("2", "tunv6", "hextun")}
"""Default of if_tunnel_v6v4, if_tunnel_v6udpv4, if_tunnel_v4v6."""
TEMPLATE = re.compile(r"(?!\.)[A-Za-z0-9_.+-]{1,64}\Z")

Check = Callable[[str], Any]
"""Text that is not empty -> value. Raises ValueError with what it may be."""


def _line(longest: int) -> Check:
    def check(text: str) -> str:
        if len(text) > longest or not text.isprintable():
            raise ValueError(f"it can be up to {longest} printable characters, in UTF-8")
        return text
    return check


def _one_of(*choices: str) -> Check:
    def check(text: str) -> str:
        if text.lower() not in choices:
            raise ValueError(f"it can be {', '.join(choices)}")
        return text.lower()
    return check


def _yes(text: str) -> bool:
    return bool(_one_of("yes", "no")(text) == "yes")


def _number(lowest: int, highest: int, choices: tuple[int, ...] = ()) -> Check:
    def check(text: str) -> int:
        number = int(text) if re.match(r"[0-9]{1,9}\Z", text) else -1
        if not lowest <= number <= highest or choices and number not in choices:
            known = ", ".join(map(str, choices)) or f"a number from {lowest} to {highest}"
            raise ValueError(f"it can be {known}")
        return number
    return check


def _server(text: str) -> str:
    try:
        parse_broker(text)
    except LocalError as exc:
        raise ValueError(exc.hint or exc.message) from None
    return text


def _interface(text: str) -> str:
    if not DEVICE_NAME.match(text):
        raise ValueError("it can be the name of an interface: up to 15 letters, digits, and _.-")
    return text


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(":") if name.strip())
    if not all(DNS_NAME.match(name) for name in names):
        raise ValueError("it can be DNS names with a colon between them")
    return names


def _address(kind: type[IPv4Address] | type[IPv6Address], family: str) -> Check:
    def check(text: str) -> Any:
        if text.lower() == "auto":
            return None
        try:
            return str(kind(text))
        except ValueError:
            raise ValueError(f"it can be auto or an {family} address") from None
    return check


def _template(text: str) -> str:
    if not TEMPLATE.match(text):
        raise ValueError("it can be the name of a script in the folder template, without .sh")
    return text


LEVEL = _number(0, 3)
KEYS: dict[str, tuple[Check, Any]] = {
    "userid": (_line(253), ""),
    "passwd": (_line(128), ""),
    "server": (_server, ""),
    "auth_method": (_one_of("any", "anonymous", "plain", "digest-md5", "passdss-3des-1"), "any"),
    "host_type": (_one_of("host", "router"), "host"),
    "prefixlen": (_number(1, 128), 64),
    "if_prefix": (_interface, ""),
    "dns_server": (_names, ()),
    "gw6_dir": (_line(1024), ""),
    "gogoc_dir": (_line(1024), ""),
    "auto_retry_connect": (_yes, True),
    "retry_delay": (_number(0, 3600), 30),
    "retry_delay_max": (_number(0, 3600), 300),
    "keepalive": (_yes, True),
    "keepalive_interval": (_number(0, 999_999_999), 30),
    "tunnel_mode": (_one_of(*MODES), "v6anyv4"),
    "if_tunnel_v6v4": (_interface, ""),
    "if_tunnel_v6udpv4": (_interface, ""),
    "if_tunnel_v4v6": (_interface, ""),
    "client_v4": (_address(IPv4Address, "IPv4"), None),
    "client_v6": (_address(IPv6Address, "IPv6"), None),
    "template": (_template, ""),
    "proxy_client": (_yes, False),
    "broker_list": (_line(256), "tsp-broker-list.txt"),
    "last_server": (_line(256), "tsp-last-server.txt"),
    "always_use_same_server": (_yes, False),
    "log_console": (LEVEL, 0),
    "log_stderr": (LEVEL, 1),
    "log_file": (LEVEL, 0),
    "log_syslog": (LEVEL, 0),
    "log_filename": (_line(256), ""),
    "log_rotation": (_yes, True),
    "log_rotation_delete": (_yes, False),
    "log_rotation_size": (_number(16, 1024, (16, 32, 128, 1024)), 32),
    "syslog_facility": (_one_of("user", *(f"local{number}" for number in range(8))), "user"),
    "hap6_web_enabled": (_yes, False),
    "hap6_proxy_enabled": (_yes, False),
    "hap6_document_root": (_line(1024), ""),
    "haccess_web_enabled": (_yes, False),
    "haccess_proxy_enabled": (_yes, False),
    "haccess_document_root": (_line(1024), ""),
    "dslite_client": (_address(IPv4Address, "IPv4"), "192.0.0.2"),
    "dslite_server": (_address(IPv4Address, "IPv4"), "192.0.0.1"),
}
"""Name -> (check, default where it is missing or empty). Defaults that depend on the system or the client are filled in by read()."""
SECRET = frozenset({"passwd"})
"""What no message may quote."""

# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""From the parameters of a task to what the exchange takes: TunnelRequest and ExchangeOptions."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from typing import Any, TypeVar

from .._exchange.options import ExchangeOptions
from .._tsp.client_config import Credentials
from .._tsp.errors import LocalError
from .._tsp.request import TunnelRequest

NAME = re.compile(r"[a-z][a-z0-9_]{0,63}\Z")
DEFAULT_NAME = "tsp"
LARGEST_SECRET = 4096

A = TypeVar("A", IPv4Address, IPv6Address)


@dataclass(frozen=True)
class Place:
    """Where a task runs and keeps its files.

    lease_file: path of the lease. state_dir: folder of the exchange's memory (backoff, last server, known keys). identity: for whom
    the tunnel is when one machine asks for many ("" for the usual one of the target itself). for_another: the tunnel does not end at
    this machine, so the request goes out as a proxy's unless the task says otherwise. keep_mode: the lease file keeps the mode that
    somebody gave it.
    """

    lease_file: str
    state_dir: str
    identity: str = ""
    for_another: bool = False
    keep_mode: bool = False
    warnings: list[str] = field(default_factory=list)


def target_place(params: dict[str, Any]) -> Place:
    """The place of a task that runs on the target. Raises LocalError."""
    name = checked_name(params)
    return Place(params.get("lease_file") or f"/etc/ansible/facts.d/{name}.fact", params.get("state_dir") or "/var/lib/tsp",
                 identity=identity_of("", name))


def identity_of(host: str, name: str) -> str:
    """For whom a tunnel is: the host ("" for the machine that asks), and the tunnel where it is not the usual one."""
    return host if name == DEFAULT_NAME else f"{host} {name}".strip()


def checked_name(params: dict[str, Any]) -> str:
    """The tunnel's name: becomes a key of facts and a file name. Raises LocalError `invalid_option`."""
    name = params.get("name") or ""
    if not NAME.match(name):
        raise LocalError("invalid_option", f"name {name!r} cannot name a tunnel.",
                         "Use up to 64 lower-case letters, digits and underscores, a letter first.")
    return str(name)


def request_of(params: dict[str, Any], place: Place) -> TunnelRequest:
    """What the task asks for. Raises LocalError `invalid_option`, `invalid_request`."""
    proxy = place.for_another if params.get("proxy") is None else bool(params["proxy"])
    router = params["host_type"] == "router"
    request = TunnelRequest(
        mode=params["mode"], host_type=params["host_type"], prefix_length=params.get("prefix_length"),
        dns_servers=tuple(params.get("dns_servers") or ()),
        client_ipv4=_address(params, "client_ipv4", IPv4Address), client_ipv6=_address(params, "client_ipv6", IPv6Address),
        proxy=proxy, keepalive=bool(params["keepalive"]),
        keepalive_interval=params["keepalive_interval"] if params["keepalive"] else TunnelRequest.keepalive_interval)
    if router and request.prefix_length is None:
        # Written out, so that the default and its number are the same question.
        request = TunnelRequest.from_dict({**request.to_dict(), "prefix_length": request.wanted_prefix_length})
    outer = "client_ipv6" if request.mode == "v4v6" else "client_ipv4"
    if proxy and getattr(request, outer) is None:
        raise LocalError("invalid_request", f"A proxy asks for somebody else, and {outer} does not say for whom.",
                         f"Set {outer} to the address at which the device's end of the tunnel is reached.")
    return request


def _address(params: dict[str, Any], name: str, kind: type[A]) -> A | None:
    text = params.get(name)
    if text in (None, "", "auto"):
        return None
    try:
        return kind(str(text))
    except ValueError:
        family = "IPv4" if kind is IPv4Address else "IPv6"
        raise LocalError("invalid_option", f"{name}: {str(text)!r} is not an {family} address.",
                         f"Use auto or an {family} address.") from None


def options_of(params: dict[str, Any], place: Place, *, brokers: tuple[str, ...] | None = None) -> ExchangeOptions:
    """How to reach whom, and as whom. Reads password_file. Raises LocalError `invalid_option`, `password_unreadable`."""
    username = params.get("username") or None
    password = params.get("password")
    if params.get("password_file"):
        password = _secret(params["password_file"], place)
    credentials = None if username is None and password is None else Credentials(username, password)
    return ExchangeOptions(
        brokers=tuple(params.get("broker") or ()) if brokers is None else brokers,
        auth_method=params["auth_method"], credentials=credentials, allow_plaintext=bool(params["allow_plaintext"]),
        strict=bool(params["strict"]), server_key_policy=params["server_key_policy"], server_key=params.get("server_key") or None,
        known_keys_file=params.get("known_keys_file") or os.path.join(place.state_dir, "tsp-known-keys.txt"),
        source_address=params.get("source_address") or None, source_interface=params.get("source_interface") or None,
        source_port=params.get("source_port"), deadline=params["deadline"], transports=params["transport"],
        state_dir=place.state_dir, min_interval=params["min_interval"], identity=place.identity,
        always_use_same_server=bool(params["always_use_same_server"]))


def info_options(params: dict[str, Any]) -> ExchangeOptions:
    """How to reach the brokers that broker_info asks: nobody logs in, nothing is remembered. Raises LocalError `invalid_option`."""
    return ExchangeOptions(
        brokers=tuple(params["broker"]), auth_method="anonymous", source_address=params.get("source_address") or None,
        source_interface=params.get("source_interface") or None, deadline=params["deadline"], transports=params["transport"])


def _secret(path: str, place: Place) -> str:
    """The first line of a file, without its line end; a file that others can read is worth a warning."""
    try:
        with open(path, "rb") as stream:
            if os.fstat(stream.fileno()).st_mode & 0o077:
                place.warnings.append(f"{path} holds a password and others can read it: chmod 600 {path}.")
            text = stream.read(LARGEST_SECRET).decode("utf-8")
    except UnicodeDecodeError:
        raise LocalError("password_unreadable", f"The password in {path} is not UTF-8 text.", "Write it again as UTF-8.") from None
    except (OSError, ValueError) as exc:
        raise LocalError("password_unreadable", f"{path} cannot be read: {getattr(exc, 'strerror', None) or 'it is not a path'}.",
                         "Check the path (on the machine that runs the exchange) and the rights.") from None
    line = text.split("\n", 1)[0].rstrip("\r")
    if not line:
        raise LocalError("password_unreadable", f"{path} holds no password: its first line is empty.",
                         "Write the password into its first line.")
    return line

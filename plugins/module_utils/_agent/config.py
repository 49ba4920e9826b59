# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""The agent's configuration: one JSON file, read whole and checked before anything is done. Every wrong key and value is named.

    {"name": "tsp", "device": "tsp0",
     "request": {...TunnelRequest...},
     "broker": {"brokers": ["broker.example"], "auth_method": "any", "username": "alice", "password_file": "/etc/tsp/tsp.secret", ...},
     "link": {"mtu": "auto", "link_mtu": "auto", "lan_interfaces": ["eth1"], "default_route": "metric", "metric": 2048, "forwarding": true,
              "data_plane": "auto"},
     "keepalive": {"longest_interval": 25},
     "lease_file": "/etc/ansible/facts.d/tsp.fact", "state_dir": "/var/lib/tsp", "runtime_dir": "/run/tsp", "log_level": "info"}

Only `request` and `broker.brokers` must be there. The password stands in a file of its own that nobody else may read.
"""

from __future__ import annotations

import json
import os
import re
import stat
from typing import Any

from .._exchange.options import AUTH_METHODS, KEY_POLICIES, TRANSPORTS, ExchangeOptions
from .._module.ask import DEFAULT_NAME, NAME, identity_of
from .._tsp.client import Credentials
from .._tsp.errors import LocalError
from .._tsp.request import TunnelRequest
from .settings import METRIC, AgentConfig, KeepaliveConfig, LinkConfig
from .tun import DEVICE_NAME

DEFAULT_ROUTES = ("none", "metric", "source", "replace")
DATA_PLANES = ("auto", "fou", "tun")
LOG_LEVELS = ("error", "warning", "info", "debug")
LARGEST_FILE = 1 << 20


class _Reader:
    """Takes values out of a JSON object and keeps what is wrong with them."""

    def __init__(self, data: dict[str, Any], where: str, wrong: list[str]) -> None:
        self._data = dict(data)
        self._where = where
        self._wrong = wrong

    def refuse(self, key: str, why: str) -> None:
        self._wrong.append(f"{self._where}{key} {why}")

    def text(self, key: str, default: Any = None, choices: tuple[str, ...] = (), pattern: re.Pattern[str] | None = None) -> Any:
        value = self._data.pop(key, None)
        if value is None or value == "":
            return default
        if not isinstance(value, str) or not value.isprintable():
            self.refuse(key, "is not a line of text")
        elif choices and value not in choices:
            self.refuse(key, f"is {value!r}; it can be {', '.join(choices)}")
        elif pattern is not None and not pattern.match(value):
            self.refuse(key, f"is {value!r}, which cannot be a name")
        else:
            return value
        return default

    def path(self, key: str, default: Any = None) -> Any:
        value = self.text(key, default)
        if value is not None and not value.startswith("/"):
            self.refuse(key, f"is {value!r}; it must be an absolute path")
            return default
        return value

    def flag(self, key: str, default: bool | None) -> bool | None:
        value = self._data.pop(key, None)
        if value is None:
            return default
        if not isinstance(value, bool):
            self.refuse(key, "is neither true nor false")
            return default
        return value

    def number(self, key: str, default: Any, lowest: float, highest: float) -> Any:
        value = self._data.pop(key, None)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not lowest <= value <= highest:
            self.refuse(key, f"is {value!r}; it must be a number from {lowest:g} to {highest:g}")
            return default
        return value

    def size(self, key: str) -> Any:
        """An MTU: "auto" or bytes."""
        if isinstance(self._data.get(key), str):
            return self.text(key, "auto", ("auto",))
        return self.number(key, "auto", 576, 65535)

    def list(self, key: str) -> tuple[Any, ...]:
        value = self._data.pop(key, None)
        if value is None:
            return ()
        if not isinstance(value, list):
            self.refuse(key, "is not a list")
            return ()
        return tuple(value)

    def section(self, key: str) -> dict[str, Any]:
        value = self._data.pop(key, None)
        if value is None:
            return {}
        if not isinstance(value, dict):
            self.refuse(key, "is not an object")
            return {}
        return value

    def end(self) -> None:
        for key in sorted(self._data):
            self.refuse(key, "is not known")


def load(path: str) -> AgentConfig:
    """Read and check a configuration file, password included.

    Raises LocalError: `config_unreadable`, `config_invalid` (all that is wrong, in one sentence), `password_unreadable`,
    `password_exposed` (others may read it).
    """
    try:
        with open(path, "rb") as file:
            text = file.read(LARGEST_FILE + 1)
    except OSError as exc:
        raise LocalError("config_unreadable", f"{path} cannot be read: {exc.strerror}.", "Check the path and the rights.") from None
    try:
        data = json.loads(text) if len(text) <= LARGEST_FILE else None
    except (ValueError, RecursionError) as exc:
        raise LocalError("config_invalid", f"{path} is not JSON: {exc}.", "") from None
    if not isinstance(data, dict):
        raise LocalError("config_invalid", f"{path} does not hold a JSON object.", "")
    return parse(data, path)


def parse(data: dict[str, Any], path: str = "configuration") -> AgentConfig:
    """Check a configuration. Raises as load()."""
    wrong: list[str] = []
    top = _Reader(data, "", wrong)
    name = top.text("name", DEFAULT_NAME, pattern=NAME)
    device = top.text("device", "tsp0", pattern=DEVICE_NAME)
    values: dict[str, Any] = {
        "lease_file": top.path("lease_file", f"/etc/ansible/facts.d/{name}.fact"),
        "state_dir": top.path("state_dir", "/var/lib/tsp"),
        "runtime_dir": top.path("runtime_dir", "/run/tsp"),
        "log_level": top.text("log_level", "info", LOG_LEVELS)}
    request = _request(top.section("request"), wrong)
    broker = _Reader(top.section("broker"), "broker.", wrong)
    link = _link(_Reader(top.section("link"), "link.", wrong))
    keepalive = _Reader(top.section("keepalive"), "keepalive.", wrong)
    longest = keepalive.number("longest_interval", None, 1, 86400)
    keepalive.end()
    top.end()
    made = _options(broker, values["state_dir"], identity_of("", name), wrong)
    if wrong or request is None or made is None:
        raise LocalError("config_invalid", f"{path}: {'; '.join(wrong)}.", "Correct it; nothing was done.")
    return AgentConfig(name=name, device=device, request=request, options=made, link=link, keepalive=KeepaliveConfig(longest), **values)


def _request(data: dict[str, Any], wrong: list[str]) -> TunnelRequest | None:
    if not data:
        wrong.append("request is missing")
        return None
    unknown = sorted(set(data) - set(TunnelRequest.__dataclass_fields__))
    wrong.extend(f"request.{key} is not known" for key in unknown)
    try:
        request = TunnelRequest.from_dict(data)
    except LocalError as exc:
        wrong.append(f"request: {exc.message.rstrip('.')}")
        return None
    if request.proxy:
        wrong.append("request.proxy is true, but the tunnel of an agent ends at its own host")
    return request


def _link(reader: _Reader) -> LinkConfig:
    link = LinkConfig(
        mtu=reader.size("mtu"), link_mtu=reader.size("link_mtu"), lan_interfaces=reader.list("lan_interfaces"),
        default_route=reader.text("default_route", "metric", DEFAULT_ROUTES), metric=reader.number("metric", METRIC, 1, 2 ** 31),
        forwarding=reader.flag("forwarding", None), data_plane=reader.text("data_plane", "auto", DATA_PLANES))
    for item in link.lan_interfaces:
        interface = item.get("name") if isinstance(item, dict) else item
        if not isinstance(interface, str) or not DEVICE_NAME.match(interface):
            reader.refuse("lan_interfaces", f"holds {interface!r}, which cannot be the name of an interface")
    reader.end()
    return link


def _options(reader: _Reader, state_dir: str, identity: str, wrong: list[str]) -> ExchangeOptions | None:
    """identity: as the module has it, with which the agent shares state_dir."""
    brokers = reader.list("brokers")
    if not brokers:
        reader.refuse("brokers", "is missing or empty")
    auth_method = reader.text("auth_method", "any", AUTH_METHODS)
    username = reader.text("username")
    password_file = reader.path("password_file")
    values: dict[str, Any] = {
        "auth_method": auth_method,
        "allow_plaintext": bool(reader.flag("allow_plaintext", False)), "strict": bool(reader.flag("strict", False)),
        "server_key_policy": reader.text("server_key_policy", "reject", KEY_POLICIES), "server_key": reader.text("server_key"),
        "known_keys_file": reader.path("known_keys_file", os.path.join(state_dir, "tsp-known-keys.txt")),
        "source_address": reader.text("source_address"), "source_interface": reader.text("source_interface", pattern=DEVICE_NAME),
        "source_port": reader.number("source_port", None, 1, 65535),
        "transports": reader.text("transports", "auto", TRANSPORTS), "deadline": float(reader.number("deadline", 60, 1, 3600)),
        "min_interval": float(reader.number("min_interval", 5, 0, 86400)),
        "always_use_same_server": bool(reader.flag("always_use_same_server", False)), "state_dir": state_dir, "identity": identity}
    reader.end()
    if wrong:
        return None
    credentials = None
    if auth_method != "anonymous" and username is not None:
        credentials = Credentials(username, None if password_file is None else read_password(password_file))
    try:
        options = ExchangeOptions(brokers=tuple(str(broker) for broker in brokers), credentials=credentials, **values)
        options.check_credentials()
    except LocalError as exc:
        wrong.append(f"broker.{exc.message.rstrip('.')}" if exc.code == "invalid_option" else exc.message.rstrip("."))
        return None
    return options


def read_password(path: str) -> str:
    """The first line of the file, which only its owner (us, or root) may read.

    Raises LocalError `password_unreadable`, `password_exposed`. Neither holds anything of the content.
    """
    try:
        with open(path, "rb") as file:
            found = os.fstat(file.fileno())
            line = file.read(4096).split(b"\n", 1)[0].rstrip(b"\r")
    except OSError as exc:
        raise LocalError("password_unreadable", f"{path} cannot be read: {exc.strerror}.", "Check the path and the rights.") from None
    if stat.S_IMODE(found.st_mode) & 0o077 or found.st_uid not in (0, os.geteuid()):
        raise LocalError("password_exposed", f"{path} holds a password, and others than its owner may read it.",
                         f"chown root {path} && chmod 600 {path}, and change the password: it may have been read.")
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError:
        raise LocalError("password_unreadable", f"The password in {path} is not UTF-8 text.", "Write it again as UTF-8.") from None
    if not text:
        raise LocalError("password_unreadable", f"{path} holds no password: its first line is empty.", "Write it into the first line.")
    return text

# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""The agent's configuration: one JSON file, read whole and checked before anything is done. Every wrong key and value is named.

    {"name": "tsp", "device": "tsp0",
     "request": {...TunnelRequest...},
     "broker": {"brokers": ["broker.example"], "auth_method": "any", "username": "alice", "password_file": "/etc/tsp/tsp.secret", ...},
     "link": {"mtu": "auto", "lan_interfaces": ["eth1"], "default_route": "metric", ...},
     "keepalive": {...}, "retry": {...}, "hooks": {...}, "log": {...}, "metrics": {...},
     "lease_file": "/etc/ansible/facts.d/tsp.fact", "state_dir": "/var/lib/tsp", "runtime_dir": "/run/tsp", "log_level": "info"}

The keys are the names of the fields in `settings`, which say what each means. Only `request` and `broker.brokers` must be there. The
password stands in a file of its own that nobody else may read, or in a credential of systemd (systemd.exec(5), LoadCredential).
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .._exchange.options import AUTH_METHODS, CHOICES, KEY_POLICIES, TRANSPORTS, ExchangeOptions, parse_broker
from .._module.ask import DEFAULT_NAME, NAME, identity_of
from .._tsp.client_config import Credentials
from .._tsp.errors import LocalError
from .._tsp.request import TunnelRequest
from . import sections
from .reader import Reader
from .settings import AgentConfig
from .tun import DEVICE_NAME

LOG_LEVELS = ("error", "warning", "info", "debug")
LARGEST_FILE = 1 << 20
DEVICE_MODES = ("v6v4", "v6udpv4", "v4v6")
USER = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}\Z")
UNREAD = "-"
"""In place of a password where the configuration is read for looking only: too short to be struck out of anything."""
CREDENTIAL = re.compile(r"(?!\.{1,2}\Z)[A-Za-z0-9_.@-]{1,255}\Z")


def load(path: str, environ: Mapping[str, str] | None = None) -> AgentConfig:
    """Read and check a configuration file, password included. environ: for CREDENTIALS_DIRECTORY, by default this process's.

    Raises LocalError: `config_unreadable`, `config_exposed`, `config_invalid` (all that is wrong, in one sentence), `password_unreadable`,
    `password_exposed` (others may read it).
    """
    return parse_text(read_file(path), path, environ)


def read_file(path: str) -> bytes:
    """The bytes of a configuration, which can name programs that run as root.

    Raises LocalError `config_unreadable`, also where it is no plain file or far too large; `config_exposed` where anybody could have
    written it.
    """
    try:
        # Not to block: opening a pipe would wait for somebody to write into it.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise OSError(errno.EINVAL, "it is no plain file")
            text = file.read(LARGEST_FILE + 1)
        if len(text) > LARGEST_FILE:
            raise OSError(errno.EFBIG, "it is far too large")
    except (OSError, ValueError) as exc:
        reason = getattr(exc, "strerror", None) or exc
        raise LocalError("config_unreadable", f"{path} cannot be read: {reason}.", "Check the path and the rights.") from None
    if found.st_mode & 0o002 or found.st_uid not in (0, os.geteuid()):
        raise LocalError("config_exposed", f"{path} is not used: somebody else than root and we can change it.",
                         f"chown root {path} && chmod o-w {path}, after a look at what stands in it.")
    return text


def is_json(text: bytes) -> bool:
    """Whether this is a configuration of ours; anything else is read as one of an old client."""
    return text.lstrip(b" \t\r\n\xef\xbb\xbf")[:1] in (b"{", b"[")


def parse_text(text: bytes, path: str, environ: Mapping[str, str] | None = None, secret: bool = True) -> AgentConfig:
    """secret: read the password, too; without it the configuration is for looking only. Raises as load()."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise LocalError("config_invalid", f"{path} is not JSON: {exc}.", "") from None
    if not isinstance(data, dict):
        raise LocalError("config_invalid", f"{path} does not hold a JSON object.", "")
    return parse(data, path, environ, secret)


def parse(data: dict[str, Any], path: str = "configuration", environ: Mapping[str, str] | None = None, secret: bool = True) -> AgentConfig:
    """Check a configuration. Raises as load()."""
    wrong: list[str] = []
    top = Reader(data, "", wrong)
    name = top.text("name", DEFAULT_NAME, pattern=NAME)
    values: dict[str, Any] = {
        "name": name,
        "device": top.text("device", "tsp0", pattern=DEVICE_NAME),
        "devices": _devices(top.section("devices"), wrong),
        "lease_file": top.path("lease_file", f"/etc/ansible/facts.d/{name}.fact"),
        "state_dir": top.path("state_dir", "/var/lib/tsp"),
        "runtime_dir": top.path("runtime_dir", "/run/tsp"),
        "log_level": top.text("log_level", "info", LOG_LEVELS),
        "roaming": top.flag("roaming", True),
        "renew_at": float(top.number("renew_at", 0.8, 0.1, 0.95)),
        "user": top.text("user", AgentConfig.user, pattern=USER),
        "radvd": top.section("radvd") or None}
    broker = Reader(top.section("broker"), "broker.", wrong)
    values["preferred"] = broker.text("preferred", "")
    values["return_after"] = float(broker.number("return_after", 0, 0, 30 * 86400))
    brokers = tuple(str(text) for text in broker.list("brokers"))
    for section, read in sections.ALL.items():
        reader = Reader(top.section(section), f"{section}.", wrong)
        values[section] = read(reader)
        reader.end()
    if values["hooks"].script_sets_up and values["link"].data_plane == "fou":
        wrong.append("link.data_plane is 'fou', but hooks.script_sets_up is true: a program that sets up gets a TUN device")
    request = _request(top.section("request"), wrong)
    top.end()
    password = _Password.of(broker, os.environ if environ is None else environ, secret)
    made = _options(broker, brokers, password, values["state_dir"], identity_of("", name), wrong)
    _check_preferred(values["preferred"], made, wrong)
    if wrong or request is None or made is None:
        raise LocalError("config_invalid", f"{path}: {'; '.join(wrong)}.", "Correct it; nothing was done.")
    return AgentConfig(request=request, options=made, **values)


def _check_preferred(text: str, options: ExchangeOptions | None, wrong: list[str]) -> None:
    if text and options is not None:
        try:
            if parse_broker(text) in options.broker_list:
                return
        except LocalError:
            pass
        wrong.append(f"broker.preferred is {text!r}, which is none of broker.brokers")


def _devices(data: dict[str, Any], wrong: list[str]) -> tuple[tuple[str, str], ...]:
    reader = Reader(data, "devices.", wrong)
    found = [(mode, reader.text(mode, "", pattern=DEVICE_NAME)) for mode in DEVICE_MODES]
    reader.end()
    return tuple((mode, name) for mode, name in found if name)


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


def _options(reader: Reader, brokers: tuple[str, ...], password: _Password, state_dir: str, identity: str,
             wrong: list[str]) -> ExchangeOptions | None:
    """identity: as the module has it, with which the agent shares state_dir."""
    if not brokers:
        reader.refuse("brokers", "is missing or empty")
    auth_method = reader.text("auth_method", "any", AUTH_METHODS)
    username = reader.text("username")
    values: dict[str, Any] = {
        "auth_method": auth_method, "allow_plaintext": reader.yes("allow_plaintext", False), "strict": reader.yes("strict", False),
        "server_key_policy": reader.text("server_key_policy", "reject", KEY_POLICIES), "server_key": reader.text("server_key"),
        "known_keys_file": reader.path("known_keys_file", os.path.join(state_dir, "tsp-known-keys.txt")),
        "source_address": reader.text("source_address"), "source_interface": reader.text("source_interface", pattern=DEVICE_NAME),
        "source_port": reader.count("source_port", None, 1, 65535),
        "transports": reader.text("transports", "auto", TRANSPORTS), "deadline": float(reader.number("deadline", 60, 1, 3600)),
        "min_interval": float(reader.number("min_interval", 5, 0, 86400)),
        "always_use_same_server": reader.yes("always_use_same_server", False), "state_dir": state_dir, "identity": identity,
        "choose": reader.text("choose", "order", CHOICES)}
    reader.end()
    if wrong:
        return None
    credentials = None
    if auth_method != "anonymous" and username is not None:
        credentials = Credentials(username, password.read())
    try:
        options = ExchangeOptions(brokers=brokers, credentials=credentials, **values)
        options.check_credentials()
    except LocalError as exc:
        wrong.append(f"broker.{exc.message.rstrip('.')}" if exc.code == "invalid_option" else exc.message.rstrip("."))
        return None
    return options


@dataclass(frozen=True)
class _Password:
    """Where the password stands. by_systemd: in a file of the credentials directory."""

    path: str | None
    by_systemd: bool = False
    wanted: bool = True

    @classmethod
    def of(cls, reader: Reader, environ: Mapping[str, str], wanted: bool) -> _Password:
        path = reader.path("password_file")
        credential = reader.text("credential", pattern=CREDENTIAL)
        if credential is None:
            return cls(path, wanted=wanted)
        if path is not None:
            reader.refuse("credential", "stands beside password_file; only one of them can be the password's place")
        folder = environ.get("CREDENTIALS_DIRECTORY", "")
        if wanted and not folder.startswith("/"):
            reader.refuse("credential", "needs systemd, which sets CREDENTIALS_DIRECTORY (LoadCredential in the unit)")
        return cls(os.path.join(folder, credential), by_systemd=True, wanted=wanted)

    def read(self) -> str | None:
        """Raises LocalError `password_unreadable`, `password_exposed`."""
        if not self.wanted:
            return UNREAD
        return None if self.path is None else read_password(self.path, self.by_systemd)


def read_password(path: str, by_systemd: bool = False) -> str:
    """The first line of the file, which only its owner (us, or root) may read.

    by_systemd: the service's user reads it by an access list, whose mask stands where the group's rights do.

    Raises LocalError `password_unreadable`, `password_exposed`. Neither holds anything of the content.
    """
    try:
        with open(path, "rb") as file:
            found = os.fstat(file.fileno())
            line = file.read(4096).split(b"\n", 1)[0].rstrip(b"\r")
    except OSError as exc:
        raise LocalError("password_unreadable", f"{path} cannot be read: {exc.strerror}.", "Check the path and the rights.") from None
    if stat.S_IMODE(found.st_mode) & (0o037 if by_systemd else 0o077) or found.st_uid not in (0, os.geteuid()):
        raise LocalError("password_exposed", f"{path} holds a password, and others than its owner may read it.",
                         f"chown root {path} && chmod 600 {path}, and change the password: it may have been read.")
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError:
        raise LocalError("password_unreadable", f"The password in {path} is not UTF-8 text.", "Write it again as UTF-8.") from None
    if not text:
        raise LocalError("password_unreadable", f"{path} holds no password: its first line is empty.", "Write it into the first line.")
    return text

# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The options of router_config, and what they become: a Login and a Task."""

from __future__ import annotations

import re
from typing import Any, Callable

from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.errors import LocalError
from ansible_collections.tunnelbroker.tsp.plugins.plugin_utils._router.netmiko_device import PLATFORMS, Login
from ansible_collections.tunnelbroker.tsp.plugins.plugin_utils._router.probe import Probe
from ansible_collections.tunnelbroker.tsp.plugins.plugin_utils._router.transaction import Task

ARGUMENT_SPEC: dict[str, Any] = {
    "lines": {"type": "list", "elements": "str"},
    "content": {"type": "str"},
    "src": {"type": "path"},
    "state": {"type": "str", "choices": ["merged", "deleted"], "default": "merged"},
    "mark": {"type": "str"},
    "save": {"type": "str", "choices": ["changed", "never", "always"], "default": "changed"},
    "platform": {"type": "str", "choices": list(PLATFORMS)},
    "probe": {"type": "dict", "options": {
        "address": {"type": "str", "required": True},
        "source": {"type": "str", "default": ""},
        "count": {"type": "int", "default": 5},
        "timeout": {"type": "int", "default": 2},
    }},
    "known_hosts": {"type": "path"},
    "host_key_checking": {"type": "bool"},
    "timeout": {"type": "int", "default": 30},
}
RULES = {"mutually_exclusive": [("lines", "content", "src")], "required_one_of": [("lines", "content", "src")]}
NETWORK_OS = {"ios": "cisco_ios", "cisco.ios.ios": "cisco_ios", "cisco_ios": "cisco_ios", "iosxe": "cisco_xe", "cisco_xe": "cisco_xe"}
"""ansible_network_os -> netmiko's name of the platform."""
_SECRET = re.compile(
    r"(\b(?:password|secret|key-string|authentication-key|(?:nhrp|(?:standby|vrrp|glbp)(?: \d+)?) authentication|community|"
    r"pre-shared-key|psk|md5(?! key-string)|(?:isakmp|(?:radius|tacacs)-server\b.*?) key|snmp-server host \S+)|"
    r"^ +key(?! \d+$)) .*", re.IGNORECASE | re.MULTILINE)


def platform(option: str | None, network_os: str | None) -> str:
    """netmiko's device_type. Raises LocalError `platform_unknown`."""
    if option:
        return option
    if not network_os:
        return PLATFORMS[0]
    if network_os not in NETWORK_OS:
        raise LocalError("platform_unknown", f"ansible_network_os {network_os!r} is not a platform that router_config knows.",
                         f"Set platform to one of {', '.join(PLATFORMS)} if it behaves like one.")
    return NETWORK_OS[network_os]


def login(options: dict[str, Any], variable: Callable[..., Any], check_host_key: bool) -> Login:
    """variable(*names) gives the first of these variables that is set, as plain text, or None. Raises LocalError `login_incomplete`,
    `platform_unknown`."""
    username = variable("ansible_user", "ansible_ssh_user")
    if not username:
        raise LocalError("login_incomplete", "There is no user to log in as.", "Set ansible_user (and ansible_password) for this host.")
    port = variable("ansible_port", "ansible_ssh_port") or "22"
    if not port.isdecimal() or not 0 < int(port) < 65536:
        raise LocalError("login_incomplete", f"ansible_port {port!r} is not a port.", "Use 1 to 65535.")
    chosen = options["host_key_checking"]
    return Login(
        host=variable("ansible_host", "ansible_ssh_host", "inventory_hostname") or "", port=int(port), username=username,
        password=variable("ansible_password", "ansible_ssh_pass", "ansible_ssh_password"),
        key_file=variable("ansible_ssh_private_key_file", "ansible_private_key_file"),
        secret=variable("ansible_become_password", "ansible_become_pass"),
        platform=platform(options["platform"], variable("ansible_network_os")),
        check_host_key=check_host_key if chosen is None else chosen,
        known_hosts=options["known_hosts"], timeout=float(options["timeout"]))


def task(options: dict[str, Any], text: str, check: bool) -> Task:
    return Task(text=text, state=options["state"], save=options["save"], probe=Probe.of(options["probe"]), check=check,
                mark=" ".join((options["mark"] or "").split()) or None)


def without_secrets(text: str) -> str:
    """A configuration to show to people: what follows a word that announces a secret is struck out, to the end of the line."""
    return _SECRET.sub(r"\1 ********", text)


def scrubbed(value: Any, secrets: list[str]) -> Any:
    """`value` with every secret in its texts struck out."""
    if isinstance(value, dict):
        return {key: scrubbed(item, secrets) for key, item in value.items()}
    if isinstance(value, list):
        return [scrubbed(item, secrets) for item in value]
    if isinstance(value, str):
        for secret in secrets:
            value = value.replace(secret, "********")
    return value

# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""The argument specs of the modules: one source for the modules themselves and for the action plugins.

The documentation fragments `broker` and `request` describe the same options; a test compares them.
"""

from __future__ import annotations

from typing import Any

from .._exchange.options import AUTH_METHODS, KEY_POLICIES, TRANSPORTS
from .._tsp.request import HOST_TYPES, MODES
from .ask import DEFAULT_NAME

RUN_ON = ("auto", "target", "controller")
DEST_FORMATS = ("json", "yaml")

Spec = dict[str, Any]

BROKER_OPTIONS: Spec = {
    "broker": {"type": "list", "elements": "str"},
    "transport": {"type": "str", "default": "auto", "choices": list(TRANSPORTS)},
    "source_address": {"type": "str"},
    "source_interface": {"type": "str"},
    "deadline": {"type": "float", "default": 60.0},
    "run_on": {"type": "str", "default": "auto", "choices": list(RUN_ON)},
}
"""How to reach brokers; shared by every module that speaks to one."""

LOGIN_OPTIONS: Spec = {
    "auth_method": {"type": "str", "default": "any", "choices": list(AUTH_METHODS)},
    "username": {"type": "str"},
    "password": {"type": "str", "no_log": True},
    "password_file": {"type": "path", "no_log": False},
    "allow_plaintext": {"type": "bool", "default": False},
    "server_key": {"type": "str", "no_log": False},
    "server_key_policy": {"type": "str", "default": "reject", "choices": list(KEY_POLICIES), "no_log": False},
    "known_keys_file": {"type": "path", "no_log": False},
}
"""Who asks, and how the broker proves itself."""

REQUEST_OPTIONS: Spec = {
    "mode": {"type": "str", "default": "v6anyv4", "choices": list(MODES)},
    "host_type": {"type": "str", "default": "host", "choices": list(HOST_TYPES)},
    "prefix_length": {"type": "int"},
    "dns_servers": {"type": "list", "elements": "str", "default": []},
    "client_ipv4": {"type": "str", "default": "auto"},
    "client_ipv6": {"type": "str", "default": "auto"},
    "proxy": {"type": "bool"},
    "keepalive": {"type": "bool", "default": True},
    "keepalive_interval": {"type": "int", "default": 30},
}
"""What is asked for (RFC 5572 section 4.7)."""

TUNNEL_SPEC: Spec = {
    "state": {"type": "str", "default": "present", "choices": ["present", "absent"]},
    "name": {"type": "str", "default": DEFAULT_NAME},
    **BROKER_OPTIONS,
    **LOGIN_OPTIONS,
    **REQUEST_OPTIONS,
    "strict": {"type": "bool", "default": False},
    "source_port": {"type": "int"},
    "min_interval": {"type": "float", "default": 5.0},
    "always_use_same_server": {"type": "bool", "default": False},
    "state_dir": {"type": "path"},
    "lease_file": {"type": "path"},
    "lease_dir": {"type": "path"},
    "dest": {"type": "path"},
    "dest_format": {"type": "str", "default": "json", "choices": list(DEST_FORMATS)},
    "renew": {"type": "bool", "default": False},
    "refused": {"type": "dict"},
}

TUNNEL_RULES: Spec = {
    "mutually_exclusive": [("password", "password_file")],
    "required_if": [("state", "present", ("broker",))],
}

INFO_SPEC: Spec = {**BROKER_OPTIONS, "broker": {"type": "list", "elements": "str", "required": True}}

INFO_RULES: Spec = {}

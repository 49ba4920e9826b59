# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What can be typed outside configuration mode. Level 1 is the user's `>`, 15 the enabled `#`."""

from __future__ import annotations

from .grammar import Rule

EXEC = (
    Rule("enable", handler="enable", level=1),
    Rule("disable", handler="disable", level=1),
    Rule("exit", handler="logout", level=1),
    Rule("logout", handler="logout", level=1),
    Rule("quit", handler="logout", level=1),
    Rule("terminal length <0-512>", handler="terminal_length", level=1),
    Rule("terminal width <0-512>", handler="terminal_width", level=1),
    Rule("terminal no monitor", handler="nothing", level=1),
    Rule("terminal monitor", handler="nothing", level=1),
    Rule("configure terminal", handler="configure"),
    Rule("show version", handler="show_version", level=1),
    Rule("show running-config", handler="show_running"),
    Rule("show running-config interface <interface>", handler="show_running_interface"),
    Rule("show startup-config", handler="show_startup"),
    Rule("show interfaces <interface>", handler="show_interfaces", level=1),
    Rule("show ip interface <interface>", handler="show_ip_interface", level=1),
    Rule("show ip interface brief", handler="show_ip_brief", level=1),
    Rule("show ipv6 interface <interface>", handler="show_ipv6_interface", level=1),
    Rule("show ipv6 interface brief", handler="show_ipv6_brief", level=1),
    Rule("write", handler="write"),
    Rule("write memory", handler="write"),
    Rule("copy running-config startup-config", handler="copy"),
    Rule("reload", handler="reload"),
    Rule("ping ipv6 <address6> [source <source>] [repeat <1-2147483647>] [timeout <0-3600>] [size <48-18024>]", handler="ping", level=1),
    Rule("ping [ip] <address4> [source <source>] [repeat <1-2147483647>] [timeout <0-3600>] [size <36-18024>]", handler="ping", level=1),
    Rule("ping <address6> [source <source>] [repeat <1-2147483647>] [timeout <0-3600>] [size <48-18024>]", handler="ping", level=1),
)

NEEDS_PIPE = ("show",)
"""Commands whose output can be cut with `| include`, `| exclude`, `| section`, `| begin`."""

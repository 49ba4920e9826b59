# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Global configuration lines. The order is that of a running configuration."""

from __future__ import annotations

from .grammar import Rule

GLOBAL = (
    Rule("hostname <word>~", order=10, single=True, check="hostname"),
    Rule("enable secret <line>~", order=20, clear=2, check="enable_secret"),
    Rule("ip domain lookup", order=29, default="ip domain lookup"),
    Rule("ip domain name <word>~", order=30, clear=3),
    Rule("ip cef", order=35),
    Rule("ipv6 unicast-routing", order=40),
    Rule("ipv6 cef", order=41),
    Rule("interface <new-interface>", enters="interface", order=50),
    Rule("ip forward-protocol nd", order=60),
    Rule("ip route <address4> <mask4> <interface> [<address4>] [<1-255>~]", order=70, check="route4"),
    Rule("ip route <address4> <mask4> <address4> [<1-255>~]", order=70, check="route4"),
    Rule("ip access-list extended <word>", enters="access-list", order=75),
    Rule("ipv6 route <network6> <interface> [<address6>] [<1-254>~]", order=80),
    Rule("ipv6 route <network6> <address6> [<1-254>~]", order=80),
    Rule("logging console", order=90, default="logging console"),
)

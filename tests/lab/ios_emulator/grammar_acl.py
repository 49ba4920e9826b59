# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Entries of an extended IPv4 access list, enough to let protocol 41 through."""

from __future__ import annotations

from .grammar import Rule

_PROTOCOL = "{ip|tcp|udp|icmp|gre|esp|<0-255>}"
_PEER = "{any|host <address4>|<address4> <mask4>}"

ACCESS_LIST = (
    Rule(f"[<1-2147483647>~] {{permit|deny}} {_PROTOCOL} {_PEER} {_PEER} [log~]"),
    Rule("remark <line>"),
)

# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Lines of an interface. The order is that of a running configuration; `tunnel …` exists on Tunnel interfaces alone."""

from __future__ import annotations

from .grammar import Rule

_TUNNEL = ("Tunnel",)
_LIFETIME = "{<0-4294967295>~|infinite~}"

INTERFACE = (
    Rule("description <line>~", order=10, clear=1),
    Rule("ip address <address4>~ <mask4>~", order=20, clear=2, check="address4"),
    Rule("ip unnumbered <interface>~", order=20, clear=2),
    Rule("ip access-group <word>~ {in|out}", order=25, clear=2),
    Rule("ip mtu <68-65535>~", order=30, clear=2),
    Rule("ip tcp adjust-mss <500-1460>~", order=35, clear=3),
    Rule("shutdown", order=40),
    Rule("keepalive <0-32767>~ [<1-255>~]", order=45, clear=1),
    Rule("ipv6 address <interface6>", order=50, clear=2),
    Rule("ipv6 address <interface6> {eui-64~|anycast~}", order=50, clear=2),
    Rule("ipv6 address <address6> link-local", order=50, clear=2),
    Rule("ipv6 enable", order=55),
    Rule("ipv6 mtu <1280-65535>~", order=60, clear=2, check="mtu6"),
    Rule("ipv6 tcp adjust-mss <40-1940>~", order=61, clear=3),
    Rule("ipv6 traffic-filter <word>~ {in|out}", order=62, clear=2),
    Rule(f"ipv6 nd prefix <network6> [{_LIFETIME} {_LIFETIME}] [no-autoconfig~]", order=65, clear=4),
    Rule("ipv6 nd prefix <network6> no-advertise~", order=65, clear=4),
    Rule("ipv6 nd managed-config-flag", order=66),
    Rule("ipv6 nd other-config-flag", order=67),
    Rule("ipv6 nd ra interval <3-1800>~", order=68, clear=4, default="ipv6 nd ra interval 200"),
    Rule("ipv6 nd ra lifetime <0-9000>~", order=69, clear=4, default="ipv6 nd ra lifetime 1800"),
    Rule("ipv6 nd ra suppress [all~]", order=70, clear=4),
    Rule("ipv6 nd router-preference {high~|medium~|low~}", order=71, clear=3, default="ipv6 nd router-preference medium"),
    Rule("tunnel source <source>~", order=80, clear=2, only=_TUNNEL),
    Rule("tunnel mode ipv6ip~ [6to4~|isatap~|6rd~]", order=82, clear=2, only=_TUNNEL),
    Rule("tunnel mode gre~ {ip~|ipv6~}", order=82, clear=2, only=_TUNNEL, default="tunnel mode gre ip"),
    Rule("tunnel mode ipv6~", order=82, clear=2, only=_TUNNEL),
    Rule("tunnel destination <endpoint>~", order=84, clear=2, only=_TUNNEL),
    Rule("tunnel ttl <1-255>~", order=86, clear=2, only=_TUNNEL, default="tunnel ttl 255"),
    Rule("tunnel path-mtu-discovery", order=87, only=_TUNNEL),
)

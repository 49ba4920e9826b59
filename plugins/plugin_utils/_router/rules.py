# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the device does with lines: which replace each other, what comes first, and what it does not show.

The differ itself is hier_config; this is its IOS driver with what tunnels need.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

try:
    from hier_config.models import IdempotentCommandsRule, MatchRule, OrderingRule
    from hier_config.platforms.cisco_ios.driver import HConfigDriverCiscoIOS
    from hier_config.platforms.driver_base import HConfigDriverRules
except ImportError as exc:
    MISSING: ImportError | None = exc
else:
    MISSING = None

_ONE_OF_A_KIND = (
    r"^description ", r"^ip address \S+ \S+$", r"^ip unnumbered ", r"^ip mtu ", r"^mtu ", r"^ip tcp adjust-mss ", r"^ipv6 mtu ",
    r"^ipv6 tcp adjust-mss ", r"^ipv6 nd prefix (\S+)", r"^ipv6 nd ra interval ", r"^ipv6 nd ra lifetime ", r"^ipv6 nd ra suppress",
    r"^ipv6 nd router-preference ", r"^tunnel source ", r"^tunnel destination ", r"^tunnel mode ", r"^tunnel ttl ", r"^keepalive",
    r"^ip access-group \S+ (in|out)", r"^ipv6 traffic-filter \S+ (in|out)",
)
"""Lines of an interface of which there is one: a new one replaces the old one. With a group, one per value of it."""

OFF_WHEN_ABSENT = (
    "shutdown", "description", "interface", "ip access-group", "ip access-list", "ip address", "ip mtu", "ip route", "ip tcp",
    "ipv6 address", "ipv6 enable", "ipv6 mtu", "ipv6 nd", "ipv6 route", "ipv6 tcp", "ipv6 traffic-filter", "ipv6 unicast-routing", "tunnel",
)
"""Settings that are off where no line shows them, so that their `no` form has nothing to do. For any other setting the device may
be hiding that it is on."""

HIDDEN = (
    (re.compile(r"ipv6 mtu (\d+)"), "show ipv6 interface {interface}", r"MTU is {value} bytes"),
    (re.compile(r"ip mtu (\d+)"), "show ip interface {interface}", r"MTU is {value} bytes"),
)
"""Lines that the device does not show when they say what holds anyway, the question to ask, and the answer that means yes.
(An `ipv6 mtu` equal to the one derived from the link below is not shown: ipv6-ops mailing list, February 2009.)"""


@cache
def _driver_class() -> Any:
    """hier_config's driver for IOS, with our rules. Without its own changes to access lists, which renumber entries.

    One class for all: hier_config compares configurations of one driver class only.
    """

    class Driver(HConfigDriverCiscoIOS):
        @staticmethod
        def _instantiate_rules() -> HConfigDriverRules:
            given = HConfigDriverCiscoIOS._instantiate_rules()
            of_an_interface = [IdempotentCommandsRule(match_rules=(MatchRule(startswith="interface "), MatchRule(re_search=pattern)))
                               for pattern in _ONE_OF_A_KIND]
            of_the_device = [IdempotentCommandsRule(match_rules=(MatchRule(startswith="hostname "),))]
            # An interface is removed last: routes and filters that name it go before it.
            last = [OrderingRule(match_rules=(MatchRule(startswith=start),), weight=weight)
                    for start, weight in (("no interface ", 50), ("no ip access-list ", 60))]
            return given.model_copy(update={
                "indentation": 1, "post_load_callbacks": [],
                "per_line_sub": [rule for rule in given.per_line_sub if not rule.search.startswith("^ ")],
                "idempotent_commands": [*given.idempotent_commands, *of_an_interface, *of_the_device],
                "ordering": [*given.ordering, *last]})

    return Driver


def driver() -> Any:
    """A driver for one configuration."""
    return _driver_class()()


def off_when_absent(setting: str) -> bool:
    return setting.startswith(OFF_WHEN_ABSENT)

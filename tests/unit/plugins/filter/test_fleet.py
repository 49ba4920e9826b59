# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.tunnelbroker.tsp.plugins.filter.fleet import FilterModule

FILTERS = FilterModule().filters()


class Tagged(str):
    """Text as ansible-core hands it over: a subclass."""


def test_a_report_and_its_table():
    found = {Tagged("a"): {"unreachable": True, "msg": Tagged("No route\nto host")}, "c": {"msg": "No Python."}}
    report = FILTERS["tunnel_report"](found, hosts=[Tagged("c"), Tagged("a")])
    assert [(row["host"], row["problem"].__class__) for row in report["rows"]] == [("c", str), ("a", str)]
    assert FILTERS["tunnel_report_table"](report).split("\n") == [
        "host  tunnel  state        mode  broker  address  prefix  rtt  loss  lease left  last error",
        "----  ------  -----------  ----  ------  -------  ------  ---  ----  ----------  ----------------",
        "c     -       unknown      -     -       -        -       -    -     -           No Python.",
        "a     -       unreachable  -     -       -        -       -    -     -           No route to host",
    ]


@pytest.mark.parametrize("name", ["tunnel_report", "tunnel_report_table"])
def test_something_else_is_refused_with_what_to_give(name):
    with pytest.raises(AnsibleFilterError, match="Give "):
        FILTERS[name]([1])

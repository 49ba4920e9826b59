# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.tunnelbroker.tsp.plugins.filter.tunnel import FilterModule
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._module._leases import lease

FILTERS = FilterModule().filters()


class Tagged(str):
    """Text as ansible-core hands it over: a subclass."""


def test_plan_takes_what_ansible_hands_over_and_gives_plain_types():
    plan = FILTERS["tunnel_plan"](lease("v6v4", "2001:db8:a::/48").to_dict(), lan_interfaces=[Tagged("eth1")], mtu=Tagged("1400"))
    assert plan["mtu"] == 1400
    assert plan["lan"][0]["interface"].__class__ is str


def test_an_error_is_a_sentence_and_what_to_do():
    with pytest.raises(AnsibleFilterError) as caught:
        FILTERS["tunnel_plan"](lease("v6v4").to_dict(), lan_interfaces=["eth1"])
    assert "no delegated prefix" in str(caught.value) and "host_type: router" in str(caught.value)


def test_the_table_has_one_aligned_line_per_device():
    table = FILTERS["tunnel_table"]([
        {"device": "r1", "platform": "cisco", "lease": lease("v6v4", "2001:db8:a::/48").to_dict(),
         "proof": {"proved": True, "rtt_ms": 1.26}},
        {"device": "a-long-name", "platform": "linux", "lease": lease("v6udpv4").to_dict(), "proof": {"proved": False, "rtt_ms": None}},
        {"device": "h3", "platform": "linux", "lease": lease("v4v6").to_dict()},
        {"device": "h4", "error": "The broker\nis too busy."},
    ])
    assert table.split("\n") == [
        "device       platform  mode     IPv6 address     prefix           proved",
        "-----------  --------  -------  ---------------  ---------------  ---------------------------",
        "r1           cisco     v6v4     2001:db8:f00::2  2001:db8:a::/48  yes, 1.3 ms",
        "a-long-name  linux     v6udpv4  2001:db8:f00::2  -                no",
        "h3           linux     v4v6     192.0.2.2        -                -",
        "h4           -         -        -                -                no: The broker is too busy.",
    ]


def test_devices_set_the_order_and_nobody_is_forgotten():
    rows = [{"device": "b", "platform": "linux"}, {"device": "c", "error": "Refused."}]
    lines = FILTERS["tunnel_table"](rows, devices=["a", "c", "b"]).split("\n")[2:]
    assert [line.split()[0] for line in lines] == ["a", "c", "b"]
    assert lines[0].endswith("no: not reached") and lines[1].endswith("no: Refused.")


def test_an_empty_table_is_its_headings():
    assert FILTERS["tunnel_table"]([]).split("\n")[0] == "device  platform  mode  IPv6 address  prefix  proved"


def test_rows_of_another_shape_are_refused():
    with pytest.raises(AnsibleFilterError, match="list of dicts"):
        FILTERS["tunnel_table"]("x")

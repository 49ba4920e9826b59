# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where a tunnel ends and of which mode it is: the table of placement.py, row by row."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._broker.placement import place
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.request import TunnelRequest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.server import Refusal

SEEN, SEEN6, OTHER, BROKER = "192.0.2.7", "2001:db8:ffff::7", "192.0.2.77", "192.0.2.1"
ALL = ("v6v4", "v6udpv4", "v4v6")


def judged(mode: str, named: str | None, *, transport: str = "udp", seen: str = SEEN, offered: tuple[str, ...] = ALL,
           may_proxy: bool = False, proxy: bool = False) -> Any:
    request = TunnelRequest(mode=mode) if not proxy or mode == "v6udpv4" else TunnelRequest(mode=mode, proxy=True)
    try:
        made = place(request, None if named is None else ip_address(named), transport, (seen, 40000), offered=offered, may_proxy=may_proxy,
                     own=(ip_address(BROKER), ip_address("2001:db8:ffff::1")))
    except Refusal as no:
        assert no.text and no.text.isprintable() and len(no.text) < 120
        return no.status
    return made.mode, str(made.outer), made.port, made.proxy


@pytest.mark.parametrize(("arguments", "expected"), [
    ({"mode": "v6anyv4", "named": SEEN}, ("v6v4", SEEN, None, False)),
    ({"mode": "v6anyv4", "named": None}, ("v6v4", SEEN, None, False)),
    ({"mode": "v6anyv4", "named": SEEN, "transport": "tcp"}, ("v6v4", SEEN, None, False)),
    ({"mode": "v6anyv4", "named": "192.168.1.5"}, ("v6udpv4", SEEN, 40000, False)),
    ({"mode": "v6anyv4", "named": "192.168.1.5", "transport": "tcp"}, 303),
    ({"mode": "v6anyv4", "named": SEEN, "offered": ("v6udpv4",)}, ("v6udpv4", SEEN, 40000, False)),
    ({"mode": "v6anyv4", "named": SEEN, "offered": ("v6udpv4",), "transport": "tcp"}, 303),
    ({"mode": "v6anyv4", "named": "192.168.1.5", "offered": ("v6v4",)}, 303),
    ({"mode": "v6anyv4", "named": OTHER, "proxy": True, "may_proxy": True}, ("v6v4", OTHER, None, True)),
    ({"mode": "v6anyv4", "named": OTHER, "proxy": True, "may_proxy": True, "offered": ("v6udpv4",)}, 303),
    ({"mode": "v6anyv4", "named": SEEN, "seen": SEEN6}, 303),
    ({"mode": "v6udpv4", "named": SEEN}, ("v6udpv4", SEEN, 40000, False)),
    ({"mode": "v6udpv4", "named": "10.0.0.1"}, ("v6udpv4", SEEN, 40000, False)),
    ({"mode": "v6udpv4", "named": SEEN, "transport": "tcp"}, 303),
    ({"mode": "v6udpv4", "named": SEEN, "seen": SEEN6}, 303),
    ({"mode": "v6udpv4", "named": SEEN, "offered": ("v6v4",)}, 303),
    ({"mode": "v6v4", "named": SEEN}, ("v6v4", SEEN, None, False)),
    ({"mode": "v6v4", "named": SEEN, "transport": "tcp"}, ("v6v4", SEEN, None, False)),
    ({"mode": "v6v4", "named": "192.168.1.5"}, 501),
    ({"mode": "v6v4", "named": OTHER}, 501),
    ({"mode": "v6v4", "named": OTHER, "proxy": True}, 501),
    ({"mode": "v6v4", "named": OTHER, "proxy": True, "may_proxy": True}, ("v6v4", OTHER, None, True)),
    ({"mode": "v6v4", "named": SEEN, "proxy": True}, ("v6v4", SEEN, None, False)),
    ({"mode": "v6v4", "named": None, "proxy": True, "may_proxy": True}, 501),
    ({"mode": "v6v4", "named": OTHER, "proxy": True, "may_proxy": True, "seen": SEEN6}, ("v6v4", OTHER, None, True)),
    ({"mode": "v6v4", "named": SEEN, "seen": SEEN6}, 501),
    ({"mode": "v6v4", "named": None, "seen": SEEN6}, 501),
    ({"mode": "v6v4", "named": SEEN, "offered": ("v6udpv4",)}, 303),
    ({"mode": "v4v6", "named": SEEN6, "seen": SEEN6}, ("v4v6", SEEN6, None, False)),
    ({"mode": "v4v6", "named": None, "seen": SEEN6}, ("v4v6", SEEN6, None, False)),
    ({"mode": "v4v6", "named": "2001:db8:ffff::8", "seen": SEEN6}, 502),
    ({"mode": "v4v6", "named": SEEN6}, 502),
    ({"mode": "v4v6", "named": SEEN6, "proxy": True, "may_proxy": True}, ("v4v6", SEEN6, None, True)),
    ({"mode": "v4v6", "named": None}, 502),
    ({"mode": "v4v6", "named": SEEN6, "seen": SEEN6, "offered": ("v6v4",)}, 303),
    ({"mode": "v6v4", "named": "127.0.0.1", "seen": "127.0.0.1"}, ("v6v4", "127.0.0.1", None, False)),
    ({"mode": "v4v6", "named": "::1", "seen": "::1"}, ("v4v6", "::1", None, False)),
])
def test_the_table(arguments: dict[str, Any], expected: Any) -> None:
    assert judged(**arguments) == expected


@pytest.mark.parametrize("address", ["0.1.2.3", "255.255.255.255", "240.0.0.1", "169.254.1.1", BROKER])
def test_no_proxy_can_point_a_tunnel_at_nonsense_or_at_us(address: str) -> None:
    assert judged("v6v4", address, proxy=True, may_proxy=True) == 501
    assert judged("v6v4", address, seen=address) == 501


@pytest.mark.parametrize("address", ["fe80::1", "2001:db8:ffff::1", "::ffff:192.0.2.1"])
def test_the_same_in_ipv6(address: str) -> None:
    assert judged("v4v6", address, proxy=True, may_proxy=True) == 502


def test_an_untrusted_client_cannot_name_loopback() -> None:
    request = TunnelRequest(mode="v6v4", proxy=True)
    with pytest.raises(Refusal) as no:
        place(request, ip_address("127.0.0.1"), "udp", (SEEN, 1), offered=ALL, may_proxy=True, own=())
    assert no.value.status == 501

# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""templates/cisco against golden files, and against the emulator's grammar: every line is one that it knows, in an order that works."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable

import jinja2
import pytest
import yaml
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._module.plan import tunnel_plan
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.lease import Lease

V6_PREFIXES = {48: "2001:db8:4000::/48", 56: "2001:db8:4000:100::/56", 60: "2001:db8:4000:120::/60", 64: "2001:db8:4000:123::/64"}
V4_PREFIXES = {24: "203.0.113.0/24", 26: "203.0.113.64/26", 28: "203.0.113.16/28", 30: "203.0.113.4/30"}


def lease(mode: str, prefix: str | None) -> dict[str, Any]:
    """A lease as facts hold it, valid by the collection's own checks."""
    six = mode == "v6v4"
    client = {"ipv4": "198.51.100.10" if six else "192.0.2.2", "ipv6": "2001:db8:f::2"}
    server = {"ipv4": "198.51.100.1" if six else "192.0.2.1", "ipv6": "2001:db8:f::1"}
    request = {"mode": mode, "host_type": "router" if prefix else "host", "prefix_length": int(prefix.split("/")[1]) if prefix else None}
    data = {"schema": 1, "broker": "broker.example", "transport": "udp", "protocol_version": "2.0.2", "auth_method": "digest-md5",
            "username": "r1", "mode": mode, "client": client, "server": server, "prefix": prefix, "dns_servers": [],
            "keepalive": {"interval": 30, "address": None}, "lifetime": 604800, "obtained_at": "2026-01-01T00:00:00Z", "request": request}
    return Lease.from_dict(data).to_dict()


def render(repository: Path, **variables: Any) -> str:
    """The template as Ansible renders it."""
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(repository / "templates" / "cisco"), trim_blocks=True,
                                     keep_trailing_newline=True, undefined=jinja2.StrictUndefined)
    environment.filters["tunnelbroker.tsp.tunnel_plan"] = tunnel_plan
    defaults = yaml.safe_load((repository / "roles" / "cisco" / "defaults" / "main.yml").read_text(encoding="utf-8"))
    defaults.update(cisco_lan_interfaces=[], cisco_default_route=True)  # what the role takes from the role tunnel
    return environment.get_template("tunnel.j2").render(**{**defaults, "tunnel_state": "present", **variables})


def cases() -> list[Any]:
    out = [pytest.param(mode, None, f"host-{mode}", id=f"host-{mode}") for mode in ("v6v4", "v4v6")]
    for mode, prefixes in (("v6v4", V6_PREFIXES), ("v4v6", V4_PREFIXES)):
        out += [pytest.param(mode, prefix, f"router-{mode}-{length}", id=f"router-{mode}-{length}") for length, prefix in prefixes.items()]
    return out


def text_of(repository: Path, mode: str, prefix: str | None, **more: Any) -> str:
    lans = [] if prefix is None else ["GigabitEthernet0/1", "GigabitEthernet0/2"]
    lans = lans[:1] if prefix and prefix.endswith(("/64", "/30")) else lans
    return render(repository, tunnel_lease=lease(mode, prefix), cisco_lan_interfaces=lans, **more)


@pytest.mark.parametrize(("mode", "prefix", "name"), cases())
def test_golden(repository: Path, golden: Callable[[str, str], None], mode: str, prefix: str | None, name: str) -> None:
    golden(f"cisco/{name}.cfg", text_of(repository, mode, prefix))


@pytest.mark.parametrize(("mode", "prefix", "name"), cases())
def test_every_line_is_known_and_a_second_run_changes_nothing(repository: Path, mode: str, prefix: str | None, name: str) -> None:
    pytest.importorskip("hier_config", reason="hier-config is not installed")
    from ansible_collections.tunnelbroker.tsp.plugins.plugin_utils._router import transaction
    from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.plugin_utils._router._fake import FakeRouter

    router = FakeRouter(interfaces=("GigabitEthernet0/0", "GigabitEthernet0/1", "GigabitEthernet0/2"))
    before = router.emulated.running
    task = transaction.Task(text_of(repository, mode, prefix))
    first = transaction.run(router, task)
    assert first.changed and first.saved
    second = transaction.run(router, task)
    assert (second.changed, second.commands, second.saved) == (False, [], False)
    gone = transaction.run(router, transaction.Task(text_of(repository, mode, prefix, tunnel_state="absent"), state="deleted"))
    assert gone.changed
    left = router.emulated.running.replace("ipv6 unicast-routing\n!\n", "")
    assert left == before


def test_the_network_of_a_lan_is_computed_from_any_prefix_length(repository: Path) -> None:
    """The old client cut prefixes out of their text, and only a /48 came out right."""
    for prefix, expected in (("2001:db8:4000:120::/60", "2001:DB8:4000:123::1/64"), ("2001:db8::/48", "2001:DB8:0:3::1/64")):
        text = render(repository, tunnel_lease=lease("v6v4", prefix), cisco_lan_interfaces=[{"name": "GigabitEthernet0/1", "subnet": "3"}])
        assert f" ipv6 address {expected.lower()}\n" in text


def test_a_user_can_choose_source_routes_and_no_default(repository: Path) -> None:
    text = render(repository, tunnel_lease=lease("v6v4", None), cisco_tunnel_source="GigabitEthernet0/0", cisco_default_route=False,
                  cisco_routes=["2001:db8:5::/48"], cisco_link_mtu=1492)
    assert " tunnel source GigabitEthernet0/0\n" in text and "::/0" not in text
    assert "ipv6 route 2001:db8:5::/48 Tunnel0\n" in text and " ipv6 mtu 1472\n" in text


def test_jumbo_links_stay_within_what_the_clamp_takes(repository: Path) -> None:
    assert " ipv6 tcp adjust-mss 1940\n" in render(repository, tunnel_lease=lease("v6v4", None), cisco_link_mtu=9000)
    assert " ip tcp adjust-mss 1460\n" in render(repository, tunnel_lease=lease("v4v6", None), cisco_link_mtu=9000)

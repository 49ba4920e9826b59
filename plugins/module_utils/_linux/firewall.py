# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""Packet filter and TCP MSS clamping for a tunnel, in an nftables table of our own: both are opt-in.

What carries the tunnel comes from the broker alone; what comes out of it is answers, what ICMPv6 must bring (RFC 4890), and what the
play allows. A table of ours can only drop: what the site's own tables drop, it cannot let in.
"""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import Any

from .._tsp.errors import LocalError
from .backend import Host, Parts, Setup

PROTOCOL = {"v6v4": 41, "v4v6": 4}
"""IP protocol of the outer packets: IPv6 in IPv4 (RFC 4213), IPv4 in IPv6 (RFC 2473)."""
PORT = re.compile(r"([1-9][0-9]{0,4})(?:-([1-9][0-9]{0,4}))?\Z")


def firewall(setup: Setup, *, enabled: bool = False, mss_clamp: bool = False, tcp: Any = (), udp: Any = (), forward_tcp: Any = (),
             forward_udp: Any = (), peers: Any = ()) -> dict[str, Any]:
    """What templates/linux/firewall.nft.j2 needs, {} where nothing is wanted.

    {table, filter, protocol (41 | 4 | null), port (our UDP port, or null), sources (who may send to the tunnel's outer end), tcp, udp,
    forward_tcp, forward_udp (port numbers and ranges as text), mss (bytes or null)}

    tcp, udp: ports of this host, forward_*: ports of hosts behind it that may be reached from outside. peers: further addresses that end
    tunnels of the same kind at this host. Raises LocalError `firewall_invalid`.
    """
    if not enabled and not mss_clamp:
        return {}
    numbers = setup["numbers"]
    mode = numbers["mode"]
    # An agent may go on with another broker, or from another port: only its own socket knows whom to hear.
    fixed = setup["backend"] != "agent"
    udp_port = numbers["tunnel"]["local_port"] if mode == "v6udpv4" else None
    return {
        "table": f"tsp_{setup['name']}",
        "filter": bool(enabled),
        "protocol": PROTOCOL.get(mode) if fixed else None,
        "port": udp_port if fixed else None,
        "sources": [numbers["tunnel"]["remote"], *_addresses(peers, numbers["tunnel"]["remote"])],
        "tcp": _ports(tcp), "udp": _ports(udp), "forward_tcp": _ports(forward_tcp), "forward_udp": _ports(forward_udp),
        "mss": numbers["mss"]["ipv6" if numbers["family"] == 6 else "ipv4"] if mss_clamp else None,
    }


def parts(setup: Setup, host: Host) -> Parts:
    """The file with the rules, and the unit that loads it before the network comes up. Raises LocalError `no_nftables`."""
    if not setup["firewall"]:
        return Parts()
    nft = check_nft(host)
    name = setup["name"]
    rules = f"/etc/tsp/{name}.nft"
    made = Parts(files=[{"path": rules, "template": "firewall.nft.j2", "mode": "0644"}])
    if host["service_manager"] == "systemd":
        unit = f"tsp-firewall-{name}.service"
        unit_file = f"/etc/systemd/system/{unit}"
        made.files.append({"path": unit_file, "template": "firewall.service.j2", "mode": "0644"})
        made.services.append({"name": unit, "manager": "systemd", "state": "restarted", "enabled": True, "files": [rules, unit_file],
                              "test_argv": [nft, "-c", "-f", rules]})
    else:  # nothing here starts anything at boot; the tunnel does not either
        table = ["inet", f"tsp_{name}"]
        made.start.append({"argv": [nft, "-f", rules], "undo": [nft, "delete", "table", *table], "unless": [nft, "list", "table", *table]})
    return made


def check_nft(host: Host) -> str:
    """Where the program is. Raises LocalError `no_nftables`."""
    nft = host["tools"].get("nft")
    if not nft:
        raise LocalError("no_nftables", "This host has no nft, which loads the packet filter.",
                         "Install nftables, or set linux_firewall and linux_mss_clamp to false.")
    return str(nft)


def _addresses(wanted: Any, like: str) -> list[str]:
    out = []
    for item in [wanted] if isinstance(wanted, str) else wanted or ():
        try:
            found = ip_address(str(item))
            if found.version != ip_address(like).version or "%" in str(item):
                raise ValueError
        except ValueError:
            raise LocalError("firewall_invalid", f"{item!r} cannot end a tunnel of this kind at this host.",
                             f"Write an address of the same family as {like}.") from None
        out.append(str(found))
    return out


def _ports(wanted: Any) -> list[str]:
    out = []
    for item in [wanted] if isinstance(wanted, (str, int)) else wanted or ():
        text = str(item)
        match = PORT.match(text)
        ends = [int(number) for number in match.groups() if number] if match else []
        if not ends or max(ends) > 65535 or ends != sorted(ends):
            raise LocalError("firewall_invalid", f"{text!r} is not a port.", "Write 22, or a range such as 6000-6063.")
        if text not in out:
            out.append(text)
    return out

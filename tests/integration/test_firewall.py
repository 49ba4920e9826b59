# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The packet filter of a tunnel, with real packets: outside --tsp0-- router --lan0-- inside; and `wan0` for what carries the tunnel.

`tsp0` is a wire here: what the filter sees of a tunnel is its device's name and what comes out of it.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2
import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._linux.firewall import firewall
from ansible_collections.tunnelbroker.tsp.tests.lab import Lab, Namespace

pytestmark = pytest.mark.root
ROUTER, INSIDE, OUTSIDE = "2001:db8:f::2", "2001:db8:1::5", "2001:db8:ffff::9"
SECONDS = 10


def setup(mode: str = "v6v4", backend: str = "networkd") -> dict[str, Any]:
    return {"name": "tsp", "device": "tsp0", "backend": backend, "tools": {"nft": "/usr/sbin/nft"}, "numbers": {
        "mode": mode, "family": 6, "sources": [f"{ROUTER}/128", "2001:db8:1::/48"], "mss": {"ipv6": 1400, "ipv4": 1420},
        "tunnel": {"local": "192.0.2.2", "remote": "192.0.2.1", "local_port": 40123, "remote_port": 3653}}}


def rules(repository: Path, mode: str = "v6v4", **options: Any) -> str:
    linux = setup(mode)
    linux["firewall"] = firewall(linux, **options)
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(repository / "templates/linux"), trim_blocks=True,
                                     keep_trailing_newline=True, undefined=jinja2.StrictUndefined)
    return environment.get_template("firewall.nft.j2").render(linux=linux)


@pytest.fixture(scope="module")
def net() -> Iterator[dict[str, Namespace]]:
    with Lab("firewall") as lab:
        names = {name: lab.namespace(name) for name in ("router", "inside", "outside", "broker")}
        router, inside, outside, broker = names.values()
        for space, device, other, far, ours, theirs in (
                (router, "tsp0", outside, "eth0", f"{ROUTER}/64", "2001:db8:f::1/64"),
                (router, "lan0", inside, "eth0", "2001:db8:1::1/64", f"{INSIDE}/64"),
                (router, "wan0", broker, "eth0", "192.0.2.2/24", "192.0.2.1/24")):
            lab.veth(space, device, other, far)
            for end, name, cidr in ((space, device, ours), (other, far, theirs)):
                end.ip(f"addr add {cidr} dev {name} nodad" if ":" in cidr else f"addr add {cidr} dev {name}")
        router.sysctl(net__ipv6__conf__all__forwarding=1)
        broker.ip("addr add 192.0.2.66/24 dev eth0", "link set eth0 up")
        outside.ip("link set lo up", f"addr add {OUTSIDE}/128 dev lo nodad", f"-6 route add default via {ROUTER}")
        router.ip("-6 route add default via 2001:db8:f::1")
        inside.ip("-6 route add default via 2001:db8:1::1")
        for space, end in ((inside, OUTSIDE), (outside, ROUTER), (broker, "192.0.2.2")):
            space.run("ping", "-c1", "-W20", end)
        yield names


def load(net: dict[str, Namespace], text: str) -> None:
    net["router"].nft(text)
    net["router"].nft(text)  # once more: it replaces itself


def connects(client: Namespace, server: Namespace, address: str, port: int, source: str | None = None) -> bool:
    """Whether a TCP connection comes about; refused counts as not."""
    with server.network():
        listener = socket.create_server((address, port), family=socket.AF_INET6)
    with listener, client.network():
        try:
            socket.create_connection((address, port), timeout=1.5, source_address=None if source is None else (source, 0)).close()
        except OSError:
            return False
        return True


def segment_size(client: Namespace, server: Namespace, address: str, port: int) -> int:
    """The MSS that the client's connection ended up with."""
    with server.network():
        listener = socket.create_server((address, port), family=socket.AF_INET6)
    with listener, client.network(), socket.create_connection((address, port), timeout=SECONDS) as sock:
        return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)


def arrives(net: dict[str, Namespace], source: str, protocol: int, payload: bytes = bytes(40)) -> bool:
    """Whether a packet of this IP protocol from this address gets past the filter to the router's own sockets."""
    with net["router"].network():
        receiver = socket.socket(socket.AF_INET, socket.SOCK_RAW, protocol)
    with receiver, net["broker"].network(), socket.socket(socket.AF_INET, socket.SOCK_RAW, protocol) as sender:
        receiver.settimeout(1.5)
        sender.bind((source, 0))
        sender.sendto(payload, ("192.0.2.2", 0))
        while True:
            try:
                data = receiver.recv(2048)
            except TimeoutError:
                return False
            if data[12:16] == socket.inet_aton(source):
                return True


def datagram(sport: int, dport: int) -> bytes:
    return struct.pack("!HHHH", sport, dport, 8 + 40, 0) + bytes(40)


def test_what_comes_out_of_the_tunnel(net: dict[str, Namespace], repository: Path) -> None:
    load(net, rules(repository, enabled=True, tcp=[22], forward_tcp=["8000-8010"]))
    outside, inside, router = net["outside"], net["inside"], net["router"]
    assert connects(inside, outside, OUTSIDE, 80), "answers come in"
    assert connects(outside, router, ROUTER, 22) and not connects(outside, router, ROUTER, 23)
    assert connects(outside, inside, INSIDE, 8005) and not connects(outside, inside, INSIDE, 8011)
    assert connects(inside, router, "2001:db8:1::1", 23), "the LAN is not the tunnel's business"
    for address in (ROUTER, INSIDE):
        outside.run("ping", "-c1", "-W9", address)


def test_only_our_own_addresses_go_out_and_none_of_them_comes_in(net: dict[str, Namespace], repository: Path) -> None:
    load(net, rules(repository, enabled=True, forward_tcp=[8000]))
    net["inside"].ip("addr add 2001:db8:bad::5/128 dev eth0 nodad")
    net["router"].ip("-6 route add 2001:db8:bad::/48 dev lan0")
    assert not connects(net["inside"], net["outside"], OUTSIDE, 80, source="2001:db8:bad::5")
    assert connects(net["inside"], net["outside"], OUTSIDE, 80, source=INSIDE)
    net["outside"].ip("addr add 2001:db8:1:7::7/128 dev lo nodad")
    net["router"].ip("-6 route add 2001:db8:1:7::7/128 via 2001:db8:f::1")
    assert not connects(net["outside"], net["inside"], INSIDE, 8000, source="2001:db8:1:7::7")
    assert connects(net["outside"], net["inside"], INSIDE, 8000)


def test_a_path_that_is_too_narrow_can_say_so(net: dict[str, Namespace], repository: Path) -> None:
    load(net, rules(repository, enabled=True))
    net["outside"].run("ping", "-c1", "-W9", INSIDE)
    done = net["outside"].run("ping", "-c1", "-W9", "-t1", INSIDE, check=False)
    assert "Time exceeded" in done.stdout, "errors that this router itself sends go out"


@pytest.mark.parametrize("mode", ["v6v4", "v6udpv4"])
def test_what_carries_the_tunnel_comes_from_the_broker_alone(net: dict[str, Namespace], repository: Path, mode: str) -> None:
    load(net, rules(repository, mode, enabled=True))
    if mode == "v6v4":
        assert arrives(net, "192.0.2.1", 41) and not arrives(net, "192.0.2.66", 41)
        load(net, rules(repository, mode, enabled=True, peers=["192.0.2.66"]))
        assert arrives(net, "192.0.2.66", 41)
        return
    assert arrives(net, "192.0.2.1", 17, datagram(3653, 40123))
    assert not arrives(net, "192.0.2.66", 17, datagram(3653, 40123)) and not arrives(net, "192.0.2.1", 17, datagram(99, 40123))
    assert arrives(net, "192.0.2.66", 17, datagram(99, 40124)), "other ports are not the tunnel's business"


def test_segments_are_made_to_fit(net: dict[str, Namespace], repository: Path) -> None:
    load(net, "table inet tsp_tsp\ndelete table inet tsp_tsp\n")
    assert segment_size(net["inside"], net["outside"], OUTSIDE, 81) > 1400
    load(net, rules(repository, mss_clamp=True))
    assert segment_size(net["inside"], net["outside"], OUTSIDE, 82) <= 1400
    assert segment_size(net["outside"], net["inside"], INSIDE, 83) <= 1400
    assert connects(net["outside"], net["router"], ROUTER, 23), "the filter was not asked for"

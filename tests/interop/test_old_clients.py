# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The old clients against tsp-broker.pyz as it is built: real sockets, real packets, NAT, loss, and everything a user can ask for."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

pytest.importorskip("cryptography")

from ansible_collections.tunnelbroker.tsp.tests.interop import _net, olddata  # noqa: E402
from ansible_collections.tunnelbroker.tsp.tests.interop._net import (  # noqa: E402
    AT_AUTH,
    AT_CREATE,
    AT_VERSION,
    BROKER,
    BROKER6,
    CANARY,
    PLAIN_ONLY,
    REALM,
    SINGLE,
    USERS,
    V101,
    V200,
    WORLD,
    WORLD4,
    Net,
    wait_for,
)
from ansible_collections.tunnelbroker.tsp.tests.lab import Lab  # noqa: E402

pytestmark = pytest.mark.root

VERSIONS = ("5.1", "6.0", "1.2")
MECHANISMS = {"anonymous": "ANONYMOUS", "plain": "PLAIN", "digest-md5": "DIGEST-MD5", "passdss-3des-1": "PASSDSS-3DES-1",
              "any": "PASSDSS-3DES-1"}
FULL_ADDRESS = re.compile(r"([0-9a-f]{4}:){7}[0-9a-f]{4}\Z")
SEEN = {"one": "192.0.2.51", "two": "192.0.2.52", "tcp": "192.0.2.53", "inner1": "192.0.2.20", "inner2": "192.0.2.20"}
ALL = (None, 48, 56, 60, 64)
ALL4 = (None, 24, 28, 29, 30)
MATRIX = [("v6v4", "one", ALL), ("v6udpv4", "inner1", ALL), ("v6udpv4", "one", (None, 56)), ("v6anyv4", "one", ALL),
          ("v6anyv4", "inner1", ALL),
          ("v4v6", "two", ALL4), ("v6v4", "tcp", (None, 48)), ("v6anyv4", "tcp", (None, 60)), ("v4v6", "tcp", (None, 29))]
GRANTED = {("v6anyv4", "one"): "v6v4", ("v6anyv4", "tcp"): "v6v4", ("v6anyv4", "inner1"): "v6udpv4"}


def zero_byte_password(user: str, earliest: int, latest: int) -> str:
    """A password whose hash has its first zero byte between these places (tsp-protocol.md section 3.4, quirk)."""
    number = 0
    while True:
        digest = hashlib.md5(f"{user}:{REALM}:{CANARY}{number}".encode(), usedforsecurity=False).digest()
        if earliest <= digest.find(b"\0") <= latest:
            return f"{CANARY}{number}"
        number += 1


USERS["zed"] = zero_byte_password("zed", 8, 15)
USERS["yuri"] = zero_byte_password("yuri", 0, 7)


@pytest.fixture(scope="module")
def net(request: pytest.FixtureRequest) -> Iterator[Net]:
    with Lab("interop", lambda: request.session.testsfailed) as lab:
        made = Net(lab)
        made.start("main", made.broker, {
            "data_plane": "userspace",
            "pools": {"ipv6": "2001:db8:f::/64", "prefixes": [{"network": "2001:db8:8000::/33", "lengths": "48-64", "default": 56}],
                      "ipv4": "198.51.100.0/24", "ipv4_prefixes": [{"network": "198.18.0.0/16", "lengths": "24-30", "default": 29}]}})
        elsewhere: dict[str, dict[str, Any]] = {
            "v200": {"listen": {"addresses": [V200]}, "versions": ["2.0.0"]},
            "v101": {"listen": {"addresses": [V101]}, "versions": ["1.0.1"]},
            "plain": {"listen": {"addresses": [PLAIN_ONLY]}, "modes": ["v6udpv4"], "auth": {"anonymous": False, "digest-md5": False}},
            "single": {"listen": {"addresses": [SINGLE]}, "redirect": {"at": "version", "brokers": [BROKER]}},
        }
        for step, address in (("version", AT_VERSION), ("authenticate", AT_AUTH), ("create", AT_CREATE)):
            elsewhere[step] = {"listen": {"addresses": [address]}, "redirect": {"at": step, "brokers": [
                V200, BROKER, f"[{BROKER6}]", "broker2.example"]}}
        for name, changes in elsewhere.items():
            changes["auth"] = {"passdss-3des-1": False, **changes.get("auth", {})}
            made.start(name, made.others, changes)
        made.listening()
        yield made
        for name in ("main", *elsewhere):
            for line in made.logged(name):
                assert line["level"] != "error" and line["event"] != "defect", f"{name}: {line}"
            assert CANARY not in made.log(name), f"{name} logs a secret"


# Every version, mode, mechanism, prefix -------------------------------------------------------------------------------------------


def check(net: Net, version: str, mode: str, where: str, auth: str, length: int | None) -> None:
    """One cell of the matrix: what the template script is told, and that packets pass."""
    conf: dict[str, Any] = {} if length is None else {
        "host_type": "router", "prefixlen": length, "if_prefix": "eth1", "dns_server": "ns1.example:ns2.example" if length == 48 else ""}
    user = "bob" if auth == "any" else "alice"
    with net.tunnel(where, version, mode=mode, auth=auth, user=user, keepalive_interval=45, **conf) as (out, tunnel):
        env = out.env
        v4v6 = mode == "v4v6"
        assert out.mechanism == MECHANISMS[auth]
        assert out.exit is None and not out.retry
        assert env["TSP_TUNNEL_MODE"] == GRANTED.get((mode, where), mode)
        if v4v6:
            number = SEEN[where].rpartition(".")[2]
            assert ip_address(env["TSP_CLIENT_ADDRESS_IPV6"]) == ip_address(f"2001:db8:1::{number}")
            assert ip_address(env["TSP_SERVER_ADDRESS_IPV6"]) == ip_address(BROKER6)
            assert ip_address(env["TSP_CLIENT_ADDRESS_IPV4"]) in ip_network("198.51.100.0/24")
        else:
            assert (env["TSP_CLIENT_ADDRESS_IPV4"], env["TSP_SERVER_ADDRESS_IPV4"]) == (SEEN[where], BROKER)
            assert ip_address(env["TSP_CLIENT_ADDRESS_IPV6"]) in ip_network("2001:db8:f::/64")
        for side in ("CLIENT", "SERVER"):
            assert FULL_ADDRESS.match(env[f"TSP_{side}_ADDRESS_IPV6"]), env
        assert env.get("TSP_CLIENT_DNS_NAME") == (None if auth == "anonymous" else f"{user}.tunnels.example")
        if length is None:
            assert "TSP_PREFIX" not in env
        else:
            assert env["TSP_PREFIXLEN"] == str(length) and tunnel.prefix is not None
            if not v4v6:
                assert FULL_ADDRESS.match(out.info.prefix) and tunnel.prefix.subnet_of(ip_network("2001:db8:8000::/33"))
                groups = tunnel.prefix.network_address.exploded.split(":")[:-(-length // 16)]
                assert env["TSP_PREFIX"] == ":".join(groups)
        assert out.info.keepalive_interval == 45
        tunnel.send(olddata.ROUTER_SOLICITATION)
        assert tunnel.keepalive(), "the keepalive is not answered"
        target = WORLD4 if v4v6 else WORLD
        assert tunnel.ping(target), "the world does not answer"
        assert tunnel.ping(target, size=1280 - (28 if v4v6 else 48)), "a packet of 1280 bytes does not pass"
        if not v4v6:
            assert tunnel.ping(target, flow_label=0x123F0)
        if length is not None:
            assert tunnel.ping(target, source=tunnel.inside()), "the prefix is not routed"
            if (mode, auth, length) in (("v4v6", "digest-md5", 29), ("v6v4", "plain", 48), ("v6udpv4", "digest-md5", 56),
                                        ("v6anyv4", "passdss-3des-1", 60)):
                assert net.ping(net.world, str(tunnel.address)) and net.ping(net.world, tunnel.inside())
                assert tunnel.answered == 2


@pytest.mark.parametrize(("mode", "where", "lengths"), MATRIX, ids=[f"{mode}-{where}" for mode, where, _lengths in MATRIX])
@pytest.mark.parametrize("version", VERSIONS)
def test_matrix(net: Net, version: str, mode: str, where: str, lengths: tuple[int | None, ...]) -> None:
    wrong = []
    for auth in MECHANISMS:
        for length in lengths:
            try:
                check(net, version, mode, where, auth, length)
            except AssertionError as exc:
                wrong.append(f"{auth} {'host' if length is None else f'/{length}'}: {exc}")
    assert not wrong, "\n".join(wrong)


def test_a_user_keeps_address_and_prefix(net: Net) -> None:
    """Over versions, hosts and mechanisms; and the server's key stays the same."""
    seen = set()
    keys = set()
    for version, where, auth in (("5.1", "one", "plain"), ("6.0", "inner1", "digest-md5"), ("1.2", "two", "passdss-3des-1"),
                                 ("5.1", "one", "passdss-3des-1")):
        out = net.run(where, version, mode="v6anyv4", auth=auth, user="carol", host_type="router", prefixlen=60)
        assert out.up, out
        seen.add((out.env["TSP_CLIENT_ADDRESS_IPV6"], out.env["TSP_PREFIX"]))
        keys.add(out.server_key)
    assert len(seen) == 1
    keys.discard(b"")
    assert len(keys) == 1
    again = net.run("one", "1.2", auth="passdss-3des-1", user="carol", known_key=keys.pop())
    assert again.up


def test_keepalive_wish_is_moved_into_bounds(net: Net) -> None:
    for wish, granted in ((4000, 3600), (2, 2)):
        assert net.run("one", "6.0", keepalive_interval=wish).info.keepalive_interval == granted
    none = net.run("one", "6.0", mode="v6udpv4", keepalive=False)
    assert none.up and none.info.keepalive_interval == 0 and none.info.keepalive_address is None


def test_proxy(net: Net) -> None:
    for version in VERSIONS:
        proxy = {"mode": "v6v4", "auth": "digest-md5", "proxy_client": True, "client_v4": "192.0.2.52"}
        out = net.run("one", version, user="fleet", **proxy, host_type="router", prefixlen=48)
        assert out.up and out.env["TSP_CLIENT_ADDRESS_IPV4"] == "192.0.2.52", out
        assert out.env["TSP_CLIENT_DNS_NAME"] == "fleet-192-0-2-52.tunnels.example"
        refused = net.run("one", version, user="alice", **proxy)
        assert refused.exit == (501 % 256 if version == "5.1" else 13), refused
    assert any("proxy" in str(line.get("why")) for line in net.logged("main"))


# What the broker refuses ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["inner2", "tcp"])
@pytest.mark.parametrize("auth", ["plain", "digest-md5", "passdss-3des-1", "any"])
def test_wrong_password_and_unknown_user(net: Net, auth: str, where: str) -> None:
    mode = "v6udpv4" if where == "inner2" else "v6v4"
    for version in VERSIONS:
        before = len(net.logged("main"))
        for user, why in (("alice", "wrong password for alice"), ("mallory", "there is no account mallory")):
            out = net.run(where, version, mode=mode, auth=auth, user=user, password=f"{CANARY}wrong")
            assert not out.up and out.exit == (9 if version == "5.1" else 16), out
            assert "300 Authentication failed" in out.log[-1]
            wait_for(f"logged: {why}", lambda why=why, before=before: any(
                line.get("why") == why and line["level"] in ("info", "warning") for line in net.logged("main")[before:]))


def test_v6v4_behind_a_nat_is_refused_with_the_reason_in_the_log(net: Net) -> None:
    for version in VERSIONS:
        out = net.run("inner2", version, mode="v6v4")
        assert out.exit == (501 % 256 if version == "5.1" else 13), out
    assert any("use v6udpv4 behind NAT" in str(line.get("why")) for line in net.logged("main"))


def test_mode_not_offered(net: Net) -> None:
    for version in VERSIONS:
        out = net.run("one", version, server=PLAIN_ONLY, mode="v6v4", auth="plain", user="alice")
        if version == "5.1":
            assert out.retry == "v6v4 is not offered" and [attempt[0] for attempt in out.attempts] == ["udp", "tcp"]
            wait_for("it is logged why", lambda: any("left after our offer" in str(line.get("why")) for line in net.logged("plain")))
        else:
            assert out.exit == 15


def test_mechanism_not_offered(net: Net) -> None:
    for version in VERSIONS:
        options = {"server": PLAIN_ONLY, "mode": "v6anyv4", "user": "alice"}
        for auth in ("digest-md5", "passdss-3des-1", "anonymous"):
            out = net.run("one", version, auth=auth, **options)
            assert out.exit == (9 if version == "5.1" else 17), out
        out = net.run("one", version, auth="any", **options)
        assert out.up and out.mechanism == "PLAIN"


def test_prefix_that_nobody_has(net: Net) -> None:
    for version in VERSIONS:
        out = net.run("one", version, auth="digest-md5", user="dave", host_type="router", prefixlen=72)
        assert not out.up and out.exit == (13 if version != "5.1" else out.exit) and out.exit not in (0, None), out
        assert re.search(r"status 5(07|18) ", out.log[-1]), out
        assert net.run("one", version, auth="digest-md5", user="dave").up


# Other versions, other brokers ----------------------------------------------------------------------------------------------------


def test_version_fallback(net: Net) -> None:
    for version in VERSIONS:
        # The digest of a password whose hash has a zero byte differs between 2.0.0 and 2.0.1.
        for server, spoken in ((V200, "2.0.0"), (BROKER, "2.0.2" if version == "1.2" else "2.0.1")):
            out = net.run("one", version, server=server, mode="v6udpv4", auth="digest-md5", user="zed")
            assert out.up and out.attempts[-1] == ("udp", server, spoken), out
        # Where almost nothing would be left of the secret, the old way is not taken, and the log says so.
        assert net.run("one", version, mode="v6udpv4", auth="digest-md5", user="yuri").up
        assert not net.run("one", version, server=V200, mode="v6udpv4", auth="digest-md5", user="yuri").up
        out = net.run("one", version, server=V101, mode="v6anyv4", auth="digest-md5", user="alice", host_type="router", prefixlen=48)
        assert out.up and out.attempts[-1] == ("tcp", V101, "1.0.1") and out.env["TSP_TUNNEL_MODE"] == "v6v4", out
        out = net.run("one", version, server=V101, mode="v6udpv4")
        assert not out.up and out.retry == "every version was refused"
    for reason in ("zero octet", "version 2.0.1 is not spoken here (2.0.0)"):
        wait_for(f"logged: {reason}", lambda reason=reason: any(reason in str(line.get("why")) for line in net.logged("v200")))
    # Version 1 knows no accept: the lease is there all the same.
    assert any(line["event"] == "tunnel_opened" for line in net.logged("v101"))


@pytest.mark.parametrize("where", ["one", "tcp"])
@pytest.mark.parametrize("server", [AT_VERSION, AT_AUTH, AT_CREATE, SINGLE])
def test_redirect(net: Net, server: str, where: str) -> None:
    for version in VERSIONS:
        for auth in ("anonymous", "digest-md5", "plain"):
            out = net.run(where, version, server=server, mode="v6v4", auth=auth, user="erin")
            assert out.up, out
            if server == SINGLE:
                assert out.brokers == [BROKER] and out.env["TSP_SERVER_ADDRESS_IPV4"] == BROKER
            else:
                assert out.env["TSP_SERVER_ADDRESS_IPV4"] in (BROKER, V200) and len(out.brokers) == 4
                if where == "one":  # elsewhere nobody answers echo requests
                    assert set(out.brokers[:2]) == {BROKER, V200}


# Many, twice, lost ----------------------------------------------------------------------------------------------------------------


def test_many_at_once(net: Net) -> None:
    """Seven clients of all versions, with all mechanisms, at the same moment; each has an address of its own."""
    plan = [("one", "5.1", "alice", "plain"), ("one", "6.0", "bob", "digest-md5"), ("one", "1.2", "carol", "passdss-3des-1"),
            ("inner1", "5.1", "dave", "digest-md5"), ("inner2", "6.0", "erin", "any"), ("two", "1.2", "frank", "digest-md5"),
            ("inner1", "1.2", "gina", "plain")]
    barrier = threading.Barrier(len(plan))
    found: list[Any] = []

    def one(where: str, version: str, user: str, auth: str) -> None:
        barrier.wait()
        for _round in range(3):
            try:
                with net.tunnel(where, version, mode="v6udpv4", auth=auth, user=user) as (out, tunnel):
                    found.append((user, out.env["TSP_CLIENT_ADDRESS_IPV6"]))
                    assert tunnel.keepalive() and tunnel.ping(WORLD)
            except AssertionError as exc:
                found.append((user, str(exc)))

    threads = [threading.Thread(target=one, args=row) for row in plan]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3 * len(plan)
    assert len(set(found)) == len({address for _user, address in found}) == len(plan), set(found)


def test_same_user_twice(net: Net) -> None:
    """The later login has the tunnel; the earlier one gets nothing more, and no signalling."""
    with net.tunnel("inner1", "5.1", mode="v6udpv4", auth="digest-md5", user="alice") as (first, tunnel):
        assert tunnel.ping(WORLD)
        with net.tunnel("one", "6.0", mode="v6udpv4", auth="digest-md5", user="alice") as (second, later):
            assert second.env["TSP_CLIENT_ADDRESS_IPV6"] == first.env["TSP_CLIENT_ADDRESS_IPV6"]
            assert later.ping(WORLD) and net.ping(net.world, str(later.address)) and later.answered == 1
            assert not tunnel.ping(WORLD, patience=0.3) and tunnel.answered == 0


def test_keepalive_holds_the_nat_open_both_ways(net: Net) -> None:
    """Two clients behind one NAT that forgets after 3 s: those who keep alive are reached from outside later, a silent one is not."""
    with net.tunnel("inner1", "5.1", mode="v6udpv4", auth="digest-md5", user="bob", keepalive_interval=1) as (_out, first), \
            net.tunnel("inner2", "6.0", mode="v6udpv4", auth="plain", user="carol", keepalive_interval=1) as (_out, second), \
            net.tunnel("inner2", "1.2", mode="v6udpv4", auth="plain", user="dave", keepalive_interval=60) as (_out, silent):
        assert silent.ping(WORLD)
        first.start_keepalive()
        second.start_keepalive()
        wait_for("more keepalives than the NAT remembers", lambda: min(first.kept_alive, second.kept_alive) > _net.UDP_TIMEOUT + 1)
        assert net.ping(net.world, str(first.address)) and net.ping(net.world, str(second.address))
        assert first.answered == second.answered == 1 and not first.lost.is_set() and not second.lost.is_set()
        assert net.world.run("ping", "-c1", "-W1", str(silent.address), check=False).returncode and not silent.answered


@pytest.mark.parametrize("version", VERSIONS)
def test_a_client_goes_on_behind_a_nat_that_forgot_it(net: Net, version: str) -> None:
    """The broker finds it at its new port, long before the client would notice and negotiate anew."""
    with net.tunnel("inner1", version, mode="v6udpv4", auth="digest-md5", user="bob", keepalive_interval=1, host_type="router",
                    prefixlen=60) as (_out, tunnel):
        assert tunnel.keepalive()
        before = len(net.logged("main", "tunnel_moved"))
        for lost in range(1, 3):
            net.nat.forget()
            number = iter(range(1, 30))
            wait_for("the broker follows", lambda number=number: tunnel.keepalive(next(number), 1.0))
            moved = net.logged("main", "tunnel_moved")[before:]
            assert len(moved) == lost and moved[-1]["client"] == SEEN["inner1"] and moved[-1]["port"] != moved[-1]["before"]
        assert tunnel.ping(WORLD, source=tunnel.inside()) and net.ping(net.world, str(tunnel.address))


def harmful(errors: list[str]) -> list[str]:
    """Without late copies of answers of the handshake, which nobody can keep back."""
    return [error for error in errors if not re.match(r"not an IPv6 packet: b['\"]\\xf0\\x00\\x00\\xf", error)]


@pytest.mark.parametrize("version", VERSIONS)
def test_duplicated_and_late_datagrams(net: Net, version: str) -> None:
    """Each datagram arrives twice, and once more after the next one."""
    for auth in MECHANISMS:
        for mode, where in (("v6udpv4", "inner1"), ("v6v4", "one")):
            client = net.client(where, version, mode=mode, auth=auth, user="frank", wire={"doubled": True})
            out = client.run()
            assert out.up and not out.resent, out
            with olddata.Tunnel(client, out) as tunnel:
                assert tunnel.ping(WORLD) and tunnel.keepalive()
            # The copies of the last replies come when the client believes the handshake to be over; a kernel throws them away.
            assert not harmful(tunnel.errors)


@pytest.mark.parametrize("version", VERSIONS)
def test_lost_datagrams(net: Net, version: str) -> None:
    """A third of the replies and a quarter of the requests are lost."""
    resent = 0
    for auth in MECHANISMS:
        client = net.client("lossy", version, mode="v6udpv4", auth=auth, user="gina", wire={"speed": 20})
        out = client.run()
        assert out.up and len(out.attempts) == 1, out
        resent += out.resent
        with olddata.Tunnel(client, out) as tunnel:
            assert any(tunnel.ping(WORLD, patience=0.2) for _time in range(6))
        assert not harmful(tunnel.errors)
    assert resent >= 5


# These end the broker, so they come last ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("step", "signal"), [("authenticate", "-TERM"), ("create", "-KILL"), ("accept", "-KILL")])
def test_broker_restarts_in_the_middle(net: Net, step: str, signal: str) -> None:
    """The session breaks; the client's next one works and has the same address as ever."""
    before = net.run("one", "5.1", mode="v6udpv4", auth="digest-md5", user="erin", host_type="router", prefixlen=56)

    def restart(name: str) -> None:
        if name == step:
            net.stop("main", net.broker, signal)
            start_main(net)

    broken = net.run("one", "5.1", mode="v6udpv4", auth="digest-md5", user="erin", host_type="router", prefixlen=56, step=restart,
                     wire={"speed": 20})
    assert broken.up == (step == "accept") or broken.retry or broken.exit, broken
    with net.tunnel("one", "5.1", mode="v6udpv4", auth="digest-md5", user="erin", host_type="router", prefixlen=56) as (out, tunnel):
        assert out.env == before.env and tunnel.ping(WORLD)


def test_tunnels_outlive_a_restart(net: Net) -> None:
    """Tunnels carry on without a new session when their broker was killed and came back."""
    client = net.client("one", "5.1", mode="v6udpv4", auth="plain", user="bob")
    out = client.run()
    with olddata.Tunnel(client, out) as tunnel, net.tunnel("two", "6.0", mode="v6v4", auth="plain", user="carol") as (_out, other):
        assert tunnel.ping(WORLD) and other.ping(WORLD)
        net.stop("main", net.broker, "-KILL")
        start_main(net)
        assert tunnel.ping(WORLD) and tunnel.keepalive(1) and other.ping(WORLD)
        assert net.ping(net.world, str(tunnel.address)) and net.ping(net.world, str(other.address))
    assert not tunnel.errors


def start_main(net: Net) -> None:
    data = json.loads((net.folder / "main.json").read_text(encoding="utf-8"))
    kept = net.folder / "main.kept.log"
    with open(kept, "a", encoding="utf-8") as log:
        log.write(net.log("main"))
    assert CANARY not in kept.read_text(encoding="utf-8")
    net.start("main", net.broker, data)
    net.listening("main")

# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A client whose NAT gave it a new port is followed; a neighbour behind the same NAT who says to be it is not. On a clock of the test's."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from ipaddress import IPv6Address
from pathlib import Path

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._broker.ends.port import TunnelEnd
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._broker.follow import HOLD, LONGEST, RATE, Follower
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._broker import _packets as make
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._broker.test_policy import HOME, World

OWN = "2001:db8:f::1"
Host = Callable[[bytes], "bytes | None"]


def answering(packet: bytes) -> bytes:
    """A host that answers pings: what its kernel makes of one."""
    source, destination = str(IPv6Address(packet[8:24])), str(IPv6Address(packet[24:40]))
    return make.ping6(destination, source, kind=129, ident=int.from_bytes(packet[44:46], "big"), seq=int.from_bytes(packet[46:48], "big"),
                      payload=packet[48:])


class Scene(World):
    """A broker, and what answers at ports of HOME. asked: every echo request of the broker, by port."""

    def __init__(self, folder: Path, **changes: object) -> None:
        super().__init__(folder, **changes)
        self.hosts: dict[int, Host] = {}
        self.asked: list[int] = []
        self.asks: list[bytes] = []
        numbers = iter(range(1, 1_000_000))
        self.follower = Follower(self.table, IPv6Address(OWN), self.send, self.policy.move, lambda n: next(numbers).to_bytes(n, "big"))

    def send(self, packet: bytes, peer: tuple[str, int], local: str | None) -> bool:
        assert peer[0] == HOME and local == "192.0.2.1" and packet[40] == 128 and make.checksum6_is_right(packet)
        self.asked.append(peer[1])
        self.asks.append(packet)
        answer = self.hosts.get(peer[1], lambda _packet: None)(packet)
        if answer is not None:
            self.arrive(answer, peer[1])
        return True

    def arrive(self, packet: bytes, port: int, outer: str = HOME) -> None:
        """A datagram from a client, as the broker takes it."""
        if not self.plane.from_udp((outer, port), packet):
            self.follower.stranger((outer, port), packet, self.mono)
        else:
            self.table.by_outer[outer, port].last_seen = self.mono  # the switch has another clock

    def speaks(self, port: int, source: str = "", outer: str = HOME) -> None:
        self.arrive(make.udp6(source or self.inner, "2001:db8:1::1"), port, outer)

    def ticks(self, seconds: int) -> None:
        for _second in range(seconds):
            self.unix, self.mono = self.unix + 1, self.mono + 1
            self.follower.tick(self.mono)

    @property
    def end(self) -> TunnelEnd:
        return next(iter(self.table.by_lease.values()))

    @property
    def inner(self) -> str:
        return str(self.end.inner_address)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    one = Scene(tmp_path)
    one.come(keepalive_interval=30, host_type="router")
    yield one
    one.store.close()


def test_a_client_behind_a_new_port_is_followed(scene: Scene) -> None:
    """After 30 s of silence its next keepalive comes from elsewhere; within some seconds it is found, noted and logged."""
    scene.hosts[50000] = answering
    scene.ticks(30)
    scene.speaks(50000)
    scene.ticks(3)
    assert not scene.asked, "its keepalive may be on its way"
    scene.ticks(2)
    assert scene.asked == [40000, 40000] and scene.end.port == 40000, "the known port was not given its time"
    scene.ticks(1)
    assert scene.asked[2:] == [50000]
    assert scene.table.by_outer[HOME, 50000] is scene.end and len(scene.table.by_outer) == 1
    moved, = scene.logged("tunnel_moved")
    assert (moved["lease"], moved["client"], moved["port"], moved["before"]) == (scene.end.lease, HOME, 50000, 40000)
    lease = scene.store.lease_by_id(scene.end.lease)
    assert lease.port == 50000 and lease.owner == "user:alice" and lease.up
    received = scene.end.received
    scene.speaks(50000)
    assert scene.end.received == received + 1
    assert not scene.follower.trials
    scene.hosts[60000] = scene.hosts.pop(50000)
    scene.speaks(60000)
    scene.ticks(3)
    assert scene.end.port == 60000, "who answered before is known to answer, and need not miss a keepalive first"


def test_it_is_followed_by_a_packet_from_its_prefix(scene: Scene) -> None:
    scene.hosts[50000] = answering
    scene.ticks(60)
    scene.speaks(50000, str(scene.end.inner_prefix.network_address + 5))
    scene.ticks(3)
    assert scene.end.port == 50000


@pytest.mark.parametrize("alive", ["answers the ping", "sends something"])
def test_a_known_port_that_shows_life_keeps_its_tunnel(scene: Scene, alive: str) -> None:
    scene.hosts[50000] = answering
    if alive == "answers the ping":
        scene.hosts[40000] = answering
    scene.ticks(60)
    for _again in range(5):
        scene.speaks(50000)
        if alive == "sends something":
            scene.speaks(40000)
        scene.ticks(20)
    assert scene.end.port == 40000 and not scene.logged("tunnel_moved")
    assert set(scene.asked) <= {40000}, "a stranger was asked before the client had its chance"


def test_a_known_port_has_time_for_a_second_answer(scene: Scene) -> None:
    lost = iter([True])
    scene.hosts = {40000: lambda packet: None if next(lost, False) else answering(packet), 50000: answering}
    scene.end.answers = True
    scene.speaks(50000)
    scene.ticks(10)
    assert scene.asked == [40000, 40000] and scene.end.port == 40000


def test_life_that_the_known_port_shows_last_counts(scene: Scene) -> None:
    scene.hosts[50000] = lambda packet: scene.speaks(40000) or answering(packet)
    scene.ticks(60)
    scene.speaks(50000)
    scene.ticks(5)
    assert scene.asked[-1] == 50000 and scene.end.port == 40000


def test_a_host_that_drops_pings_is_not_taken_for_a_dead_port(scene: Scene) -> None:
    """It says nothing but its keepalive, every 30 s; its neighbour behind the same NAT answers pings in its name."""
    scene.hosts[50000] = answering
    for _keepalive in range(10):
        scene.speaks(40000)
        for _second in range(30):
            scene.ticks(1)
            scene.speaks(50000)
    assert scene.end.port == 40000 and not scene.logged("tunnel_moved")


def test_without_keepalive_nobody_is_followed(tmp_path: Path) -> None:
    """Then silence tells nothing."""
    scene = Scene(tmp_path)
    scene.come(keepalive=False)
    scene.hosts[50000] = answering
    scene.ticks(1000)
    scene.speaks(50000)
    scene.ticks(10)
    assert scene.end.port == 40000 and not scene.asked
    scene.store.close()


@pytest.mark.parametrize("answer", [
    lambda packet: None,
    lambda packet: answering(packet[:48] + bytes(16)),
    lambda packet: answering(packet)[:-1] + b"?",
    lambda packet: packet,
], ids=["silent", "guessed", "wrong checksum", "sent back"])
def test_who_does_not_get_our_packets_is_not_followed(scene: Scene, answer: Host) -> None:
    """A forged outer address says nothing about who can be reached there."""
    scene.hosts[50000] = answer
    scene.ticks(60)
    scene.speaks(50000)
    scene.ticks(10)
    assert scene.end.port == 40000 and not scene.logged("tunnel_moved") and scene.asked.count(50000) == 3


def test_an_answer_from_elsewhere_is_none(scene: Scene) -> None:
    scene.hosts[50000] = lambda packet: scene.arrive(answering(packet), 51000)
    scene.ticks(60)
    scene.speaks(50000)
    scene.ticks(10)
    assert scene.end.port == 40000


def test_a_lost_answer_is_asked_for_again(scene: Scene) -> None:
    lost = iter([True])
    scene.hosts[50000] = lambda packet: None if next(lost, False) else answering(packet)
    scene.ticks(60)
    scene.speaks(50000)
    scene.ticks(4)
    assert scene.end.port == 50000


def test_a_trial_ends_however_long_the_keepalive_interval(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.come(keepalive_interval=3600)
    scene.hosts[50000] = answering
    scene.speaks(50000)
    scene.ticks(int(LONGEST + HOLD) + 2)
    assert scene.end.port == 40000 and not scene.follower.trials
    scene.ticks(4000)
    scene.speaks(50000)
    scene.ticks(3)
    assert scene.end.port == 50000
    scene.store.close()


@pytest.mark.parametrize(("source", "outer"), [("", "192.0.2.8"), ("2001:db8:f::99", HOME), ("2001:db8:1::1", HOME), (OWN, HOME)])
def test_another_outer_address_or_a_foreign_inner_one_is_no_reason_to_ask(scene: Scene, source: str, outer: str) -> None:
    scene.ticks(60)
    scene.speaks(50000, source, outer)
    scene.arrive(b"\x60", 50000)
    scene.arrive(b"\x60" + bytes(47), 50000)
    assert not scene.asked and not scene.follower.trials


def test_tunnels_of_other_modes_do_not_move(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.come(mode="v6v4")
    scene.ticks(60)
    scene.speaks(50000)
    assert not scene.follower.trials
    scene.store.close()


def test_a_session_meanwhile_has_the_last_word(scene: Scene) -> None:
    scene.hosts[50000] = answering
    scene.ticks(60)
    scene.speaks(50000)
    scene.come(port=51000, keepalive_interval=30)
    scene.speaks(50000)
    assert scene.follower.trials[scene.end.lease].end is scene.end, "the trial about its earlier end stood in the way"
    scene.come(port=51000, keepalive_interval=30)
    scene.ticks(5)
    assert scene.end.port == 51000 and not scene.follower.trials
    scene.ticks(60)
    scene.speaks(50000)
    scene.ask(port=52000)
    scene.ticks(5)
    assert scene.end.port == 51000, "a client that is about to say where it is was moved"


def test_a_port_that_was_taken_meanwhile_is_left_to_its_owner(scene: Scene) -> None:
    end = scene.end
    scene.hosts[50000] = answering
    scene.ticks(60)
    scene.speaks(50000)
    scene.come("bob", port=50000)
    scene.ticks(5)
    assert end.port == 40000 and scene.table.by_outer[HOME, 50000] is not end


def test_a_nameless_client_takes_its_lease_along(tmp_path: Path) -> None:
    """Its port is its name: whoever has the old port next is somebody else, and who had the new one before is gone."""
    scene = Scene(tmp_path)
    scene.come(None, port=50000, keepalive_interval=1)
    scene.later(100)
    assert not scene.table.by_lease and scene.store.count() == 1
    grant = scene.come(None, keepalive_interval=30)
    scene.hosts[50000] = answering
    scene.ticks(60)
    scene.speaks(50000)
    scene.ticks(5)
    assert scene.end.port == 50000 and scene.store.lease_by_id(scene.end.lease).owner == f"anonymous:{HOME}#50000"
    assert scene.store.count() == 1 and "another client's" in scene.logged("lease_ended")[0]["why"]
    other = scene.come(None, keepalive_interval=30)
    assert other.client.ipv6 != grant.client.ipv6 and len(scene.table) == 2
    scene.store.close()


def test_what_was_moved_is_found_there_after_a_restart(scene: Scene, tmp_path: Path) -> None:
    scene.hosts[50000] = answering
    scene.ticks(60)
    scene.speaks(50000)
    scene.ticks(3)
    world = scene.again(tmp_path)
    assert sorted(world.table.by_outer) == [(HOME, 50000)]
    world.store.close()


def test_a_full_disk_moves_nothing(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_arguments: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    scene.hosts[50000] = answering
    scene.ticks(60)
    scene.speaks(50000)
    with monkeypatch.context() as patch:
        patch.setattr(scene.store, "save", full)
        scene.ticks(3)
    assert scene.table.by_outer[HOME, 40000] is scene.end and scene.logged("store_failed")
    scene.speaks(50000)
    scene.ticks(3)
    assert scene.end.port == 50000, "it was not tried again"


def test_a_flood_of_claims_is_bounded(tmp_path: Path) -> None:
    scene = Scene(tmp_path, accounts=[{"username": f"user{n}", "password": "x"} for n in range(RATE + 20)])
    for number in range(RATE + 20):
        scene.come(f"user{number}", port=1000 + number, keepalive_interval=30)
    scene.hosts = dict.fromkeys(range(50000, 60000), answering)
    for _turn in range(20):
        for number, end in enumerate(list(scene.table.by_lease.values())):
            scene.speaks(50000 + number, str(end.inner_address))
    assert len(scene.follower.trials) == RATE, "one tunnel, one trial, and not too many in a second"
    scene.ticks(34)
    assert len({ask[44:46] + ask[48:] for ask in scene.asks}) == len(scene.asked) == RATE, "two were asked the same"
    scene.ticks(int(LONGEST + HOLD) + 2)
    assert not scene.follower.trials
    scene.store.close()

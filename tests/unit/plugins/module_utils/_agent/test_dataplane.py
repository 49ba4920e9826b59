# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The data plane between a device (a pair of packet sockets stands in for it) and a real UDP socket on loopback."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from ipaddress import IPv6Address, IPv6Network
from typing import Any

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent import buffers, dataplane, icmp6
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent.dataplane import BATCH, DataPlane
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent.screen import Screen

OURS, PEER, FAR = IPv6Address("2001:db8:f::2"), IPv6Address("2001:db8:f::1"), IPv6Address("2001:db8:1::1")
IDENTIFIER = 4242


class Bench:
    """The kernel's side of the device, the broker's socket, and what the data plane reported."""

    def __init__(self, family: bytes = b"") -> None:
        self.kernel, device = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.kernel.setblocking(False)
        device.setblocking(False)
        self.device = device.detach()
        self.broker = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.broker.bind(("127.0.0.1", 0))
        self.broker.setblocking(False)
        self.echoes: list[icmp6.Echo] = []
        self.troubles: list[OSError] = []
        self.consume = True
        self.plane = DataPlane(self.device, Screen(OURS, IPv6Network("2001:db8:8000::/56")), 1472, PEER, IDENTIFIER, self._echo,
                               self.troubles.append, family=family)
        self.client = self._connected()
        self.plane.attach(self.client)

    def _connected(self) -> socket.socket:
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        client.bind(("127.0.0.1", 0))
        client.connect(self.broker.getsockname())
        client.setblocking(False)
        return client

    def _echo(self, echo: icmp6.Echo) -> bool:
        self.echoes.append(echo)
        return self.consume

    def from_broker(self, data: bytes, sender: socket.socket | None = None) -> None:
        (sender or self.broker).sendto(data, self.client.getsockname())

    async def received(self, sock: socket.socket) -> bytes:
        return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(sock, 65536), 30)

    async def until(self, condition: Callable[[], Any]) -> None:
        async def poll() -> None:
            while not condition():
                await asyncio.sleep(0.002)
        await asyncio.wait_for(poll(), 30)

    def close(self) -> None:
        self.plane.close()
        os.close(self.device)
        self.kernel.close()
        self.broker.close()


@asynccontextmanager
async def bench(family: bytes = b"") -> AsyncIterator[Bench]:
    made = Bench(family)
    try:
        yield made
    finally:
        made.close()


def request(source: IPv6Address = OURS, destination: IPv6Address = FAR, payload: bytes = b"x") -> bytes:
    return icmp6.echo_request(source, destination, 7, 1, payload)


def test_packets_pass_unchanged_but_for_the_label() -> None:
    async def run() -> None:
        async with bench() as b:
            labelled = bytes.fromhex("600123f0") + request()[4:]
            b.kernel.send(labelled)
            assert await b.received(b.broker) == request()
            back = icmp6.echo_request(FAR, OURS, 7, 1, b"y")
            b.from_broker(back)
            assert await b.received(b.kernel) == back
            assert (b.plane.counters["packets_out"], b.plane.counters["packets_in"]) == (1, 1)
    asyncio.run(run())


def test_many_at_once_both_ways_in_order() -> None:
    async def run() -> None:
        async with bench() as b:
            count = BATCH + 17
            out = [request(payload=bytes([n])) for n in range(count)]
            back = [icmp6.echo_request(FAR, OURS, 7, n, b"y") for n in range(count)]
            for packet, answer in zip(out, back):
                b.kernel.send(packet)
                b.from_broker(answer)
            assert [await b.received(b.broker) for _again in out] == out
            assert [await b.received(b.kernel) for _again in back] == back
    asyncio.run(run())


def test_many_in_one_datagram_of_the_kernels_are_looked_at_one_by_one() -> None:
    """UDP_SEGMENT at one end and UDP_GRO at the other: on loopback the kernel hands them over in one piece."""
    async def run() -> None:
        async with bench() as b:
            back = [icmp6.echo_request(FAR, OURS, 7, n, b"y" * 100) for n in range(20)]
            back[7] = icmp6.echo_request(FAR, FAR, 7, 7, b"y" * 100)
            b.broker.connect(b.client.getsockname())
            b.broker.sendmsg(back, [(17, 103, len(back[0]).to_bytes(2, sys.byteorder))])
            del back[7]
            assert [await b.received(b.kernel) for _again in back] == back
            assert b.plane.counters["packets_in"] == 19 and b.plane.counters["dropped_in_spoofed"] == 1
    asyncio.run(run())


def test_a_burst_for_a_kernel_without_segments_goes_one_by_one() -> None:
    async def run() -> None:
        async with bench() as b:
            b.plane._segment = False
            for n in range(3):
                b.kernel.send(request(payload=bytes([n])))
            assert [await b.received(b.broker) for _n in range(3)] == [request(payload=bytes([n])) for n in range(3)]
    asyncio.run(run())


def test_what_may_not_pass_is_counted() -> None:
    async def run() -> None:
        async with bench() as b:
            b.kernel.send(request(source=IPv6Address("2001:db8:bad::1")))
            b.kernel.send(request(source=IPv6Address("fe80::1"), destination=IPv6Address("ff02::2")))
            b.kernel.send(b"\x45" + request()[1:])
            b.from_broker(request(source=OURS, destination=OURS))
            b.from_broker(request(source=FAR, destination=FAR))
            b.from_broker(b"\xf0\x00\x00\xf0\0\0\0\0200 Success\r\n")
            b.from_broker(request(source=FAR, destination=OURS)[:-1])
            stranger = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            b.from_broker(request(source=FAR, destination=OURS), stranger)
            stranger.close()
            b.kernel.send(request())
            b.from_broker(icmp6.echo_request(FAR, OURS, 7, 1))
            assert await b.received(b.broker) == request()
            assert await b.received(b.kernel) == icmp6.echo_request(FAR, OURS, 7, 1)
            c = b.plane.counters
            assert {key: c[key] for key in c if "dropped" in key or "signalling" in key} == {
                "dropped_out_spoofed": 1, "dropped_out_local_only": 1, "dropped_out_malformed": 1, "dropped_in_spoofed": 2,
                "dropped_in_malformed": 1, "signalling_in": 1}
            assert (c["packets_in"], c["packets_out"]) == (1, 1)
    asyncio.run(run())


def test_too_big_is_told_to_the_sender() -> None:
    async def run() -> None:
        async with bench() as b:
            b.plane.renew(Screen(OURS, None), 1300, PEER)
            big = request(payload=b"x" * 1300)
            b.kernel.send(big)
            answer = await b.received(b.kernel)
            assert answer[40] == icmp6.PACKET_TOO_BIG and int.from_bytes(answer[44:48], "big") == 1300
            assert answer[8:24] == PEER.packed and answer[24:40] == OURS.packed
            assert b.plane.counters["too_big"] == 1 and b.plane.counters["packets_out"] == 0
    asyncio.run(run())


def test_our_echo_replies_are_ours_and_others_pass() -> None:
    async def run() -> None:
        async with bench() as b:
            mine = icmp6.echo_reply_to(icmp6.Echo(128, OURS, PEER, IDENTIFIER, 9, b"k"))
            b.from_broker(mine)
            await b.until(lambda: b.echoes)
            assert b.echoes[0].sequence == 9
            b.consume = False  # a user's ping that happens to use our identifier
            b.from_broker(mine)
            assert await b.received(b.kernel) == mine
            damaged = mine[:-1] + b"K"
            b.from_broker(damaged)
            await b.until(lambda: b.plane.counters["dropped_in_malformed"] == 1)
            theirs = icmp6.echo_reply_to(icmp6.Echo(128, OURS, PEER, 7, 9, b"k"))
            b.from_broker(theirs)
            assert await b.received(b.kernel) == theirs
            assert len(b.echoes) == 2
    asyncio.run(run())


def test_a_broker_that_knows_us_no_more_is_reported() -> None:
    async def run() -> None:
        async with bench() as b:
            b.from_broker(b"\xf0\x00\x00\xf0\0\0\0\0200 Success\r\n")
            b.from_broker(b"\xff\xff\xff\xff\0\0\0\0" + b"310 TSP status error\r\n")
            await b.until(lambda: b.troubles)
            assert [str(trouble.strerror) for trouble in b.troubles] == ["the broker answers packets with status 310"]
    asyncio.run(run())


def test_a_broker_that_is_gone_is_reported() -> None:
    async def run() -> None:
        async with bench() as b:
            b.broker.close()
            b.kernel.send(request())
            await b.until(lambda: b.troubles)
            assert isinstance(b.troubles[0], ConnectionRefusedError)
    asyncio.run(run())


def test_without_a_socket_packets_are_dropped_and_another_socket_takes_over() -> None:
    async def run() -> None:
        async with bench() as b:
            b.plane.detach()
            assert not b.plane.attached and not b.plane.send(request())
            b.kernel.send(request())
            await b.until(lambda: b.plane.counters["dropped_out_no_tunnel"] == 1)
            b.client = b._connected()
            b.plane.attach(b.client)
            b.kernel.send(request(payload=b"again"))
            assert await b.received(b.broker) == request(payload=b"again")
            assert b.plane.send(request(payload=b"own")) and await b.received(b.broker) == request(payload=b"own")
    asyncio.run(run())


@pytest.mark.parametrize("family", [28, 24, 30])
def test_packets_stand_behind_their_family_where_the_system_wants_it(family: int) -> None:
    header = bytes((0, 0, 0, family))

    async def run() -> None:
        async with bench(header) as at:
            packet = request()
            at.kernel.send(header + packet)
            assert await at.received(at.broker) == packet
            answer = request(FAR, OURS)
            at.from_broker(answer)
            assert await at.received(at.kernel) == header + answer
            large = request(payload=bytes(1500))
            at.kernel.send(header + large)
            told = await at.received(at.kernel)
            assert told[:4] == header and told[44] == 2  # ICMPv6 Packet Too Big, to the sender
            at.kernel.send(bytes((0, 0, 0, 2)) + b"E" + bytes(40))  # an IPv4 packet is no business of the tunnel's
            await at.until(lambda: any(key.startswith("dropped_out_") for key in at.plane.counters))
    asyncio.run(run())


def test_a_device_that_is_down_is_left_alone_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    read, down = os.read, [True, True]

    async def run() -> None:
        async with bench(b"\0\0\0\x1c") as at:
            def refusing(fd: int, size: int) -> bytes:
                if fd == at.device and down:
                    down.pop()
                    raise OSError(errno.EHOSTDOWN, "Host is down")
                return read(fd, size)
            monkeypatch.setattr(dataplane.os, "read", refusing)
            monkeypatch.setattr(dataplane, "REST", 0.01)
            at.kernel.send(b"\0\0\0\x1c" + request())
            assert await at.received(at.broker) == request()
            assert not down and not at.troubles and not at.plane.counters["device_errors"]
    asyncio.run(run())


class Full(socket.socket):
    """One of a BSD, whose interface has no room at this moment."""

    def send(self, data: Any, flags: int = 0) -> int:
        raise OSError(errno.ENOBUFS, "No buffer space available")


def test_a_full_queue_of_a_bsd_is_no_trouble_with_the_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        async with bench(b"\0\0\0\x1c") as at:
            full = Full(socket.AF_INET, socket.SOCK_DGRAM)
            full.bind(("127.0.0.1", 0))
            full.connect(at.broker.getsockname())
            full.setblocking(False)
            at.plane.attach(full)
            at.kernel.send(b"\0\0\0\x1c" + request())
            await at.until(lambda: at.plane.counters["dropped_out_queue_full"])
            assert not at.plane.send(b"a ping")
            at.client = full

            def refuse(_fd: int, _parts: Any) -> int:
                raise OSError(errno.ENOBUFS, "No buffer space available")
            monkeypatch.setattr(dataplane.os, "writev", refuse)
            at.from_broker(request(FAR, OURS))
            await at.until(lambda: at.plane.counters["dropped_in_queue_full"])
            assert not at.troubles and not at.plane.counters["dropped_out_unreachable"]
    asyncio.run(run())


def test_buffers_that_were_enlarged_by_force_stay_so() -> None:
    """As with the part that has the rights, and then the part that has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        buffers.enlarge(sock)
        before = [sock.getsockopt(socket.SOL_SOCKET, option) for option in buffers.FORCED]
        buffers.enlarge(sock, linux=False)
        assert [sock.getsockopt(socket.SOL_SOCKET, option) for option in buffers.FORCED] == before

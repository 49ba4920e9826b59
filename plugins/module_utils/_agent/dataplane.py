# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""The v6udpv4 data plane in user space: packets between the TUN device and the UDP socket, in batches both ways.

Nearly all of its time goes into calls of the kernel, so each of them is made to move as much as it can: a burst of TCP comes from the
device as one packet, datagrams of one size leave and come in one call (UDP_SEGMENT, UDP_GRO), segments of a burst go to the device as one.

The payload of a datagram is the bare IPv6 packet (tsp-protocol.md section 7). The socket is connected, so the kernel lets nothing
in that does not come from the broker's endpoint.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import sys
from collections import Counter
from collections.abc import Sequence
from ipaddress import IPv6Address
from typing import Callable

from . import gso, icmp6
from .buffers import enlarge
from .screen import MALFORMED, PASS, SIGNALLING, Screen
from .tun import FAMILY_HEADER, has_header

BATCH = 64
"""Calls for packets in one wake-up: enough to be quick, few enough that the other direction gets its turn."""
BATCH_BYTES = 1 << 17
LARGEST = 65536 + 64
SOL_UDP, UDP_SEGMENT, UDP_GRO = 17, 103, 104
SEGMENTS = 64
"""How many datagrams UDP_SEGMENT takes at once, and LONGEST how many bytes, which is what one IPv4 packet may have."""
LONGEST = 65507
ANCILLARY = socket.CMSG_SPACE(4)
UDP_OVERHEAD = 28
IP_MTU = 14
IP_MTU_DISCOVER = 10
PMTUDISC_DONT, PMTUDISC_DO = 0, 2
LINUX = sys.platform.startswith("linux")
"""The numbers of the socket options here are Linux's; the same numbers mean something else on other systems."""
REST = 0.5
"""Seconds until a device that said that it is down is read again."""


class DataPlane:
    """Moves packets while a socket is attached; without one, what the kernel sends into the device is dropped and counted.

    on_echo(echo): an echo reply with our identifier came; True when it answers one of our keepalives and shall not reach the device.
    on_trouble(OSError): the network reports that the broker is unreachable. on_lost(OSError): the device is gone, and is read no more.
    family: what this system has before each packet of the device, both ways: nothing on Linux, the address family elsewhere.
    counters: packets_out, packets_in, bytes_out, bytes_in, too_big, dropped_out_<why>, dropped_in_<why>.
    """

    def __init__(self, tun: int, screen: Screen, mtu: int, broker: IPv6Address, identifier: int,
                 on_echo: Callable[[icmp6.Echo], bool], on_trouble: Callable[[OSError], None],
                 on_lost: Callable[[OSError], None] = lambda _exc: None, family: bytes = FAMILY_HEADER) -> None:
        self._loop = asyncio.get_running_loop()
        self._tun = tun
        self._screen = screen
        self._mtu = mtu
        self._path_mtu = mtu
        self._broker = broker
        self._identifier = identifier
        self._on_echo = on_echo
        self._on_trouble = on_trouble
        self._on_lost = on_lost
        self._socket: socket.socket | None = None
        self._header = has_header(tun)
        self._family = family
        self._skip = gso.VNET.size if self._header else len(family)
        self._resting: asyncio.TimerHandle | None = None
        self._segment = LINUX
        self.counters: Counter[str] = Counter()
        self._loop.add_reader(tun, self._from_tun)

    def renew(self, screen: Screen, mtu: int, broker: IPv6Address) -> None:
        """Another grant on the same device."""
        self._screen, self._mtu, self._path_mtu, self._broker = screen, mtu, mtu, broker

    def attach(self, sock: socket.socket) -> None:
        """Use this connected, non-blocking UDP socket from now on; one in use before is closed."""
        self.detach()
        self._socket = sock
        enlarge(sock)
        if LINUX:
            try:
                sock.setsockopt(SOL_UDP, UDP_GRO, 1)
            except OSError:
                pass  # datagram after datagram will do
        _discover(sock, PMTUDISC_DO)
        self._path_mtu = self._mtu
        self._loop.add_reader(sock.fileno(), self._from_socket)

    def detach(self) -> None:
        """Close the socket, keep the device."""
        if self._socket is not None:
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None

    def close(self) -> None:
        """Close the socket and leave the device to its owner."""
        self.detach()
        self._loop.remove_reader(self._tun)
        if self._resting is not None:
            self._resting.cancel()

    @property
    def attached(self) -> bool:
        """Whether there is a socket."""
        return self._socket is not None

    def send(self, packet: bytes) -> bool:
        """Send a packet of our own (a keepalive); whether the kernel took it."""
        if self._socket is None:
            return False
        try:
            self._socket.send(packet)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as exc:
            if exc.errno != errno.ENOBUFS:  # how a BSD says that a queue is full
                self._on_trouble(exc)
            return False
        return True

    def _from_tun(self) -> None:
        counters, screen = self.counters, self._screen
        leaving: list[gso.Buffer] = []
        moved = 0
        for _turn in range(BATCH):
            try:
                data = os.read(self._tun, LARGEST)
            except (BlockingIOError, InterruptedError):
                break
            except OSError as exc:
                if exc.errno == errno.EHOSTDOWN:
                    self._rest()
                    break
                # EBADFD, EIO: it was deleted under us. (One that is merely down has nothing to read.) It would be readable for ever.
                counters["device_errors"] += 1
                self._loop.remove_reader(self._tun)
                self._on_lost(exc)
                return
            packet = data[self._skip:]
            verdict = screen.outward(packet)
            if verdict != PASS:
                counters[f"dropped_out_{verdict}"] += 1
            elif self._socket is None:
                counters["dropped_out_no_tunnel"] += 1
            else:
                packet = icmp6.without_flow_label(packet)
                parts = gso.finished(data[:self._skip], packet) if self._header else (packet,)
                if parts and len(parts[0]) > self._path_mtu:
                    self._too_big(parts[0])  # and with it the rest of the burst, which is of the same size
                else:
                    leaving += parts
            moved += len(data)
            if moved > BATCH_BYTES:
                break
        if leaving and self._socket is not None:
            self._leave(self._socket, leaving)

    def _rest(self) -> None:
        """A BSD's device that is not up (tun(4)): it may be readable, and yet have nothing to read."""
        self._loop.remove_reader(self._tun)
        self._resting = self._loop.call_later(REST, self._loop.add_reader, self._tun, self._from_tun)

    def _leave(self, sock: socket.socket, packets: list[gso.Buffer]) -> None:
        if not self._segment:
            for packet in packets:
                self._out(sock, packet)
            return
        for run in gso.runs(packets, SEGMENTS, LONGEST):
            if len(run) == 1:
                self._out(sock, run[0])
                continue
            try:
                sent = sock.sendmsg(run, [(SOL_UDP, UDP_SEGMENT, len(run[0]).to_bytes(2, sys.byteorder))])
            except (BlockingIOError, InterruptedError):
                self.counters["dropped_out_queue_full"] += len(run)
                continue
            except OSError as exc:
                # A path that shrank, an error from before, or a kernel or device that cannot: each on its own tells which.
                self._segment = exc.errno not in (errno.EIO, errno.ENOPROTOOPT, errno.EINVAL, errno.EOPNOTSUPP)
                for packet in run:
                    self._out(sock, packet)
                continue
            self.counters["packets_out"] += len(run)
            self.counters["bytes_out"] += sent

    def _out(self, sock: socket.socket, packet: gso.Buffer) -> None:
        try:
            sock.send(packet)
        except (BlockingIOError, InterruptedError):
            self.counters["dropped_out_queue_full"] += 1
            return
        except OSError as exc:
            if exc.errno == errno.EMSGSIZE:
                self._path_shrank(sock, packet)
            elif exc.errno == errno.ENOBUFS:
                self.counters["dropped_out_queue_full"] += 1
            else:
                self.counters["dropped_out_unreachable"] += 1
                self._on_trouble(exc)
            return
        self.counters["packets_out"] += 1
        self.counters["bytes_out"] += len(packet)

    def _path_shrank(self, sock: socket.socket, packet: gso.Buffer) -> None:
        """The path to the broker carries less than thought: say so to the sender, or, where IPv6 asks for less than nothing,
        let IPv4 fragment this one packet."""
        try:
            known = (sock.getsockopt(socket.IPPROTO_IP, IP_MTU) if LINUX else 0) - UDP_OVERHEAD
        except OSError:
            known = icmp6.MINIMUM_MTU
        self._path_mtu = max(icmp6.MINIMUM_MTU, min(self._mtu, known))
        if len(packet) > self._path_mtu:
            self._too_big(packet)
            return
        _discover(sock, PMTUDISC_DONT)
        try:
            sock.send(packet)
            self.counters["packets_out"] += 1
            self.counters["bytes_out"] += len(packet)
        except OSError:
            self.counters["dropped_out_unreachable"] += 1
        finally:
            _discover(sock, PMTUDISC_DO)

    def _too_big(self, packet: gso.Buffer) -> None:
        self.counters["too_big"] += 1
        answer = icmp6.packet_too_big(bytes(packet), self._path_mtu, self._broker)
        if answer is not None:
            self._in(answer)

    def _from_socket(self) -> None:
        sock = self._socket
        if sock is None:
            return
        coming: list[bytes] = []
        moved = 0
        for _turn in range(BATCH):
            try:
                data, ancillary, _flags, _sender = sock.recvmsg(LARGEST, ANCILLARY)
            except (BlockingIOError, InterruptedError):
                break
            except OSError as exc:
                self._on_trouble(exc)
                break
            if ancillary and len(data) > (size := int.from_bytes(ancillary[0][2][:2], sys.byteorder)) > 0:
                for at in range(0, len(data), size):
                    if self._admitted(data[at:at + size]):
                        coming.append(data[at:at + size])
            elif self._admitted(data):
                coming.append(data)
            moved += len(data)
            if moved > BATCH_BYTES or self._socket is not sock:
                break
        if coming:
            self._arrive(coming)

    def _admitted(self, packet: bytes) -> bool:
        """Whether a datagram is for the device; what else it may be is dealt with."""
        verdict = self._screen.inward(packet)
        if verdict != PASS:
            # Late duplicates of the negotiation are no defect of anybody.
            self.counters["signalling_in" if verdict == SIGNALLING else f"dropped_in_{verdict}"] += 1
            if verdict == SIGNALLING and packet[8:11].isdigit() and packet[8:11] >= b"300":
                # A broker that was started anew answers packets so (tsp-protocol.md section 11).
                self._on_trouble(OSError(errno.ECONNRESET, f"the broker answers packets with status {packet[8:11].decode('ascii')}"))
            return False
        if packet[6] == icmp6.ICMPV6 and len(packet) >= 48 and packet[40] == icmp6.ECHO_REPLY and \
                packet[44] << 8 | packet[45] == self._identifier:
            echo = icmp6.parse_echo(packet)
            if echo is None:
                self.counters[f"dropped_in_{MALFORMED}"] += 1
                return False
            return not self._on_echo(echo)
        return True

    def _arrive(self, packets: list[bytes]) -> None:
        self.counters["packets_in"] += len(packets)
        self.counters["bytes_in"] += sum(map(len, packets))
        if not self._header:
            for packet in packets:
                self._in(packet)
            return
        for parts in gso.merged(packets):
            self._write(parts)

    def _in(self, packet: bytes) -> None:
        if self._header:
            self._write((gso.PLAIN, packet))
        else:
            self._write((self._family, packet) if self._family else (packet,))

    def _write(self, parts: Sequence[bytes]) -> None:
        try:
            os.writev(self._tun, parts)
        except (BlockingIOError, InterruptedError):
            self.counters["dropped_in_queue_full"] += 1
        except OSError as exc:
            if exc.errno == errno.ENOBUFS:
                self.counters["dropped_in_queue_full"] += 1
                return
            self.counters["device_errors"] += 1
            if exc.errno not in (errno.EINVAL, errno.EIO, errno.EHOSTDOWN, errno.ENETDOWN):
                self._on_trouble(exc)


def _discover(sock: socket.socket, value: int) -> None:
    """Path MTU discovery on (the outer packet is not fragmented, we hear about it) or off. Only Linux has this; elsewhere IPv4 may
    fragment."""
    if not LINUX:
        return
    try:
        sock.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, value)
    except OSError:
        pass

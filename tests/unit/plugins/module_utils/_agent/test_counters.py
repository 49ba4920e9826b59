# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Packets of a device as the systems tell them, and the share of pings that was lost."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent import counters
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent.counters import (
    Cached,
    Counters,
    Loss,
    from_net_dev,
    from_netstat,
    of_device,
)
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._apply import runner

LINUX = """\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:  123456     789    0    0    0     0          0         0   123456     789    0    0    0     0       0          0
  tsp0: 9876543210    7654    1    2    0     0          0         0  5432   43    3    4    0     0       0          0
tsp0.5: 1 2 0 0 0 0 0 0 3 4 0 0 0 0 0 0
"""
# As the systems print them. FreeBSD and macOS: all with -b; OpenBSD and NetBSD: packets without, bytes with it.
FREEBSD = """\
Name    Mtu Network       Address              Ipkts Ierrs Idrop     Ibytes    Opkts Oerrs     Obytes  Coll
gif0   1280 <Link#3>      gif0                  1204     0     0     118322     1190     2     104720     0
gif0      - fe80::%gif0/6 fe80::a00:27ff:fe        0     -     -          0        2     -        128     -
gif0      - 2001:db8:f::2 2001:db8:f::2         1201     -     -     118000     1180     -     104000     -
"""
FREEBSD_WITHOUT_ADDRESS = """\
Name    Mtu Network       Address              Ipkts Ierrs Idrop     Ibytes    Opkts Oerrs     Obytes  Coll
tun0   1280 <Link#4>                            1204     0     0     118322     1190     2     104720     0
"""
MACOS = """\
Name       Mtu   Network       Address            Ipkts Ierrs     Ibytes    Opkts Oerrs     Obytes  Coll
gif0*      1280  <Link#2>                          1204     0     118322     1190     0     104720     0
"""
OPENBSD = """\
Name    Mtu   Network     Address              Ipkts Ifail    Opkts Ofail Colls
gif0    1280  <Link>                            1204     0     1190     0     0
gif0    1280  2001:db8:f: 2001:db8:f::2         1204     0     1190     0     0
"""
OPENBSD_BYTES = """\
Name    Mtu   Network     Address              Ibytes     Obytes
gif0    1280  <Link>                            118322     104720
gif0    1280  2001:db8:f: 2001:db8:f::2         118322     104720
"""
SAME = Counters(packets_in=1204, packets_out=1190, bytes_in=118322, bytes_out=104720)


def test_linux_says_what_came_in_before_what_went_out() -> None:
    assert from_net_dev(LINUX, "tsp0") == Counters(packets_in=7654, packets_out=43, bytes_in=9876543210, bytes_out=5432)
    assert from_net_dev(LINUX, "tsp0.5") == Counters(packets_in=2, packets_out=4, bytes_in=1, bytes_out=3)
    assert from_net_dev(LINUX, "tsp") is None and from_net_dev(LINUX, "tsp0x5") is None and from_net_dev("", "tsp0") is None


@pytest.mark.parametrize("packets, octets", [(FREEBSD, FREEBSD), (FREEBSD_WITHOUT_ADDRESS.replace("tun0", "gif0"),) * 2, (MACOS, MACOS),
                                             (OPENBSD, OPENBSD_BYTES)], ids=["freebsd", "no address", "macos", "openbsd"])
def test_netstat_is_read_by_its_headings(packets: str, octets: str) -> None:
    assert from_netstat(packets, octets, "gif0") == SAME
    assert from_netstat(packets, octets, "gif1") is None


@pytest.mark.parametrize("text", ["", "netstat: gif0: no such interface\n", "Name Mtu\n", "Name Mtu\ngif0 1280\n", OPENBSD])
def test_what_netstat_does_not_say_is_not_made_up(text: str) -> None:
    assert from_netstat(text, text, "gif0") is None


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads what Linux says")
def test_this_host_counts_what_passes_its_loopback() -> None:
    before = of_device("lo")
    assert before is not None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.sendto(bytes(1000), sock.getsockname())
        sock.recv(2000)
    after = of_device("lo")
    assert after is not None and after.packets_in > before.packets_in and after.bytes_out >= before.bytes_out + 1000
    assert of_device("no-such-device") is None


def test_where_asking_is_dear_it_is_done_seldom() -> None:
    asked: list[str] = []

    def read(device: str) -> None:
        asked.append(device)

    cached = Cached(15.0, read)
    for now, device in ((100.0, "gif0"), (105.0, "gif0"), (115.0, "gif0"), (116.0, "tun0")):
        cached.get(device, now)
    assert asked == ["gif0", "gif0", "tun0"]


def test_loss_is_of_the_last_hundred_pings() -> None:
    loss = Loss()
    assert loss.ratio(0, 0, 0.0) is None
    now, answered = 0.0, 0
    for sent in range(1, 301):
        now += 25
        answered += sent > 50 and sent % 4 != 0  # the first fifty are lost, of the others every fourth
        ratio = loss.ratio(sent, answered, now + 10)
        if sent == 40:
            assert ratio == 1.0
        if sent == 100:
            assert ratio == pytest.approx(0.62, abs=0.01)
    assert ratio == 0.25


def test_a_ping_that_may_still_be_answered_is_not_lost() -> None:
    loss = Loss()
    assert loss.ratio(1, 0, 10.0) is None
    assert loss.ratio(1, 1, 10.1) == 0.0
    assert loss.ratio(2, 1, 40.0) == 0.0 and loss.ratio(2, 1, 44.0) == 0.0
    assert loss.ratio(2, 1, 45.0) == 0.5


def test_numbers_that_begin_anew_are_believed() -> None:
    loss = Loss()
    assert loss.ratio(50, 10, 0.0) == 0.8
    assert loss.ratio(2, 2, 10.0) == 0.0


def test_elsewhere_than_on_linux_netstat_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "netstat"
    program.write_text(f'#!/bin/sh\n[ "$1 $2" = "-I gif0" ] || exit 1\ncat <<"EOT"\n{FREEBSD}EOT\n')
    program.chmod(0o755)
    monkeypatch.setattr(sys, "platform", "freebsd14")
    monkeypatch.setitem(runner.ENVIRONMENT, "PATH", f"{tmp_path}:/usr/bin:/bin")
    assert of_device("gif0") == SAME
    assert of_device("gif1") is None
    monkeypatch.setattr(counters, "_may_run", True)
    counters.without_programs()
    assert of_device("gif0") is None
    monkeypatch.setattr(counters, "_may_run", True)
    assert of_device("gif0") == SAME
    program.unlink()
    monkeypatch.setitem(runner.ENVIRONMENT, "PATH", str(tmp_path))
    assert of_device("gif0") is None

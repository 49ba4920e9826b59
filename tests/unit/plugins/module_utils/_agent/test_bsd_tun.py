# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""tun devices of the BSDs and utun of macOS: numbers and layouts as their headers have them, and what is said when there are none."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent.bsd import tundev
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent.bsd.systems import SYSTEMS, device_name, system_of
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.errors import LocalError


def test_requests_to_the_kernel_have_their_numbers() -> None:
    """As the preprocessor computes them there: net/if_tun.h of FreeBSD and NetBSD, sys/kern_control.h of macOS."""
    assert SYSTEMS["freebsd"].head == 0x80047460
    assert SYSTEMS["freebsd"].transient == 0x80047462
    assert SYSTEMS["netbsd"].head == 0x80047442
    assert SYSTEMS["openbsd"].head is None and SYSTEMS["darwin"].head is None
    assert tundev.CTLIOCGINFO == 0xC0644E03
    assert tundev.CTL_INFO.size == 100


@pytest.mark.parametrize(("system", "header"), [("freebsd", "0000001c"), ("openbsd", "00000018"), ("netbsd", "00000018"),
                                                ("darwin", "0000001e")])
def test_packets_stand_behind_the_family_in_network_order(system: str, header: str) -> None:
    assert SYSTEMS[system].header == bytes.fromhex(header)


@pytest.mark.parametrize(("platform", "name"), [("freebsd14", "FreeBSD"), ("openbsd7", "OpenBSD"), ("netbsd10", "NetBSD"),
                                                ("darwin", "macOS"), ("linux", None), ("sunos5", None)])
def test_systems_are_known_by_their_platform(platform: str, name: str | None) -> None:
    found = system_of(platform)
    assert (found.name if found else None) == name


@pytest.mark.parametrize(("system", "wanted", "tun", "gif"), [
    ("freebsd", "tsp0", "tun40", "gif40"), ("freebsd", "tsp12", "tun52", "gif52"), ("freebsd", "tun3", "tun3", "gif3"),
    ("freebsd", "gif7", "tun7", "gif7"), ("openbsd", "tsp0", "tun3", "gif40"), ("openbsd", "tsp1", "tun2", "gif41"),
    ("openbsd", "tsp9", "tun49", "gif49"), ("netbsd", "tsp0", "tun3", "gif40"), ("netbsd", "tun1", "tun1", "gif1"),
    ("darwin", "tsp0", "utun40", "gif40"), ("darwin", "utun9", "utun9", "gif9"), ("darwin", "ipv6-broker", "utun40", "gif40")])
def test_the_number_of_a_device_is_the_configurations_the_rest_is_the_systems(system: str, wanted: str, tun: str, gif: str) -> None:
    assert device_name(SYSTEMS[system], wanted, "tun") == tun
    assert device_name(SYSTEMS[system], wanted, "sit") == gif


@pytest.mark.parametrize("wanted", ["", "../tun0", "tun 0", "a" * 16, "tsp;0"])
def test_a_name_that_is_none_is_refused(wanted: str) -> None:
    with pytest.raises(LocalError) as caught:
        device_name(SYSTEMS["freebsd"], wanted, "tun")
    assert caught.value.code == "bad_device"


class Ioctl:
    """In place of the kernel's."""

    def __init__(self, *refused: int) -> None:
        self.calls: list[tuple[int, Any]] = []
        self._refused = refused

    def __call__(self, _fd: int, request: int, data: Any = 0) -> Any:
        if request in self._refused:
            raise OSError(errno.ENOTTY, "Inappropriate ioctl for device")
        self.calls.append((request, data))
        return tundev.CTL_INFO.pack(17, tundev.CTL_NAME) if request == tundev.CTLIOCGINFO else data


@pytest.mark.parametrize(("system", "calls"), [
    ("freebsd", [(0x80047460, b"\1\0\0\0"), (0x80047462, b"\1\0\0\0")]), ("netbsd", [(0x80047442, b"\1\0\0\0")]), ("openbsd", [])])
def test_a_device_is_opened_and_told_to_name_families(system: str, calls: list[tuple[int, bytes]], tmp_path: Path,
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tun3").touch()
    ioctl = Ioctl()
    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    device, goes = tundev.open_device(SYSTEMS[system], "tun3", str(tmp_path))
    try:
        assert device.name == "tun3" and not os.get_blocking(device.fd) and not os.get_inheritable(device.fd)
        assert ioctl.calls == calls
        assert goes is (system != "netbsd")
    finally:
        device.close()


def test_a_freebsd_that_keeps_its_devices_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tun40").touch()
    monkeypatch.setattr(fcntl, "ioctl", Ioctl(0x80047462))
    device, goes = tundev.open_device(SYSTEMS["freebsd"], "tun40", str(tmp_path))
    device.close()
    assert not goes


def test_a_device_that_names_no_families_is_closed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tun40").touch()
    monkeypatch.setattr(fcntl, "ioctl", Ioctl(0x80047460))
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(LocalError) as caught:
        tundev.open_device(SYSTEMS["freebsd"], "tun40", str(tmp_path))
    assert caught.value.code == "no_tun"
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(("number", "code"), [(errno.ENOENT, "no_tun"), (errno.ENXIO, "no_tun"), (errno.EACCES, "not_permitted"),
                                              (errno.EBUSY, "device_busy")])
def test_why_there_is_no_device_is_said_with_what_to_do(number: int, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: Any) -> int:
        raise OSError(number, os.strerror(number))
    monkeypatch.setattr(tundev.os, "open", refuse)
    with pytest.raises(LocalError) as caught:
        tundev.open_device(SYSTEMS["openbsd"], "tun3")
    assert caught.value.code == code and caught.value.hint
    if code == "no_tun":
        assert "MAKEDEV tun3" in caught.value.hint


class Control:
    """In place of a kernel control socket of macOS. given: the name that the kernel tells."""

    given = b"utun40\0"
    busy = False
    made: list[Control] = []

    def __init__(self, *arguments: int) -> None:
        assert arguments == (32, socket.SOCK_DGRAM, 2)
        self.address: Any = None
        self.closed = False
        self.blocking = True
        Control.made.append(self)

    def fileno(self) -> int:
        return 99

    def connect(self, address: Any) -> None:
        if Control.busy:
            raise OSError(errno.EBUSY, "Resource busy")
        self.address = address

    def getsockopt(self, level: int, option: int, size: int) -> bytes:
        assert (level, option) == (2, 2) and size >= 16
        return self.given

    def setblocking(self, blocking: bool) -> None:
        self.blocking = blocking

    def close(self) -> None:
        self.closed = True

    def detach(self) -> int:
        return -1


@pytest.fixture(name="control")
def _control(monkeypatch: pytest.MonkeyPatch) -> type[Control]:
    monkeypatch.setattr(fcntl, "ioctl", Ioctl())
    monkeypatch.setattr(socket, "socket", Control)
    monkeypatch.setattr(Control, "made", [])
    return Control


def test_a_utun_is_asked_for_by_its_number_and_one(control: type[Control]) -> None:
    device, goes = tundev.open_device(SYSTEMS["darwin"], "utun40")
    assert device.name == "utun40" and goes
    assert control.made[0].address == (17, 41) and not control.made[0].blocking


def test_a_utun_of_another_name_or_in_use_is_not_ours(control: type[Control], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "given", b"utun4\0")
    with pytest.raises(LocalError) as caught:
        tundev.open_device(SYSTEMS["darwin"], "utun40")
    assert caught.value.code == "device_busy"
    monkeypatch.setattr(control, "busy", True)
    with pytest.raises(LocalError) as caught:
        tundev.open_device(SYSTEMS["darwin"], "utun40")
    assert caught.value.code == "device_busy"
    assert all(made.closed for made in control.made)

# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Sockets leave from where they were told to, and say so when they cannot."""

from __future__ import annotations

import socket
from ipaddress import ip_address

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._exchange.source import Source, is_own, open_socket, own_address
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.errors import LocalError

LOCAL = ip_address("127.0.0.1")


def failing(source, kind=socket.SOCK_DGRAM, peer=LOCAL):
    with pytest.raises(LocalError) as caught:
        open_socket(kind, peer, source)
    assert caught.value.hint
    return caught.value.code


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM])
def test_source_address(kind):
    with open_socket(kind, LOCAL, Source(address="127.0.0.2")) as sock:
        assert sock.getsockname()[0] == "127.0.0.2" and sock.getblocking() is False
    assert failing(Source(address="192.0.2.77"), kind) == "source_address_unusable"


def test_source_port_is_for_udp_only():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("0.0.0.0", 0))
        port = probe.getsockname()[1]
        assert failing(Source(port=port)) == "source_port_in_use"
    with open_socket(socket.SOCK_DGRAM, LOCAL, Source(port=port)) as sock:
        assert sock.getsockname()[1] == port
    with open_socket(socket.SOCK_STREAM, LOCAL, Source(port=port)) as sock:
        assert sock.getsockname()[1] == 0


def test_tcp_never_waits_to_fill_a_segment():
    with open_socket(socket.SOCK_STREAM, LOCAL, Source()) as sock:
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@pytest.mark.skipif(not hasattr(socket, "SO_BINDTODEVICE"), reason="binding to an interface is a thing of Linux")
def test_source_interface(monkeypatch):
    with open_socket(socket.SOCK_DGRAM, LOCAL, Source(interface="lo")) as sock:
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, 16).rstrip(b"\0") == b"lo"
    assert failing(Source(interface="nosuch0")) == "source_interface_unknown"
    real = socket.socket.setsockopt

    def forbidden(self, level, option, value):
        if option == socket.SO_BINDTODEVICE:
            raise PermissionError(1, "Operation not permitted")
        real(self, level, option, value)

    monkeypatch.setattr(socket.socket, "setsockopt", forbidden)
    assert failing(Source(interface="lo")) == "source_interface_forbidden"


def test_a_system_that_cannot_bind_to_an_interface(monkeypatch):
    monkeypatch.delattr(socket, "SO_BINDTODEVICE", raising=False)
    assert failing(Source(interface="lo")) == "source_interface_unsupported"


def test_no_sockets_left(monkeypatch):
    def none(*_args):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(socket, "socket", none)
    assert failing(Source()) == "no_socket"


def test_the_own_address_is_the_one_that_the_kernel_would_choose():
    assert own_address(LOCAL, Source()) == LOCAL
    assert own_address(LOCAL, Source(address="127.0.0.3")) == ip_address("127.0.0.3")
    assert own_address(LOCAL, Source(address="192.0.2.77")) is None
    assert own_address(LOCAL, Source(interface="nosuch0")) is None
    assert is_own(LOCAL) and not is_own(ip_address("192.0.2.77"))

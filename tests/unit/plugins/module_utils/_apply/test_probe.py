# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The proof by ping, over loopback where raw sockets are allowed, and what it says when nothing comes back."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
from pathlib import Path

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._apply import probe as probing
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._apply.diff import file_diff
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._apply.plan import FileChange, Probe
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._apply.probe import explain, ping
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._apply.runner import FileState


def may_ping(address: str) -> bool:
    version = socket.AF_INET6 if ":" in address else socket.AF_INET
    protocol = socket.IPPROTO_ICMPV6 if ":" in address else socket.IPPROTO_ICMP
    for kind in (socket.SOCK_RAW, socket.SOCK_DGRAM):
        try:
            socket.socket(version, kind, protocol).close()
        except OSError:
            continue
        with socket.socket(version, socket.SOCK_DGRAM) as handle:
            try:
                handle.bind((address, 0))
            except OSError:
                return False
        return True
    return False


@pytest.mark.parametrize("address", ["::1", "127.0.0.1"])
def test_a_reply_is_proof(address: str) -> None:
    if not may_ping(address):
        result = ping(Probe(address, timeout=0.2))
        assert not result.proved and result.reason
        return
    result = ping(Probe(address, source=address, interface="lo", count=3, timeout=20))
    assert result.proved and result.received == 3 and result.rtt_ms is not None and 0 < result.rtt_ms < 5000
    assert result.to_dict()["target"] == address


class FarEnd(threading.Thread):
    """Answers echo requests from a socket of its own, each one request late; the first `deaf` sockets are never answered."""

    def __init__(self, deaf: int) -> None:
        super().__init__(daemon=True)
        self._deaf = deaf
        self._ends: list[socket.socket] = []
        self._ready = threading.Event()

    def open(self, _probe: Probe) -> socket.socket:
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)  # ends when we close
        self._ends.append(far)
        if len(self._ends) > self._deaf:
            self._ready.set()
        return near

    def run(self) -> None:
        self._ready.wait()
        late = b""
        with contextlib.suppress(ConnectionError):  # nobody waits any more
            while request := self._ends[-1].recv(2048):
                if late:
                    self._ends[-1].send(bytes([129]) + late[1:])
                late = request

    def close(self) -> None:
        for end in self._ends:
            end.close()


@pytest.mark.parametrize("deaf", [0, 1], ids=["a slow path", "an address that was replaced meanwhile"])
def test_a_late_reply_is_proof_too(deaf: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path may take longer than we wait before the next request, and the tunnel may get another address while it is proved."""
    far = FarEnd(deaf)
    monkeypatch.setattr(probing, "open_socket", far.open)
    monkeypatch.setattr(probing, "SPACING", 0.05)
    far.start()
    result = ping(Probe("2001:db8::1", timeout=60))
    far.join(60)
    far.close()
    assert result.proved and result.rtt_ms is not None and result.rtt_ms >= 50


def test_silence_is_no_proof() -> None:
    result = ping(Probe("2001:db8:dead::1", timeout=0.3))
    assert not result.proved and result.rtt_ms is None and result.reason


def test_a_missing_interface_is_named() -> None:
    if not may_ping("127.0.0.1"):
        pytest.skip("this user may not open ping sockets")
    result = ping(Probe("127.0.0.1", interface="nonesuch0", timeout=0.2))
    assert not result.proved and result.reason == "there is no interface nonesuch0"


def test_the_agents_last_error_explains(tmp_path: Path) -> None:
    status = tmp_path / "status.json"
    probe = Probe("2001:db8::1", status_file=str(status))
    assert "did not start" in explain(probe)
    status.write_text(json.dumps({"state": "waiting", "last_error": {"message": "The broker refused the password.", "hint": "Check it."}}))
    assert explain(probe) == "state waiting. The broker refused the password. Check it."
    status.write_text("[")
    assert explain(probe)
    assert explain(Probe("2001:db8::1")) == ""


def test_diff_shows_text_and_hides_secrets() -> None:
    change = FileChange("/etc/x", b"new\n", 0o600)
    diff = file_diff(change, FileState(b"old\n", 0o644, 0, 0))
    assert (diff["before"], diff["after"], diff["after_header"]) == ("old\n", "new\n", "/etc/x mode 0600")
    secret = FileChange("/etc/x", b"swordfish", 0o600, secret=True)
    for before in (None, FileState(b"hunter2", 0o600, 0, 0), FileState(b"swordfish", 0o644, 0, 0)):
        shown = str(file_diff(secret, before))
        assert "swordfish" not in shown and "hunter2" not in shown
    assert "(secret, changed)" in str(file_diff(secret, FileState(b"hunter2", 0o600, 0, 0)))
    assert file_diff(FileChange("/etc/x", None), FileState(b"\0\1", 0o644, 0, 0))["before"].startswith("(binary, 2 bytes")
    moded = file_diff(FileChange("/etc/x", b"same", 0o600), FileState(b"same", 0o644, 0, 0))
    assert (moded["before"], moded["after"]) == ("mode 0644\n", "mode 0600\n")


@pytest.mark.parametrize(("linux", "passes"), [(True, False), (False, True)])
def test_only_echo_replies_reach_a_raw_socket_whatever_a_set_bit_means(linux: bool, passes: bool) -> None:
    words = struct.unpack("@8I", probing.only(129, linux))
    assert [kind for kind in range(256) if bool(words[kind >> 5] >> (kind & 31) & 1) is passes] == [129]

# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The part of the agent that changes the host, asked over a socket by the part that may not: what it does, and what it refuses."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import struct
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent.applier import serve, wire
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent.applier.host import HostApplier
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent.applier.remote import Channel, RemoteApplier
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent.config import parse
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent.settings import CREATION, TEARDOWN, AgentConfig
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.errors import ApplyError, LocalError, TspError
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.lease import Lease
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._agent.test_link import FakeKernel

T = TypeVar("T")


def lease(**changes: Any) -> Lease:
    return Lease.from_dict({
        "schema": 1, "broker": "192.0.2.1", "transport": "udp", "protocol_version": "2.0.2", "auth_method": "anonymous",
        "username": None, "mode": "v6v4", "client": {"ipv4": "192.0.2.20", "ipv6": "2001:db8:f::2", "udp_port": 40000},
        "server": {"ipv4": "192.0.2.1", "ipv6": "2001:db8:f::1", "udp_port": 3653}, "prefix": None, "dns_servers": [],
        "keepalive": {"interval": 30, "address": None}, "lifetime": 3600, "obtained_at": "2026-01-01T00:00:00Z",
        "request": {"mode": "v6anyv4"}, **changes})


class Stage:
    """A host in memory, its applier in a thread, and the side that asks."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        # What only the main thread may do: the process has no other.
        monkeypatch.setattr(serve.signal, "signal", lambda *_arguments: None)
        self.kernel = FakeKernel()
        self.before = self.kernel.picture()
        self.hooks: list[tuple[str, str]] = []
        self.hook_fails = False
        self.folder = folder
        (folder / "run-apply").mkdir(mode=0o700)
        self.config = self.configured()
        self.log = logging.getLogger(f"applier-{folder}")
        self.log.setLevel(logging.DEBUG)
        self.ours = logging.getLogger(f"asks-{folder}")

    def configured(self, **changes: Any) -> AgentConfig:
        return parse({"request": {"mode": "v6anyv4"}, "broker": {"brokers": ["192.0.2.1"], "auth_method": "anonymous"},
                      "lease_file": str(self.folder / "lease"), "state_dir": str(self.folder), "runtime_dir": str(self.folder / "run"),
                      **changes})

    def hook(self, _config: AgentConfig, given: Lease, operation: str, _log: logging.Logger) -> None:
        self.hooks.append((operation, str(given.grant.client.ipv6)))
        if self.hook_fails:
            raise ApplyError("hook_failed", "The script said: no.")

    def play(self, act: Callable[[RemoteApplier, socket.socket], Awaitable[T]]) -> T:
        """Do `act`, with the applier and the raw socket to it; then end, and wait until the applier has."""
        ours, theirs = socket.socketpair()
        host = HostApplier(self.config, self.kernel, self.log, hook=self.hook, platform="linux")
        thread = threading.Thread(target=serve.serve, args=(theirs, {"tsp": host}, self.log))
        thread.start()

        async def run() -> T:
            channel = Channel(ours, lambda: None, self.ours)
            try:
                return await act(RemoteApplier(channel, "tsp"), ours)
            finally:
                channel.let_go()
        try:
            return asyncio.run(run())
        finally:
            ours.close()
            thread.join(30)
            assert not thread.is_alive(), "it ends when nobody asks any more"


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    yield Stage(tmp_path, monkeypatch)


def test_a_tunnel_is_set_up_and_taken_down(stage: Stage) -> None:
    async def act(applier: RemoteApplier, _sock: socket.socket) -> None:
        assert await applier.recover() is False
        made = await applier.set_up(lease(), "sit", None)
        assert made.name == "tsp0" and made.device is None and made.numbers["address"] == "2001:db8:f::2"
        assert any("type sit" in line for line in made.done)
        assert stage.kernel.links["tsp0"]["up"]
        assert await applier.take_down()
        assert stage.kernel.picture() == stage.before
    stage.play(act)


def test_the_end_of_who_asks_takes_the_tunnel_away(stage: Stage) -> None:
    async def act(applier: RemoteApplier, _sock: socket.socket) -> None:
        await applier.set_up(lease(), "sit", None)
        assert stage.kernel.picture() != stage.before
    stage.play(act)
    assert stage.kernel.picture() == stage.before
    assert not os.listdir(stage.folder / "run-apply"), "nothing is left to undo"


@pytest.mark.parametrize("bad", [
    lease(request={"mode": "v6udpv4"}),
    lease(username="mallory", auth_method="plain"),
    lease(mode="v4v6", client={"ipv4": "192.0.2.20", "ipv6": "2001:db8:f::2", "udp_port": None})])
def test_a_lease_that_was_not_asked_for_changes_nothing(stage: Stage, bad: Lease) -> None:
    async def act(applier: RemoteApplier, _sock: socket.socket) -> None:
        for work in (applier.set_up(bad, "sit", None), applier.save(bad)):
            with pytest.raises(LocalError) as caught:
                await work
            assert caught.value.code == "lease_refused"
    stage.play(act)
    assert stage.kernel.ran == [] and not (stage.folder / "lease").exists()


@pytest.mark.parametrize("message", [
    {}, {"tunnel": "other", "verb": "take_down"}, {"tunnel": "tsp", "verb": "run"}, {"tunnel": "tsp", "verb": "_prepare"},
    {"tunnel": "tsp", "verb": "set_up", "kind": "sit"}, {"tunnel": "tsp", "verb": "set_up", "lease": "x; reboot", "kind": "sit"},
    {"tunnel": "tsp", "verb": "set_up", "lease": lease().to_dict(), "kind": "fou"},
    {"tunnel": "tsp", "verb": "set_up", "lease": {**lease().to_dict(), "client": {"ipv4": "$(id)", "ipv6": "::1"}}, "kind": "sit"},
    {"tunnel": "tsp", "verb": "save", "lease": {**lease().to_dict(), "obtained_at": "never"}}])
def test_what_is_no_lease_is_refused_and_answered(stage: Stage, message: dict[str, Any]) -> None:
    async def act(applier: RemoteApplier, sock: socket.socket) -> None:
        sock.sendall(wire.pack(message))
        asyncio.get_running_loop().remove_reader(sock.fileno())
        answer = wire.receive(sock)
        assert answer is not None and answer[0]["error"]["code"] in ("request_refused", "lease_invalid", "lease_refused"), answer
    stage.play(act)
    assert stage.kernel.ran == [] and not (stage.folder / "lease").exists()


@pytest.mark.parametrize("data", [b"\xff\xff\xff\xff", struct.pack("!I", 5) + b"[1,2]", struct.pack("!I", 3) + b"\x80\x81\x82", b"\0"])
def test_whoever_does_not_keep_to_the_form_is_not_answered_and_leaves_nothing(stage: Stage, data: bytes) -> None:
    async def act(applier: RemoteApplier, sock: socket.socket) -> None:
        await applier.set_up(lease(), "sit", None)
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
    stage.play(act)
    assert stage.kernel.picture() == stage.before


def test_errors_cross_with_kind_code_and_hint(stage: Stage) -> None:
    stage.kernel.refuse = "type sit"

    async def act(applier: RemoteApplier, _sock: socket.socket) -> TspError:
        with pytest.raises(TspError) as caught:
            await applier.set_up(lease(), "sit", None)
        return caught.value
    error = stage.play(act)
    assert isinstance(error, ApplyError) and error.code == "tunnel_refused"
    assert "Operation not permitted" in error.message and "module" in error.hint
    assert stage.kernel.picture() == stage.before


def test_the_lease_file_is_written_for_who_may_not(stage: Stage) -> None:
    async def act(applier: RemoteApplier, _sock: socket.socket) -> Lease | None:
        assert await applier.load() is None
        await applier.save(lease())
        return await applier.load()
    assert stage.play(act) == lease()
    assert (stage.folder / "lease").stat().st_mode & 0o777 == 0o600
    (stage.folder / "lease").write_text("{")

    async def broken(applier: RemoteApplier, _sock: socket.socket) -> None:
        with pytest.raises(LocalError) as caught:
            await applier.load()
        assert caught.value.code == "lease_invalid"
    stage.play(broken)


def test_only_the_last_copy_of_the_port_is_given_to_the_kernel(stage: Stage) -> None:
    """The socket of the exchange is closed everywhere before the kernel takes its port."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    port = sock.getsockname()[1]
    free: list[bool] = []
    run = stage.kernel.run

    def watched(argv: Any) -> Any:
        if list(argv[:3]) == ["ip", "fou", "add"]:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                try:
                    probe.bind(("127.0.0.1", port))
                    free.append(True)
                except OSError:
                    free.append(False)
        return run(argv)
    stage.kernel.run = watched  # type: ignore[method-assign]

    async def act(applier: RemoteApplier, _sock: socket.socket) -> None:
        granted = lease(mode="v6udpv4", client={"ipv4": "127.0.0.1", "ipv6": "2001:db8:f::2", "udp_port": port})
        made = await applier.set_up(granted, "fou", sock)
        assert any("fou add" in line for line in made.done)
        await applier.free_port()
        assert stage.kernel.ports == []
    stage.play(act)
    assert free == [True] and sock.fileno() < 0


def test_what_is_logged_there_is_told_here(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    stage.config = stage.configured(hooks={"script": "/bin/true"})
    stage.hook_fails = True

    async def act(applier: RemoteApplier, _sock: socket.socket) -> None:
        await applier.set_up(lease(), "sit", None)
    with caplog.at_level(logging.DEBUG, stage.ours.name):
        stage.play(act)
    assert any("The script said: no." in record.getMessage() for record in caplog.records)


def test_hooks_hear_of_another_grant_and_of_no_renewal(stage: Stage) -> None:
    stage.config = stage.configured(hooks={"script": "/bin/true"})
    other = {"ipv4": "192.0.2.20", "ipv6": "2001:db8:f::3", "udp_port": 40000}

    async def act(applier: RemoteApplier, _sock: socket.socket) -> None:
        await applier.set_up(lease(), "sit", None)
        await applier.set_up(lease(lifetime=7200, obtained_at="2026-01-01T00:30:00Z"), "sit", None)
        await applier.set_up(lease(client=other), "sit", None)
    stage.play(act)
    assert stage.hooks == [(CREATION, "2001:db8:f::2"), (CREATION, "2001:db8:f::3"), (TEARDOWN, "2001:db8:f::3")]


def test_a_script_that_sets_up_does_it_alone(stage: Stage) -> None:
    stage.config = stage.configured(hooks={"script": "/bin/true", "script_sets_up": True})
    other = {"ipv4": "192.0.2.20", "ipv6": "2001:db8:f::3", "udp_port": 40000}

    async def act(applier: RemoteApplier, _sock: socket.socket) -> None:
        made = await applier.set_up(lease(), "sit", None)
        assert made.done == [] and stage.kernel.ran == []
        await applier.set_up(lease(client=other), "sit", None)
        stage.hook_fails = True
        with pytest.raises(ApplyError) as caught:
            await applier.set_up(lease(), "sit", None)
        assert caught.value.code == "hook_failed"
    stage.play(act)
    old, new = "2001:db8:f::2", "2001:db8:f::3"
    assert stage.hooks[:3] == [(CREATION, old), (TEARDOWN, old), (CREATION, new)]


def test_a_program_that_talks_without_an_end_does_not_end_the_agent(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    stage.config = stage.configured(hooks={"script": "/bin/true"})

    def hook(_config: AgentConfig, _lease: Lease, operation: str, log: logging.Logger) -> None:
        if operation == CREATION:
            for number in range(20000):
                log.getChild("tsp").info("%05d \1%s", number, "\1" * 60)
    stage.hook = hook  # type: ignore[method-assign]

    async def act(applier: RemoteApplier, _sock: socket.socket) -> None:
        assert (await applier.set_up(lease(), "sit", None)).name == "tsp0"
        assert await applier.load() is None, "the next question is answered as well"
    with caplog.at_level(logging.DEBUG):
        stage.play(act)
    told = [record for record in caplog.records if record.getMessage().startswith("00000 ") and record.name.startswith("asks-")]
    assert [record.name for record in told] == [f"{stage.ours.name}.tsp"], "of which tunnel it is, is told as well"
    assert any("lines more were left out" in record.getMessage() for record in caplog.records)


def test_whoever_stops_waiting_does_not_confuse_the_next(stage: Stage) -> None:
    async def act(applier: RemoteApplier, _sock: socket.socket) -> None:
        work = asyncio.ensure_future(applier.load())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        work.cancel()
        made = await applier.set_up(lease(), "sit", None)
        assert made.name == "tsp0"
        assert await applier.load() is None
    stage.play(act)


def test_the_answer_of_a_dead_applier_is_an_error(stage: Stage) -> None:
    ours, theirs = socket.socketpair()

    async def run() -> list[str]:
        gone: list[str] = []
        applier = RemoteApplier(Channel(ours, lambda: gone.append("gone"), stage.log), "tsp")
        theirs.close()
        for _turn in range(2):
            with pytest.raises(LocalError) as caught:
                await applier.recover()
            assert caught.value.code == "applier_gone"
        return gone
    assert asyncio.run(run()) == ["gone"]
    ours.close()


def test_a_message_comes_whole_in_whatever_pieces(stage: Stage) -> None:
    ours, theirs = socket.socketpair()
    data = wire.pack({"text": "ä" * 5000})

    def drip() -> None:
        for start in range(0, len(data), 7):
            ours.sendall(data[start:start + 7])
    thread = threading.Thread(target=drip)
    thread.start()
    got = wire.receive(theirs)
    thread.join()
    assert got == ({"text": "ä" * 5000}, []) and json.loads(data[4:]) == got[0]
    ours.close()
    assert wire.receive(theirs) is None
    theirs.close()

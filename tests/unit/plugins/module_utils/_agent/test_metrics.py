# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What Prometheus gets to see of an agent, by file and by HTTP."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import stat
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent import exposition, metrics
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent.counters import Cached, Counters
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent.settings import AgentConfig, MetricsConfig
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent.status import Facts, Status
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._exchange.options import ExchangeOptions
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.errors import LocalError, NetworkError
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.lease import Lease
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.request import TunnelRequest
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._agent._exposition import parse

NOW = datetime(2026, 11, 23, 12, 0, 0, tzinfo=timezone.utc)
LEASE = Lease.from_dict({
    "schema": 1, "broker": "192.0.2.1", "transport": "udp", "protocol_version": "2.0.2", "auth_method": "anonymous", "username": None,
    "mode": "v6udpv4", "client": {"ipv4": "192.0.2.20", "ipv6": "2001:db8:f::2", "udp_port": 40000},
    "server": {"ipv4": "192.0.2.1", "ipv6": "2001:db8:f::1", "udp_port": 3653}, "prefix": None, "dns_servers": [],
    "keepalive": {"interval": 30, "address": None}, "lifetime": 3600, "obtained_at": "2026-11-23T11:30:00Z",
    "request": {"mode": "v6anyv4"}})
UP = Facts("tsp", "tsp0", "up", NOW - timedelta(hours=1), NOW, 1000.0, lease=LEASE, numbers={"mtu": 1472}, data_plane="tun", counters={
    "packets_in": 10, "packets_out": 20, "bytes_in": 1000, "bytes_out": 2000, "dropped_out_spoofed": 3, "dropped_in_queue_full": 4,
    "too_big": 5}, last_rtt=0.0123456, pings_sent=4, pings_answered=3, negotiations=2, lost_count=1,
    nat={"behind": True, "lifetime": 30.5, "said": ""})
DOWN = Facts("away", "tsp1", "waiting", NOW, NOW, 1000.0, failures=2, error=NetworkError("no_reply", "Nothing came back.").to_dict())


def built(facts: Facts = UP) -> dict[str, Any]:
    return Status(NOW, Cached(0.0, lambda _device: Counters(1, 2, 3, 4))).build(facts)


def config(**where: str) -> AgentConfig:
    return AgentConfig("tsp", "tsp0", TunnelRequest(mode="v6anyv4"), ExchangeOptions(brokers=("192.0.2.1",)),
                       metrics=MetricsConfig(**where))


def value(data: bytes, name: str, **labels: str) -> float | None:
    """Of the series that has these labels, whatever others it has."""
    found = [number for (family, pairs), number in parse(data).items() if family == f"tsp_agent_{name}" and set(labels.items()) <= pairs]
    assert len(found) < 2, f"{name} {labels}: {found}"
    return found[0] if found else None


def test_all_that_is_known_is_told_in_base_units() -> None:
    data = exposition.text([built(), built(DOWN)], 12345678).encode()
    assert value(data, "up", tunnel="tsp", broker="192.0.2.1", mode="v6udpv4") == 1 and value(data, "up", tunnel="away") == 0
    assert value(data, "state", tunnel="tsp", state="up") == 1 and value(data, "state", tunnel="tsp", state="lost") == 0
    assert value(data, "state", tunnel="away", state="waiting") == 1
    assert value(data, "round_trip_seconds") == 0.012346 and value(data, "loss_ratio") == 0.25
    assert value(data, "pings_sent_total", tunnel="tsp") == 4 and value(data, "pings_answered_total", tunnel="tsp") == 3
    assert value(data, "lease_remaining_seconds") == 1800
    assert value(data, "negotiations_total", tunnel="tsp") == 2 and value(data, "losses_total", tunnel="tsp") == 1
    assert value(data, "failures_total", tunnel="away") == 2 and value(data, "last_error_info", tunnel="away", code="no_reply") == 1
    assert value(data, "packets_total", direction="in") == 10 and value(data, "bytes_total", direction="out") == 2000
    assert value(data, "dropped_packets_total", direction="out", reason="spoofed") == 3
    assert value(data, "dropped_packets_total", direction="in", reason="queue_full") == 4
    assert value(data, "dropped_packets_total", direction="out", reason="too_big") == 5
    assert value(data, "mtu_bytes") == 1472 and value(data, "nat_lifetime_seconds") == 30.5
    assert value(data, "resident_memory_bytes") == 12345678
    assert value(data, "state_start_time_seconds", tunnel="tsp") == (NOW - timedelta(hours=1)).timestamp()


def test_what_is_not_known_is_no_zero() -> None:
    data = exposition.text([built(DOWN)]).encode()
    for name in ("round_trip_seconds", "loss_ratio", "lease_remaining_seconds", "packets_total", "mtu_bytes", "resident_memory_bytes"):
        assert value(data, name) is None
    assert value(exposition.text([built()]).encode(), "last_error_info") is None


@pytest.mark.parametrize("nasty", ['a"b', "a\\", "a\nb", 'a\\"\n', "é{},=", "\ud800"])
def test_any_text_can_be_a_label(nasty: str) -> None:
    data = exposition.text([{**built(), "broker": nasty}]).encode()
    assert value(data, "up", broker=nasty.encode("utf-8", "replace").decode()) == 1


def test_failures_are_counted_over_successes() -> None:
    status = Status(NOW)
    totals = [status.build(replace(UP, failures=failures))["failures_total"] for failures in (0, 1, 2, 0, 1, 1)]
    assert totals == [0, 1, 2, 2, 3, 3]


@pytest.mark.parametrize("listen", ["0.0.0.0:9653", "192.0.2.1:9653", "[::]:9653", ":9653", "9653", "127.0.0.1", "127.0.0.1:http",
                                    "127.0.0.1:65536", "example.com:9653", "localhost.example:1", "127.0.0.1:-1", ""])
def test_only_loopback_can_be_listened_on(listen: str) -> None:
    with pytest.raises(LocalError) as caught:
        metrics.listen_address(listen)
    assert caught.value.code == "metrics_not_loopback" and "127.0.0.1:9653" in caught.value.hint
    if listen:
        with pytest.raises(LocalError):
            metrics.Metrics([config(listen=listen)], list)


def test_addresses_of_loopback() -> None:
    assert metrics.listen_address("[::1]:9653") == ("::1", 9653) and metrics.listen_address("localhost:80") == ("127.0.0.1", 80)


def served(play: Callable[[metrics.Metrics], Awaitable[Any]], agents: Callable[[], list[dict[str, Any]]] = lambda: [built()],
           **where: str) -> Any:
    """The result of `play` with metrics that run."""
    async def run() -> Any:
        running = metrics.Metrics([config(**(where or {"listen": "127.0.0.1:0"}))], agents)
        await running.start()
        try:
            return await asyncio.wait_for(play(running), 30)
        finally:
            await running.stop()
    return asyncio.run(run())


async def ask(running: metrics.Metrics, request: bytes) -> tuple[int, str, bytes]:
    """(status code, head, body) of the answer; (0, "", b"") when there was none."""
    reader, writer = await asyncio.open_connection(*running.address)
    try:
        writer.write(request)
        head, _gap, body = (await reader.read()).partition(b"\r\n\r\n")
        return int(head.split()[1]) if head else 0, head.decode(), body
    except ConnectionError:
        return 0, "", b""
    finally:
        writer.close()


def test_prometheus_is_answered_over_http() -> None:
    code, head, body = served(lambda running: ask(running, b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1:9653\r\nAccept: */*\r\n\r\n"))
    assert code == 200 and "Content-Type: text/plain; version=0.0.4; charset=utf-8" in head and f"Content-Length: {len(body)}" in head
    assert value(body, "up") == 1


@pytest.mark.parametrize("request_, code", [
    (b"HEAD /metrics HTTP/1.1\r\n\r\n", 200), (b"GET /metrics?name[]=x HTTP/1.0\r\n\r\n", 200),
    (b"GET /metrics HTTP/1.1\r\nHost: [::1]:1\r\n\r\n", 200), (b"GET / HTTP/1.1\r\n\r\n", 404),
    (b"GET /metrics/../x HTTP/1.1\r\n\r\n", 404),
    (b"POST /metrics HTTP/1.1\r\n\r\n", 405), (b"GET /metrics HTTP/1.1\r\nHost: rebound.example\r\n\r\n", 403),
    (b"\x16\x03\x01\x02\x00\r\n\r\n", 400), (b"GET /metrics\r\n\r\n", 400), (b"\r\n\r\n", 400), (b"GET /" + b"x" * 5000, 431)])
def test_other_requests_get_what_they_deserve(request_: bytes, code: int) -> None:
    got, _head, body = served(lambda running: ask(running, request_))
    assert got == code and (b"tsp_agent_up" in body) == (code == 200 and request_.startswith(b"GET"))


def test_slow_clients_are_hung_up_on_and_keep_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "REQUEST_SECONDS", 0.2)

    async def play(running: metrics.Metrics) -> None:
        slow = [await asyncio.open_connection(*running.address) for _number in range(3 * metrics.CONNECTIONS)]
        for _reader, writer in slow:
            writer.write(b"GET /metrics HTTP/1.1\r\nX: ")
        assert (await ask(running, b"GET /metrics HTTP/1.1\r\n\r\n"))[0] == 200, "all places are taken, and the oldest give way"
        for reader, writer in slow:
            try:
                assert await reader.read() == b""
            except ConnectionError:
                pass
            writer.close()
    served(play)


def test_a_client_that_does_not_read_is_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "REQUEST_SECONDS", 0.2)
    many = [{**built(), "name": f"t{number}"} for number in range(3000)]
    came: list[object] = []
    enter = metrics.Metrics.entered
    monkeypatch.setattr(metrics.Metrics, "entered", lambda self, connection: (came.append(connection), enter(self, connection))[1])

    async def play(running: metrics.Metrics) -> None:
        loop = asyncio.get_running_loop()
        with socket.socket() as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.setblocking(False)
            await loop.sock_connect(deaf, running.address)
            await loop.sock_sendall(deaf, b"GET /metrics HTTP/1.1\r\n\r\n")
            while not came or running._connections:
                await asyncio.sleep(0.01)
    served(play, agents=lambda: many)


def test_whoever_asks_all_the_time_gets_the_same() -> None:
    asked: list[int] = []

    def agents() -> list[dict[str, Any]]:
        asked.append(1)
        return [built()]

    async def play(running: metrics.Metrics) -> None:
        running._text_until = float("-inf")
        monotonic = running._loop.time() if running._loop else 0.0
        running._loop = type("Stopped", (), {"time": staticmethod(lambda: monotonic)})()  # type: ignore[assignment]
        for _number in range(50):
            assert (await ask(running, b"GET /metrics HTTP/1.1\r\n\r\n"))[0] == 200
        assert len(asked) == 1
    served(play, agents=agents)


def test_a_port_that_is_taken_is_said() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(LocalError) as caught:
            served(lambda running: asyncio.sleep(0), listen=f"127.0.0.1:{other.getsockname()[1]}")
    assert caught.value.code == "metrics_port_taken" and "in use" in caught.value.message


def test_the_file_is_there_while_the_agent_runs(tmp_path: Path) -> None:
    path = tmp_path / "tsp.prom"
    states = [built()]
    before = os.umask(0o077)

    async def play(running: metrics.Metrics) -> None:
        assert running.address is None
        assert value(path.read_bytes(), "up") == 1 and stat.S_IMODE(path.stat().st_mode) == 0o644
        first = path.stat().st_ino
        running.write()
        assert path.stat().st_ino == first, "nothing happened"
        states[0] = built(replace(UP, state="lost"))
        running.write()
        assert value(path.read_bytes(), "up") == 0 and [entry.name for entry in tmp_path.iterdir()] == ["tsp.prom"]
    try:
        served(play, agents=lambda: states, textfile=str(path))
    finally:
        os.umask(before)
    assert not path.exists()


def test_the_file_follows_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "EVERY", 0.02)
    path = tmp_path / "tsp.prom"
    states = [built()]

    async def play(_running: metrics.Metrics) -> None:
        states[0] = built(replace(UP, last_rtt=0.5))
        while value(path.read_bytes(), "round_trip_seconds") != 0.5:
            await asyncio.sleep(0.005)
    served(play, agents=lambda: states, textfile=str(path))


def test_a_change_is_in_the_file_before_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "EVERY", 1e6)
    monkeypatch.setattr(metrics, "LOOK", 0.02)
    path = tmp_path / "tsp.prom"
    states = [built()]

    async def play(_running: metrics.Metrics) -> None:
        states[0] = built(replace(UP, state="lost"))
        while value(path.read_bytes(), "up") != 0:
            await asyncio.sleep(0.005)
    served(play, agents=lambda: states, textfile=str(path))


def test_a_file_that_cannot_be_written_is_said_once_and_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "later" / "tsp.prom"
    states = [built()]

    async def play(running: metrics.Metrics) -> None:
        for state in ("lost", "negotiating", "up"):
            states[0] = built(replace(UP, state=state))
            running.write()
        assert len([line for line in caplog.messages if str(path) in line]) == 1
        path.parent.mkdir()
        states[0] = built(replace(UP, state="lost"))
        running.write()
        assert value(path.read_bytes(), "up") == 0
    with caplog.at_level(logging.WARNING, "tsp-agent"):
        served(play, agents=lambda: states, textfile=str(path))


def test_no_link_in_the_folder_leads_elsewhere(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    folder = tmp_path / "metrics"
    folder.mkdir()
    (folder / f".tsp.prom.{os.getpid()}").symlink_to(victim)
    (folder / "tsp.prom").symlink_to(victim)

    async def play(running: metrics.Metrics) -> None:
        running._written = None
        running.write()
        assert value((folder / "tsp.prom").read_bytes(), "up") == 1
    served(play, textfile=str(folder / "tsp.prom"))
    assert victim.read_text() == "precious"

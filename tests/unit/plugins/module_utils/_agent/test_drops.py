# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What comes from outside and is dropped is told with its number, and a flood of it fills no log."""

from __future__ import annotations

import asyncio
import logging
import re
from types import SimpleNamespace

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent import network
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent.drops import SAID, Drops
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent.screen import VERDICTS


def test_a_flood_is_told_when_it_begins_and_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    now = 50.0
    drops = Drops(logging.getLogger("drops"), lambda: now)
    drops.look({})
    drops.look({"packets_in": 9, "dropped_in_local_only": 9, "signalling_in": 9})
    assert not caplog.messages
    for second in range(180):
        now += 1.0
        drops.look({"dropped_in_malformed": 1000 * (second + 1), "dropped_in_spoofed": 7})
    numbers = [int(number) for number in re.findall(r"dropped (\d+) datagrams", "\n".join(caplog.messages))]
    assert len(numbers) == 3 and numbers[0] == 1000 and sum(numbers) == 121_000
    assert len([text for text in caplog.messages if "dropped 7 packets out of the tunnel" in text]) == 1 and len(caplog.messages) == 4


def test_another_data_plane_counts_anew(caplog: pytest.LogCaptureFixture) -> None:
    now = 50.0
    drops = Drops(logging.getLogger("drops"), lambda: now)
    drops.look({"dropped_in_malformed": 100})
    now += 100
    drops.look({"dropped_in_malformed": 3})
    assert [int(re.findall(r"dropped (\d+)", text)[0]) for text in caplog.messages] == [100, 3]


def test_a_running_agent_looks_by_itself(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(network, "LOOK", 0)
    counters: list[dict[str, int]] = [{"dropped_in_spoofed": 5}, {}]

    async def run() -> None:
        configs = [SimpleNamespace(name=name) for name in ("a", "b")]
        agents = [SimpleNamespace(tunnel=SimpleNamespace(counters=lambda found=found: found)) for found in counters]
        task = asyncio.ensure_future(network._tell_drops(configs, agents, logging.getLogger("drops")))
        for _turn in range(10):
            await asyncio.sleep(0)
        task.cancel()

    asyncio.run(run())
    assert [(record.name, record.getMessage()[:17]) for record in caplog.records] == [("tsp-agent.a", "dropped 5 packets")]


def test_what_is_told_is_counted() -> None:
    assert {key[len("dropped_in_"):] for key in SAID} <= set(VERDICTS)

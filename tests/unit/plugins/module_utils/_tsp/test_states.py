# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The state tables: their own rules hold, the code uses them, and the diagram shows them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp import client, server, states

TABLES = [(states.CLIENT, client), (states.SERVER, server)]


def reachable(table):
    found, todo = set(), [next(iter(table))]
    while todo:
        state = todo.pop()
        if state not in found:
            found.add(state)
            todo += table[state].values()
    return found


@pytest.mark.parametrize("table, _module", TABLES)
def test_every_state_can_be_reached_and_left(table, _module):
    assert reachable(table) == set(table)
    for state in table:
        assert any(states.is_final(table, end) for end in reachable({state: table[state], **table})), state


@pytest.mark.parametrize("table, module", TABLES)
def test_every_event_of_a_table_is_one_that_the_code_knows(table, module):
    source = Path(module.__file__).read_text(encoding="utf-8")
    words = set(re.findall(r'"([a-z]+)"', source))
    events = {event for entries in table.values() for event in entries}
    assert events <= words


def test_what_is_not_in_a_table_does_not_happen():
    assert states.follow(states.CLIENT, states.IDLE, "connect") == states.WAIT_CAPABILITY
    with pytest.raises(KeyError):
        states.follow(states.CLIENT, states.IDLE, "grant")
    assert not states.knows(states.SERVER, states.HELLO, "create")


def test_final_states():
    assert [state for state in states.CLIENT if states.is_final(states.CLIENT, state)] == ["COMPLETED", "REDIRECTED", "FAILED"]
    assert [state for state in states.SERVER if states.is_final(states.SERVER, state)] == ["CLOSED"]


@pytest.mark.parametrize("table, _module", TABLES)
def test_the_diagram_shows_the_table(table, _module):
    text = states.mermaid(table)
    assert text.startswith("stateDiagram-v2\n    [*] --> ")
    drawn = {}
    for source, target, events in re.findall(r"^    (\w+) --> (\w+): (.+)$", text, re.MULTILINE):
        for event in events.split(", "):
            drawn.setdefault(source, {})[event] = target
    for state, events in table.items():
        assert drawn.get(state, {}) == {event: target for event, target in events.items() if event not in ("fail", "close", "version")}

# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Plays tests/scenarios/*.tsp, and makes sure that a wrong expectation in one of them cannot pass."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.status import MEANINGS
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._tsp._scenario import ScenarioError, play, read

FOLDER = Path(__file__).resolve().parents[4] / "scenarios"
FILES = sorted(FOLDER.glob("*.tsp"))

REQUIRED = {
    "rfc-4.3", "rfc-4.4.1-tcp", "rfc-4.4.1-udp", "rfc-4.4.2", "rfc-4.4.2-redirect", "rfc-4.4.3", "rfc-4.5.1", "rfc-4.5.2", "rfc-4.6",
    "rfc-4.7.1", "rfc-4.7.2", "rfc-4.7.3", "rfc-4.7.4", "rfc-5.1", "rfc-5.2", "rfc-5.3", "rfc-5.4", "rfc-appendix-A", "rfc-appendix-B",
    "tsp-1.2", "tsp-1.3", "tsp-1.5-plain", "tsp-1.5-case", "tsp-1.5-missing", "tsp-1.5-tolerated", "tsp-1.5-short", "tsp-1.5-long",
    "tsp-1.5-bare", "tsp-1.5-2xx", "tsp-1.5-split", "tsp-1.5-coalesced", "tsp-1.5-limits", "tsp-2", "tsp-3.3", "tsp-3.4", "tsp-4.2",
    "tsp-4.3", "tsp-6", "tsp-11",
} | {f"row-{number}" for number in range(1, 23)} | {f"status-{status}" for status in MEANINGS if status not in (200, 302)}

ELSEWHERE = {
    "row-11": "numbers inside PASSDSS-3DES-1 messages: test_sasl_passdss",
    "row-12": "the old client's exit status is nobody's but its own",
    "row-16": "pings inside the tunnel: the data planes of agent and broker",
    "row-17": "a crash of the old client's script child",
    "row-19": "packets inside the tunnel: the data plane of the broker",
    "row-20": "flow labels of packets inside the tunnel: the data plane of the agent",
    "row-22": "datagrams are told apart before there is a session: test_replay_server",
}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_scenario(path):
    try:
        play(path)
    except ScenarioError as error:
        pytest.fail(str(error), pytrace=False)


def test_everything_is_covered_or_told_where():
    covered = {name for path in FILES for name in read(path).covers}
    assert REQUIRED - covered == set(ELSEWHERE), "neither covered nor explained, or both"


def test_titles_are_sentences_and_unique():
    titles = [read(path).title for path in FILES]
    assert all(title.endswith(".") for title in titles)


GOOD = """TITLE One.
CLIENT udp
STEP 10 EXPECT seq=f00000f0
| VERSION=2.0.2
STEP 20 SEND
| CAPABILITY TUNNEL=V6V4 AUTH=ANONYMOUS
STEP 30 EVENT capabilities auths=ANONYMOUS
STEP 40 EXPECT
| AUTHENTICATE ANONYMOUS
STEP 50 ADVANCE 2
STEP 60 EXPECT after=2
| AUTHENTICATE ANONYMOUS
STEP 70 STATE WAIT_AUTH
STEP 80 QUIRKS
"""


def line_of(text, needle):
    return next(number for number, line in enumerate(text.splitlines(), 1) if needle in line)


@pytest.mark.parametrize("old, new, where, says", [
    ("| VERSION=2.0.2", "| VERSION=2.0.1", "STEP 10", "VERSION=2.0.2"),
    ("seq=f00000f0", "seq=f00000f1", "STEP 10", "sequence number"),
    ("EVENT capabilities auths=ANONYMOUS", "EVENT capabilities auths=PLAIN", "STEP 30", "auths is ANONYMOUS"),
    ("EVENT capabilities auths=ANONYMOUS", "EVENT authenticated", "STEP 30", "not authenticated"),
    ("STEP 30 EVENT capabilities auths=ANONYMOUS\n", "", "STEP 80", "nobody asked for the event"),
    ("| AUTHENTICATE ANONYMOUS\nSTEP 50", "|~ AUTHENTICATE P.*\nSTEP 50", "STEP 40", "does not match"),
    ("after=2", "after=3", "STEP 60", "2.000 s"),
    ("ADVANCE 2", "ADVANCE 1", "STEP 60", "says nothing"),
    ("STEP 40 EXPECT\n| AUTHENTICATE ANONYMOUS\n", "", "STEP 50", "nobody expected"),
    ("STEP 60 EXPECT after=2\n| AUTHENTICATE ANONYMOUS\n", "", "STEP 80", "nobody expected"),
    ("STEP 60 EXPECT after=2\n| AUTHENTICATE ANONYMOUS\n", "STEP 60 SILENCE\n", "STEP 60", "nobody expected"),
    ("STATE WAIT_AUTH", "STATE COMPLETED", "STEP 70", "WAIT_AUTH"),
    ("QUIRKS", "QUIRKS header_case=1", "STEP 80", "quirks"),
    ("STEP 20", "STEP 5", "STEP 5", "must rise"),
    ("STEP 80 QUIRKS", "STEP 80 DANCE", "STEP 80", "cannot be read"),
    ("CLIENT udp", "CLIENT udp colour=blue", "CLIENT", "unknown option colour"),
    ("CLIENT udp", "CLIENT smoke", "CLIENT", "cannot be read"),
    ("TITLE One.\n", "| stray\nTITLE One.\n", "| stray", "text belongs to"),
    ("TITLE One.\n", "", "", "needs TITLE"),
    ("STEP 70 STATE WAIT_AUTH", "STEP 70 UNTIL COMPLETED", "STEP 70", ""),
])
def test_a_wrong_expectation_fails_with_file_and_line(tmp_path, old, new, where, says):
    path = tmp_path / "wrong.tsp"
    path.write_text(GOOD)
    play(path)
    text = GOOD.replace(old, new, 1)
    assert text != GOOD
    path.write_text(text)
    with pytest.raises(ScenarioError) as caught:
        play(path)
    line = line_of(text, where) if where else 1
    assert str(caught.value).startswith(f"{tmp_path.name}/wrong.tsp:{line}: ")
    assert says in str(caught.value)


def test_a_wrong_expectation_of_the_broker_fails_too(tmp_path):
    path = tmp_path / "broker.tsp"
    text = "TITLE One.\nBROKER tcp\nSTEP 10 UNTIL READY\nSTEP 20 CALLS capabilities authenticated\nSTEP 30 STATE READY established=no\n"
    path.write_text(text)
    play(path)
    wrong = (("authenticated\n", "create\n", 4), ("established=no", "established=yes", 5), ("READY\nSTEP 20", "GO\nSTEP 20", 3))
    for old, new, line in wrong:
        path.write_text(text.replace(old, new))
        with pytest.raises(ScenarioError, match=rf"broker\.tsp:{line}: "):
            play(path)

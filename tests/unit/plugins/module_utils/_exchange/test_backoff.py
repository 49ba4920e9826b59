# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Courtesy that survives restarts."""

from __future__ import annotations

import json
import os
import stat

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._exchange.backoff import Backoff
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._exchange.options import parse_broker

BROKER = parse_broker("broker.example")


class World:
    """A wall clock that tests set, and the warnings that were given."""

    def __init__(self, folder):
        self.now, self.jitter, self.warnings, self.folder = 1_700_000_000.0, 0.5, [], folder

    def memory(self, who="alice", min_interval=5.0, **more):
        """A new object each time: as after a restart."""
        return Backoff(None if self.folder is None else str(self.folder), who, min_interval=min_interval, wall=lambda: self.now,
                       jitter=lambda: self.jitter, warn=self.warnings.append, **more)


@pytest.fixture
def world(tmp_path):
    return World(tmp_path / "state")


def wait(memory, broker=BROKER):
    return round(memory.wait(broker)[0], 3)


def test_an_unknown_broker_may_be_asked_at_once(world):
    assert wait(world.memory()) == 0 and not world.memory().failing(BROKER) and not world.warnings


def test_each_failure_in_a_row_doubles_the_delay_up_to_a_bound_and_restarts_do_not_forget(world):
    waits = []
    for _n in range(12):
        world.memory().failed(BROKER, "silent")
        waits.append(wait(world.memory()))
    assert waits[:5] == [2, 4, 8, 16, 32] and waits[-1] == 300
    assert world.memory().failing(BROKER)
    world.now += 299
    assert wait(world.memory()) == 1
    world.now += 2
    assert wait(world.memory()) == 0 and not world.memory().failing(BROKER)


def test_a_user_may_want_shorter_delays_and_no_longer_ones(world):
    for wanted, longest in ((20.0, 20), (3600.0, 300)):
        for _n in range(10):
            world.memory(longest_delay=wanted).failed(BROKER, "silent")
        assert wait(world.memory()) == longest
    world.memory(longest_delay=20.0).failed(BROKER, "busy")
    assert wait(world.memory()) > 300, "a broker that is busy is left alone whatever we want"


def test_an_overloaded_broker_is_left_alone_for_longer(world):
    for code, at_least in (("busy", 30), ("server_error", 60)):
        world.memory().failed(BROKER, code)
        assert wait(world.memory()) >= at_least


def test_jitter_spreads_the_delays(world):
    seen = []
    for jitter in (0.0, 0.5, 0.999):
        world.jitter = jitter
        memory = world.memory(f"user{jitter}")
        memory.failed(BROKER, "busy")
        seen.append(wait(memory))
    assert seen == [22.5, 30.0, 37.485]


def test_success_forgets_the_failures_and_starts_the_minimum_interval(world):
    world.memory().failed(BROKER, "busy")
    world.memory().succeeded(BROKER)
    assert wait(world.memory(min_interval=5)) == 5 and not world.memory().failing(BROKER)
    world.now += 3
    assert wait(world.memory(min_interval=5)) == 2
    assert wait(world.memory(min_interval=0)) == 0


def test_brokers_and_identities_are_counted_apart(world):
    world.memory("alice").failed(BROKER, "busy")
    assert wait(world.memory("bob")) == 0
    assert wait(world.memory("alice"), parse_broker("other.example")) == 0
    assert wait(world.memory("alice")) == 30


@pytest.mark.parametrize("jump", [-10 * 365 * 86400, -3600, -1])
def test_a_clock_set_back_never_lengthens_a_delay(world, jump):
    world.memory().failed(BROKER, "busy")
    world.now += jump
    assert 0 < wait(world.memory()) <= 30


def test_a_clock_set_forward_ends_the_delay(world):
    world.memory().failed(BROKER, "busy")
    world.now += 10 * 365 * 86400
    assert wait(world.memory()) == 0


def test_failures_of_long_ago_do_not_count(world):
    for _n in range(8):
        world.memory().failed(BROKER, "silent")
    world.now += 2 * 86400
    world.memory().failed(BROKER, "silent")
    assert wait(world.memory()) == 2


@pytest.mark.parametrize("content", [
    b"", b"{", b"[]", b"null", b"\xff\xfe\x00", b'{"last": 1}', b'{"last": "x", "failures": 1, "delay": 1, "reason": ""}',
    b'{"last": 1, "failures": 1, "delay": 1e99, "reason": ""}', b'{"last": NaN, "failures": 1, "delay": 1, "reason": ""}',
    b'{"last": 1, "failures": -1, "delay": 1, "reason": ""}', b"[" * 100000, b"x" * 2_000_000,
    b'{"last": 1, "failures": 1e400, "delay": 1, "reason": ""}',
])
def test_a_broken_file_counts_as_absent_and_is_replaced(world, content):
    world.memory().failed(BROKER, "busy")
    (path,) = world.folder.iterdir()
    path.write_bytes(content)
    assert wait(world.memory()) == 0
    assert world.warnings and str(path) in world.warnings[0]
    world.memory().failed(BROKER, "busy")
    assert wait(world.memory()) == 30


def test_a_folder_that_cannot_be_written_is_a_warning(world, tmp_path):
    (tmp_path / "state").write_text("a file where the folder should be")
    world.memory().failed(BROKER, "busy")
    assert wait(world.memory()) == 0
    assert any("cannot be written" in w for w in world.warnings) or any("cannot be read" in w for w in world.warnings)


def test_the_file_is_private_and_holds_json(world):
    world.memory().failed(BROKER, "busy")
    (path,) = world.folder.iterdir()
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(world.folder).st_mode) == 0o700
    assert json.loads(path.read_text())["broker"] == "broker.example"


def test_an_interrupted_write_leaves_the_old_file(world, monkeypatch):
    world.memory().failed(BROKER, "busy")
    (path,) = world.folder.iterdir()
    before = path.read_text()

    def full(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    world.memory().failed(BROKER, "busy")
    assert path.read_text() == before and list(world.folder.iterdir()) == [path]
    assert "No space left" in world.warnings[-1]


def test_without_a_folder_nothing_is_remembered(world):
    world.folder = None
    world.memory().failed(BROKER, "busy")
    assert wait(world.memory()) == 0 and not world.warnings

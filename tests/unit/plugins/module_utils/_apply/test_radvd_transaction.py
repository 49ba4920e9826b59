# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Router advertisements in a transaction, from the first run to the end of the last prefix, also killed at every step."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._apply import transaction
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._apply.plan import FileChange, FileEdit, Plan, Service, ServiceWish
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._apply.runner import FileState
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._apply.task import run as _registers_the_editors  # noqa: F401
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._apply.transaction import Outcome, apply
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.errors import ApplyError
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._apply._hosts import FakeRunner, Killed, MortalRunner

CONFIG, UNIT, MEMORY = "/etc/radvd.conf", "radvd.service", "/var/lib/tsp-apply/tsp.before.json"
TIMER = "tsp-deprecate-tsp.timer"
SITE = "interface eth1 {\n    AdvSendAdvert on;\n};\n"
OLD, NEW = "2001:db8:a::/64", "2001:db8:b::/64"
NOW = 1_790_000_000
TIDY = {"python": "/usr/bin/python3", "radvd": "/usr/sbin/radvd", "unit": UNIT, "state_dir": "/var/lib/tsp-apply"}
EVENTS = ["reload-or-restart", "start", "stop", "enable", "disable"]


class Host(FakeRunner):
    """With a radvd of the distribution. refuses: what its test of the configuration does not accept."""

    def __init__(self, site: str | None = SITE, active: bool = True) -> None:
        super().__init__()
        self.with_systemd()
        self.unit_files[UNIT] = "[Service]\n"
        self.units[UNIT] = {"active": active, "enabled": active}
        self.refuses = "nothing"
        self.heard: list[str] = []
        self.handlers["/usr/sbin/radvd"] = lambda words: (1 if self.refuses in self.text else 0, "", "syntax error")
        if site is not None:
            self.files[CONFIG] = FileState(site.encode(), 0o640, 0, 7)

    def _systemctl(self, words):
        done = super()._systemctl(words)
        self.unit_files.setdefault(UNIT, "[Service]\n")
        if words[-1] == UNIT and words[0] in ("reload-or-restart", "start"):
            self.heard.append(self.text)
            if TIMER in self.unit_files:  # by the drop-in of radvd's unit
                self.units[TIMER] = {"active": True, "enabled": False}
        return done

    @property
    def text(self) -> str:
        return self.files[CONFIG].content.decode() if CONFIG in self.files else ""

    def told(self) -> list[str]:
        out = [words[1] for words in self.ran if words[0] == "systemctl" and words[1] in EVENTS and words[-1] == UNIT]
        self.ran.clear()
        return out


def plan(prefix: str | None, *, present: bool = True, other: bool = False, mention: bool = True, name: str = "tsp") -> Plan:
    wishes = [] if prefix is None else [{"name": "eth1", "prefixes": [prefix], "mtu": 1480}]
    edits = (FileEdit(CONFIG, "radvd", {"interfaces": wishes, "tidy": TIDY}),) if mention else ()
    services = (ServiceWish(Service(UNIT, "systemd"), "reloaded", True, (CONFIG,), ("/usr/sbin/radvd", "--configtest")),) if mention else ()
    files = (FileChange("/etc/other", b"ours"),) if other else ()
    return Plan(name=name, present=present, files=files, edits=edits, services=services)


def go(host: Any, wanted: Plan, monkeypatch: pytest.MonkeyPatch, now: float = NOW, check: bool = False) -> Outcome:
    monkeypatch.setattr(transaction.time, "time", lambda: now)
    return apply(wanted, host, lambda probe: pytest.fail("nothing to probe"), check=check)


@pytest.mark.parametrize("site", [SITE, None])
@pytest.mark.parametrize("mention", [True, False], ids=["named", "remembered"])
def test_from_the_first_run_to_the_end_of_the_last_prefix(monkeypatch, site, mention):
    host = Host(site, active=site is not None)
    before = host.snapshot()
    predicted = go(host, plan(OLD), monkeypatch, check=True)
    assert host.snapshot() == before
    first = go(host, plan(OLD), monkeypatch)
    assert (predicted.steps, predicted.diff) == (first.steps, first.diff)
    assert host.told() == (["reload-or-restart"] if site else ["enable", "start"])
    assert not go(host, plan(OLD), monkeypatch).changed
    go(host, plan(NEW), monkeypatch)
    assert "/etc/systemd/system/tsp-deprecate-tsp.timer" in host.files
    assert not go(host, plan(NEW), monkeypatch, NOW + 250).changed
    host.told()

    gone = go(host, plan(None, present=False, mention=mention), monkeypatch, NOW + 100)
    assert gone.changed and host.told() == ["reload-or-restart"], "it says so, and goes on"
    assert host.units[UNIT]["active"] and "AdvPreferredLifetime 0;" in host.text and MEMORY in host.files
    assert not go(host, plan(None, present=False, mention=mention), monkeypatch, NOW + 200).changed
    go(host, plan(None, present=False, mention=mention), monkeypatch, NOW + 5500)
    assert host.snapshot() == before, "the host is as it was"
    assert not go(host, plan(None, present=False, mention=mention), monkeypatch, NOW + 9000).changed


def test_a_prefix_that_the_same_transaction_no_longer_names(monkeypatch):
    """The tunnel stays, its LAN goes."""
    host = Host(None, active=False)
    go(host, plan(OLD, other=True), monkeypatch)
    host.told()
    go(host, plan(None, other=True, mention=False), monkeypatch)
    assert host.told() == ["reload-or-restart"] and host.units[UNIT] == {"active": True, "enabled": True}
    assert not go(host, plan(None, other=True, mention=False), monkeypatch, NOW + 200).changed
    assert go(host, plan(None, other=True, mention=False), monkeypatch, NOW + 5400).changed
    assert CONFIG not in host.files and host.units[UNIT] == {"active": False, "enabled": False}
    assert json.loads(host.files[MEMORY].content)["edits"] == {}


@pytest.mark.parametrize("mention", [True, False], ids=["named", "remembered"])
def test_the_tunnel_goes_at_once_and_its_prefix_later(monkeypatch, mention):
    host = Host()
    before = host.snapshot()
    go(host, plan(OLD, other=True), monkeypatch)
    go(host, plan(None, present=False, mention=mention), monkeypatch)
    assert "/etc/other" not in host.files and "AdvPreferredLifetime 0;" in host.text
    # What the timer goes by: nothing of the tunnel is left, and what is left of radvd is to go.
    left = json.loads(host.files[MEMORY].content)
    assert {kind for kind, what in left.items() if what and kind not in ("name", "schema")} == {"directories", "edits", "services"}
    assert left["edits"][CONFIG]["state"]["taken_out"]
    assert not go(host, plan(None, present=False, mention=mention), monkeypatch, NOW + 200).changed
    go(host, plan(None, present=False, mention=mention), monkeypatch, NOW + 5500)
    assert host.snapshot() == before


@pytest.mark.parametrize("last", ["one", "two"])
def test_two_tunnels_share_radvd_until_the_last_of_them_has_gone(monkeypatch, last):
    host = Host(None, active=False)
    before = host.snapshot()
    go(host, plan(OLD, name="one"), monkeypatch)
    go(host, plan(NEW, name="two"), monkeypatch)
    first, second = ("two", "one") if last == "one" else ("one", "two")
    for now in (NOW, NOW + 5500):
        go(host, plan(None, name=first, present=False), monkeypatch, now)
        assert host.units[UNIT] == {"active": True, "enabled": True}, "the other one's prefix is still advertised"
    assert (NEW if last == "two" else OLD) in host.text and "AdvPreferredLifetime 0" not in host.text
    for now in (NOW + 5500, NOW + 11000):
        go(host, plan(None, name=second, present=False), monkeypatch, now)
    assert host.snapshot() == before


def test_what_radvd_would_not_take_is_never_read_by_it(monkeypatch):
    host = Host()
    before = host.snapshot()
    host.refuses = OLD
    with pytest.raises(ApplyError) as caught:
        go(host, plan(OLD), monkeypatch)
    assert caught.value.code == "test_failed"
    assert not any(OLD in text for text in host.heard)
    assert host.snapshot() == before


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("wanted", [plan(NEW), plan(None, present=False)], ids=["renumber", "teardown"])
def test_killed_at_any_step(monkeypatch, wanted, after):
    """The next run ends where an undisturbed one does."""
    undisturbed = Host()
    go(undisturbed, plan(OLD), monkeypatch)
    go(undisturbed, wanted, monkeypatch)
    for at in range(200):
        host = Host()
        go(host, plan(OLD), monkeypatch)
        mortal = MortalRunner(host, at, after)
        try:
            go(mortal, wanted, monkeypatch)
        except Killed:
            pass
        go(host, wanted, monkeypatch)
        assert host.snapshot() == undisturbed.snapshot(), at
        if not mortal.dead:
            assert at > 10
            return
    pytest.fail("it never came to an end")

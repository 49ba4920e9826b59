# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Items of the kernel, several services, files of the site: made, kept, changed, taken away, and whole after a kill at any step."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._apply import items
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._apply.memory import ours
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._apply.plan import (
    FileChange,
    FileEdit,
    Plan,
    Probe,
    Service,
    ServiceWish,
    Settle,
)
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._apply.probe import ProbeResult
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._apply.runner import FileState
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._apply.transaction import Outcome, apply
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.errors import ApplyError, LocalError
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._apply._hosts import Killed, MortalRunner
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._apply._kernel import KernelHost

STATE = "/var/lib/tsp-apply"
MEMORY = f"{STATE}/tsp.before.json"
NETDEV = "/etc/netdev"
RADVD = "/etc/radvd.conf"
ALL, ACCEPT = "net/ipv6/conf/all/forwarding", "net/ipv6/conf/eth0/accept_ra"


def alive(probe: Probe) -> ProbeResult:
    return ProbeResult(True, probe.address, 0.4, 1, 1)


def dead(probe: Probe) -> ProbeResult:
    return ProbeResult(False, probe.address, None, 5, 0, "no reply")


class Host(KernelHost):
    """Its configuration system, `netconf`, makes the link that stands in its file and takes none away; radvd is the site's own."""

    def __init__(self) -> None:
        super().__init__()
        self.with_systemd()
        self.handlers["netconf"] = self._netconf
        self.handlers["radvd-test"] = lambda argv: (1, "", "syntax error") if b"bad" in self.files[RADVD].content else (0, "", "")
        self.files[RADVD] = FileState(b"# the site's\ninterface eth9 { };", 0o640, 0, 7)
        self.files["/etc/systemd/system/radvd.service"] = FileState(b"[Service]\n", 0o644, 0, 0)
        self.unit_files["radvd.service"] = "[Service]\n"
        self.units["radvd.service"] = {"active": True, "enabled": False}
        self.sysctls["net/ipv6/conf/eth1/forwarding"] = "1"

    def _netconf(self, argv: Any) -> tuple[int, str, str]:
        found = self.files.get(NETDEV)
        wanted = json.loads(found.content) if found is not None else None
        if wanted is None or "tsp0" in self.links or wanted == "ignored":
            return 0, "", ""
        if wanted["encap"]:
            self._fou_add(["port", str(wanted["encap"]["sport"]), "ipproto", "41"], 4)
        encap = [] if not wanted["encap"] else ["encap", "fou", "encap-sport", str(wanted["encap"]["sport"]),
                                                "encap-dport", str(wanted["encap"]["dport"])]
        assert not self._link_add(["name", "tsp0", "type", wanted["type"], "local", wanted["local"], "remote", wanted["remote"], *encap], 6)
        self._link_set(["dev", "tsp0", "mtu", str(wanted["mtu"]), "up"], 6)
        return 0, "", ""


def plan(link: str = "fou", *, by_files: bool = True, lan: str = "2001:db8:1::1/64", present: bool = True, radvd: str = "ours\n",
         more: tuple[dict[str, Any], ...] = ()) -> Plan:
    fou = {"fou": (40000, 3653), "other": (40001, 3653), "sit": None}[link]
    tunnel = items.link("tsp0", "sit", "192.0.2.7", "198.51.100.1", 1472, fou=fou, make=not by_files)
    wanted = (
        tunnel, items.address("tsp0", "2001:db8::2/128", make=True), items.route("2001:db8::1/128", "tsp0", 1024, make=True),
        items.route("2001:db8:1::/48", None, 1024, kind="unreachable", make=True), items.route("::/0", "tsp0", 2048, make=True),
        items.route("::/0", "tsp0", 1024, table=4653, make=True), items.rule("2001:db8:1::/48", 4653, 4653, make=True),
        items.address("eth1", lan, make=True), items.sysctl(ACCEPT, "2"), items.sysctl(ALL, "1"),
        items.sysctl("net/ipv6/conf/tsp0/accept_ra", "0"), *more)
    files = (FileChange(NETDEV, json.dumps(tunnel).encode()),) if by_files else ()
    return Plan(
        "tsp", present=present, files=files, edits=(FileEdit(RADVD, "block", {"content": radvd}),),
        settle=(Settle(("netconf", "reload")),), items=wanted if present else (), items_timeout=2.0,
        services=(ServiceWish(Service("radvd.service", "systemd"), "reloaded", True, (RADVD,), ("radvd-test",)),),
        probe=Probe("2001:db8::1", timeout=1.0))


def without_memory(state: dict[str, Any]) -> dict[str, Any]:
    """As it was, but for what is remembered."""
    return {**state, "files": {path: found for path, found in state["files"].items() if path != MEMORY},
            "directories": {path: mode for path, mode in state["directories"].items() if path != STATE}}


@pytest.mark.parametrize("by_files", [True, False], ids=["made by the host", "made by us"])
def test_made_then_settled_then_as_it_was(by_files: bool) -> None:
    host = Host()
    before = host.snapshot()
    outcome = apply(plan(by_files=by_files), host, alive)
    assert outcome.changed and host.links["tsp0"]["linkinfo"]["info_data"]["encap"]["sport"] == 40000 and 40000 in host.fou
    assert host.sysctls[ALL] == "1" and any(route.get("protocol") == "ra" for route in host.routes), "the native default route stays"
    assert b"# the site's\ninterface eth9 { };\n# BEGIN tunnelbroker.tsp tsp\nours\n" in host.files[RADVD].content
    assert host.files[RADVD].mode == 0o640 and host.units["radvd.service"] == {"active": True, "enabled": True}
    if not by_files:
        assert host.links["tsp0"]["ifalias"] == "tunnelbroker.tsp:tsp"
    settled, writes = host.snapshot(), host.writes
    again = apply(plan(by_files=by_files), host, alive)
    assert not again.changed and (host.snapshot(), host.writes) == (settled, writes)
    found = ours(host, STATE)["tsp"]
    assert found["devices"] == ["tsp0"] and RADVD in found["files"]
    gone = apply(Plan("tsp", present=False), host, dead)
    assert gone.changed and host.snapshot() == before, "the name alone is enough"
    assert not apply(Plan("tsp", present=False), host, dead).changed


AGENT_UNIT = "/etc/systemd/system/agent.service"


class WithAgent(Host):
    """A unit `agent` makes a tunnel of its own, an address and forwarding while it runs, and undoes that when it stops."""

    def _systemctl(self, words: Any) -> tuple[int, str, str]:
        def runs() -> bool:
            return self.units.get("agent.service", {}).get("active", False)

        before = runs()
        answer = super()._systemctl(words)
        if runs() and (not before or "restart" in words):
            if "tsp0" in self.links:
                self.del_link("tsp0")
            self._link_add(["name", "tsp0", "type", "sit", "local", "192.0.2.7", "remote", "198.51.100.1"], 6)
            self._link_set(["dev", "tsp0", "alias", "tunnelbroker.tsp:tsp", "mtu", "1472", "up"], 6)
            self._addr_replace(["2001:db8:1::1/64", "dev", "eth1"], 6)
            self.sysctls[ACCEPT] = "2"
            self.set_sysctl(ALL, "1")
        elif before and not runs():
            self.del_link("tsp0")
            self._addr_del(["2001:db8:1::1/64", "dev", "eth1"], 6)
            self.set_sysctl(ALL, "0")
            self.sysctls.update({ACCEPT: "1", "net/ipv6/conf/eth1/forwarding": "1"})
        return answer


def agent_plan(present: bool = True) -> Plan:
    return Plan("tsp", present=present, files=(FileChange(AGENT_UNIT, b"[Service]\n"),), service=Service("agent.service", "systemd"),
                probe=Probe("2001:db8::1", timeout=1.0))


def make_host(before: str) -> Host:
    host: Host = WithAgent() if before == "agent" else Host()
    if before == "agent":
        apply(agent_plan(), host, alive)
    elif before != "bare":
        apply(plan({"fou": "fou", "other": "other", "made": "fou"}[before], by_files=before != "made"), host, alive)
    host.writes = 0
    return host


@pytest.mark.parametrize("by_files", [True, False], ids=["made by the host", "made by us"])
def test_a_tunnel_of_the_hosts_own_in_the_place_of_an_agents_and_back(by_files: bool) -> None:
    host = WithAgent()
    before = host.snapshot()
    apply(agent_plan(), host, alive)
    kept = without_memory(host.snapshot())
    with pytest.raises(ApplyError):
        apply(plan("sit", by_files=by_files), host, dead)
    assert without_memory(host.snapshot()) == kept
    predicted = apply(plan("sit", by_files=by_files), host, dead, check=True)
    assert apply(plan("sit", by_files=by_files), host, alive).steps == predicted.steps
    assert not host.units["agent.service"]["active"] and AGENT_UNIT not in host.files
    assert not apply(plan("sit", by_files=by_files), host, alive).changed
    apply(agent_plan(), host, alive)
    assert without_memory(host.snapshot()) == kept
    apply(plan("sit", by_files=by_files), host, alive)
    apply(Plan("tsp", present=False), host, alive)
    assert host.snapshot() == before, "what the agent had made is not taken for the host's own"


@pytest.mark.parametrize("before, to, by_files, present", [
    ("bare", "fou", True, True), ("bare", "sit", False, True), ("fou", "sit", True, True), ("fou", "other", True, True),
    ("made", "other", False, True), ("fou", "fou", True, False), ("fou", "fou", False, True)])
def test_check_mode_tells_what_the_run_does(before: str, to: str, by_files: bool, present: bool) -> None:
    host = make_host(before)
    state = host.snapshot()
    wanted = plan(to, by_files=by_files, present=present)
    predicted = apply(wanted, host, dead, check=True)
    assert host.snapshot() == state and host.writes == 0
    done = apply(wanted, host, alive)
    assert predicted.changed and (predicted.steps, predicted.diff) == (done.steps, done.diff)


def test_the_diff_shows_the_kernel() -> None:
    host = make_host("bare")
    shown = [part for part in apply(plan(), host, alive, check=True).diff if part["before_header"] == "the kernel"][0]
    assert f"{ALL.replace('/', '.')} = 0\n" in shown["before"] and f"{ALL.replace('/', '.')} = 1\n" in shown["after"]
    assert "address 2001:db8:1::1/64 on eth1\n" in shown["after"] and "tsp0 (sit over UDP 40000)" in shown["after"]


@pytest.mark.parametrize("what", ["probe", "kernel", "test"])
@pytest.mark.parametrize("before", ["bare", "other", "made"])
def test_a_failure_leaves_everything_as_it_was(before: str, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    host = make_host(before)
    state = host.snapshot()
    if what == "kernel":
        host.handlers["netconf"] = lambda argv: (0, "", "")
    wanted = plan("sit" if before == "made" else "fou", radvd="bad\n" if what == "test" else "ours\n")
    with pytest.raises(ApplyError) as caught:
        apply(wanted, host, dead if what == "probe" else alive)
    assert caught.value.code == {"probe": "not_proved", "kernel": "not_in_kernel", "test": "test_failed"}[what]
    assert host.snapshot() == state and "as it was before" in caught.value.message
    if what == "kernel":
        assert f"tunnel tsp0 (sit{'' if before == 'made' else ' over UDP 40000'})" in caught.value.message and "tsp0" in caught.value.hint


def test_what_somebody_deleted_is_made_again() -> None:
    host = make_host("fou")
    settled = host.snapshot()
    host.del_link("tsp0")
    host.ran.clear()
    outcome = apply(plan(), host, alive)
    assert outcome.changed and ("netconf", "reload") in host.ran and host.snapshot() == settled
    assert not [step for step in outcome.steps if RADVD in step or "radvd" in step]


@pytest.mark.parametrize("still_there", [True, False])
def test_a_configuration_system_that_is_left_learns_of_it(still_there: bool) -> None:
    """And when the change is undone, that it has its work again; where it is no longer on the host, nothing fails for that."""
    host = make_host("fou")
    settled = host.snapshot()
    heard: list[bool] = []
    real = host.handlers["netconf"]

    def netconf(argv: Any) -> tuple[int, str, str]:
        heard.append(NETDEV in host.files)
        return real(argv) if still_there else (127, "", "not found")

    host.handlers["netconf"] = netconf
    other = replace(plan(by_files=False), settle=(Settle(("othernet", "reload")),))
    host.handlers["othernet"] = lambda argv: (0, "", "")
    host.ran.clear()
    with pytest.raises(ApplyError) as caught:
        apply(other, host, dead)
    assert caught.value.code == "not_proved" and heard == [False, True] and host.snapshot() == settled
    outcome = apply(other, host, alive)
    assert outcome.steps.index("run netconf reload") < outcome.steps.index("run othernet reload") and heard == [False, True, False]
    assert not apply(other, host, alive).changed
    apply(Plan("tsp", present=False), host, alive)
    assert heard == [False, True, False], "and is not asked any more"


def test_what_a_later_plan_lacks_is_taken_away() -> None:
    host = Host()
    before = host.snapshot()
    apply(plan(more=(items.route("::/0", "eth0", 1024, gateway="fe80::1", absent=True),)), host, alive)
    assert not [route for route in host.routes if route["dev"] == "eth0"], "the native default route gave way"
    outcome = apply(plan("sit", lan="2001:db8:2::1/64"), host, alive)
    assert [route["protocol"] for route in host.routes if route["dev"] == "eth0"] == ["ra"], "and is back, whole"
    assert [address["local"] for address in host.links["eth1"]["addr_info"]] == ["2001:db8:2::1"] and not host.fou
    assert "take away address 2001:db8:1::1/64 on eth1" in outcome.steps
    apply(Plan("tsp"), host, alive)
    assert host.snapshot() == before, "a plan with nothing in it is the same as none"


def test_what_was_there_before_us_stays() -> None:
    host = Host()
    host._addr_add(["2001:db8:1::1/64", "dev", "eth1"], 6)
    host.set_sysctl(ACCEPT, "2")
    before = host.snapshot()
    apply(plan(), host, alive)
    apply(Plan("tsp", present=False), host, alive)
    assert host.snapshot() == before


def test_a_variable_that_somebody_changed_since_stays() -> None:
    host = make_host("fou")
    host.set_sysctl(ACCEPT, "0")
    apply(Plan("tsp", present=False), host, alive)
    assert host.sysctls[ACCEPT] == "0" and host.sysctls[ALL] == "0"


def test_a_device_of_somebody_else_is_left_alone() -> None:
    host = Host()
    host._link_add(["name", "tsp0", "type", "sit", "local", "192.0.2.7", "remote", "198.51.100.9"], 6)
    before = host.snapshot()
    for check in (True, False):
        with pytest.raises(LocalError) as caught:
            apply(plan(), host, alive, check=check)
        assert caught.value.code == "device_taken" and host.snapshot() == before


def test_after_a_reboot_the_host_is_settled_or_made_so() -> None:
    host = make_host("made")
    settled = host.snapshot()
    host.del_link("tsp0")
    host.fou.clear()
    host.rules.clear()
    host.set_sysctl(ALL, "0")
    host.set_sysctl(ACCEPT, "1")
    host.routes = [route for route in host.routes if route["dev"] == "eth0"]
    host.links["eth1"]["addr_info"].clear()
    assert apply(plan(by_files=False), host, alive).changed and host.snapshot() == settled
    apply(Plan("tsp", present=False), host, alive)
    assert "tsp0" not in host.links and host.files.keys() == Host().files.keys()


def test_another_host_with_our_address_is_told() -> None:
    host = make_host("bare")
    real = host._addr_add

    def claimed(words: list[str], family: int) -> str:
        answer = real(words, family)
        for address in host.links["eth1"]["addr_info"]:
            address["dadfailed"] = True
        return answer

    host._addr_add = claimed  # type: ignore[method-assign]
    with pytest.raises(ApplyError) as caught:
        apply(plan(), host, alive)
    assert caught.value.code == "not_in_kernel" and "another host has it" in caught.value.message


@pytest.mark.parametrize("before, by_files, present", [("bare", True, True), ("bare", False, True), ("other", True, True),
                                                       ("made", False, False), ("fou", True, False), ("agent", True, True)])
@pytest.mark.parametrize("after", [False, True], ids=["before-it", "after-it"])
@pytest.mark.parametrize("prober", [alive, dead], ids=["proved", "not-proved"])
def test_killed_at_every_step_the_next_run_converges(before: str, by_files: bool, present: bool, prober: Any, after: bool) -> None:
    wanted = plan("fou", by_files=by_files, present=present)
    reference = make_host(before)
    old = reference.snapshot()
    apply(wanted, reference, alive)
    new = reference.snapshot()
    for step in range(1000):
        host = make_host(before)
        mortal = MortalRunner(host, step, after)
        try:
            apply(wanted, mortal, prober)
        except Killed:
            pass
        except ApplyError:
            pass
        if not mortal.dead:
            assert step > 40
            return
        left = host.snapshot()
        predicted = apply(wanted, host, dead, check=True)
        assert host.snapshot() == left, "check mode wrote"
        then, outcome = (alive, dead)[step % 2], Outcome()
        try:
            outcome = apply(wanted, host, then)
        except ApplyError as exc:
            assert exc.code == "not_proved" and then is dead and present
            assert host.snapshot() == (new if "Nothing had to be changed" in exc.message else old)
        else:
            assert host.snapshot() == new
            # What an agent will have made again once it is started again, nobody knows beforehand.
            assert predicted.changed == outcome.changed and (before == "agent" or predicted.steps == outcome.steps)
    pytest.fail("the run never ends")


@pytest.mark.parametrize("item, word", [
    ({"kind": "wall"}, "not an item"), ({"kind": "address", "device": "eth0"}, "lacks cidr"), ("address", "not an item"),
    (items.sysctl("kernel/hostname", "x"), "variable of the network"), (items.sysctl("net/../kernel", "x"), "variable of the network")])
def test_what_is_no_item_is_refused(item: Any, word: str) -> None:
    with pytest.raises(LocalError) as caught:
        Plan("x", items=(item,))
    assert caught.value.code == "invalid_plan" and word in caught.value.message

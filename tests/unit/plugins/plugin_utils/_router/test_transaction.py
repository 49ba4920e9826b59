# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A transaction on a router. Every test runs twice: against a fake behind the port, and through netmiko over real SSH on loopback."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.errors import ApplyError, LocalError, NetworkError
from ansible_collections.tunnelbroker.tsp.plugins.plugin_utils._router import probe, transaction
from ansible_collections.tunnelbroker.tsp.plugins.plugin_utils._router.netmiko_device import Login, NetmikoDevice, complaint
from ansible_collections.tunnelbroker.tsp.tests.lab.ios_emulator.device import Device
from ansible_collections.tunnelbroker.tsp.tests.lab.ios_emulator.threaded import EmulatorThread
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.plugin_utils._router._fake import FakeRouter

TUNNEL = """
ipv6 unicast-routing
interface Tunnel0
 description TSP
 ipv6 enable
 ipv6 address 2001:db8::2/128
 ipv6 mtu 1480
 tunnel mode ipv6ip
 tunnel source GigabitEthernet0/0
 tunnel destination 198.51.100.1
interface GigabitEthernet0/1
 ipv6 address 2001:db8:1::1/64
 ipv6 nd prefix 2001:db8:1::/64 43200 43200
ipv6 route ::/0 Tunnel0 200
ipv6 route 2001:db8:1::/48 Null0
"""
DEAD = probe.Probe("2001:db8::1", "Tunnel0", 1, 1)
ALIVE = probe.Probe("2001:db8::2", "Tunnel0", 2, 1)
"""The router's own tunnel address: it answers wherever the emulator runs."""


class Router:
    """An emulated device and a way to open sessions to it."""

    def __init__(self, device: Device, opened: Callable[[], Any]) -> None:
        self.device = device
        self._opened = opened

    def run(self, text: str = TUNNEL, **more: Any) -> transaction.Outcome:
        session = self._opened()
        try:
            return transaction.run(session, transaction.Task(text, **more))
        finally:
            session.close()

    def asked(self, line: str) -> int:
        return self.device.commands.count(line)


@pytest.fixture(params=["fake", "ssh"])
def router(request: pytest.FixtureRequest) -> Iterator[Router]:
    device = Device("R1")
    if request.param == "fake":
        yield Router(device, lambda: FakeRouter(device))
        return
    with EmulatorThread(device) as emulator:
        yield Router(device, lambda: NetmikoDevice(Login("127.0.0.1", emulator.port, "lab", "lab", check_host_key=False)))


def test_a_second_run_sends_nothing(router: Router) -> None:
    first = router.run(probe=ALIVE)
    assert first.changed and first.saved and first.proof and first.proof.proved and first.warnings == []
    assert router.device.startup == router.device.running
    router.device.commands.clear()
    second = router.run(probe=ALIVE)
    assert (second.changed, second.commands, second.undo, second.saved) == (False, [], [], False)
    assert router.asked("configure terminal") == 0 and router.asked("write memory") == 0
    assert second.before == second.after


def test_the_diff_shows_nothing_that_did_not_change(router: Router) -> None:
    """Not even the `no ip address` with which IOS says that there is none."""
    router.run("interface GigabitEthernet0/1\n shutdown")
    outcome = router.run()
    assert "no ip address" in router.device.running and "no ip address" not in outcome.before + outcome.after


def test_check_mode_predicts_and_enters_nothing(router: Router) -> None:
    before = router.device.running
    predicted = router.run(check=True, probe=DEAD)
    assert predicted.changed and not predicted.saved and predicted.proof is None
    assert router.device.running == before and router.asked("configure terminal") == 0
    done = router.run()
    assert done.commands == predicted.commands and done.undo == predicted.undo
    assert not router.run(check=True).changed


def test_the_undo_takes_the_change_back(router: Router) -> None:
    before = router.device.running
    done = router.run()
    router.run("\n".join(done.undo))
    assert router.device.running == before


def test_a_refused_line_is_named_and_everything_is_put_back(router: Router) -> None:
    router.run()
    before, startup = router.device.running, router.device.startup
    router.device.faults.refuse = ["nd prefix 2001:DB8:2:"]
    with pytest.raises(ApplyError) as caught:
        router.run(TUNNEL.replace("2001:db8:1:", "2001:db8:2:").replace("198.51.100.1", "198.51.100.2"))
    assert caught.value.code == "line_refused"
    assert "'ipv6 nd prefix 2001:DB8:2::/64 43200 43200'" in caught.value.message
    assert "% Invalid input detected at '^' marker" in caught.value.message
    assert router.device.running == before and router.device.startup == startup


def test_a_dead_tunnel_is_taken_back_and_not_saved(router: Router) -> None:
    before = router.device.running
    with pytest.raises(ApplyError) as caught:
        router.run(probe=DEAD)
    assert caught.value.code == "probe_failed" and "2001:db8::1" in caught.value.message
    assert router.device.running == before and router.device.startup is None
    assert sum(line.startswith("ping ipv6 2001:DB8::1 source Tunnel0") for line in router.device.commands) == probe.TRIES


def test_a_dead_tunnel_that_was_there_before_is_left_alone(router: Router) -> None:
    router.run()
    before = router.device.running
    with pytest.raises(ApplyError, match="Nothing had been changed"):
        router.run(probe=DEAD)
    assert router.device.running == before


def test_an_undo_that_is_refused_too_says_what_is_missing(router: Router) -> None:
    router.run("interface Tunnel0\n tunnel destination 198.51.100.7\n ipv6 enable")
    router.device.faults.refuse = ["nd prefix", "tunnel destination 198.51.100.7"]
    with pytest.raises(ApplyError) as caught:
        router.run()
    assert caught.value.code == "undo_failed"
    assert "nd prefix" in caught.value.message and "tunnel destination 198.51.100.7" in caught.value.message


def test_deleting_leaves_what_was_there_before(router: Router) -> None:
    before = router.device.running
    router.run()
    gone = router.run(state="deleted")
    assert gone.changed and gone.saved and router.device.running == before
    assert gone.commands[-1] == "no interface Tunnel0"
    assert not router.run(state="deleted").changed
    router.run("\n".join(gone.undo))
    assert "interface Tunnel0" in router.device.running


@pytest.mark.parametrize(("save", "expected"), [("changed", True), ("always", True), ("never", False)])
def test_saving_after_a_change(router: Router, save: str, expected: bool) -> None:
    assert router.run(save=save).saved is expected
    assert (router.device.startup is not None) is expected


def test_what_another_run_left_unsaved_is_saved(router: Router) -> None:
    router.run(save="never")
    again = router.run()
    assert (again.changed, again.saved) == (False, True)


def test_changed_leaves_the_unsaved_work_of_others_alone_and_always_does_not(router: Router) -> None:
    router.run()
    router.run("interface Loopback7\n description somebody else's", save="never")
    assert not router.run().saved
    assert "Loopback7" not in str(router.device.startup)
    assert router.run(save="always").saved
    assert not router.run(save="always").saved


def test_a_line_that_is_accepted_and_not_shown_is_told(router: Router) -> None:
    done = router.run("interface GigabitEthernet0/1\n ipv6 nd ra interval 200\n ipv6 enable")
    assert done.warnings == ["The device accepted these lines and does not show them: ipv6 nd ra interval 200."]
    again = router.run("interface GigabitEthernet0/1\n ipv6 nd ra interval 200\n ipv6 enable")
    assert again.changed is False and again.undo == []


def test_a_hidden_mtu_is_asked_for_not_sent_again(router: Router) -> None:
    router.run()
    assert "ipv6 mtu" not in router.device.running
    again = router.run()
    assert again.commands == [] and router.asked("show ipv6 interface Tunnel0") >= 1
    assert router.run(TUNNEL.replace("1480", "1400")).commands == ["interface Tunnel0", " ipv6 mtu 1400", " exit"]


@pytest.fixture
def ssh() -> Iterator[EmulatorThread]:
    with EmulatorThread(Device("R1", accounts={"lab": "canary-password"}, enable_secret="canary-secret", level=1)) as emulator:
        yield emulator


def login(emulator: EmulatorThread, **more: Any) -> Login:
    given = {"host": "127.0.0.1", "port": emulator.port, "username": "lab", "password": "canary-password", "secret": "canary-secret",
             "check_host_key": False, "timeout": 10.0}
    return Login(**{**given, **more})


def run(emulator: EmulatorThread, text: str = TUNNEL, **more: Any) -> transaction.Outcome:
    session = NetmikoDevice(login(emulator))
    try:
        return transaction.run(session, transaction.Task(text, **more))
    finally:
        session.close()


def test_a_session_cut_half_way_says_what_is_known_and_the_next_run_converges(ssh: EmulatorThread) -> None:
    ssh.device.faults.cut_on = "tunnel source GigabitEthernet0/0"
    with pytest.raises(NetworkError) as caught:
        run(ssh)
    assert caught.value.code == "session_lost"
    assert "'tunnel mode ipv6ip'" in caught.value.message and "'tunnel source GigabitEthernet0/0' had no answer" in caught.value.message
    assert "tunnel mode ipv6ip" in ssh.device.running and ssh.device.startup is None
    done = run(ssh)
    assert done.changed and done.saved and " tunnel mode ipv6ip" not in done.commands
    assert not run(ssh).changed


@pytest.mark.parametrize("place", range(5, 14))
def test_a_session_cut_anywhere_ends_in_an_error_and_the_next_run_converges(ssh: EmulatorThread, place: int) -> None:
    ssh.device.faults.cut_at = place
    try:
        run(ssh, "interface Tunnel0\n ipv6 enable\n ipv6 mtu 1400")
    except (NetworkError, LocalError) as exc:
        assert exc.code in ("session_lost", "device_unreachable", "enable_failed"), exc
    ssh.device.faults.cut_at = 0
    run(ssh, "interface Tunnel0\n ipv6 enable\n ipv6 mtu 1400")
    assert " ipv6 enable\n ipv6 mtu 1400\n" in ssh.device.running and ssh.device.startup == ssh.device.running


def test_output_a_byte_at_a_time(ssh: EmulatorThread) -> None:
    ssh.device.faults.one_byte = True
    assert run(ssh).saved
    assert not run(ssh).changed


@pytest.mark.parametrize(("more", "code"), [
    ({"password": "wrong-canary"}, "login_refused"), ({"password": None}, "login_incomplete"),
    ({"secret": "wrong-canary"}, "enable_failed"), ({"secret": None}, "enable_failed"),
    ({"check_host_key": True}, "host_key_unknown"), ({"port": 1}, "device_unreachable"),
    ({"host": "no-such-host.invalid"}, "device_unreachable"),
    ({"check_host_key": True, "known_hosts": "/nonexistent/known_hosts"}, "known_hosts_missing"),
])
def test_a_session_that_cannot_be_opened(ssh: EmulatorThread, more: dict[str, Any], code: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises((LocalError, NetworkError)) as caught:
        NetmikoDevice(login(ssh, **more))
    assert caught.value.code == code
    said = str(caught.value.to_dict()) + repr(login(ssh, **more)) + "".join(capfd.readouterr())
    assert "canary" not in said and "Traceback" not in said


def test_host_keys_are_checked(ssh: EmulatorThread, tmp_path: Any) -> None:
    known = tmp_path / "known_hosts"
    known.write_text(ssh.server.known_hosts_line("127.0.0.1"), encoding="utf-8")
    NetmikoDevice(login(ssh, check_host_key=True, known_hosts=str(known))).close()
    with EmulatorThread(Device("R2")) as other:
        known.write_text(other.server.known_hosts_line("127.0.0.1").replace(str(other.port), str(ssh.port)), encoding="utf-8")
    with pytest.raises(NetworkError) as caught:
        NetmikoDevice(login(ssh, check_host_key=True, known_hosts=str(known)))
    assert caught.value.code == "host_key_changed"


@pytest.mark.parametrize(("answer", "words"), [
    ("", ""), ("\n% Warning: something\n", ""), ("%LINEPROTO-5-UPDOWN: Line protocol on Interface Tunnel0, changed state to up\n", ""),
    ("          ^\n% Invalid input detected at '^' marker.\n\n", "% Invalid input detected at '^' marker"),
    ("Bad mask /32 for address 192.0.2.1\n", "Bad mask /32 for address 192.0.2.1"),
    ("% 198.51.100.0 overlaps with GigabitEthernet0/0\n", "% 198.51.100.0 overlaps with GigabitEthernet0/0"),
    ("Are you sure? [confirm]", "Are you sure? [confirm]"),
])
def test_what_counts_as_a_refusal(answer: str, words: str) -> None:
    assert complaint(answer) == words


@pytest.mark.parametrize(("answer", "proved", "rtt"), [
    ("!!!!!\nSuccess rate is 100 percent (5/5), round-trip min/avg/max = 1/12/30 ms\n", True, 12.0),
    ("..!..\nSuccess rate is 20 percent (1/5), round-trip min/avg/max = 4/4/4 ms\n", True, 4.0),
    (".....\nSuccess rate is 0 percent (0/5)\n", False, None),
    ("% No valid route for destination\nSuccess rate is 0 percent (0/1)\n", False, None),
    ("% Unrecognized command\n", False, None), ("", False, None),
])
def test_what_a_ping_says(answer: str, proved: bool, rtt: float | None) -> None:
    proof = probe.read(ALIVE, answer)
    assert (proof.proved, proof.rtt_ms, proof.target) == (proved, rtt, "2001:db8::2")


@pytest.mark.parametrize("given", [{"address": "broker.example"}, {"address": "192.0.2.1", "source": "Tunnel0\nreload"},
                                   {"address": "192.0.2.1", "count": 0}, {"address": "192.0.2.1", "timeout": 61}])
def test_a_probe_that_cannot_be_sent(given: dict[str, Any]) -> None:
    with pytest.raises(LocalError) as caught:
        probe.Probe.of(given)
    assert caught.value.code == "probe_invalid"


def test_probe_commands() -> None:
    assert probe.Probe("2001:db8::1", "tunnel0").command == "ping ipv6 2001:DB8::1 source Tunnel0 repeat 5 timeout 2"
    assert probe.Probe("192.0.2.1", count=1, timeout=1).command == "ping 192.0.2.1 repeat 1 timeout 1"

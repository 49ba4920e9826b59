# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The emulated command line: what a person typing at it sees."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from ansible_collections.tunnelbroker.tsp.tests.lab.ios_emulator.config import Config
from ansible_collections.tunnelbroker.tsp.tests.lab.ios_emulator.device import Device
from ansible_collections.tunnelbroker.tsp.tests.lab.ios_emulator.grammar import alternatives
from ansible_collections.tunnelbroker.tsp.tests.lab.ios_emulator.grammar_acl import ACCESS_LIST
from ansible_collections.tunnelbroker.tsp.tests.lab.ios_emulator.grammar_exec import EXEC
from ansible_collections.tunnelbroker.tsp.tests.lab.ios_emulator.grammar_global import GLOBAL
from ansible_collections.tunnelbroker.tsp.tests.lab.ios_emulator.grammar_interface import INTERFACE
from ansible_collections.tunnelbroker.tsp.tests.lab.ios_emulator.session import Closed, Session

TUNNEL = ["interface Tunnel0", "ipv6 enable", "ipv6 address 2001:db8::2/128", "tunnel mode ipv6ip", "tunnel source 198.51.100.10",
          "tunnel destination 198.51.100.1"]


class Person:
    """Types lines and reads what is printed. `answers` are given to questions, in their order."""

    def __init__(self, device: Device | None = None, answers: list[str] | None = None) -> None:
        self.device = device or Device("R1")
        self.answers = answers or []
        self._printed: list[str] = []
        self.session = Session(self.device, "lab", self._answer, self._key, self._printed.append)
        self.session.length = 0

    async def _answer(self, _echo: bool) -> str:
        return self.answers.pop(0)

    async def _key(self) -> str:
        return self.answers.pop(0)

    def type(self, *lines: str) -> str:
        """The lines, one after the other; what the last one printed."""
        for line in lines:
            self._printed.clear()
            asyncio.run(self.session.command(line))
        return "".join(self._printed)

    def configure(self, *lines: str) -> str:
        return self.type("configure terminal", *lines)

    def interface(self, name: str) -> list[str]:
        text = self.device.config.interfaces[name].text()
        return [line.strip() for line in text.splitlines()]


@pytest.fixture
def person() -> Person:
    return Person()


@pytest.mark.parametrize("rule", [*EXEC, *GLOBAL, *INTERFACE, *ACCESS_LIST], ids=lambda rule: rule.pattern)
def test_every_pattern_of_the_tables_is_sound(rule) -> None:
    assert alternatives(rule.pattern)
    if rule.handler and not rule.handler.startswith("show_"):
        assert hasattr(Session, f"_do_{rule.handler}")


def test_prompts_follow_the_modes(person: Person) -> None:
    seen = [person.session.prompt]
    for line in ("configure terminal", "interface Tunnel0", "ip access-list extended P41", "exit", "end", "disable"):
        person.type(line)
        seen.append(person.session.prompt)
    assert seen == ["R1#", "R1(config)#", "R1(config-if)#", "R1(config-ext-nacl)#", "R1(config)#", "R1#", "R1>"]


def test_words_are_completed_and_shown_in_full(person: Person) -> None:
    person.type("conf t", "int gi0/0", "desc uplink", "ip addr 192.0.2.1 255.255.255.0", "no shut", "int tu 0", "tun sou gi 0/0", "end")
    assert person.interface("GigabitEthernet0/0") == [
        "interface GigabitEthernet0/0", "description uplink", "ip address 192.0.2.1 255.255.255.0"]
    assert person.interface("Tunnel0") == ["interface Tunnel0", "no ip address", "tunnel source GigabitEthernet0/0"]


@pytest.mark.parametrize(("line", "said"), [
    ("co", '% Ambiguous command:  "co"\n'),
    ("show", "% Incomplete command.\n\n"),
    ("show version now", "                ^\n% Invalid input detected at '^' marker.\n\n"),
    ("sh  runn  interface Tunnel7", "                       ^\n% Invalid input detected at '^' marker.\n\n"),
    ("colour", "% Unknown command or computer name, or unable to find computer address\n"),
])
def test_complaints_point_at_the_word(person: Person, line: str, said: str) -> None:
    shown = person.type(line)
    if "^" in said:
        caret = shown.split("\n")[0]
        assert caret.strip() == "^" and shown.split("\n")[1:] == said.split("\n")[1:]
        word = {"show version now": "now", "sh  runn  interface Tunnel7": "Tunnel7"}[line]
        assert len(caret) - 1 == len("R1#") + line.index(word)
    else:
        assert shown == said


@pytest.mark.parametrize(("lines", "refused", "word"), [
    (["interface Tunnel0"], "tunnel mode ipv7ip", "ipv7ip"),
    (["interface GigabitEthernet0/0"], "tunnel mode ipv6ip", "tunnel"),
    (["interface Tunnel0"], "ipv6 mtu 1279", "1279"),
    (["interface Tunnel0"], "ip tcp adjust-mss 1461", "1461"),
    ([], "interface GigabitEthernet0/9", "GigabitEthernet0/9"),
    ([], "ipv6 route ::/0 Tunnel9", "Tunnel9"),
    ([], "no ipv6 rout ::/129 Null0", "::/129"),
    ([], "interface Tunnel0 ; reload", ";"),
])
def test_what_the_grammar_does_not_know_is_refused_and_changes_nothing(person: Person, lines: list[str], refused: str, word: str) -> None:
    person.configure(*lines)
    before, prompt = person.device.running, person.session.prompt
    said = person.type(refused)
    assert said.split("\n")[0] == " " * (len(prompt) + refused.index(word)) + "^"
    assert person.device.running == before


def test_no_takes_away_by_key_and_by_beginning(person: Person) -> None:
    person.configure(*TUNNEL, "ipv6 mtu 1400", "ipv6 nd prefix 2001:db8:1::/64 100 50", "ipv6 address 2001:db8::3/128")
    person.type("no ipv6 mtu", "no ipv6 nd prefix 2001:db8:1::/64", "no ipv6 address", "no tunnel destination", "no description")
    assert person.interface("Tunnel0") == [
        "interface Tunnel0", "no ip address", "ipv6 enable", "tunnel source 198.51.100.10", "tunnel mode ipv6ip"]


def test_a_second_value_replaces_the_first(person: Person) -> None:
    person.configure(*TUNNEL, "tunnel destination 198.51.100.2", "ipv6 nd prefix 2001:db8:1::/64 9 9", "ipv6 nd prefix 2001:db8:1::/64 8 8",
                     "ipv6 route 2001:db8:7::7/48 Tunnel0", "ipv6 route 2001:db8:7::/48 Tunnel0 5")
    text = person.device.running
    assert "198.51.100.1\n" not in text and "tunnel destination 198.51.100.2\n" in text
    assert "ipv6 nd prefix 2001:DB8:1::/64 8 8\n" in text and "64 9 9" not in text
    assert [line for line in text.splitlines() if line.startswith("ipv6 route")] == ["ipv6 route 2001:DB8:7::/48 Tunnel0 5"]


def test_defaults_are_not_shown(person: Person) -> None:
    person.configure(*TUNNEL, "ipv6 mtu 1480", "ipv6 nd ra interval 200", "tunnel mode gre ip")
    assert "tunnel mode" not in person.device.running and "ra interval" not in person.device.running
    person.type("tunnel mode ipv6ip")
    assert "ipv6 mtu" not in person.device.running
    assert "MTU is 1480 bytes" in person.type("do show ipv6 interface Tunnel0")
    person.type("ipv6 mtu 1472")
    assert " ipv6 mtu 1472\n" in person.device.running


@pytest.mark.parametrize(("line", "said"), [
    ("ip address 192.0.2.0 255.255.255.0", "Bad mask /24 for address 192.0.2.0"),
    ("ip address 192.0.2.1 255.0.255.0", "Bad mask 0xFF00FF00 for address 192.0.2.1"),
    ("ip address 198.51.100.9 255.255.255.0", "% 198.51.100.0 overlaps with GigabitEthernet0/0"),
    ("ip address 192.0.2.1 255.255.255.255", "Bad mask /32 for address 192.0.2.1"),
])
def test_addresses_are_checked_for_their_meaning(person: Person, line: str, said: str) -> None:
    person.configure("interface GigabitEthernet0/0", "ip address 198.51.100.1 255.255.255.0", "interface GigabitEthernet0/1")
    assert person.type(line).strip() == said
    assert "no ip address" in person.interface("GigabitEthernet0/1")


def test_hardware_stays_and_a_removed_tunnel_takes_its_routes_along(person: Person) -> None:
    person.configure(*TUNNEL, "ipv6 route ::/0 Tunnel0 200", "ipv6 route 2001:db8:1::/48 Null0")
    said = person.type("no interface GigabitEthernet0/0")
    assert said == "% Removal of physical interfaces is not permitted.\n"
    person.type("no interface Tunnel0")
    assert "Tunnel0" not in person.device.running and "ipv6 route 2001:DB8:1::/48 Null0" in person.device.running


def test_output_can_be_cut(person: Person) -> None:
    person.configure(*TUNNEL, "end")
    said = person.type("show running-config | include tunnel source")
    assert said == " tunnel source 198.51.100.10\n"
    section = person.type("sh run | sec interface Tunnel0")
    assert section.startswith("interface Tunnel0\n") and section.endswith(" tunnel destination 198.51.100.1\n")
    assert person.type("show running-config interface Tunnel0").startswith("Building configuration...\n")


def test_long_output_waits_for_a_key() -> None:
    person = Person(answers=["\r", " ", "q"])
    person.session.length = 5
    shown = person.type("show running-config")
    assert shown.count(" --More-- ") == 3 and "\nend\n" not in shown


def test_saving_asks_reloading_forgets(tmp_path: Path) -> None:
    person = Person(Device("R1", state=tmp_path / "r1.json"), answers=["", "no", "\r"])
    person.configure("ipv6 unicast-routing", "end")
    assert "startup-config is not present" in person.type("show startup-config")
    assert person.type("copy running-config startup-config").endswith("Building configuration...\n[OK]\n")
    person.configure(*TUNNEL, "end")
    with pytest.raises(Closed):
        person.type("reload")
    assert "ipv6 unicast-routing" in person.device.running and "Tunnel0" not in person.device.running


def test_the_state_file_brings_everything_back(tmp_path: Path) -> None:
    person = Person(Device("R1", state=tmp_path / "r1.json"))
    person.configure(*TUNNEL, "ip access-list extended P41", "permit 41 host 198.51.100.1 any", "interface GigabitEthernet0/1",
                     "no shutdown", "end")
    person.type("write memory")
    again = Device("other", state=tmp_path / "r1.json")
    assert again.running == person.device.running and again.startup == person.device.running
    assert again.config.hostname == "R1"


def test_a_configuration_survives_its_own_text() -> None:
    person = Person()
    person.configure(*TUNNEL, "no ip domain lookup", "ipv6 route ::/0 Tunnel0 200", "interface Loopback0",
                     "ip address 203.0.113.9 255.255.255.255")
    text = person.device.running
    assert "no ip domain lookup\n" in text
    assert Config.parse(text, person.device.physical).text() == text


def test_enabling_wants_the_secret() -> None:
    person = Person(Device("R1", enable_secret="opensesame", level=1), answers=["wrong", "opensesame"])
    assert person.type("configure terminal").strip().endswith("% Invalid input detected at '^' marker.")
    person.type("enable")
    assert person.session.prompt == "R1#"


def test_pinging_without_a_route_or_a_raw_socket_says_so(person: Person) -> None:
    assert "% No valid route for destination" in person.type("ping ipv6 2001:db8::1 repeat 2")
    person.configure("interface GigabitEthernet0/0", "ip address 198.51.100.10 255.255.255.0", "no shutdown", *TUNNEL,
                     "ipv6 route ::/0 Tunnel0", "end")
    shown = person.type("ping ipv6 2001:db8::1 source Tunnel0 repeat 3 timeout 1")
    assert "Packet sent with a source address of 2001:DB8::2\n...\nSuccess rate is 0 percent (0/3)\n" in shown
    assert "100 percent (2/2)" in person.type("ping ipv6 2001:db8::2 repeat 2")


def test_interface_states(person: Person) -> None:
    person.configure("interface GigabitEthernet0/0", "ip address 198.51.100.10 255.255.255.0", *TUNNEL, "end")
    assert "Tunnel0                [up/down]\n    2001:DB8::2\n" in person.type("show ipv6 interface brief")
    person.configure("interface GigabitEthernet0/0", "no shutdown", "end")
    assert "Tunnel0                [up/up]" in person.type("show ipv6 interface brief")
    assert "Tunnel source 198.51.100.10, destination 198.51.100.1" in person.type("show interfaces Tunnel0")

# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Reads and plays the text scenarios of tests/scenarios (the form is told in the README there). Time is virtual."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, field
from ipaddress import IPv4Address, ip_address, ip_network
from pathlib import Path
from typing import Any, NoReturn

from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp import events
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.client import ClientConfig, Credentials, TspClient
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.errors import RemoteError, TspError
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.events import BrokerAddress
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.messages import Refusal
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.request import TunnelRequest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.server import ServerConfig, TspServer
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._tsp._accounts import counting_rng, rng_saying
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._tsp._pair import FakeBackend, a_grant

VERBS = ("EXPECT", "SEND", "LOSE", "ADVANCE", "SILENCE", "EVENT", "STATE", "QUIRKS", "CALLS", "CLOSE", "UNTIL", "ASKED")
START = 100.0


class ScenarioError(Exception):
    """A scenario that cannot be read, or an expectation that does not hold. Its text begins with file:line."""


@dataclass
class Step:
    """One STEP. args: bare words; options: key=value; text: lines as (kind, content)."""

    line: int
    number: int
    verb: str
    args: list[str]
    options: dict[str, str]
    text: list[tuple[str, str, int]] = field(default_factory=list)


@dataclass
class Scenario:
    """One file. side: CLIENT or BROKER, which of ours is played."""

    path: Path
    title: str = ""
    covers: list[str] = field(default_factory=list)
    side: str = ""
    side_line: int = 0
    transport: str = ""
    options: dict[str, str] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)

    def fail(self, line: int, message: str) -> NoReturn:
        raise ScenarioError(f"{self.path.parent.name}/{self.path.name}:{line}: {message}")


def read(path: Path) -> Scenario:
    """Parse a file. Raises ScenarioError."""
    scenario = Scenario(path)
    for line, raw in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not raw.strip() or raw.startswith("#"):
            continue
        if raw.startswith("|"):
            if not scenario.steps or scenario.steps[-1].verb not in ("EXPECT", "SEND"):
                scenario.fail(line, "text belongs to EXPECT and SEND")
            match = re.match(r"\|(-|lf|64|x|~|\*)?(?: (.*))?\Z", raw)
            if match is None:
                scenario.fail(line, "a line of text begins with `| ` or with |-, |lf, |64, |x, |~ or |* and a blank")
            scenario.steps[-1].text.append((match[1] or "", match[2] or "", line))
            continue
        words = re.sub(r"\s+#.*", "", raw).split()
        if words[0] == "TITLE":
            scenario.title = raw[5:].strip()
        elif words[0] == "COVERS":
            scenario.covers += words[1:]
        elif words[0] in ("CLIENT", "BROKER") and len(words) > 1 and words[1] in ("udp", "tcp"):
            if scenario.side:
                scenario.fail(line, "CLIENT or BROKER may stand once")
            scenario.side, scenario.side_line, scenario.transport = words[0], line, words[1]
            scenario.options = _options(scenario, line, words[2:])[1]
        elif words[0] == "STEP" and len(words) > 2 and words[1].isdigit() and words[2] in VERBS:
            if scenario.steps and int(words[1]) <= scenario.steps[-1].number:
                scenario.fail(line, "step numbers must rise")
            scenario.steps.append(Step(line, int(words[1]), words[2], *_options(scenario, line, words[3:])))
        else:
            scenario.fail(line, f"this cannot be read: {raw}")
    if not (scenario.title and scenario.side and scenario.steps):
        scenario.fail(1, "a scenario needs TITLE, CLIENT or BROKER, and steps")
    return scenario


def _options(scenario: Scenario, line: int, words: list[str]) -> tuple[list[str], dict[str, str]]:
    args, options = [], {}
    for word in words:
        name, equals, value = word.partition("=")
        if equals and name in options:
            scenario.fail(line, f"{name} stands twice")
        if equals:
            options[name] = value
        else:
            args.append(word)
    return args, options


def _unescape(text: str) -> bytes:
    return re.sub(rb"\\(?:x([0-9A-Fa-f]{2})|(.))",
                  lambda m: bytes.fromhex(m[1].decode()) if m[1] else {b"0": b"\0", b"r": b"\r", b"n": b"\n", b"t": b"\t"}.get(m[2], m[2]),
                  text.encode("utf-8"))


def _text(lines: list[tuple[str, str, int]]) -> bytes:
    """The bytes of a step; `Content-length: #` is filled in with the number of bytes behind its line."""
    parts = []
    for kind, content, _line in lines:
        if kind == "x":
            parts.append(bytes.fromhex(content))
        elif kind == "64":
            parts.append(base64.b64encode(_unescape(content)) + b"\r\n")
        elif kind == "*":
            count, _blank, what = content.partition(" ")
            parts.append(_unescape(what) * int(count))
        else:
            parts.append(_unescape(content) + {"": b"\r\n", "-": b"", "lf": b"\n"}[kind])
    for index, part in enumerate(parts):
        if re.match(rb"(?i)content-length: #([+-]\d+)?\r?\n", part):
            size = len(b"".join(parts[index + 1:]))
            parts[index] = re.sub(rb"#([+-]\d+)?", lambda m, size=size: b"%d" % (size + int(m[1] or 0)), part)
    return b"".join(parts)


class Player:
    """Plays one scenario against one TspClient or TspServer."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.udp = scenario.transport == "udp"
        self.now = START
        self.said: list[tuple[float, bytes]] = []
        self.events: list[Any] = []
        self.last_said_at = START
        self.header = bytes(8)
        self.number = 0xF00000EF
        self.stamp = 1000
        self.last_sent = b""
        self.line = scenario.side_line
        known = {"CLIENT": _CLIENT_OPTIONS, "BROKER": _BROKER_OPTIONS}[scenario.side]
        unknown = sorted(set(scenario.options) - known)
        if unknown:
            self.fail(f"unknown option {unknown[0]}; there are {', '.join(sorted(known))}")
        try:
            self.side: Any = _client(scenario) if scenario.side == "CLIENT" else _broker(scenario)
        except TspError as error:
            self.events.append(events.Failed(error))
            self.side = None
            return
        self.side.connect(self.now) if scenario.side == "CLIENT" or not self.udp else None
        self.collect()

    def fail(self, message: str) -> NoReturn:
        self.scenario.fail(self.line, message)

    def play(self) -> None:
        """All steps; at the end nothing may be left over."""
        for step in self.scenario.steps:
            self.line = step.line
            getattr(self, "do_" + step.verb.lower())(step)
        self.line = self.scenario.steps[-1].line
        self.nothing_said("at the end")
        if self.scenario.side == "CLIENT" and self.events:
            self.fail(f"at the end nobody asked for the event {self.events[0]}")

    def nothing_said(self, when: str) -> None:
        if self.said:
            self.fail(f"{when}, nobody expected that it says {self.said[0][1]!r}")

    def collect(self) -> None:
        if self.side is None:
            return
        self.said += [(self.now, data) for data in self.side.data_to_send(self.now)]
        if self.scenario.side == "CLIENT":
            while (event := self.side.next_event()) is not None:
                self.events.append(event)

    def take(self) -> bytes:
        """Our oldest message: text without the header, which is kept."""
        if not self.said:
            extra = f"; it reported {self.events[0]}" if self.events else ""
            self.fail(f"it says nothing{extra}")
        at, data = self.said.pop(0)
        self.after, self.last_said_at = at - self.last_said_at, at
        if not self.udp:
            return data
        if self.scenario.side == "BROKER" and data[:8] != self.last_sent[:8]:
            self.fail(f"its header is {data[:8].hex()}, not {self.last_sent[:8].hex()}")
        self.header = data[:8]
        return data[8:]

    def do_expect(self, step: Step) -> None:
        text = self.take()
        if "seq" in step.options and self.header[:4].hex() != step.options["seq"]:
            self.fail(f"its sequence number is {self.header[:4].hex()}, not {step.options['seq']}")
        if "stamp" in step.options and int.from_bytes(self.header[4:], "big") != int(step.options["stamp"]):
            self.fail(f"its time stamp is {int.from_bytes(self.header[4:], 'big')}, not {step.options['stamp']}")
        if "after" in step.options and abs(self.after - float(step.options["after"])) > 0.0005:
            self.fail(f"it came {self.after:.3f} s after its last message, not {step.options['after']} s")
        if any(kind == "~" for kind, _content, _line in step.text):
            pattern = b"".join(content.encode() if kind == "~" else re.escape(_text([(kind, content, line)]))
                               for kind, content, line in step.text)
            if not re.fullmatch(pattern, text, re.DOTALL):
                self.fail(f"it says\n  {text!r}\nwhich does not match\n  {pattern!r}")
        elif text != _text(step.text):
            self.fail(f"it says\n  {text!r}\nand not\n  {_text(step.text)!r}")

    def do_lose(self, step: Step) -> None:
        self.take()

    def do_send(self, step: Step) -> None:
        self.nothing_said("before this step")
        self.hear(_text(step.text), step.options)
        if "again" in step.options:
            for _copy in range(int(step.options["again"])):
                self.receive(self.last_sent)

    def hear(self, text: bytes, options: dict[str, str]) -> None:
        if self.udp:
            if self.scenario.side == "CLIENT":
                header = self.header
            else:
                if options.get("repeat") != "yes":
                    self.number += 1
                self.stamp += 7
                header = self.number.to_bytes(4, "big") + self.stamp.to_bytes(4, "big")
            if "seq" in options:
                header = bytes.fromhex(options["seq"]) + header[4:]
            if "stamp" in options:
                header = header[:4] + int(options["stamp"]).to_bytes(4, "big")
            text = header + text
        self.last_sent = text
        piece = int(options.get("pieces", "0")) or len(text) or 1
        for at in range(0, len(text), piece):
            self.receive(text[at:at + piece])

    def receive(self, data: bytes) -> None:
        self.side.receive(data, self.now)
        self.collect()

    def do_advance(self, step: Step) -> None:
        self.nothing_said("before this step")
        until = self.now + float(step.args[0])
        while (timer := self.side.next_timer()) is not None and timer <= until + 1e-9:
            self.now = max(self.now, timer)
            self.side.handle_timer(self.now)
            again = self.side.next_timer()
            if again is not None and again <= self.now:
                self.fail("its timer does not move")
            self.collect()
        self.now = until

    def do_silence(self, step: Step) -> None:
        self.nothing_said("here")

    def do_close(self, step: Step) -> None:
        self.nothing_said("before this step")
        self.side.receive_eof(self.now)
        self.collect()

    def do_state(self, step: Step) -> None:
        if self.side.state != step.args[0]:
            self.fail(f"its state is {self.side.state}, not {step.args[0]}")
        for name, value in step.options.items():
            if getattr(self.side, name) is not {"yes": True, "no": False}[value]:
                self.fail(f"{name} is not {value}")

    def do_quirks(self, step: Step) -> None:
        wanted = {name: int(count) for name, count in step.options.items()}
        if self.side.quirks != wanted:
            self.fail(f"its quirks are {self.side.quirks}, not {wanted}")

    def do_calls(self, step: Step) -> None:
        calls, self.side.backend.calls = self.side.backend.calls, []
        if calls != step.args:
            self.fail(f"the backend was asked {' '.join(calls) or 'nothing'}, not {' '.join(step.args) or 'nothing'}")

    def do_asked(self, step: Step) -> None:
        self.compare(self.side.backend.request, step.options)

    def do_event(self, step: Step) -> None:
        if not self.events:
            self.fail("it reports nothing")
        event = self.events.pop(0)
        kind = type(event).__name__.lower().replace("capabilitiesreceived", "capabilities")
        if kind != step.args[0]:
            self.fail(f"it reports {event}, not {step.args[0]}")
        what = event
        if isinstance(event, events.Granted):
            what = event.grant
            warnings = int(step.options.pop("warnings", "0"))
            if len(event.warnings) != warnings:
                self.fail(f"it warns {event.warnings}")
        elif isinstance(event, events.Failed):
            what = event.error
            if not event.error.hint:
                self.fail("its error does not say what to do")
        self.compare(what, step.options)

    def compare(self, what: Any, options: dict[str, str]) -> None:
        """Each option names an attribute (a.b for one of an attribute's); lists and sets are compared sorted and comma-separated."""
        for path, wanted in options.items():
            value = what
            for name in path.split("."):
                value = getattr(value, name)
            if isinstance(value, (frozenset, set, tuple, list)):
                shown = ",".join(sorted(value)) if not isinstance(value, tuple) else ",".join(_plain(item) for item in value)
            else:
                shown = _plain(value)
            if shown != wanted:
                self.fail(f"{path} is {shown}, not {wanted}")

    def do_until(self, step: Step) -> None:
        """Go through the ordinary steps of an anonymous session until a state."""
        answers = _GOOD_ANSWERS if self.scenario.side == "CLIENT" else _GOOD_QUESTIONS
        for _number in range(6):
            if self.side.state == step.args[0]:
                self.events.clear()
                return
            if self.side.state not in answers:
                self.fail(f"there is no ordinary way from {self.side.state} to {step.args[0]}")
            if self.scenario.side == "CLIENT":
                self.take()
            self.hear(_unescape(answers[self.side.state]), {})
            if self.scenario.side == "BROKER":
                self.take()
        self.fail(f"{step.args[0]} is not reached; it is {self.side.state}")


def _plain(value: Any) -> str:
    if isinstance(value, BrokerAddress):
        return f"{value.family}:{value.address}" + ("" if value.port is None else f"@{value.port}")
    return {None: "none", True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, (bool, type(None))) else str(value)


_GOOD_ANSWERS = {
    "WAIT_CAPABILITY": r"CAPABILITY TUNNEL=V6V4 TUNNEL=V6UDPV4 TUNNEL=V4V6 AUTH=ANONYMOUS AUTH=PLAIN AUTH=DIGEST-MD5\r\n",
    "WAIT_AUTH": r"200 Success\r\n",
}
_CREATE = (r'<tunnel action="create" type="v6v4" proxy="no">\r\n <client>\r\n  <address type="ipv4">192.0.2.1</address>\r\n'
           r' </client>\r\n</tunnel>\r\n')
_GOOD_QUESTIONS = {
    "HELLO": r"VERSION=2.0.2\r\n",
    "NEGOTIATED": r"AUTHENTICATE ANONYMOUS\r\n",
    "READY": rf"Content-length: {len(_unescape(_CREATE))}\r\n{_CREATE}",
    "CONFIRMING": r'Content-length: 35\r\n<tunnel action="accept"></tunnel>\r\n',
}
_CLIENT_OPTIONS = {"version", "mode", "auth", "user", "password", "server", "local", "router", "dns", "keepalive", "proxy", "strict",
                   "plaintext", "action", "key", "cnonce", "ipv4"}
_BROKER_OPTIONS = {"versions", "tunnels", "auths", "nonce", "realm", "refuse", "redirect", "mode", "prefix", "password", "name"}


def _client(scenario: Scenario) -> TspClient:
    get = scenario.options.get
    router, keepalive = get("router"), get("keepalive", "30")

    def judge(_blob: bytes) -> None:
        if get("key") != "known":
            raise RemoteError("server_key_unknown", "not known", "ask")

    request = TunnelRequest(
        mode=get("mode", "v6v4"), host_type="host" if router is None else "router",
        prefix_length=None if router in (None, "default") else int(router or "0"),
        dns_servers=tuple(name for name in get("dns", "").split(",") if name), proxy=get("proxy") == "yes",
        client_ipv4=IPv4Address(get("ipv4")) if get("ipv4") else None,
        keepalive=keepalive != "no", keepalive_interval=30 if keepalive == "no" else int(keepalive))
    return TspClient(ClientConfig(
        transport=scenario.transport, server=get("server", "192.0.2.254"), request=request, version=get("version", "2.0.2"),
        local_address=ip_address(get("local", "192.0.2.1")), rng=rng_saying(get("cnonce")) if get("cnonce") else counting_rng(),
        action=get("action", "create"), auth_method=get("auth", "anonymous"),
        credentials=Credentials(get("user", "alice"), get("password", "secret1")), allow_plaintext=get("plaintext") == "yes",
        verify_key=judge, strict=get("strict") == "yes"))


def _broker(scenario: Scenario) -> TspServer:
    get = scenario.options.get
    backend = FakeBackend(tunnels=get("tunnels", "V6V4,V6UDPV4,V4V6").replace(",", " "),
                          auths=get("auths", "ANONYMOUS,PLAIN,DIGEST-MD5").replace(",", " "))
    backend.accounts["alice"].password = get("password", "secret1")
    for refusal in get("refuse", "").split(","):
        if refusal:
            step, status = refusal.split(":")
            backend.refusals[step] = Refusal(int(status))
    for redirect in get("redirect", "").split(","):
        if redirect:
            step, _colon, address = redirect.partition(":")
            family = "dn" if not re.match(r"[0-9a-f:.]+\Z", address) else "ipv6" if ":" in address else "ipv4"
            backend.redirects[step] = (*backend.redirects.get(step, ()), BrokerAddress(family, address))
    if get("mode") or get("prefix") or get("name"):
        grant = a_grant(get("mode", "v6v4"))
        changes: dict[str, Any] = {"prefix": ip_network(get("prefix"))} if get("prefix") else {}
        if get("name"):
            changes["client"] = grant.client.__class__(grant.client.ipv4, grant.client.ipv6, get("name"))
        backend.grant = a_grant(get("mode", "v6v4"), **changes)
    config: dict[str, Any] = {"versions": tuple(get("versions").split(","))} if get("versions") else {}
    nonce = get("nonce")
    return TspServer(ServerConfig(rng=rng_saying(nonce) if nonce else counting_rng(), realm=get("realm", "broker.example"), **config),
                     backend, scenario.transport, ("192.0.2.1", 40000))


def play(path: Path) -> Scenario:
    """Read and play a file. Raises ScenarioError with file:line."""
    scenario = read(path)
    Player(scenario).play()
    return scenario

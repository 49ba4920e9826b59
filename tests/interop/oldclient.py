# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A model of the three old clients (gw6c 5.1, gw6c 6.0, gogoCLIENT 1.2), written from what was measured of them, on real sockets.

    outcome = OldClient("5.1", Conf(server="192.0.2.1", tunnel_mode="v6udpv4", auth_method="digest-md5", userid="alice", passwd="x")).run()
    outcome.env["TSP_CLIENT_ADDRESS_IPV6"], outcome.exit, outcome.log

It sends their exact bytes and fails where they fail. It differs from them in one thing: where they would wait and begin again for ever it
stops, and says why in `outcome.retry`. Section numbers are those of tsp-protocol.md. test_model.py holds it against the recordings.
"""

from __future__ import annotations

import re
import socket
import threading
import time
from dataclasses import dataclass, field
from typing import Any, Callable, Optional

from . import oldsasl, oldxml
from .oldwire import CannotConnect, Sockets, UdpWire, Wire, WireError

PORT = 3653
ECHO = b"ECHO REQUEST"
ANSWER_ROOM = 4096
HOPS = 5
"""Redirects in a row before the model gives up. (5.1 goes on for ever.)"""


@dataclass(frozen=True)
class Version:
    """What differs between the clients (sections 2, 5, 7)."""

    name: str
    versions: tuple[str, ...]
    pause_after_302: float
    auth_failed: int
    no_common_mechanism: int
    keepalive_data: int
    keepalive_host_order: bool
    lost_after: int
    gives_status_as_exit: bool = False


CLIENTS = {
    "5.1": Version("5.1", ("2.0.1", "2.0.0", "1.0.1"), 5.0, 9, 9, 56, True, 5, True),
    "6.0": Version("6.0", ("2.0.1", "2.0.0", "1.0.1"), 0.005, 16, 17, 16, False, 3),
    "1.2": Version("1.2", ("2.0.2", "2.0.1", "2.0.0", "1.0.1"), 0.005, 16, 17, 16, False, 3),
}
TRANSPORTS = {"v6anyv4": ("udp", "tcp"), "v6v4": ("udp", "tcp"), "v6udpv4": ("udp",), "v4v6": ("udp", "tcp")}
INTERFACES = {"v6v4": "sit1", "v6udpv4": "gwtun", "v4v6": "sit0"}


@dataclass(frozen=True)
class Conf:
    """gw6c.conf (section 10); the names are those of the file."""

    server: str
    tunnel_mode: str = "v6anyv4"
    auth_method: str = "anonymous"
    userid: str = ""
    passwd: str = field(default="", repr=False)
    host_type: str = "host"
    prefixlen: int = 64
    if_prefix: str = ""
    dns_server: str = ""
    keepalive: bool = True
    keepalive_interval: int = 30
    client_v4: str = "auto"
    client_v6: str = "auto"
    proxy_client: bool = False


@dataclass
class Outcome:
    """What a user of the client would see. env: what the template script was told, None when it was not called. exit: the status of a
    client that ended; None: it runs, or would try again for the reason `retry`. attempts: (kind, server, version) of every
    session. brokers: the sorted list of a redirect. wire: the connection that stays open (v6udpv4)."""

    env: Optional[dict[str, str]] = None
    exit: Optional[int] = None
    retry: Optional[str] = None
    log: list[str] = field(default_factory=list)
    attempts: list[tuple[str, str, str]] = field(default_factory=list)
    brokers: list[str] = field(default_factory=list)
    info: Optional[oldxml.Info] = None
    wire: Any = None
    mechanism: str = ""
    server_key: bytes = b""
    resent: int = 0

    @property
    def up(self) -> bool:
        """A tunnel was set up."""
        return self.env is not None


class _Fatal(Exception):
    def __init__(self, code: int, why: str) -> None:
        super().__init__(why)
        self.code = code


class _TspError(Exception):
    """Next transport, later again."""


class _OtherVersion(Exception):
    pass


class _Redirect(Exception):
    def __init__(self, brokers: list[str]) -> None:
        super().__init__(brokers)
        self.brokers = brokers


def split_server(server: str) -> tuple[str, int]:
    """host, host:port, [v6], [v6]:port."""
    match = re.fullmatch(r"(?:\[(.+)\]|([^:]+))(?::(\d+))?", server)
    if match is None:
        raise ValueError(server)
    return match[1] or match[2], int(match[3] or PORT)


def number_of(text: bytes) -> int:
    """atoi() of a status line."""
    match = re.match(rb"\s*(\d+)", text)
    return int(match[1]) if match else 0


class OldClient:
    """One run of a client. step(name): called before version, authenticate, create, accept. pause: divides the wait after a 302.
    known_key: the broker's key in gw6ckeys.pub, None accepts any. echo_patience: seconds for one of 3 tries (the clients: 10)."""

    def __init__(self, version: str, conf: Conf, sockets: Any = None, *, step: Callable[[str], None] = lambda _name: None,
                 pause: float = 1.0, known_key: bytes | None = None, echo_patience: float = 10.0, cnonce: str | None = None) -> None:
        self.version = CLIENTS[version]
        self.conf = conf
        self.sockets = sockets or Sockets()
        self._step, self._pause, self._known_key, self._patience, self._cnonce = step, pause, known_key, echo_patience, cnonce
        self._client_v4 = ""
        self.out = Outcome()

    # Which broker, which transport, which version (sections 1.1, 2, 6, 8) ---------------------------------------------------------

    def run(self) -> Outcome:
        """Until there is a tunnel, the client ends, or it would wait and begin again."""
        out = self.out
        try:
            brokers = [self.conf.server]
            for _hop in range(HOPS + 1):
                try:
                    self._try_each(brokers)
                    return out
                except _Redirect as away:
                    brokers = self._sort(away.brokers)
                    out.brokers = brokers
            out.retry = "redirected again and again"
        except _Fatal as exc:
            out.exit = exc.code
            out.log.append(str(exc))
        return out

    def _try_each(self, brokers: list[str]) -> None:
        for broker in brokers:
            at = 0
            while at is not None and at < len(self.version.versions):
                version = self.version.versions[at]
                following = at + 1
                if version.startswith("1.") and self.conf.tunnel_mode in ("v6udpv4", "v4v6"):
                    break  # 1.x knows neither
                connected = False
                for kind in TRANSPORTS[self.conf.tunnel_mode]:
                    if version.startswith("1.") and kind == "udp":
                        continue
                    self.out.attempts.append((kind, broker, version))
                    try:
                        self._session(kind, broker, version)
                        return
                    except CannotConnect as exc:
                        self.out.log.append(f"{kind} {broker}: cannot connect: {exc}")
                    except _OtherVersion:
                        time.sleep(self.version.pause_after_302 / self._pause if version != "2.0.0" else 0)
                        connected = True
                        break
                    except (_TspError, WireError) as exc:
                        self.out.log.append(f"{kind} {broker}: {exc}")
                        self.out.retry = str(exc)
                        connected = True
                else:
                    if connected:
                        return
                    break  # nobody there: the next broker of the list
                at = following
            else:
                self.out.retry = "every version was refused"
                return
            if connected:
                self.out.retry = "every version was refused"
                return
        self.out.retry = "cannot connect to anybody"

    def _session(self, kind: str, broker: str, version: str) -> None:
        host, port = split_server(broker)
        if (":" in host) != (self.conf.tunnel_mode == "v4v6"):
            raise CannotConnect(f"{host} is of the wrong family")
        wire = self.sockets.open(kind, host, port)
        keep = False
        try:
            if not self._client_v4:
                self._client_v4 = wire.local
            keep = self._talk(wire, broker, version)
        finally:
            self.out.resent += getattr(wire, "resent", 0)
            if not keep:
                wire.close()

    # One session ------------------------------------------------------------------------------------------------------------------

    def _talk(self, wire: Wire, broker: str, version: str) -> bool:
        """Whether the connection stays open."""
        conf, out = self.conf, self.out
        self._step("version")
        wire.write(f"VERSION={version}\r\n".encode())
        tunnels, auths = self._capabilities(wire.read())
        wanted = {"v6anyv4": {"V6V4", "V6UDPV4"}}.get(conf.tunnel_mode, {conf.tunnel_mode.upper()})
        if not wanted & tunnels:
            if self.version.name == "5.1":
                raise _TspError(f"{conf.tunnel_mode} is not offered")
            raise _Fatal(15, f"{conf.tunnel_mode} is not offered")
        self._step("authenticate")
        self._authenticate(wire, auths, broker, version)
        self._step("create")
        address = conf.client_v6 if conf.tunnel_mode == "v4v6" else conf.client_v4
        if address == "auto":
            address = self._client_v4
        body = oldxml.create(
            mode=conf.tunnel_mode, proxy=conf.proxy_client, address=address, keepalive=conf.keepalive_interval if conf.keepalive else None,
            prefix_length=conf.prefixlen if conf.host_type == "router" else None,
            dns_servers=conf.dns_server.split(":") if conf.dns_server else [])
        wire.write(oldxml.with_length(body))
        text = self._answer(wire)
        status = number_of(text)
        if status > 1000:
            raise self._redirected(text)
        if status == 310 and self.version.name == "5.1":
            raise _TspError(f"the broker said {text[:60]!r}")
        if status != 200:
            raise _Fatal(status % 256 if self.version.gives_status_as_exit else 13, f"status {status} at create: {text[:60]!r}")
        xml = text.partition(b"\n")[2]
        info = oldxml.info(xml.decode("ascii", "replace"))
        self._step("accept")
        if not version.startswith("1."):
            wire.write(oldxml.with_length(oldxml.ACCEPT))
        if info.problems:
            raise _Fatal(0, "; ".join(info.problems))
        out.retry = None
        out.info, out.env = info, self._environment(info)
        if info.mode == "v6udpv4":
            if not isinstance(wire, UdpWire) and wire.kind != "udp":
                raise _Fatal(7, "v6udpv4 was granted over TCP")
            out.wire = wire
            return True
        return False

    def _capabilities(self, line: bytes) -> tuple[set[str], set[str]]:
        """The reply to VERSION: one read holds the whole line, and every token its end."""
        status = number_of(line) if line[:3].isdigit() else 0
        if status > 1000:
            raise self._redirected(line)
        if status == 302:
            raise _OtherVersion
        if not line.startswith(b"CAPABILITY "):
            raise _TspError(f"not a capability line: {line[:60]!r}")
        if not line.endswith(b"\r\n") or line.count(b"\n") > 1:
            raise _TspError(f"the last token has no line end, or more came in the same read: {line!r}")
        tunnels, auths = set(), set()
        for token in line[:-2].decode("ascii").split(" ")[1:]:
            name, _equals, value = token.partition("=")
            if not value:
                raise _TspError(f"the capability {token!r} cannot be read: {line!r}")
            if name == "TUNNEL":
                tunnels.add(value)  # case-sensitive
            elif name == "AUTH":
                auths.add(value.upper())
        return tunnels, auths

    def _authenticate(self, wire: Wire, auths: set[str], broker: str, version: str) -> None:
        conf, method = self.conf, self.conf.auth_method.upper()
        if method == "ANY":
            method = next((name for name in oldsasl.STRENGTH if name in auths), "")
        if method not in auths:
            raise _Fatal(self.version.no_common_mechanism, f"no common authentication: {conf.auth_method}, the broker has {sorted(auths)}")
        self.out.mechanism = method
        wire.write(f"AUTHENTICATE {method}\r\n".encode() + b"\0")
        try:
            if method == "PLAIN":
                wire.write(b"\0" + conf.userid.encode() + b"\0" + conf.passwd.encode() + b"\r\n")
            elif method == "DIGEST-MD5":
                digest = oldsasl.Digest(conf.userid, conf.passwd, broker, version, self._cnonce)
                wire.write(digest.answer(wire.read()))
                digest.verify(wire.read())
            elif method == "PASSDSS-3DES-1":
                passdss = oldsasl.Passdss(conf.userid, conf.passwd, self._known_key)
                wire.write(passdss.first())
                wire.write(passdss.answer(wire.read()))
                self.out.server_key = passdss.blob
            verdict = wire.read()
        except oldsasl.Said as said:
            verdict = said.text
        except (oldsasl.AuthFailure, UnicodeDecodeError) as exc:
            raise _Fatal(self.version.auth_failed, f"{method}: {exc}") from None
        except WireError as exc:
            if isinstance(exc, CannotConnect):
                raise
            raise _Fatal(self.version.auth_failed, f"{method}: {exc}") from None
        status = number_of(verdict)
        if status > 1000:
            raise self._redirected(verdict)
        if status != 200 or verdict.count(b"\n") > 1:
            other = 9 if self.version.name == "5.1" else 13
            raise _Fatal(self.version.auth_failed if status == 300 else other, f"{method}: the broker said {verdict!r}")

    def _answer(self, wire: Wire) -> bytes:
        """Status line and XML of the answer to create (section 1.5)."""
        data = wire.read()
        if not data.startswith(oldxml.CONTENT_LENGTH) or b"\n" not in data:
            self.out.log.append(f"no Content-length line in the first read: {data[:40]!r}")
            return data
        line, _end, data = data.partition(b"\n")
        length = number_of(line[len(oldxml.CONTENT_LENGTH):])
        if length > ANSWER_ROOM:
            raise _Fatal(0, f"an answer of {length} bytes does not fit")
        if len(data) > length:
            raise _Fatal(0, f"invalid payload size: {len(data)} bytes instead of {length}")
        if len(data) < length and wire.kind == "udp":
            raise AssertionError(f"a datagram promised {length} bytes and had {len(data)}")
        while len(data) < length:
            data += wire.read()
        return data

    def _redirected(self, text: bytes) -> Exception:
        line, _end, xml = text.partition(b"\n")
        try:
            brokers = oldxml.redirect_list(xml.decode("ascii"))
        except (oldxml.NotUnderstood, UnicodeDecodeError) as exc:
            return _Fatal(20, f"redirect error: {exc} in {text!r}")
        if not brokers:
            return _Fatal(20, "redirect error: an empty list")
        self.out.log.append(f"redirected by {line!r} to {brokers}")
        return _Redirect(brokers)

    def _environment(self, info: oldxml.Info) -> dict[str, str]:
        """Section 9."""
        conf, v4v6 = self.conf, info.mode == "v4v6"
        env = {
            "TSP_OPERATION": "TSP_TUNNEL_CREATION", "TSP_TUNNEL_MODE": info.mode, "TSP_HOST_TYPE": conf.host_type,
            "TSP_TUNNEL_INTERFACE": INTERFACES.get(info.mode, ""), "TSP_HOME_INTERFACE": conf.if_prefix,
            "TSP_CLIENT_ADDRESS_IPV4": info.addresses["client_ipv4"], "TSP_CLIENT_ADDRESS_IPV6": info.addresses["client_ipv6"],
            "TSP_SERVER_ADDRESS_IPV4": info.addresses["server_ipv4"], "TSP_SERVER_ADDRESS_IPV6": info.addresses["server_ipv6"],
            "TSP_TUNNEL_PREFIXLEN": "32" if v4v6 else "128"}
        if info.dns_name is not None:
            env["TSP_CLIENT_DNS_NAME"] = info.dns_name
        if info.prefix is not None and info.prefix_length is not None:
            env["TSP_PREFIX"] = oldxml.prefix_text(info.prefix, info.prefix_length)
            env["TSP_PREFIXLEN"] = str(info.prefix_length)
        if self.version.name == "1.2":
            env["TSP_CLIENT_DNS_ADDRESS_IPV6"] = ""
        return env

    # Redirection (section 6) ------------------------------------------------------------------------------------------------------

    def _sort(self, brokers: list[str]) -> list[str]:
        """By the distance that echo requests show, all at once; a single broker is not asked."""
        if len(brokers) == 1:
            return brokers
        distances: dict[str, float] = {}

        def ask(broker: str) -> None:
            host, port = split_server(broker)
            wrong = 30000 if (":" in host) != (self.conf.tunnel_mode == "v4v6") else 0
            began = time.monotonic()
            try:
                wire = self.sockets.open("udp", host, PORT)
                try:
                    reply = self._echo(wire)
                finally:
                    wire.close()
                error = 0 if number_of(reply) == 200 else 20000
            except (WireError, OSError):
                error = 20000
            distances[broker] = (time.monotonic() - began) * 1000 + error + wrong

        threads = [threading.Thread(target=ask, args=(broker,)) for broker in brokers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sorted(brokers, key=lambda broker: distances[broker])

    def _echo(self, wire: Wire) -> bytes:
        if not isinstance(wire, UdpWire):  # a recording
            wire.write(ECHO)
            return wire.read()
        sequence = (0xF00000F0).to_bytes(4, "big")
        for _attempt in range(3):
            wire.sock.send(sequence + int(time.time() * 1000 % 1000).to_bytes(4, "big") + ECHO)
            wire.sock.settimeout(self._patience)
            try:
                reply = wire.sock.recv(4096)
            except (TimeoutError, socket.timeout):
                continue
            if reply[:4] == sequence:
                return reply[8:]
        return b""

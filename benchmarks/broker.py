# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The embedded broker, one process as `serve` runs it (log level info into a file, store on disk, no data plane).

`broker_digest_per_s`: complete DIGEST-MD5 exchanges over UDP a second, VERSION to accept, each by another user from another socket
and ending in a v6udpv4 tunnel. A load generator in a process of its own keeps 32 of them going for a few seconds over loopback; it
computes every response and checks every answer. Best of three series, for the machine is shared with the generator and with others;
`broker_digest_cpu_ms` is the broker's own processor time per exchange, which depends less on the others.

`broker_bytes_per_lease`: resident memory of a broker that has restored 100,000 leases with open tunnel ends and prefixes, less that of
one with an empty store, divided by 100,000.

`broker_old_tcp_ms_plain`: a session over TCP as old clients make it, with Nagle's algorithm and the credentials written apart from the
mechanism's name, from VERSION to the grant; median. Where a server waits with its acknowledgements it takes 40 ms more.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import select
import signal
import socket
import sqlite3
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from base64 import b64decode, b64encode
from pathlib import Path

import _collection  # noqa: F401  pylint: disable=unused-import
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._broker import accounts
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._broker.store import Store

TARGETS = {"broker_digest_per_s": (">=", 500.0), "broker_bytes_per_lease": ("<=", 3072.0), "broker_old_tcp_ms_plain": ("<", 10.0)}
USERS = 5000
AT_ONCE = 32
SECONDS = 2.5
SERIES = 3
LEASES = 100_000
REALM = "broker.example"
PASSWORD = "benchmark"
MODULE_UTILS = Path(__file__).resolve().parent.parent / "plugins"
NONCE = re.compile(rb'nonce="([^"]+)"')


class Served:
    """A broker process."""

    def __init__(self, folder: Path, users: int) -> None:
        self.folder = folder
        entries = [{"username": f"user{n}", "digest_ha1": accounts.ha1(f"user{n}", REALM, PASSWORD).hex()} for n in range(users)]
        config = folder / "broker.json"  # JSON is YAML
        config.touch(0o600)
        config.write_text(json.dumps({
            "name": REALM, "listen": {"addresses": ["127.0.0.1"], "port": 0}, "modes": ["v6udpv4", "v6v4"], "data_plane": "none",
            "auth": {"plain": True, "passdss-3des-1": False}, "store": {"path": "leases.db"}, "log": {"file": "log.json"},
            "pools": {"ipv6": "2001:db8:f::/64", "prefixes": [{"network": "2001:db8:8000::/33", "lengths": [56]}]},
            "accounts": entries}), encoding="utf-8")
        self.process = subprocess.Popen([sys.executable, "-m", "module_utils._broker.cli", "serve", "--config", str(config)],
                                        env={**os.environ, "PYTHONPATH": str(MODULE_UTILS)}, stdin=subprocess.DEVNULL)
        self.port = self._wait()

    def _wait(self) -> int:
        log = self.folder / "log.json"
        while self.process.poll() is None:
            if log.exists():
                for line in log.read_text(encoding="utf-8").splitlines():
                    if '"listening"' in line:
                        return int(json.loads(line)["port"])
            time.sleep(0.05)
        raise RuntimeError("the broker ended at its start")

    def resident(self) -> int:
        """Bytes."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def processor(self) -> float:
        """Seconds of processor time used so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()


class Client:
    """One exchange after another, each on a new socket: the five answers in order, each checked."""

    def __init__(self, port: int, poll: select.epoll, user: int) -> None:
        self.port, self.poll, self.step = port, poll, 0
        self.user = f"user{user}"
        self.uri = f"tsp/127.0.0.1:{port}"
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.connect(("127.0.0.1", port))
        poll.register(self.socket.fileno(), select.EPOLLIN)
        self.send(b"VERSION=2.0.1\r\n")

    def send(self, text: bytes) -> None:
        # The time stamp tells a new session behind a port that was used before from a late copy of the old one.
        self.socket.send(struct.pack("!II", 0xF00000F0 + self.step, int(time.monotonic() * 1000) & 0xFFFFFFFF) + text)

    def answered(self) -> bool:
        """Take the next answer and send what follows; True when the exchange is complete. Raises RuntimeError for a wrong answer."""
        text = self.socket.recv(4096)[8:]
        self.step += 1
        if self.step == 1 and text.startswith(b"CAPABILITY"):
            self.send(b"AUTHENTICATE DIGEST-MD5\r\n\0")
        elif self.step == 2:
            found = NONCE.search(b64decode(text))
            self.send(self.response(found[1] if found else b""))
        elif self.step == 3 and b64decode(text).startswith(b"rspauth="):
            self.send(b"")
        elif self.step == 4 and text.startswith(b"200"):
            self.send(CREATE)
        elif self.step == 5 and b"\r\n200 Success" in text and b'type="v6udpv4"' in text:
            self.send(ACCEPT)
        elif self.step == 6 and not text:
            self.close()
            return True
        else:
            raise RuntimeError(f"step {self.step}: {text[:60]!r}")
        return False

    def response(self, nonce: bytes) -> bytes:
        cnonce = b"1700000000"
        key = hashlib.md5(accounts.ha1(self.user, REALM, PASSWORD) + b":" + nonce + b":" + cnonce).hexdigest()
        proof = hashlib.md5(f"AUTHENTICATE:{self.uri}".encode()).hexdigest()
        made = hashlib.md5(b":".join((key.encode(), nonce, b"00000001", cnonce, b"auth", proof.encode()))).hexdigest()
        fields = (b'charset=utf8,username="%s",realm="%s",nonce="%s",nc=00000001,cnonce="%s",digest-uri="%s",response=%s,qop=auth'
                  % (self.user.encode(), REALM.encode(), nonce, cnonce, self.uri.encode(), made.encode()))
        return b64encode(fields) + b"\r\n"

    def close(self) -> None:
        self.poll.unregister(self.socket.fileno())
        self.socket.close()


def _xml(body: bytes) -> bytes:
    return b"Content-length: %d\r\n%s" % (len(body), body)


def _create(mode: bytes, address: bytes) -> bytes:
    return _xml(b'<tunnel action="create" type="%s" proxy="no">\r\n <client>\r\n  <address type="ipv4">%s</address>\r\n'
                b'  <keepalive interval="30">\r\n    <address type="ipv6">::</address>\r\n  </keepalive>\r\n </client>\r\n</tunnel>\r\n'
                % (mode, address))


CREATE = _create(b"v6udpv4", b"10.0.0.1")
CREATE_V6V4 = _create(b"v6v4", b"127.0.0.1")
ACCEPT = _xml(b'<tunnel action="accept"></tunnel>\r\n')


def load(port: int, seconds: float) -> tuple[int, float]:
    """Keep AT_ONCE exchanges going; (complete ones, seconds that they took)."""
    poll, number, done = select.epoll(), 0, 0
    clients: dict[int, Client] = {}
    begin = time.monotonic()
    while time.monotonic() - begin < seconds or clients:
        while len(clients) < AT_ONCE and time.monotonic() - begin < seconds:
            client = Client(port, poll, number % USERS)
            clients[client.socket.fileno()] = client
            number += 1
        ready = poll.poll(5)
        if not ready:
            raise RuntimeError(f"no answer for 5 s, {len(clients)} exchanges open")
        for fd, _what in ready:
            if clients[fd].answered():
                del clients[fd]
                done += 1
    return done, time.monotonic() - begin


def fill(path: Path, count: int) -> None:
    """A store with `count` leases whose tunnel ends are open."""
    now = int(time.time())
    Store(path).close()
    with contextlib.closing(sqlite3.connect(path)) as connection, connection as db:
        db.executemany("INSERT INTO lease (owner, username, mode, ipv6, prefix6, router, dns_servers, outer, port, local, proxy, keepalive,"
                       " up, created_at, renewed_at, expires_at)"
                       " VALUES (?, ?, 'v6udpv4', ?, ?, 1, '', ?, ?, '127.0.0.1', 0, 3600, 1, ?, ?, ?)",
                       ((f"user:user{n}", f"user{n}", f"2001:db8:f::{n + 2 >> 16:x}:{n + 2 & 0xFFFF:x}",
                         f"2001:db8:{0x8000 + (n >> 8):x}:{(n & 255) << 8:x}::/56", f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}",
                         1024 + n % 60000, now, now, now + 604800) for n in range(count)))


def memory(count: int) -> int:
    """Resident bytes of a broker with that many leases."""
    with tempfile.TemporaryDirectory() as folder:
        fill(Path(folder, "leases.db"), count)
        served = Served(Path(folder), 1)
        try:
            return served.resident()
        finally:
            served.stop()


def old_tcp(port: int, runs: int = 60) -> float:
    """Median milliseconds of an old client's session by PLAIN."""
    took = []
    for _run in range(runs):
        with socket.create_connection(("127.0.0.1", port), timeout=10) as one:
            began = time.perf_counter()
            for part, wanted in ((b"VERSION=2.0.1\r\n", b"CAPABILITY"), (b"AUTHENTICATE PLAIN\r\n\0", b""),
                                 (b"\0user0\0%s\r\n" % PASSWORD.encode(), b"200"), (CREATE_V6V4, b"Content-length")):
                one.sendall(part)
                if wanted and not (got := one.recv(4096)).startswith(wanted):
                    raise RuntimeError(f"{got[:60]!r} instead of {wanted!r}")
            took.append((time.perf_counter() - began) * 1000)
            one.sendall(ACCEPT)
    return statistics.median(took)


def run() -> dict[str, float]:
    """The figures."""
    with tempfile.TemporaryDirectory() as folder:
        served = Served(Path(folder), USERS)
        try:
            command, used, rates = [sys.executable, __file__, str(served.port)], served.processor(), []
            for _series in range(SERIES):
                rates.append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout))
            used = served.processor() - used
            old = old_tcp(served.port)
        finally:
            served.stop()
    return {"broker_digest_per_s": round(max(done / seconds for done, seconds in rates), 1),
            "broker_digest_cpu_ms": round(used / sum(done for done, _seconds in rates) * 1000, 3),
            "broker_bytes_per_lease": round((memory(LEASES) - memory(0)) / LEASES, 1), "broker_old_tcp_ms_plain": round(old, 3)}


if __name__ == "__main__":
    print(json.dumps(load(int(sys.argv[1]), SECONDS)))

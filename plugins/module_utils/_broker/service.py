# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""The broker as a whole: puts the parts together, starts and stops them in the right order.

    async with Broker(config, log) as broker:
        broker.port, broker.plane, …
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sqlite3
from pathlib import Path
from typing import Any

from .._tsp import sasl
from .._tsp.errors import LocalError
from .._tsp.server import ServerConfig
from . import tcp
from .accounts import AccountBook
from .config import Config, fixed_problems, load
from .ends.choose import choose
from .ends.port import DataPlane, EndTable
from .follow import Follower
from .inventory import Inventory
from .keys import server_key
from .logs import Log
from .policy import Policy
from .pools import Address
from .registry import Registry
from .session import Session
from .store import Store
from .udp import UdpAdapter, UdpSocket

TICK = 1.0
PURGE_EVERY = 30
SAVE_AFTER = 0.05
"""Seconds after which it is written down that tunnels were opened: many at once where many come."""
MECHANISMS = ("ANONYMOUS", "PLAIN", "DIGEST-MD5", "PASSDSS-3DES-1")


def offered_mechanisms(config: Config) -> tuple[frozenset[str], str | None]:
    """Upper-case names that can be offered, and a warning where one cannot. Raises LocalError when the configuration insists."""
    auth, warning = config.auth, None
    wanted = dict(zip(MECHANISMS, (auth.anonymous, auth.plain, auth.digest_md5, auth.passdss)))
    if wanted["PASSDSS-3DES-1"] and not sasl.have_passdss():
        sentence = "PASSDSS-3DES-1 needs the Python package cryptography, which is not installed here"
        if auth.passdss != "auto":
            raise LocalError("missing_library", f"auth.passdss-3des-1 is true, but {sentence[0]}{sentence[1:]}.",
                             "Install cryptography for the Python that runs the broker, or set auth.passdss-3des-1: auto.")
        wanted["PASSDSS-3DES-1"], warning = False, f"{sentence}: it is not offered"
    offered = frozenset(name for name, on in wanted.items() if on)
    if not offered:
        raise LocalError("missing_library", "No authentication mechanism can be offered.", "Install cryptography, or turn on another one.")
    return offered, warning


class Broker:
    """start() … stop(). path: the configuration file, for reload()."""

    def __init__(self, config: Config, log: Log, path: Path | None = None) -> None:
        self.config = config
        self.log = log
        self.path = path
        self.port = 0
        self.table = EndTable()
        self.plane: DataPlane
        self.store: Store
        self.policy: Policy
        self.registry: Registry
        self.follower: Follower
        self.udp: UdpAdapter | None = None
        self.tcp: tcp.TcpAdapter | None = None
        self._server_config: ServerConfig
        self._stack = contextlib.AsyncExitStack()
        self._ticker: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Broker:
        await self.start()
        return self

    async def __aexit__(self, *_details: Any) -> None:
        await self.stop()

    async def start(self) -> None:
        """Raises LocalError; then everything is as before."""
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise

    async def _start(self) -> None:
        config, log, stack = self.config, self.log, self._stack
        for warning in config.warnings:
            log.warning("configuration", why=warning)
        offered, left_out = offered_mechanisms(config)
        if left_out:
            log.warning("mechanism_left_out", why=left_out)
        self.store = Store(config.store, exclusive=True, sync=config.store_sync)
        stack.callback(self.store.close)
        key = None
        if "PASSDSS-3DES-1" in offered:
            key, made = server_key(config.key_file)
            if made:
                log.info("key_made", file=str(config.key_file))
        self._server_config = ServerConfig(rng=os.urandom, realm=config.realm, versions=config.versions, dsa_key=key)
        self.udp = UdpAdapter(self._make_session, self._packet, config.limits.sessions, self._defect)
        self.plane, why, lesser = choose(config, self.table, self.udp.send)
        stack.callback(self.plane.stop)
        (log.warning if lesser else log.info)("data_plane", kind=self.plane.name, why=why)
        if self.plane.name != "none":
            self._check_forwarding()
        inventory = self._inventory()
        self.registry = Registry(config, self.store, self.table, self.plane, log)
        book = AccountBook({a.username: a for a in config.accounts}, self.store.account)
        loop = asyncio.get_running_loop()
        self.policy = Policy(config, self.store, book, inventory, self.registry, log, offered=offered,
                             defer=lambda function: loop.call_later(SAVE_AFTER, function))
        stack.callback(self.policy.flush)
        self.policy.elsewhere = self._elsewhere()
        self.follower = Follower(self.table, config.addresses.inner_ipv6, self.udp.send, self.policy.move, os.urandom)
        self._reserve()
        self.policy.purge_released()
        if hasattr(self.plane, "wake"):
            self.plane.wake = lambda mode, remote, source: self.registry.wake(mode, remote, source, loop.time())
        udp_sockets, tcp_sockets = self._bind()
        self.udp.start(udp_sockets)
        stack.callback(self.udp.stop)
        restored = self.registry.restore(loop.time())
        stack.callback(self._close_ends)
        self.tcp = tcp.TcpAdapter(self._make_session, config.limits.tcp_connections, config.limits.tcp_connections_per_address,
                                  config.limits.negotiation_seconds, self._defect)
        await self.tcp.start(tcp_sockets)
        stack.push_async_callback(self.tcp.stop)
        self._ticker = asyncio.ensure_future(self._tick())
        stack.push_async_callback(self._stop_ticker)
        log.info("listening", addresses=[str(a) for a in config.listen.addresses], port=self.port,
                 transports=list(config.listen.transports), modes=[m for m in config.modes if m in self.plane.modes],
                 auth=sorted(offered), leases=self.store.count(), restored=restored)

    async def stop(self) -> None:
        """Remove everything that was made; leases and what was open stay in the store for the next start."""
        await self._stack.aclose()
        self.log.info("stopped", **{k: v for k, v in self.counters().items() if v})

    def _close_ends(self) -> None:
        for end in list(self.table.by_lease.values()):
            self.plane.close(end)
            self.table.remove(end)

    # ---- parts of the start ----

    def _inventory(self) -> Inventory:
        addresses = self.config.addresses
        inventory = Inventory(self.config.pools, [a for a in (addresses.inner_ipv6, addresses.inner_ipv4) if a is not None])
        for lease in self.store.leases():
            lost = inventory.claim(lease)
            if lost:
                self.log.warning("outside_the_pools", lease=lease.id, owner=lease.owner, lost=lost,
                                 why="the pools were changed; this client gets others when it comes again")
        return inventory

    def _reserve(self) -> None:
        accounts = [*self.config.accounts, *self.store.accounts()]
        for account in accounts:
            for sentence in fixed_problems(self.config, account) if account.origin == "store" else ():
                self.log.warning("account", user=account.username, why=sentence)
        self.policy.inventory.reserve(accounts)

    def _bind(self) -> tuple[list[UdpSocket], list[socket.socket]]:
        """All sockets on one port. With port 0 the first one finds it; where another then has it already, a new one is tried."""
        listen = self.config.listen
        for attempt in range(20):
            udp_sockets: list[UdpSocket] = []
            tcp_sockets: list[socket.socket] = []
            port = listen.port
            try:
                for address in listen.addresses:
                    if "tcp" in listen.transports:
                        tcp_sockets.append(tcp.bind(address, port))
                        port = tcp_sockets[-1].getsockname()[1]
                    if "udp" in listen.transports:
                        udp_sockets.append(UdpSocket(address, port))
                        port = udp_sockets[-1].port
            except LocalError:
                for one in (*tcp_sockets, *(s.socket for s in udp_sockets)):
                    one.close()
                if listen.port or attempt == 19:
                    raise
                continue
            self.port = port
            return udp_sockets, tcp_sockets
        raise AssertionError("unreachable")

    def _check_forwarding(self) -> None:
        """Clients reach nothing beyond this host unless it forwards: the commonest reason for "connected, but no Internet"."""
        families = {6: "net/ipv6/conf/all/forwarding", 4: "net/ipv4/ip_forward"}
        for version in ({6} if set(self.config.modes) & {"v6v4", "v6udpv4"} else set()) | ({4} if "v4v6" in self.config.modes else set()):
            try:
                on = Path("/proc/sys", families[version]).read_text(encoding="ascii").strip() != "0"
            except OSError:
                continue
            if not on:
                self.log.warning("forwarding_off", why=f"this host does not forward IPv{version}: clients reach the broker, but nothing "
                                 f"beyond it. Set {families[version].replace('/', '.')}=1 with sysctl.")

    def _elsewhere(self) -> frozenset[Address]:
        """Configured outer addresses that this host does not have. Right behind a NAT, else the commonest slip of the pen."""
        found: list[Address] = []
        for address in (self.config.addresses.outer_ipv4, self.config.addresses.outer_ipv6):
            if address is None:
                continue
            try:
                with socket.socket(socket.AF_INET if address.version == 4 else socket.AF_INET6, socket.SOCK_DGRAM) as one:
                    one.bind((str(address), 0))
            except OSError:
                found.append(address)
                self.log.info("outer_elsewhere", address=str(address), why="this host does not have it: a NAT must map it to this host")
        return frozenset(found)

    # ---- while it runs ----

    def _make_session(self, transport: str, peer: tuple[str, int], local: Address | None) -> Session:
        return Session(self.policy, self._server_config, transport, peer, local, self.port)

    def _packet(self, peer: tuple[str, int], data: bytes) -> None:
        if self.plane.from_udp(peer, data):
            return
        now = asyncio.get_running_loop().time()
        if self.udp is not None and self.udp.confirm(peer, data, now):
            self.plane.from_udp(peer, data)
        else:
            self.follower.stranger(peer, data, now)

    def _defect(self, text: str) -> None:
        self.log.error("defect", why=text)

    async def _tick(self) -> None:
        loop, turn = asyncio.get_running_loop(), 0
        while True:
            # A large table is looked at less often: the sweep takes about 10 ms for 100,000 ends.
            await asyncio.sleep(TICK)
            turn += 1
            try:
                if self.udp is not None:
                    self.udp.tick(loop.time())
                self.follower.tick(loop.time())
                self.policy.tell_unreported()
                if turn % (1 + len(self.table) // 20_000) == 0:
                    self.registry.sweep(loop.time(), self.policy.now())
                if self.store.changed_by_others():
                    self.policy.purge_released()
                    self._reserve()
                if turn % PURGE_EVERY == 0:
                    self.policy.purge()
            except sqlite3.Error as exc:
                self.log.error("store_failed", what="housekeeping", why=str(exc))
            except Exception as exc:
                self.log.error("defect", why=f"housekeeping: {type(exc).__name__}: {exc}")

    async def _stop_ticker(self) -> None:
        if self._ticker is not None:
            self._ticker.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._ticker

    def reload(self) -> None:
        """Reopen the log file; read the configuration again and take over accounts, redirect, limits, keepalive, and the log's level.

        A configuration that does not hold is reported and the old one stays.
        """
        if self.path is None:
            return
        try:
            self.log.reopen()
            new = load(self.path)
        except LocalError as exc:
            self.log.error("reload_refused", why=str(exc))
            return
        old = self.config
        fixed = [name for name in ("name", "realm", "listen", "modes", "versions", "auth", "addresses", "pools", "data_plane", "store",
                                   "store_sync", "key_file") if getattr(old, name) != getattr(new, name)]
        if (old.log.file, old.log.format) != (new.log.file, new.log.format):
            self.log.warning("configuration", why="log.file and log.format change with a restart")
        for name in fixed:
            object.__setattr__(new, name, getattr(old, name))
        self.config = self.policy.config = self.registry.config = new
        self.policy.book.configured = {a.username: a for a in new.accounts}
        self.policy.failures.limit = new.limits.auth_failures_per_minute
        self.log.level = new.log.level
        if self.udp is not None and self.tcp is not None:
            self.udp.limit = new.limits.sessions
            self.tcp.limit, self.tcp.per_address = new.limits.tcp_connections, new.limits.tcp_connections_per_address
            self.tcp.seconds = new.limits.negotiation_seconds
        self._reserve()
        self.log.info("reloaded", needs_restart=fixed or None)

    def counters(self) -> dict[str, int]:
        """Everything that is counted."""
        out = {"tunnels": len(self.table), **self.plane.counters}
        for adapter in (self.udp, self.tcp):
            if adapter is not None:
                out.update(adapter.counters)
        return out

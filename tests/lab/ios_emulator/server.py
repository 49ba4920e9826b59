# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""SSH in front of the command line (asyncssh)."""

from __future__ import annotations

import asyncio
from pathlib import Path

import asyncssh

from .device import Device
from .session import Closed, Cut, Session


class _Login(asyncssh.SSHServer):
    def __init__(self, device: Device, open_connections: set[asyncssh.SSHServerConnection]) -> None:
        self._device, self._open = device, open_connections

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connection = conn
        self._open.add(conn)

    def connection_lost(self, exc: Exception | None) -> None:
        self._open.discard(self._connection)

    def begin_auth(self, username: str) -> bool:
        return True

    def password_auth_supported(self) -> bool:
        return True

    def validate_password(self, username: str, password: str) -> bool:
        return username in self._device.accounts and self._device.accounts[username] == password


class _Terminal:
    """Echo and line editing over a channel, and output through the device's faults."""

    def __init__(self, process: asyncssh.SSHServerProcess[str], device: Device) -> None:
        self._process, self._device = process, device
        self._queue: asyncio.Queue[str] = asyncio.Queue()
        self._writer = asyncio.create_task(self._drain())
        self._keys: list[str] = []
        self._after_return = False

    def write(self, text: str) -> None:
        self._queue.put_nowait(text.replace("\n", "\r\n"))

    async def _drain(self) -> None:
        while True:
            text = await self._queue.get()
            faults = self._device.faults
            pieces = list(text) if faults.one_byte or faults.char_delay else [text]
            try:
                for piece in pieces:
                    self._process.stdout.write(piece)
                    await self._process.stdout.drain()
                    if faults.one_byte or faults.char_delay:
                        # Each piece travels as a packet of its own.
                        await asyncio.sleep(faults.char_delay)
            except (OSError, asyncssh.Error):
                pass  # nobody listens any more; reading finds out and ends the session
            finally:
                self._queue.task_done()

    async def flush(self) -> None:
        await self._queue.join()

    def stop(self) -> None:
        self._writer.cancel()

    async def key(self) -> str:
        while True:
            while not self._keys:
                try:
                    data = await self._process.stdin.read(4096)
                except (asyncssh.BreakReceived, asyncssh.TerminalSizeChanged, asyncssh.SignalReceived):
                    continue
                if not data:
                    raise Closed
                self._keys = list(data)
            key = self._keys.pop(0)
            # A line end may come as CR LF; it is one key.
            skip, self._after_return = key == "\n" and self._after_return, key == "\r"
            if not skip:
                return key

    async def line(self, echo: bool) -> str:
        typed = ""
        while True:
            key = await self.key()
            if key in "\r\n":
                self.write("\n")
                return typed
            if key == "\x1a":
                self.write("^Z\n")
                return typed + key
            if key == "\x03":
                self.write("^C\n")
                return ""
            if key in "\x08\x7f":
                if typed:
                    typed = typed[:-1]
                    self.write("\b \b" if echo else "")
            elif key == "\x15":
                self.write("\b \b" * len(typed) if echo else "")
                typed = ""
            elif key.isprintable():
                typed += key
                if echo:
                    self.write(key)


class Server:
    """The SSH server of one device. `port` and `host_key` (public, OpenSSH form) are known once started."""

    def __init__(self, device: Device, *, host: str = "127.0.0.1", port: int = 0, host_key: Path | None = None,
                 authorized_keys: Path | None = None) -> None:
        self.device = device
        self._host, self.port = host, port
        self._key = _host_key(host_key)
        self._authorized = authorized_keys
        self._acceptor: asyncssh.SSHAcceptor | None = None
        self._open: set[asyncssh.SSHServerConnection] = set()

    @property
    def host_key(self) -> str:
        return self._key.export_public_key().decode().strip()

    def known_hosts_line(self, name: str) -> str:
        """A line for a known_hosts file that makes this server known as `name`."""
        kind, blob = self.host_key.split()[:2]
        return f"{name if self.port == 22 else f'[{name}]:{self.port}'} {kind} {blob}\n"

    async def start(self) -> None:
        self.device.dataplane.open()
        keys = str(self._authorized) if self._authorized else None
        self._acceptor = await asyncssh.create_server(
            lambda: _Login(self.device, self._open), self._host, self.port, server_host_keys=[self._key], process_factory=self._handle,
            line_editor=False, authorized_client_keys=keys)
        self.port = self._acceptor.get_port()

    async def stop(self) -> None:
        if self._acceptor is not None:
            self._acceptor.close()
            for connection in list(self._open):
                connection.abort()
            await self._acceptor.wait_closed()
        self.device.dataplane.close()

    async def _handle(self, process: asyncssh.SSHServerProcess[str]) -> None:
        terminal = _Terminal(process, self.device)
        user = process.get_extra_info("username") or ""
        session = Session(self.device, user, terminal.line, terminal.key, terminal.write)
        try:
            await session.run()
        except Cut:
            connection = process.get_extra_info("connection")
            connection.abort()
            return
        except (Closed, asyncssh.Error, ConnectionError):
            pass
        finally:
            if not process.is_closing():
                try:
                    await asyncio.wait_for(terminal.flush(), 5)
                except (asyncio.TimeoutError, OSError, asyncssh.Error):
                    pass
            terminal.stop()
        process.exit(0)


def _host_key(path: Path | None) -> asyncssh.SSHKey:
    """The key in `path`, made there on first use; without a path, one for this run."""
    if path is not None and path.exists():
        return asyncssh.read_private_key(str(path))
    key = asyncssh.generate_private_key("ssh-ed25519")
    if path is not None:
        key.write_private_key(str(path))
        path.chmod(0o600)
    return key

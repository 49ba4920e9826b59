# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause
"""The side without rights: asks the process that has them."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable
from typing import Any

from ..._tsp.errors import LocalError
from ..._tsp.lease import Lease
from . import wire
from .port import SetUp


class Channel:
    """One connection to the process that has the rights, shared by all tunnels. Make it inside of the running loop.

    on_gone: called once when that process ends, or no longer keeps to the form. log: gets what it has to say.
    """

    def __init__(self, sock: socket.socket, on_gone: Callable[[], None], log: logging.Logger) -> None:
        self._sock = sock
        self._on_gone = on_gone
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._turn = asyncio.Lock()
        self._waiting: asyncio.Future[tuple[dict[str, Any], list[int]]] | None = None
        self._gone = False
        sock.setblocking(True)  # messages are short, and come whole
        self._loop.add_reader(sock.fileno(), self._read)

    async def ask(self, message: dict[str, Any], descriptors: list[int]) -> tuple[Any, list[int]]:
        """The value of the answer, and the descriptors that came with it. Ours are closed as soon as they are on their way.

        Raises LocalError `applier_gone`, and what the answer says.
        """
        work = asyncio.ensure_future(self._ask(message, descriptors))
        try:
            # Once asked, the answer must be read, whoever still wants it.
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            work.add_done_callback(_throw_away)
            raise

    async def _ask(self, message: dict[str, Any], descriptors: list[int]) -> tuple[Any, list[int]]:
        async with self._turn:
            self._waiting = self._loop.create_future()
            try:
                if self._gone:
                    raise _ended()
                wire.send(self._sock, message, descriptors)
            except OSError:
                self._end()
            finally:
                wire.close(descriptors)
            answer, found = await self._waiting
        for level, line, tunnel in answer.get("log", ()):
            (self._log.getChild(tunnel) if tunnel else self._log).log(int(level), "%s", line)
        if "error" in answer:
            wire.close(found)
            raise wire.error_from(answer["error"])
        return answer.get("value"), found

    def let_go(self) -> None:
        """Ask no more. The socket stays its owner's: once it is closed, the other side takes away what is left, and ends."""
        if not self._gone:
            self._gone = True
            self._loop.remove_reader(self._sock.fileno())

    def _read(self) -> None:
        try:
            got = wire.receive(self._sock)
        except (OSError, wire.Broken):
            got = None
        if got is None:
            self._end()
        elif self._waiting is None or self._waiting.done():
            wire.close(got[1])  # an answer that nobody waits for: not one of ours
            self._end()
        else:
            self._waiting.set_result(got)

    def _end(self) -> None:
        if self._gone:
            return
        self.let_go()
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(_ended())
        self._on_gone()


class RemoteApplier:
    """port.Applier for one tunnel, over a channel."""

    def __init__(self, channel: Channel, tunnel: str) -> None:
        self._channel = channel
        self._tunnel = tunnel

    async def recover(self) -> bool:
        return bool(await self._ask("recover"))

    async def fou_missing(self) -> str:
        return str(await self._ask("fou_missing"))

    async def set_up(self, lease: Lease, kind: str, sock: socket.socket | None) -> SetUp:
        handles = [] if sock is None else [os.dup(sock.fileno())]
        if sock is not None and kind != "tun":
            sock.close()  # the kernel gets its port only when no copy is left
        message = {"tunnel": self._tunnel, "verb": "set_up", "lease": lease.to_dict(), "kind": kind}
        value, found = await self._channel.ask(message, handles)
        device = found.pop(0) if value["device"] else None
        echo = socket.socket(fileno=found.pop(0)) if value["echo"] else None
        wire.close(found)
        return SetUp(value["done"], value["numbers"], value["name"], device, echo)

    async def free_port(self) -> None:
        await self._ask("free_port")

    async def take_down(self) -> list[str]:
        return list(await self._ask("take_down"))

    async def echo_socket(self, address: str) -> socket.socket | None:
        _value, found = await self._channel.ask({"tunnel": self._tunnel, "verb": "echo_socket", "address": address}, [])
        sock = socket.socket(fileno=found.pop(0)) if found else None
        wire.close(found)
        return sock

    async def advertise(self, lease: Lease) -> None:
        await self._ask("advertise", lease)

    async def load(self) -> Lease | None:
        data = await self._ask("load")
        return None if data is None else Lease.from_dict(data)

    async def save(self, lease: Lease) -> None:
        await self._ask("save", lease)

    async def _ask(self, verb: str, lease: Lease | None = None) -> Any:
        message = {"tunnel": self._tunnel, "verb": verb, **({} if lease is None else {"lease": lease.to_dict()})}
        value, found = await self._channel.ask(message, [])
        wire.close(found)
        return value


def _ended() -> LocalError:
    return LocalError("applier_gone", "The part of the agent that changes the host has ended.", "Look into its log; start the agent again.")


def _throw_away(work: asyncio.Future[tuple[Any, list[int]]]) -> None:
    if not work.cancelled() and work.exception() is None:
        wire.close(work.result()[1])

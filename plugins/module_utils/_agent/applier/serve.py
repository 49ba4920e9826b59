# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""The process that has the rights: answers requests about its tunnels until the other side ends, and then takes away what is left."""

from __future__ import annotations

import logging
import os
import signal
import socket
from typing import Any, Callable

from ..._tsp.errors import LocalError, TspError
from ..._tsp.lease import Lease
from . import wire
from .host import HostApplier

Answer = tuple["Any", "list[int]"]
MOST_LOGGED = wire.LONGEST // 8
"""Characters of the log that travel with an answer: in JSON one may take six bytes, and too long a message is taken for a broken one."""


def serve(sock: socket.socket, tunnels: dict[str, HostApplier], log: logging.Logger) -> None:
    """Answer requests from `sock` until it ends, however it ends. SIGTERM and the like are not for us: whoever asks ends first.

    Nothing that comes from there can do more than set up a lease that the configuration of one of these tunnels allows.
    """
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    kept = _Kept(log.name)
    others, log.handlers, log.propagate = log.handlers, [kept], False  # two processes are not to write one log
    try:
        while True:
            message = wire.receive(sock)
            if message is None:
                break
            answer, descriptors = _answer(message[0], message[1], tunnels, log)
            try:
                wire.send(sock, {**answer, "log": kept.lines()}, descriptors)
            finally:
                wire.close(descriptors)
    except (OSError, wire.Broken) as exc:
        log.error("the part of the agent that reads the network is gone: %s", exc)
    finally:
        log.handlers = others  # nobody else is left to write it
        sock.close()
        for host in tunnels.values():
            for command in host.take_down():
                log.info("%s", command)


class _Kept(logging.Handler):
    """What is logged meanwhile, for the other side to log: level, text, and of which tunnel it is, as the name of its logger ends."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name
        self._lines: list[tuple[int, str, str]] = []
        self._room = MOST_LOGGED
        self._left_out = 0

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        if len(text) > self._room:
            self._left_out += 1
        else:
            self._room -= len(text) + 1
            self._lines.append((record.levelno, text, record.name[len(self._name) + 1:]))

    def lines(self) -> list[tuple[int, str, str]]:
        if self._left_out:
            self._lines.append((logging.WARNING, f"{self._left_out} lines more were left out of the log", ""))
        lines, self._lines, self._room, self._left_out = self._lines, [], MOST_LOGGED, 0
        return lines


def _answer(message: dict[str, Any], descriptors: list[int], tunnels: dict[str, HostApplier],
            log: logging.Logger) -> tuple[dict[str, Any], list[int]]:
    host = tunnels.get(str(message.get("tunnel")))
    verb = VERBS.get(str(message.get("verb")))
    try:
        if host is None or verb is None:
            raise LocalError("request_refused", "The agent asked for something that does not exist.", "This is a defect of the agent.")
        value, out = verb(host, message, descriptors)
        return {"value": value}, out
    except TspError as exc:
        return {"error": exc.to_dict()}, []
    except Exception as exc:
        log.exception("a defect of the agent")
        return {"error": LocalError("defect", f"A defect of the agent: {type(exc).__name__}: {exc}.", "Report it.").to_dict()}, []
    finally:
        wire.close(descriptors)


def _set_up(host: HostApplier, message: dict[str, Any], descriptors: list[int]) -> Answer:
    sock = socket.socket(fileno=os.dup(descriptors[0])) if descriptors else None
    if sock is not None and sock.type != socket.SOCK_DGRAM:
        sock.close()
        raise LocalError("request_refused", "What came with the lease is no UDP socket.", "This is a defect of the agent.")
    if sock is not None:
        os.close(descriptors.pop())  # the kernel gets its port only when no copy is left
    found = host.set_up(_lease(message), str(message.get("kind")), sock)
    out = [] if found.device is None else [found.device]
    if found.echo is not None:
        out.append(found.echo.detach())
    told = {"done": found.done, "numbers": found.numbers, "name": found.name}
    return {**told, "device": found.device is not None, "echo": found.echo is not None}, out


def _free_port(host: HostApplier, _message: dict[str, Any], _descriptors: list[int]) -> Answer:
    host.free_port()
    return None, []


def _echo_socket(host: HostApplier, message: dict[str, Any], _descriptors: list[int]) -> Answer:
    sock = host.echo_socket(str(message.get("address")))
    return None, [] if sock is None else [sock.detach()]


def _advertise(host: HostApplier, message: dict[str, Any], _descriptors: list[int]) -> Answer:
    host.advertise(_lease(message))
    return None, []


def _load(host: HostApplier, _message: dict[str, Any], _descriptors: list[int]) -> Answer:
    lease = host.load()
    return None if lease is None else lease.to_dict(), []


def _save(host: HostApplier, message: dict[str, Any], _descriptors: list[int]) -> Answer:
    host.save(_lease(message))
    return None, []


def _lease(message: dict[str, Any]) -> Lease:
    data = message.get("lease")
    return Lease.from_dict(data if isinstance(data, dict) else {})


VERBS: dict[str, Callable[[HostApplier, dict[str, Any], list[int]], Answer]] = {
    "recover": lambda host, _message, _descriptors: (host.recover(), []),
    "fou_missing": lambda host, _message, _descriptors: (host.fou_missing(), []),
    "set_up": _set_up,
    "free_port": _free_port,
    "take_down": lambda host, _message, _descriptors: (host.take_down(), []),
    "echo_socket": _echo_socket,
    "advertise": _advertise,
    "load": _load,
    "save": _save,
}

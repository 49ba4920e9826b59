# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""The messages between the two parts, over a stream socket of the Unix domain.

A message is four bytes of length (network order) and that many bytes of JSON, an object; descriptors travel with the first byte
(SCM_RIGHTS). One request, one answer, in turn.

    request   {"tunnel": name, "verb": …, "lease": …, "kind": …}
    answer    {"value": …} or {"error": TspError.to_dict()}
"""

from __future__ import annotations

import json
import os
import socket
import struct
from typing import Any

from ..._tsp.errors import ApplyError, LocalError, NetworkError, RemoteError, TspError

LENGTH = struct.Struct("!I")
LONGEST = 1 << 20
MOST_DESCRIPTORS = 4
KINDS: dict[str, type[TspError]] = {error.kind: error for error in (LocalError, RemoteError, NetworkError, ApplyError)}


class Broken(Exception):
    """The other side ended, or does not keep to the form."""


def pack(message: dict[str, Any]) -> bytes:
    """A message as it travels."""
    data = json.dumps(message).encode("utf-8")
    return LENGTH.pack(len(data)) + data


def unpack(data: bytes) -> dict[str, Any]:
    """The JSON of a message. Raises Broken."""
    try:
        message = json.loads(data)
    except (ValueError, RecursionError):
        message = None
    if not isinstance(message, dict):
        raise Broken("no JSON object")
    return message


def send(sock: socket.socket, message: dict[str, Any], descriptors: list[int]) -> None:
    """Send all of it, blocking. Raises OSError."""
    data = pack(message)
    sent = socket.send_fds(sock, [data], descriptors)
    sock.sendall(data[sent:])


def receive(sock: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """One message and its descriptors, which the caller owns, blocking; None at the end of the stream. Raises Broken, OSError."""
    data, descriptors, _flags, _address = socket.recv_fds(sock, LENGTH.size, MOST_DESCRIPTORS)
    try:
        if not data:
            return None
        data += _exactly(sock, LENGTH.size - len(data))
        (length,) = LENGTH.unpack(data)
        if length > LONGEST:
            raise Broken(f"a message of {length} bytes")
        return unpack(_exactly(sock, length)), descriptors
    except BaseException:
        close(descriptors)
        raise


def close(descriptors: list[int]) -> None:
    """Close descriptors that nobody wants."""
    for descriptor in descriptors:
        os.close(descriptor)


def error_from(data: dict[str, Any]) -> TspError:
    """The error of an answer; of no kind that we know, it is a LocalError."""
    kind = KINDS.get(str(data.get("kind")), LocalError)
    return kind(str(data.get("code")), str(data.get("message")), str(data.get("hint") or ""))


def _exactly(sock: socket.socket, count: int) -> bytes:
    out = b""
    while len(out) < count:
        part = sock.recv(count - len(out))
        if not part:
            raise Broken("it ended in the middle of a message")
        out += part
    return out

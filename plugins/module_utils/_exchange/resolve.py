# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""Names to addresses, anew for every attempt, of the family that the mode needs, and never longer than the deadline allows."""

from __future__ import annotations

import asyncio
import socket
import threading
from ipaddress import ip_address
from typing import Any, Callable

from .._tsp.errors import LocalError, NetworkError
from .options import Address, Broker

MOST_ADDRESSES = 4
"""How many addresses of one name are tried: each may cost six silent seconds."""

Lookup = Callable[[str, int, int], "list[str]"]
"""(host, port, address family) -> addresses as text; may block; raises OSError."""
FAMILY_NAME = {socket.AF_INET: "IPv4", socket.AF_INET6: "IPv6"}


def family_of(mode: str | None) -> int:
    """The family over which a mode reaches the broker (tsp-protocol.md section 1.1); None, for capabilities only, is any."""
    if mode is None:
        return socket.AF_UNSPEC
    return socket.AF_INET6 if mode == "v4v6" else socket.AF_INET


def system_lookup(host: str, port: int, family: int) -> list[str]:
    """The system's resolver, in its order of preference."""
    found = socket.getaddrinfo(host, port, family, socket.SOCK_DGRAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


async def resolve(broker: Broker, family: int, timeout: float, lookup: Lookup = system_lookup) -> list[Address]:
    """Addresses of `broker` of the right family, at most MOST_ADDRESSES, never empty.

    Raises NetworkError `wrong_family` (a literal address of the other family), `name_not_resolved`,
    `name_lookup_timeout` (after `timeout` seconds) or `no_address_of_family`.
    """
    wanted = FAMILY_NAME.get(socket.AddressFamily(family), "")
    literal = broker.address
    if literal is not None:
        if family != socket.AF_UNSPEC and literal.version != (6 if family == socket.AF_INET6 else 4):
            raise NetworkError("wrong_family", f"{broker} is not an {wanted} address, and the tunnel mode needs {wanted} to the broker.",
                               "Name the broker by a host name or by an address of the right family, or choose another mode.")
        return [literal]
    try:
        texts = await asyncio.wait_for(_in_thread(lookup, broker.host, broker.port, family), timeout)
    except asyncio.TimeoutError:
        raise NetworkError("name_lookup_timeout", f"The name {broker.host} was not resolved within {timeout:.0f} s.",
                           "Check the DNS servers of this machine, or name the broker by its address.") from None
    except (OSError, UnicodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
        raise NetworkError("name_not_resolved", f"The name {broker.host} cannot be resolved{' to ' + wanted if wanted else ''}: {reason}.",
                           "Check the spelling and the DNS servers of this machine, or name the broker by its address.") from None
    found = []
    for text in texts:
        if "%" in text:  # a scoped link-local address: no broker lives there
            continue
        try:
            address = ip_address(text)
        except ValueError:
            continue
        if family == socket.AF_UNSPEC or address.version == (6 if family == socket.AF_INET6 else 4):
            found.append(address)
    if not found:
        raise NetworkError("no_address_of_family", f"The name {broker.host} has no {wanted + ' ' if wanted else ''}address.",
                           "The tunnel mode decides over which family the broker is reached: v4v6 needs IPv6, all others IPv4.")
    return found[:MOST_ADDRESSES]


async def _in_thread(lookup: Lookup, host: str, port: int, family: int) -> list[str]:
    """Run a blocking lookup in a daemon thread: an executor's thread would hold up the end of the process while DNS hangs."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[list[str]] = loop.create_future()

    def settle(result: list[str] | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result or [])

    def work() -> None:
        outcome: tuple[Any, BaseException | None]
        try:
            outcome = (lookup(host, port, family), None)
        except Exception as exc:  # handed to whoever waits
            outcome = (None, exc)
        try:
            loop.call_soon_threadsafe(settle, *outcome)
        except RuntimeError:  # the loop is closed: nobody waits any more
            pass

    threading.Thread(target=work, name="tsp-resolve", daemon=True).start()
    return await future


def check_source(source_address: str | None, family: int) -> None:
    """Raises LocalError `source_wrong_family` when the source address cannot be used towards this family."""
    if source_address is None or family == socket.AF_UNSPEC:
        return
    if ip_address(source_address).version != (6 if family == socket.AF_INET6 else 4):
        raise LocalError("source_wrong_family", f"source_address {source_address} is not an {FAMILY_NAME[socket.AddressFamily(family)]} "
                         "address, and the tunnel mode needs that family to the broker.",
                         "The tunnel mode v4v6 needs an IPv6 source_address, all others an IPv4 one.")

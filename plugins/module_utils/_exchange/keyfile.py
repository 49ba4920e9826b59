# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""The file of known broker keys (PASSDSS-3DES-1) around the pure text functions of the protocol core."""

from __future__ import annotations

from typing import Callable

from .._tsp.errors import LocalError
from .._tsp.knownkeys import KeyPolicy, add, find
from .files import change_private, read_text
from .options import ExchangeOptions


def key_policy(server: str, options: ExchangeOptions) -> KeyPolicy:
    """The judge of `server`'s key. Raises LocalError `known_keys_unreadable` where the file is there but cannot be read:
    taking it for empty would make accept_new trust anybody."""
    path = options.known_keys_file
    text = ""
    if path is not None and options.server_key is None:
        try:
            text = read_text(path)
        except FileNotFoundError:
            pass
        except OSError as exc:
            raise LocalError("known_keys_unreadable", f"The known keys {path} cannot be read: {exc.strerror or exc}.",
                             "Check the file's owner and mode.") from None
    return KeyPolicy(server, policy=options.server_key_policy, text=text, pinned=options.server_key,
                     file_name=path or "the known keys file")


def remember(policy: KeyPolicy, path: str | None, warn: Callable[[str], None]) -> None:
    """Store a newly accepted key (call it once the broker has proven that the key is its own). Failure is a warning.

    Another process may have met the broker at the same moment: its line is kept, and a key that differs from it is not stored.
    """
    server, key = policy.server, policy.accepted
    if key is None:
        return
    if path is None:
        warn(f"The key of {server} was accepted without being known, and is not remembered: set known_keys_file.")
        return
    others: list[bytes] = []

    def change(text: str) -> str:
        known = find(text, server)
        if known is None:
            return add(text, server, key)
        others.append(known)
        return text

    try:
        change_private(path, change)
    except OSError as exc:
        warn(f"The new key of {server} could not be stored in {path}: {exc.strerror or exc}.")
    except LocalError as exc:
        warn(f"The new key of {server} could not be stored in {path}: {exc.message}")
    else:
        if others and others[0] != key:
            warn(f"The key of {server} was accepted as new, but another one was stored in {path} meanwhile: "
                 "somebody may be answering in the broker's place.")
        else:
            warn(f"The key of {server} was new; it was accepted and stored in {path}.")

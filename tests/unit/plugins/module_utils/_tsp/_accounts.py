# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Accounts and repeatable randomness for the tests of the protocol core."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class FakeAccount:
    """An account with its password in clear. `verified` counts comparisons."""

    username: str = "alice"
    password: str | None = "secret1"
    enabled: bool = True
    verified: int = 0

    def verify(self, password: str) -> bool:
        self.verified += 1
        return password == self.password

    def ha1(self, realm: str) -> bytes | None:
        if self.password is None:
            return None
        return hashlib.md5(f"{self.username}:{realm}:{self.password}".encode()).digest()


def lookup_of(*accounts: FakeAccount) -> Callable[[str], FakeAccount | None]:
    return {account.username: account for account in accounts}.get


def counting_rng(seed: int = 0) -> Callable[[int], bytes]:
    """Different octets at each call, the same ones in each run."""
    calls = [seed]

    def rng(count: int) -> bytes:
        calls[0] += 1
        return hashlib.shake_256(calls[0].to_bytes(8, "big")).digest(count)

    return rng


class _Spelled(bytes):
    """Random octets whose hex form is a given text, so that a recorded nonce can be said again."""

    def hex(self, *args: object) -> str:
        return self.decode("ascii")


def rng_saying(text: str) -> Callable[[int], bytes]:
    """A source of randomness that makes DIGEST-MD5 use `text` as its nonce or cnonce."""
    return lambda count: _Spelled(text.encode("ascii"))

# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""Start the program small: an agent that idles for months on a small router is not to hold libraries that it never uses.

asyncio loads TLS where it finds it, hashlib loads OpenSSL where it finds it: 8 MiB together, for a program that speaks no TLS and hashes
a hundred bytes now and then. Both are made to go without, in the way that they foresee: as if the module were not there. Nothing of
this is for others' processes: only the entry of the program calls `prepare`, before
anything else is imported, and the service `load_network`.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import cast

FIPS = "/proc/sys/crypto/fips_enabled"
OWN_HASHES = (("_md5",), ("_sha1",), ("_sha2", "_sha256"), ("_sha2", "_sha512"), ("_sha3",), ("_blake2",))
"""What hashlib needs of Python's own to go without OpenSSL: one of each. Some distributions leave them out."""


def prepare() -> None:
    """Import hashlib without OpenSSL unless this host insists on it (FIPS) or Python has no hashes of its own."""
    if not _fips() and all(any(_there(name) for name in names) for names in OWN_HASHES):
        _import_without("hashlib", "_hashlib")
        _import_without("hmac", "_hashlib")


def load_network() -> None:
    """Import the part that reads the network, and with it asyncio, without TLS. The part that changes the host needs neither."""
    _import_without("asyncio", "ssl")
    importlib.import_module(".network", __package__)


def _import_without(name: str, unwanted: str) -> None:
    if unwanted in sys.modules:
        return  # somebody uses it already, so there is nothing to win
    sys.modules[unwanted] = cast(ModuleType, None)  # `import` then raises ImportError
    try:
        importlib.import_module(name)
    finally:
        del sys.modules[unwanted]  # whoever really needs it gets it


def _there(name: str) -> bool:
    try:
        importlib.import_module(name)
    except ImportError:
        return False
    return True


def _fips() -> bool:
    try:
        with open(FIPS, encoding="ascii") as file:
            return file.read().strip() == "1"
    except OSError:
        return False

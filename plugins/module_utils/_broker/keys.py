# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""The broker's own DSA key for PASSDSS-3DES-1: made on first start, kept in a file that only the broker can read."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from .._tsp.dsakey import DsaKey, generate_dsa_key, load_dsa_key
from .._tsp.errors import LocalError


def server_key(path: Path) -> tuple[DsaKey, bool]:
    """The key in the file, made there when there is none; and whether it was made now.

    Clients remember this key, so it is never replaced. Raises LocalError `key_unusable`, and `missing_library` of sasl.py.
    """
    try:
        mode = stat.S_IMODE(os.stat(path).st_mode)
        pem = path.read_bytes()
    except FileNotFoundError:
        key = generate_dsa_key()
        write_private(path, key.to_pem())
        return key, True
    except OSError as exc:
        raise LocalError("key_unusable", f"The key {path} cannot be read: {exc.strerror}.", "Check key_file and its owner.") from None
    if mode & 0o077:
        raise LocalError("key_unusable", f"The key {path} can be read by others (mode {mode:04o}).",
                         f"Make it private: chmod 0600 {path}. If others had access, delete it: clients will then see a changed key.")
    return load_dsa_key(pem), False


def write_private(path: Path, data: bytes) -> None:
    """Write a file of mode 0600, whole or not at all. What root writes (a first start by hand) belongs to whom the folder belongs, for
    the broker runs as somebody else. Raises LocalError `key_unusable`."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=str(path.parent))
        try:
            with os.fdopen(handle, "wb") as file:
                if os.geteuid() == 0:
                    owner = os.stat(path.parent)
                    os.fchown(handle, owner.st_uid, owner.st_gid)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as exc:
        raise LocalError("key_unusable", f"{path} cannot be written: {exc.strerror}.", "Name a writable place in key_file.") from None

# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""The copy of a lease that a task may ask for (`dest`), as JSON or as YAML."""

from __future__ import annotations

import json
import os
from typing import Any

from .._tsp.errors import LocalError
from .._tsp.lease import Lease
from .blockyaml import to_yaml
from .leasestore import Reservation, lease_text, read, remove

HEADER = "# Lease of a tunnel, written by tunnelbroker.tsp.tunnel; changes are overwritten.\n---\n"


def render(lease: Lease, form: str) -> str:
    """The text of a copy; form is json or yaml."""
    return HEADER + to_yaml(lease.to_dict()) if form == "yaml" else lease_text(lease)


def check_place(params: dict[str, Any], lease_file: str) -> None:
    """Raises LocalError `invalid_option` where the copy would take the place of the lease itself."""
    if params.get("dest") and os.path.realpath(params["dest"]) == os.path.realpath(lease_file):
        raise LocalError("invalid_option", f"dest is {lease_file}, where the lease itself is kept.",
                         "Name another file, or leave dest out.")


def check(params: dict[str, Any]) -> None:
    """Make sure that the copy can be written, before the broker is asked. Raises LocalError."""
    if params.get("dest"):
        Reservation(params["dest"], None).abandon()


def update(params: dict[str, Any], lease: Lease, check_mode: bool) -> bool:
    """Bring the copy up to date where one is wanted; whether it was not. Raises LocalError."""
    path = params.get("dest")
    if not path:
        return False
    text = render(lease, params["dest_format"])
    if read(path) == text:
        return False
    if not check_mode:
        with Reservation(path, None) as room:
            room.commit(text)
    return True


def forget(params: dict[str, Any], check_mode: bool) -> bool:
    """Remove the copy, if it is one of ours; whether there was one. Raises LocalError."""
    path = params.get("dest")
    if not path or not _ours(read(path)):
        return False
    return True if check_mode else remove(path)


def _ours(text: str | None) -> bool:
    if text is None:
        return False
    if text.startswith(HEADER):
        return True
    try:
        Lease.from_dict(json.loads(text))
    except (ValueError, RecursionError, LocalError):
        return False
    return True

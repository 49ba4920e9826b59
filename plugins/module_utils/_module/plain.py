# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""Plain types out of what Ansible hands over."""

from __future__ import annotations

from typing import Any


def plain(value: Any) -> Any:
    """`value` built of the plain types: ansible-core 2.19 and later tags strings, numbers and containers (subclasses of the plain
    types), older ones mark text as unsafe or vaulted; serialisers refuse all of them."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, dict):
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    # str() of a vaulted value decrypts it; of any other text subclass it may be the subclass again, join() is not.
    return "".join(str(value))

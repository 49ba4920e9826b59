# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The filter for router advertisements. The logic is in module_utils/_linux/radvd.py."""

from __future__ import annotations

from typing import Any, Callable

from ansible_collections.tunnelbroker.tsp.plugins.module_utils._linux.radvd import NOTHING, radvd_setup
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._linux.refusal import telling
from ansible_collections.tunnelbroker.tsp.plugins.plugin_utils._filter import as_filter


class FilterModule:
    """What Ansible looks for in a filter file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"radvd_setup": as_filter(telling(radvd_setup, NOTHING))}

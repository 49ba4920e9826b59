# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Filters of the collection: what follows from a lease, and the table of results. The logic is in module_utils."""

from __future__ import annotations

from typing import Any, Callable

from ansible_collections.tunnelbroker.tsp.plugins.module_utils._module.plan import tunnel_plan
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._module.table import tunnel_table
from ansible_collections.tunnelbroker.tsp.plugins.plugin_utils._filter import as_filter


class FilterModule:
    """What Ansible looks for in a filter file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"tunnel_plan": as_filter(tunnel_plan), "tunnel_table": as_filter(tunnel_table)}

# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Filters for the state of a fleet's tunnels: as data, and as a table. The logic is in module_utils."""

from __future__ import annotations

from typing import Any, Callable

from ansible_collections.tunnelbroker.tsp.plugins.module_utils._module.fleet import tunnel_report, tunnel_report_table
from ansible_collections.tunnelbroker.tsp.plugins.plugin_utils._filter import as_filter


class FilterModule:
    """What Ansible looks for in a filter file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"tunnel_report": as_filter(tunnel_report), "tunnel_report_table": as_filter(tunnel_report_table)}

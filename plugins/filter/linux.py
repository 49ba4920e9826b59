# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Filters for Linux hosts: what to ask for, and the whole set-up of a tunnel. The logic is in module_utils/_linux."""

from __future__ import annotations

from typing import Any, Callable

from ansible_collections.tunnelbroker.tsp.plugins.module_utils._linux.choose import linux_mode
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._linux.fit import linux_fit
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._linux.refusal import EMPTY, telling
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._linux.setup import linux_setup
from ansible_collections.tunnelbroker.tsp.plugins.plugin_utils._filter import as_filter


class FilterModule:
    """What Ansible looks for in a filter file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"linux_fit": as_filter(linux_fit), "linux_mode": as_filter(linux_mode),
                "linux_setup": as_filter(telling(linux_setup, EMPTY))}

# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The filter for router advertisements. The logic is in module_utils/_linux/radvd.py."""

from __future__ import annotations

from typing import Any, Callable

from ansible_collections.tunnelbroker.tsp.plugins.module_utils._linux.radvd import NOTHING, radvd_setup
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._linux.refusal import told
from ansible_collections.tunnelbroker.tsp.plugins.plugin_utils._filter import as_filter


def radvd_setup_or_refusal(lease: Any, host: Any, *, tell: bool = False, **options: Any) -> dict[str, Any]:
    """radvd_setup; with `tell` a refusal is given back as `refused`, in a setup of nothing."""
    if not tell:
        return radvd_setup(lease, host, **options)
    return told(lambda: radvd_setup(lease, host, **options), NOTHING)


class FilterModule:
    """What Ansible looks for in a filter file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"radvd_setup": as_filter(radvd_setup_or_refusal)}

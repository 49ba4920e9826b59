# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The controller's half of the module `broker_info`: decides where the brokers are asked from."""

from __future__ import annotations

from typing import Any

from ansible_collections.tunnelbroker.tsp.plugins.module_utils._module.argspec import INFO_RULES, INFO_SPEC
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._module.info_task import run
from ansible_collections.tunnelbroker.tsp.plugins.plugin_utils._action import ExchangeAction
from ansible_collections.tunnelbroker.tsp.plugins.plugin_utils._where import Host


class ActionModule(ExchangeAction):
    """See plugins/modules/broker_info.py for the documentation."""

    module = "tunnelbroker.tsp.broker_info"
    spec = INFO_SPEC
    rules = INFO_RULES

    def here(self, params: dict[str, Any], host: Host, task_vars: dict[str, Any]) -> dict[str, Any]:
        return run(params)

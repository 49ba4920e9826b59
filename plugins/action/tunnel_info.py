# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The controller's half of the module `tunnel_info`: of a device without Python it tells what the controller's leases say."""

from __future__ import annotations

import os
from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._module.ask import DEFAULT_NAME
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._module.plain import plain
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._module.results import guarded
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._module.tunnel_info_task import SPEC, on_controller
from ansible_collections.tunnelbroker.tsp.plugins.plugin_utils._action import validated
from ansible_collections.tunnelbroker.tsp.plugins.plugin_utils._where import Host, lease_path


class ActionModule(ActionBase):
    """See plugins/modules/tunnel_info.py for the documentation."""

    TRANSFERS_FILES = False
    _supports_check_mode = True
    _supports_async = True

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        task_vars = task_vars or {}
        result: dict[str, Any] = super().run(tmp, task_vars)
        host = Host.of(str(getattr(self._connection, "_load_name", None) or self._connection.transport), task_vars)
        result.update(guarded(lambda: self._work(plain(dict(self._task.args)), host, task_vars), (AnsibleError,)))
        return result

    def _work(self, args: dict[str, Any], host: Host, task_vars: dict[str, Any]) -> dict[str, Any]:
        params = validated(args, SPEC, {})
        if not host.is_device:
            return dict(self._execute_module(module_name="tunnelbroker.tsp.tunnel_info", module_args=args, task_vars=task_vars,
                                             wrap_async=self._task.async_val))
        first = lease_path(params["lease_dir"], DEFAULT_NAME, host.name, task_vars)
        folder, file = os.path.split(first)
        names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
        others = {name: os.path.join(folder, name, file) for name in names if os.path.isdir(os.path.join(folder, name))}
        return on_controller({DEFAULT_NAME: first, **others})

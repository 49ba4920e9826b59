# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the action plugins share: options checked by the module's own argument spec, failures in the module's own form."""

from __future__ import annotations

import os
from typing import Any

from ansible.errors import AnsibleError
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.module_utils.common.parameters import remove_values
from ansible.plugins.action import ActionBase
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._module.plain import plain
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._module.results import guarded, refusal
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.errors import LocalError
from ansible_collections.tunnelbroker.tsp.plugins.plugin_utils._where import Host, base_folder, on_controller


class ExchangeAction(ActionBase):
    """Runs `work` here or the module of the same name on the target, as run_on says."""

    TRANSFERS_FILES = False
    _supports_check_mode = True
    _supports_async = True

    module = ""
    spec: dict[str, Any] = {}
    rules: dict[str, Any] = {}
    paths: tuple[str, ...] = ()

    def here(self, params: dict[str, Any], host: Host, task_vars: dict[str, Any]) -> dict[str, Any]:
        """Do the task in this process. Raises TspError."""
        raise NotImplementedError

    def afterwards(self, result: dict[str, Any], params: dict[str, Any], host: Host, task_vars: dict[str, Any]) -> dict[str, Any]:
        """The result of the target, with what the controller adds. Raises TspError."""
        return result

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        task_vars = task_vars or {}
        result: dict[str, Any] = super().run(tmp, task_vars)
        host = Host.of(str(getattr(self._connection, "_load_name", None) or self._connection.transport), task_vars)
        args = plain(dict(self._task.args))
        # An unreachable host, a refused become: Ansible's own errors are for Ansible.
        result.update(guarded(lambda: self._work(args, host, task_vars), (AnsibleError,)))
        if not self._task.diff:
            result.pop("diff", None)
        return result

    def _work(self, args: dict[str, Any], host: Host, task_vars: dict[str, Any]) -> dict[str, Any]:
        params = validated(args, self.spec, self.rules)
        if params.get("refused"):
            return refusal(params["refused"])
        if not on_controller(params["run_on"], bool(params.get("proxy")), host):
            result = self._execute_module(module_name=self.module, module_args=args, task_vars=task_vars,
                                          wrap_async=self._task.async_val)
            if result.get("failed") or "ansible_job_id" in result:
                return result
            return self.afterwards(result, params, host, task_vars)
        if self._task.async_val:
            raise LocalError("invalid_option", "An exchange on the controller cannot run with async.",
                             "Leave async out: many hosts are served at the same time by forks.")
        base = base_folder(task_vars)
        for name in self.paths:
            if params.get(name):
                params[name] = os.path.join(base, params[name])
        return self.here(params, host, task_vars)


def validated(args: dict[str, Any], spec: dict[str, Any], rules: dict[str, Any]) -> dict[str, Any]:
    """Arguments with defaults and types as the module would see them. Raises LocalError `invalid_option` without any secret."""
    outcome = ArgumentSpecValidator(spec, **rules).validate(args)
    if outcome.error_messages:
        secrets = {str(args[name]) for name, option in spec.items() if option.get("no_log") and args.get(name) is not None}
        text = remove_values("; ".join(outcome.error_messages), secrets)
        raise LocalError("invalid_option", f"The options are not valid: {text.rstrip('.')}.", "See the documentation of the module.")
    return plain(outcome.validated_parameters)

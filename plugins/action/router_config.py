# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""router_config: wiring. What it does is in plugin_utils/_router; it runs in the worker process on the controller."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible import constants as C
from ansible.errors import AnsibleError
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._module.plain import plain
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._module.results import guarded
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.errors import LocalError
from ansible_collections.tunnelbroker.tsp.plugins.plugin_utils._action import validated
from ansible_collections.tunnelbroker.tsp.plugins.plugin_utils._router import netmiko_device, options, rules, transaction


class ActionModule(ActionBase):
    """One session to the device; no connection of Ansible's is opened, and no module is shipped."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        args = plain(dict(self._task.args))
        secrets: list[str] = []
        result.update(guarded(lambda: self._work(args, task_vars or {}, secrets), (AnsibleError,)))
        result.pop("attempts", None)  # of exchanges with brokers; there is none here
        return dict(options.scrubbed(result, secrets))

    def _work(self, args: dict[str, Any], variables: dict[str, Any], secrets: list[str]) -> dict[str, Any]:
        """The task. Secrets met on the way are added to `secrets`, to be struck out of the result. Raises TspError."""
        chosen = validated(args, options.ARGUMENT_SPEC, options.RULES)
        self._need_libraries()
        login = options.login(chosen, lambda *names: self._variable(variables, *names), self._check_host_key(variables))
        secrets += [secret for secret in (login.password, login.secret) if secret]
        outcome = self._run(login, options.task(chosen, self._text(chosen), self._task.check_mode))
        result = {**outcome.to_dict(), **({"warnings": outcome.warnings} if outcome.warnings else {})}
        if self._task.diff:
            before, after = options.without_secrets(outcome.before), options.without_secrets(outcome.after)
            result["diff"] = [{"before": before, "after": after, "before_header": f"{login.host} as it was",
                               "after_header": f"{login.host} as it is"}]
        return result

    @staticmethod
    def _run(login: netmiko_device.Login, task: transaction.Task) -> transaction.Outcome:
        device = netmiko_device.NetmikoDevice(login)
        try:
            return transaction.run(device, task)
        finally:
            device.close()

    @staticmethod
    def _need_libraries() -> None:
        for name, missing in (("netmiko", netmiko_device.MISSING), ("hier-config", rules.MISSING)):
            if missing is not None:
                raise LocalError("library_missing", f"The Python package {name} is missing on the controller: {missing}.",
                                 "Install netmiko>=4.4 and hier-config>=3.3 for the Python that runs Ansible.")

    def _variable(self, variables: dict[str, Any], *names: str) -> str | None:
        """The first of these variables that is set, rendered; then what the command line said (-u, -k, -K, --private-key)."""
        for name in names:
            value = self._templar.template(variables[name]) if name in variables else None
            if value is not None and value != "":
                return str(plain(str(value)))
        attribute = {"ansible_user": "remote_user", "ansible_password": "password", "ansible_become_password": "become_pass",
                     "ansible_ssh_private_key_file": "private_key_file"}.get(names[0])
        value = getattr(self._play_context, attribute, None) if attribute else None
        return str(plain(str(value))) if value else None

    def _check_host_key(self, variables: dict[str, Any]) -> bool:
        """Ansible's own setting: a variable of the host, or host_key_checking of the configuration."""
        value = self._variable(variables, "ansible_host_key_checking", "ansible_ssh_host_key_checking")
        return boolean(C.HOST_KEY_CHECKING if value is None else value)

    def _text(self, chosen: dict[str, Any]) -> str:
        if chosen["lines"] is not None:
            return "\n".join(chosen["lines"])
        if chosen["content"] is not None:
            return str(chosen["content"])
        try:
            found = self._find_needle("files", chosen["src"])
            return Path(self._loader.get_real_file(found)).read_text(encoding="utf-8")
        except (AnsibleError, OSError, UnicodeDecodeError) as exc:
            raise LocalError("src_unreadable", f"src {chosen['src']} cannot be read: {plain(str(exc))}",
                             "Name a text file on the controller.") from None

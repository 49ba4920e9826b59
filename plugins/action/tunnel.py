# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The controller's half of the module `tunnel`: decides where the exchange runs, and runs it here for devices."""

from __future__ import annotations

import os
from typing import Any

from ansible import constants as C
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._module.argspec import TUNNEL_RULES, TUNNEL_SPEC
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._module.ask import Place, checked_name, identity_of
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._module.leasestore import Reservation, lease_text, read, remove, same_tunnel
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._module.pathmtu import path_mtu
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._module.tunnel_task import run
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.lease import Lease
from ansible_collections.tunnelbroker.tsp.plugins.plugin_utils._action import ExchangeAction
from ansible_collections.tunnelbroker.tsp.plugins.plugin_utils._where import Host, for_another, lease_path


class ActionModule(ExchangeAction):
    """See plugins/modules/tunnel.py for the documentation."""

    module = "tunnelbroker.tsp.tunnel"
    spec = TUNNEL_SPEC
    rules = TUNNEL_RULES
    paths = ("dest", "password_file", "known_keys_file", "state_dir")

    def here(self, params: dict[str, Any], host: Host, task_vars: dict[str, Any]) -> dict[str, Any]:
        name = checked_name(params)
        path = lease_path(params["lease_dir"], name, host.name, task_vars)
        place = Place(path, params["state_dir"] or os.path.join(C.ANSIBLE_HOME, "tunnelbroker.tsp"), identity=identity_of(host.name, name),
                      for_another=for_another(host), keep_mode=True)
        return run(params, place, check_mode=self._task.check_mode, measure=path_mtu)

    def afterwards(self, result: dict[str, Any], params: dict[str, Any], host: Host, task_vars: dict[str, Any]) -> dict[str, Any]:
        """Keep a copy of the target's lease in the project's folder, where one is wanted.

        The copy is for review and for rendering: it follows what was granted, not each renewal of it by the agent.
        """
        if not params["lease_dir"]:
            return result
        path = lease_path(params["lease_dir"], checked_name(params), host.name, task_vars)
        old = read(path)
        if params["state"] == "absent":
            changed = old is not None
            if changed and not self._task.check_mode:
                remove(path)
        elif not result.get("lease"):
            return result
        else:
            lease = Lease.from_dict(result["lease"])
            changed = not same_tunnel(old, lease)
            if changed and not self._task.check_mode:
                with Reservation(path, None) as room:
                    room.commit(lease_text(lease))
        return {**result, "changed": bool(result.get("changed")) or changed}

# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What filters share: plain types in, and our errors as Ansible's."""

from __future__ import annotations

from typing import Any, Callable

from ansible.errors import AnsibleFilterError
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._module.plain import plain
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.errors import TspError


def as_filter(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` on plain types, with our errors as Ansible's."""

    def wrapped(value: Any, *more: Any, **options: Any) -> Any:
        try:
            return function(plain(value), *plain(list(more)), **plain(options))
        except TspError as exc:
            raise AnsibleFilterError(str(exc)) from None

    wrapped.__name__ = function.__name__
    wrapped.__doc__ = function.__doc__
    return wrapped

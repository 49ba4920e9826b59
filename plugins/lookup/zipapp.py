# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# ruff: noqa: E402  Ansible wants the documentation before the imports.
from __future__ import annotations

DOCUMENTATION = r"""
name: zipapp
short_description: Build a program of this collection as one file
version_added: 0.1.0
author: The tunnelbroker.tsp authors (@tunnelbroker)
description:
  - Builds a program out of the collection's own files and returns the path of the executable on the controller.
  - The broker takes PyYAML and pyroute2 along, which must be installed for the Python that runs Ansible.
  - The same collection gives the same bytes, so that a copy on a host changes with the collection only.
  - The file lives in Ansible's temporary folder of this run.
options:
  _terms:
    description: The program.
    type: list
    elements: str
    required: true
    choices: [agent, broker]
"""

EXAMPLES = r"""
- name: Where the agent is
  ansible.builtin.debug:
    msg: "{{ lookup('tunnelbroker.tsp.zipapp', 'agent') }}"
"""

RETURN = r"""
_raw:
  description: Path of each program on the controller.
  type: list
  elements: path
"""

import hashlib
from pathlib import Path
from typing import Any

from ansible import constants as C
from ansible.errors import AnsibleError
from ansible.plugins.lookup import LookupBase
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent.bundle import BUNDLES, Bundle, build, sources
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._broker.build import trees
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.errors import LocalError

OFFERED = ("agent", "broker")


class LookupModule(LookupBase):
    """See DOCUMENTATION."""

    def run(self, terms: list[Any], variables: Any = None, **kwargs: Any) -> list[str]:
        self.set_options(var_options=variables, direct=kwargs)
        built = []
        for term in terms:
            if str(term) not in OFFERED:
                raise AnsibleError(f"There is no program {term!s}: use one of {', '.join(OFFERED)}.")
            try:
                built.append(str(_built(BUNDLES[str(term)])))
            except LocalError as exc:
                raise AnsibleError(str(exc)) from None
        return built


def _built(bundle: Bundle) -> Path:
    """The program, built once for a state of its sources: a thousand hosts ask for it in as many processes."""
    libraries = trees() if bundle.name == BUNDLES["broker"].name else {}
    known = hashlib.sha256()
    for name, path in sorted({**sources(bundle), **libraries}.items()):
        found = path.stat()
        known.update(f"{name} {found.st_mtime_ns} {found.st_size}\n".encode())
    program = Path(C.DEFAULT_LOCAL_TMP) / f"{bundle.name}-{known.hexdigest()[:16]}.pyz"
    if not program.exists():
        build(bundle, program, libraries)
    return program

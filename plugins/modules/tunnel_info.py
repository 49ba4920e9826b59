#!/usr/bin/python
# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: tunnel_info
short_description: The tunnels of a host, and how they are
version_added: 0.1.0
author: The tunnelbroker.tsp authors (@tunnelbroker)
description:
  - Reads what the agents of a host say of their tunnels, and whether they still say it.
  - Of tunnels that no agent keeps it tells what their leases say, and whether a device of the host has their address.
  - It only looks. No broker is asked, and nothing is sent through a tunnel.
  - Without root it sees the agents only, since leases are for root to read.
extends_documentation_fragment:
  - tunnelbroker.tsp.attributes
attributes:
  check_mode:
    support: full
    details:
      - It changes nothing, so that it does the same in check mode.
  diff_mode:
    support: none
  idempotent:
    support: full
  platform:
    support: full
    platforms: posix
  action:
    support: full
    details:
      - Tells of a device that has no Python of its own what the leases on the controller say. The device is not looked at.
options:
  runtime_dirs:
    description: Folders in which agents keep their status. Without any, C(/run/tsp) and C(/run/tsp-NAME), or the same in C(/var/run).
    type: list
    elements: path
    default: []
  facts_dir:
    description: Where the leases of the host lie, as files C(NAME.fact).
    type: path
    default: /etc/ansible/facts.d
  lease_dir:
    description: Where the controller keeps the leases of devices without Python, as for O(tunnelbroker.tsp.tunnel#module:lease_dir).
    type: path
    default: leases
seealso:
  - module: tunnelbroker.tsp.tunnel
  - plugin: tunnelbroker.tsp.tunnel_report
    plugin_type: filter
"""

EXAMPLES = r"""
- name: Look at the tunnels
  tunnelbroker.tsp.tunnel_info:
    lease_dir: kept
  become: true
  register: found

- name: Show those that are down
  ansible.builtin.debug:
    msg: "{{ item.name }}: {{ item.stale or item.last_error.message | default('') }}"
  loop: "{{ found.tunnels | rejectattr('connected', 'none') | rejectattr('connected') }}"
"""

RETURN = r"""
tunnels:
  description: >-
    The tunnels by name. Those of agents have the keys of the agent's status file, schema 2, all others the same keys, with null for what
    nobody knows.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: Name of the tunnel.
      type: str
    state:
      description: >-
        V(up), V(lost), V(waiting) and so on, as the agent says. V(native) is a tunnel without an agent whose address a device has, and
        V(absent) a lease whose address no device has.
      type: str
    connected:
      description: Whether packets pass, as far as the agent knows; none for a tunnel without an agent.
      type: bool
    stale:
      description: Why the agent's status holds no longer, a sentence; empty while it does.
      type: str
    mode:
      description: What carries the packets.
      type: str
    broker:
      description: The broker that granted it.
      type: str
    endpoints:
      description: C(local) and C(remote), each with C(ipv4) and C(ipv6).
      type: dict
    prefix:
      description: The delegated prefix or none.
      type: str
    last_rtt_ms:
      description: Round trip of the last keepalive in milliseconds.
      type: float
    loss:
      description: Keepalives C(sent), C(answered), and the C(ratio) of the last 100 that were lost.
      type: dict
    lease_seconds_left:
      description: Until the lease ends; none for one that does not.
      type: int
    last_error:
      description: C(code), C(message), C(hint) and C(at) of the error that is not over.
      type: dict
    packets:
      description: C(in), C(out), C(bytes_in) and C(bytes_out).
      type: dict
error:
  description: What was wrong with the task.
  returned: failure
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._module.results import finish
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._module.tunnel_info_task import SPEC, run


def main() -> None:
    module = AnsibleModule(argument_spec=SPEC, supports_check_mode=True)
    finish(module, lambda: run(module.params))


if __name__ == "__main__":
    main()

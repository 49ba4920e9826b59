#!/usr/bin/python
# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: broker_info
short_description: What tunnel brokers offer, and how far they are
version_added: 0.1.0
author: The tunnelbroker.tsp authors (@tunnelbroker)
description:
  - Asks tunnel brokers for the versions of TSP that they speak, the tunnel modes and authentication methods that they offer,
    the brokers that they redirect to, and the round trip to them.
  - Nobody logs in, and nothing is created.
  - A broker that cannot be reached is a result, not a failure.
extends_documentation_fragment:
  - tunnelbroker.tsp.attributes
  - tunnelbroker.tsp.broker
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
      - Decides where the exchange runs, and runs it on the controller where O(run_on) says so.
options:
  broker:
    description:
      - The tunnel brokers to ask, all at the same time.
      - Each is a name or an address, with a port where it is not 3653. An IPv6 address with a port needs brackets.
    type: list
    elements: str
    required: true
seealso:
  - module: tunnelbroker.tsp.tunnel
"""

EXAMPLES = r"""
- name: See what two brokers offer from here
  tunnelbroker.tsp.broker_info:
    broker:
      - broker.example
      - 192.0.2.1:3653
  register: offer

- name: Show the nearest one that can be reached
  ansible.builtin.debug:
    msg: "{{ offer.brokers | selectattr('reachable') | rejectattr('echo_ms', 'none') | sort(attribute='echo_ms') | first }}"
"""

RETURN = r"""
brokers:
  description: One entry per broker, in the order of O(broker).
  returned: success
  type: list
  elements: dict
  contains:
    broker:
      description: The broker as it was named.
      type: str
    reachable:
      description: Whether it answered over any transport.
      type: bool
    version:
      description: The newest version of TSP that it speaks, none when it did not answer.
      type: str
    tunnels:
      description: The tunnel modes that it offers, V(v6v4), V(v6udpv4), V(v4v6).
      type: list
      elements: str
    auth_methods:
      description: The authentication methods that it offers.
      type: list
      elements: str
    echo_ms:
      description: Round trip of an echo request in milliseconds, none when it did not answer.
      type: float
    redirect:
      description: The brokers that it sends its clients to.
      type: list
      elements: str
    transports:
      description: The same for each address and transport, with C(transport), C(address), C(port), C(ms) and C(error).
      type: list
      elements: dict
    error:
      description: Why it could not be reached, with C(kind), C(code), C(message), C(hint) and C(status), or none.
      type: dict
error:
  description: What was wrong with the task.
  returned: failure
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._module.argspec import INFO_RULES, INFO_SPEC
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._module.info_task import run
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._module.results import finish


def main() -> None:
    module = AnsibleModule(argument_spec=INFO_SPEC, supports_check_mode=True, **INFO_RULES)
    finish(module, lambda: run(module.params))


if __name__ == "__main__":
    main()

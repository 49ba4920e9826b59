#!/usr/bin/python
# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: tunnel
short_description: Ask a tunnel broker for a tunnel, or give it back
version_added: 0.1.0
author: The tunnelbroker.tsp authors (@tunnelbroker)
description:
  - Negotiates a tunnel with a broker by the Tunnel Setup Protocol (RFC 5572), stores what was granted as a lease and returns it as facts.
  - It configures nothing. The role P(tunnelbroker.tsp.tunnel#role) asks, configures and proves in one go.
  - A stored lease that still answers the request is returned unchanged, and no packet is sent. The broker is asked again where the lease
    has ended or is about to, the request is another, or a C(v6v4) or C(v4v6) tunnel ends at an address that this host had and has no more.
  - On a host the lease is kept in C(/etc/ansible/facts.d), so that C(ansible_local) has it whenever facts are gathered.
    For a device without Python the same task runs on the controller, and the lease is kept in a folder of the project.
extends_documentation_fragment:
  - tunnelbroker.tsp.attributes
  - tunnelbroker.tsp.broker
  - tunnelbroker.tsp.broker.login
  - tunnelbroker.tsp.broker.request
attributes:
  check_mode:
    support: full
    details:
      - The broker is not asked. A change is predicted where a lease would have to be asked for or given back.
  diff_mode:
    support: full
  idempotent:
    support: full
    details:
      - Except with O(renew=true), which always asks the broker.
  platform:
    support: full
    platforms: posix
  action:
    support: full
    details:
      - Decides where the exchange runs, and runs it on the controller where O(run_on) says so.
options:
  state:
    description:
      - V(present) makes sure that there is a lease that answers the request.
      - V(absent) gives the tunnel back to the broker where the broker knows how to take it, and forgets lease and facts.
    type: str
    choices: [present, absent]
    default: present
  name:
    description:
      - Name of the tunnel, in lower-case letters, digits and underscores. It is the key of the facts and the name of the lease file.
    type: str
    default: tsp
  broker:
    description:
      - The tunnel brokers to ask, in this order, until one answers. Required with O(state=present).
      - Each is a name or an address, with a port where it is not 3653. An IPv6 address with a port needs brackets.
      - With O(state=absent) the broker of the lease is asked.
    type: list
    elements: str
  strict:
    description:
      - With O(state=present), refuse a prefix of another length than asked, or one that contains the broker's end of the tunnel.
        Otherwise it is accepted with a warning.
      - With O(state=absent), fail when the broker cannot be reached. Otherwise the lease is forgotten with a warning.
    type: bool
    default: false
  source_port:
    description: Local UDP port from which the broker is asked. With C(v6udpv4) the tunnel itself uses this port.
    type: int
  min_interval:
    description: Least seconds between two requests of this tunnel to the same broker, also across runs.
    type: float
    default: 5.0
  always_use_same_server:
    description: Ask the broker again that gave the last tunnel, and no other.
    type: bool
    default: false
  state_dir:
    description:
      - Folder in which the exchange remembers when it last asked, which broker answered, and the keys of brokers.
      - The default is C(/var/lib/tsp) on a host, and C(tunnelbroker.tsp) in the Ansible home folder on the controller.
    type: path
  lease_file:
    description:
      - Where the lease is kept on the host, mode 0600. It holds no secret.
      - The default is C(/etc/ansible/facts.d/NAME.fact), with O(name) in place of C(NAME).
    type: path
  lease_dir:
    description:
      - Folder on the controller for leases, one file per host, made to be kept under version control.
      - The default is the folder C(leases) beside the playbook, or beside the inventory for a playbook out of a collection.
      - A tunnel with another O(name) than V(tsp) is kept in a folder of that name inside.
      - Where the exchange runs on the host, a copy of the lease is put there if O(lease_dir) is set.
    type: path
  dest:
    description: One more copy of the lease, on the machine where the exchange runs. An existing file keeps its mode, a new one gets 0600.
    type: path
  dest_format:
    description: Format of the copy at O(dest).
    type: str
    choices: [json, yaml]
    default: json
  renew:
    description: Ask the broker even if the stored lease still answers the request.
    type: bool
    default: false
  refused:
    description:
      - An error, as RV(error) is one, that was found while options were computed. The task fails with it, and does nothing else.
      - C(refused) of P(tunnelbroker.tsp.linux_fit#filter) is meant for it.
    type: dict
seealso:
  - module: tunnelbroker.tsp.broker_info
  - name: RFC 5572
    description: IPv6 Tunnel Broker with the Tunnel Setup Protocol (TSP).
    link: https://www.rfc-editor.org/rfc/rfc5572
"""

EXAMPLES = r"""
- name: An address for this host, whatever NAT is in the way
  tunnelbroker.tsp.tunnel:
    broker: broker.example
    username: alice
    password: "{{ vault_tsp_password }}"
  become: true

- name: A prefix for the networks behind this router, from the first broker that answers
  tunnelbroker.tsp.tunnel:
    broker:
      - broker.example
      - "[2001:db8::1]:3653"
    mode: v6v4
    host_type: router
    prefix_length: 56
    auth_method: digest-md5
    username: alice
    password_file: /etc/tsp/password
  become: true

- name: A tunnel for a Cisco router, asked for by the controller
  tunnelbroker.tsp.tunnel:
    broker: broker.example
    mode: v6v4
    host_type: router
    client_ipv4: 192.0.2.7
    username: alice
    password: "{{ vault_tsp_password }}"
    run_on: controller
    lease_dir: leases

- name: Give the tunnel back
  tunnelbroker.tsp.tunnel:
    state: absent
    username: alice
    password: "{{ vault_tsp_password }}"
  become: true
"""

RETURN = r"""
lease:
  description: What the broker granted. Empty with O(state=absent); the lease before in check mode.
  returned: success
  type: dict
  contains:
    schema:
      description: Version of this structure, 1.
      type: int
    broker:
      description: The broker that granted the tunnel.
      type: str
    via:
      description: The configured broker whose redirection led to it, none when it was asked directly.
      type: str
    transport:
      description: What carried the exchange, V(udp), V(tcp), V(udp6) or V(tcp6).
      type: str
    protocol_version:
      description: The version of TSP that was spoken.
      type: str
    auth_method:
      description: How the user was authenticated.
      type: str
    username:
      description: Who asked, none when anonymous.
      type: str
    mode:
      description: The mode granted, V(v6v4), V(v6udpv4) or V(v4v6).
      type: str
    client:
      description: Our end of the tunnel, with C(ipv4), C(ipv6), C(dns_name) and C(udp_port).
      type: dict
    server:
      description: The broker's end of the tunnel, with C(ipv4), C(ipv6), C(dns_name) and C(udp_port).
      type: dict
    local_address:
      description: The address of the host itself at which the tunnel ends. It is not that of RV(lease.client) behind a NAT; none by proxy.
      type: str
    path_mtu:
      description: Bytes that the path to the broker carries unfragmented, measured when the lease was made; none by proxy.
      type: int
    prefix:
      description: The delegated prefix, none for a host.
      type: str
    dns_servers:
      description: The DNS servers that the reverse zone is delegated to.
      type: list
      elements: str
    keepalive:
      description: C(interval) in seconds and C(address) to ping through the tunnel, or none.
      type: dict
    lifetime:
      description: Seconds that the lease lasts, none when the broker named no end.
      type: int
    obtained_at:
      description: When it was granted, UTC.
      type: str
    expires_at:
      description: When it ends, UTC, or none.
      type: str
    request:
      description: What had been asked for.
      type: dict
    quirks:
      description: Tolerances that were needed towards this broker, and how often.
      type: dict
    warnings:
      description: What was granted otherwise than asked.
      type: list
      elements: str
  sample:
    schema: 1
    broker: broker.example
    via: null
    transport: udp
    protocol_version: 2.0.2
    auth_method: digest-md5
    username: alice
    mode: v6v4
    client: {ipv4: 192.0.2.7, ipv6: "2001:db8:f00::2", dns_name: null, udp_port: null}
    server: {ipv4: 203.0.113.1, ipv6: "2001:db8:f00::1", dns_name: null, udp_port: null}
    local_address: 192.0.2.7
    path_mtu: 1500
    prefix: 2001:db8:a::/56
    dns_servers: []
    keepalive: {interval: 30, address: "2001:db8:f00::1"}
    lifetime: 604800
    obtained_at: "2026-05-04T03:02:01Z"
    expires_at: "2026-05-11T03:02:01Z"
    quirks: {}
    warnings: []
lease_file:
  description: Where the lease is kept.
  returned: success
  type: str
  sample: /etc/ansible/facts.d/tsp.fact
reason:
  description: Why the broker was asked, or why not.
  returned: success
  type: str
  sample: There is no lease yet.
attempts:
  description: What was tried, in order. Empty when no packet was sent.
  returned: always
  type: list
  elements: dict
  contains:
    broker:
      description: The broker.
      type: str
    transport:
      description: V(udp), V(tcp), V(udp6) or V(tcp6).
      type: str
    peer:
      description: Address and port.
      type: str
    version:
      description: The version of TSP.
      type: str
    ms:
      description: Milliseconds that it took.
      type: float
    result:
      description: V(granted), V(deleted), V(redirected) or V(failed).
      type: str
    error:
      description: What went wrong, as RV(error), or none.
      type: dict
error:
  description: What went wrong.
  returned: failure
  type: dict
  contains:
    kind:
      description: Who can help. V(local) (the play), V(remote) (the broker), V(network) (what is between).
      type: str
    code:
      description: A stable name of the failure, for conditions.
      type: str
    message:
      description: What happened.
      type: str
    hint:
      description: What to do next.
      type: str
    status:
      description: The status code of the broker, or none.
      type: int
  sample:
    kind: remote
    code: auth_failed
    message: 'The broker refused the user name or the password. It said: "300 Authentication failed".'
    hint: Check username and password, and that the account is enabled at the broker.
    status: 300
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._module.argspec import TUNNEL_RULES, TUNNEL_SPEC
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._module.ask import target_place
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._module.pathmtu import path_mtu
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._module.results import finish
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._module.tunnel_task import run


def main() -> None:
    module = AnsibleModule(argument_spec=TUNNEL_SPEC, supports_check_mode=True, **TUNNEL_RULES)
    finish(module, lambda: run(module.params, target_place(module.params), check_mode=module.check_mode, measure=path_mtu))


if __name__ == "__main__":
    main()

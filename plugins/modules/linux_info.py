#!/usr/bin/python
# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: linux_info
short_description: What a Linux host is, as far as a tunnel on it is concerned
version_added: 0.1.0
author: The tunnelbroker.tsp authors (@tunnelbroker)
description:
  - Tells which tunnels the kernel of a host can make, which configuration system governs which interface, and what else decides how a
    tunnel is set up there. The filters P(tunnelbroker.tsp.linux_mode#filter) and P(tunnelbroker.tsp.linux_setup#filter) work on it.
  - It only looks. No kernel module is loaded, and no service is started.
  - Without root it tells what it can see, and warns of what it cannot.
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
    platforms: linux
  action:
    support: none
options:
  fact:
    description: Name of a fact that gets C(host) as well. Without it none is set.
    type: str
  state_dir:
    description: Where M(tunnelbroker.tsp.apply_config) keeps what it remembers on the host.
    type: path
    default: /var/lib/tsp-apply
seealso:
  - module: tunnelbroker.tsp.apply_config
  - plugin: tunnelbroker.tsp.linux_setup
    plugin_type: filter
"""

EXAMPLES = r"""
- name: Look at the host
  tunnelbroker.tsp.linux_info:
    fact: tsp_host

- name: Show what governs each interface
  ansible.builtin.debug:
    msg: "{{ item.key }}: {{ item.value.governor }}"
  loop: "{{ ansible_facts['tsp_host'].links | dict2items }}"
"""

RETURN = r"""
host:
  description: What the host is.
  returned: success
  type: dict
  contains:
    system:
      description: V(Linux).
      type: str
    kernel:
      description: Release of the kernel.
      type: str
    python:
      description: Version of the Python that looked, as three numbers.
      type: list
      elements: int
    root:
      description: Whether root looked.
      type: bool
    service_manager:
      description: V(systemd) where it runs the host, else V(none).
      type: str
    systemd_version:
      description: Version of systemd or none.
      type: int
    tools:
      description: Where programs are, none for those that are not installed.
      type: dict
    kinds:
      description: >-
        For V(sit), V(fou), V(ip6tnl) and V(tun) whether the kernel can make it (C(available)) and how: V(loaded), V(builtin), V(module) (it
        would be loaded) or V(missing).
      type: dict
    ipv6:
      description: Whether IPv6 is switched on.
      type: bool
    ipv6_why:
      description: Why not, a sentence.
      type: str
    read_only:
      description: Folders that cannot be written.
      type: list
      elements: str
    governors:
      description: Which of C(networkd), C(networkmanager), C(netplan) and C(ifupdown) are at work on this host at all.
      type: dict
    links:
      description: >-
        The interfaces by name, each with C(index), C(kind), C(alias), C(mtu), C(up), C(mac), C(ipv6), C(ends) (local and remote address of
        a tunnel), C(addresses), C(dynamic) (those of them that come from DHCP or router advertisements), C(accept_ra), C(forwarding),
        C(has_force_forwarding), C(governor) (V(networkd), V(netplan), V(networkmanager), V(ifupdown) or V(none)), C(network_file),
        C(connection), C(netplan_type), C(netplan_id) and C(renderer).
      type: dict
    default_routes:
      description: The default routes with C(family), C(device), C(gateway), C(metric), C(protocol) and C(from).
      type: list
      elements: dict
    management:
      description: How the session that looks came in over SSH, C(peer), C(local) and C(device), each none when it did not.
      type: dict
    radvd:
      description: C(installed), C(active), C(enabled), C(config) and the C(interfaces) that the site's configuration names.
      type: dict
    nftables:
      description: C(kernel) says whether the kernel can filter with nftables.
      type: dict
    ours:
      description: >-
        What earlier transactions made and agents hold, by name, with C(devices), C(files), C(addresses), C(items) and C(unfinished) (a run
        was interrupted).
      type: dict
    interfaces_file:
      description: >-
        C(sources_d) says whether C(/etc/network/interfaces) includes the files of C(/etc/network/interfaces.d), C(flavour) whose ifup
        it is.
      type: dict
error:
  description: What was wrong with the task.
  returned: failure
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._linux.info_task import SPEC, run
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._module.results import finish


def main() -> None:
    module = AnsibleModule(argument_spec=SPEC, supports_check_mode=True)
    finish(module, lambda: run(module.params))


if __name__ == "__main__":
    main()

#!/usr/bin/python
# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: router_config
short_description: Change the configuration of a router as one transaction
version_added: 0.1.0
author:
  - The tunnelbroker.tsp authors (@tunnelbroker)
description:
  - Merges lines into the running configuration of a router, or takes them away, over SSH. It compares first and sends only what is
    missing.
  - When the device refuses a line, or when the O(probe) fails, the change is taken back in the same session. The device is then read
    again to make sure that it is as before.
  - Runs on the controller, in the worker process; nothing is shipped to the device and no C(ansible_connection) is opened. The usual
    variables say where and as whom; see the notes.
  - One session and one C(show running-config) for a device that is already as wanted. A change reads the configuration once more, because
    IOS accepts lines that it does not take over, and hides lines that say what holds anyway.
  - Tested against an emulated command line, not against real equipment.
options:
  lines:
    description:
      - The configuration, line by line, as C(show running-config) would show it. Commands in full, lines of a section indented.
      - Give one of O(lines), O(content) and O(src).
    type: list
    elements: str
  content:
    description: The configuration as one text, for instance a rendered template.
    type: str
  src:
    description: A text file on the controller with the configuration, looked for in C(files) of the role and of the play.
    type: path
  state:
    description:
      - V(merged) makes sure that every line is there. A setting of which there is one (such as C(tunnel destination)) is replaced.
      - V(deleted) takes away what the text holds. Interfaces made of software (tunnels, loopbacks) go as a whole, with the static routes
        that leave by them; of hardware interfaces the named lines go.
    type: str
    choices: [merged, deleted]
    default: merged
  mark:
    description:
      - How the description of a tunnel interface of this task begins. With it the device itself says what is this task's.
      - A tunnel that exists without the mark, and does not lead to the wanted C(tunnel destination) either, is somebody else's. With
        O(state=merged) the task fails then (C(interface_taken)); with O(state=deleted) that tunnel is left as it is, with a warning. Of
        other interfaces made of software the named lines go, as of hardware.
      - A network in the rest of the description, such as C(2001:db8:1::/48), is remembered there. When it is another in the next text, or
        when the tunnel goes, what was configured for it goes too, that is advertised prefixes and addresses inside it, and the route of
        it to C(Null0); so do the tunnel's former address and, when it leads to another destination, its routes to single hosts.
    type: str
  save:
    description:
      - V(changed) saves when the startup configuration lacks what this task is about, whichever run left it unsaved; V(always) when it
        differs from the running configuration at all; V(never) does not save.
      - What is already safe is not written again. Saving is reported as RV(saved) and does not count as a change.
    type: str
    choices: [changed, never, always]
    default: changed
  platform:
    description: The platform by netmiko's name. Taken from C(ansible_network_os) (C(cisco.ios.ios)), or V(cisco_ios) where that is not set.
    type: str
    choices: [cisco_ios, cisco_xe]
  probe:
    description: A ping that the device sends after the change. Without a reply the change is taken back and the task fails.
    type: dict
    suboptions:
      address:
        description: Whom to ping, usually the broker's end inside the tunnel.
        type: str
        required: true
      source:
        description: Interface or address of the device to ping from.
        type: str
        default: ''
      count:
        description: Echo requests, 1 to 100. Three such pings are sent before the tunnel counts as dead.
        type: int
        default: 5
      timeout:
        description: Seconds to wait for each reply, 1 to 60.
        type: int
        default: 2
  known_hosts:
    description: A known_hosts file to use besides the user's own.
    type: path
  host_key_checking:
    description: Whether the device's SSH host key must be known. Ansible's own setting decides where this is not set.
    type: bool
  timeout:
    description: Seconds for connecting and for each answer of the device.
    type: int
    default: 30
requirements:
  - netmiko >= 4.4 on the controller
  - hier-config >= 3.3 on the controller
extends_documentation_fragment:
  - tunnelbroker.tsp.attributes
attributes:
  check_mode:
    support: full
    details:
      - Reads and compares; enters nothing, probes nothing, saves nothing.
  diff_mode:
    support: full
    details:
      - Shows the touched sections before and after, without the passwords and keys that stand in them.
  idempotent:
    support: full
  platform:
    support: full
    platforms: ios
  action:
    support: full
    details:
      - All of it runs on the controller.
notes:
  - Variables used are C(ansible_host), C(ansible_port), C(ansible_user), C(ansible_password), C(ansible_ssh_private_key_file),
    C(ansible_become_password) (the enable secret), C(ansible_network_os), and C(ansible_host_key_checking).
  - Passwords appear in no result and no log; no session log is kept.
seealso:
  - module: tunnelbroker.tsp.tunnel
"""

EXAMPLES = r"""
- name: A tunnel, proved before it is saved
  tunnelbroker.tsp.router_config:
    lines:
      - ipv6 unicast-routing
      - interface Tunnel0
      - ' ipv6 address 2001:db8:1::2/128'
      - ' ipv6 enable'
      - ' tunnel source GigabitEthernet0/0'
      - ' tunnel destination 198.51.100.1'
      - ' tunnel mode ipv6ip'
      - ipv6 route 2001:db8:1::1/128 Tunnel0
    probe:
      address: 2001:db8:1::1
      source: Tunnel0

- name: What would change, as a diff
  tunnelbroker.tsp.router_config:
    src: tunnel.cfg
  check_mode: true
  diff: true

- name: Take the tunnel away, and the routes through it
  tunnelbroker.tsp.router_config:
    lines:
      - interface Tunnel0
    state: deleted
"""

RETURN = r"""
commands:
  description: The lines sent, in their order; in check mode those that would be.
  returned: success
  type: list
  elements: str
  sample: [interface Tunnel0, ' tunnel destination 198.51.100.1', ' exit']
undo:
  description: The lines that take this change back.
  returned: success
  type: list
  elements: str
  sample: [interface Tunnel0, ' tunnel destination 192.0.2.1', ' exit']
saved:
  description: Whether the running configuration was written to the startup configuration.
  returned: success
  type: bool
  sample: true
proof:
  description: What the ping through the tunnel showed; null without O(probe), and in check mode.
  returned: success
  type: dict
  contains:
    proved:
      description: Whether a reply came back.
      type: bool
      returned: success
      sample: true
    rtt_ms:
      description: Average round trip in milliseconds.
      type: float
      returned: success
      sample: 12.0
    target:
      description: Who was pinged.
      type: str
      returned: success
      sample: 2001:db8:1::1
error:
  description:
    - Why it failed. The codes are C(line_refused), C(probe_failed), C(undo_failed), C(save_failed), C(session_lost), C(device_unreachable),
      C(interface_taken),
      C(host_key_unknown), C(host_key_changed), C(login_refused), C(login_incomplete), C(enable_failed), C(config_empty), C(line_unusable),
      C(config_unreadable), C(src_unreadable), C(probe_invalid), C(platform_unknown), C(known_hosts_missing), C(library_missing),
      C(invalid_option).
  returned: failure
  type: dict
  sample:
    kind: apply
    code: line_refused
    message: "The device refused the line 'tunnel mode ipv6ip': % Invalid input detected at '^' marker."
    hint: The device is as it was before. Correct the line, or leave it out.
    status:
"""

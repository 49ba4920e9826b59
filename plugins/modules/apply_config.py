#!/usr/bin/python
# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: apply_config
short_description: Files, a service and commands on a host as one transaction, proved by a ping
version_added: 0.1.0
author: The tunnelbroker.tsp authors (@tunnelbroker)
description:
  - Brings files, directories, a service and commands of a host to a wanted state, in one call and all or nothing.
  - Everything that would change is saved first. Then the service is stopped, the files are put in place, each at once and durably, the
    service is started, and O(probe) is pinged. Only a reply confirms the change.
  - When a step fails or no reply comes, everything is as it was before, the service included, and the task fails with the reason.
  - With O(confirm_timeout) the host undoes the change by itself unless the controller comes back over a new connection and confirms it.
  - A run that was killed is undone, or cleared away if it had been confirmed, by the next run.
  - Where nothing differs nothing is touched; O(probe) is pinged all the same.
extends_documentation_fragment:
  - tunnelbroker.tsp.attributes
attributes:
  check_mode:
    support: full
    details:
      - Predicts exactly the steps and the diff of the run, and writes nothing. Commands under C(unless) are run, they only look.
      - Files of the controller that differ are copied to the temporary folder of the connection to be compared.
  diff_mode:
    support: full
    details:
      - What comes from C(secret_content) is shown as changed, never with its content.
  idempotent:
    support: full
    details:
      - A command without C(unless) runs when something else changes. Commands with C(unless) must make it succeed.
  platform:
    support: full
    platforms: posix
  action:
    support: full
    details:
      - Copies files of the controller, and only those that differ.
options:
  name:
    description: Name of the transaction. Its checkpoint is kept under this name, so it must stay the same from run to run.
    type: str
    required: true
  state:
    description: V(absent) stops the service and takes away all that O(files) and O(absent_files) name, and the O(directories) left empty.
    type: str
    choices: [present, absent]
    default: present
  files:
    description: The files. With O(state=present) each needs one of C(content), C(src) and C(secret_content).
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Absolute path on the host. Missing parent folders are made, mode 0755.
        type: path
        required: true
      content:
        description: The content.
        type: str
      src:
        description: A file on the controller, searched like those of M(ansible.builtin.copy).
        type: path
      secret_content:
        description: Content that is never shown, neither in diffs nor in results.
        type: str
      checksum:
        description: SHA-256 of C(src). The action plugin sets it.
        type: str
      mode:
        description: Permissions, octal, best as text.
        type: raw
        default: "0644"
      owner:
        description: Owner, a name or a number. Without it a new file is of the user that runs the task, an old one keeps its owner.
        type: str
      group:
        description: Group, a name or a number.
        type: str
      only_with:
        description: Leave this file alone unless the service is managed in this way. With O(state=absent) it is removed all the same.
        type: str
        choices: [systemd, none]
  absent_files:
    description: Files that must not be there. In diff mode the content of one that only its owner could read is not shown.
    type: list
    elements: path
    default: []
  directories:
    description: Folders that are made with O(state=present), and removed with O(state=absent) when they are empty.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Absolute path.
        type: path
        required: true
      mode:
        description: Permissions, octal, best as text.
        type: raw
        default: "0755"
  stop:
    description: Commands to run before files change, without a shell.
    type: list
    elements: dict
    default: []
    suboptions: &command
      argv:
        description: The command, word by word.
        type: list
        elements: str
        required: true
      undo:
        description: The command that takes it back.
        type: list
        elements: str
      unless:
        description: A command that only looks. When it succeeds, there is nothing to do.
        type: list
        elements: str
      timeout:
        description: Seconds after which it has failed.
        type: float
        default: 60.0
  start:
    description: Commands to run after files changed, without a shell, before the service is started.
    type: list
    elements: dict
    default: []
    suboptions: *command
  service:
    description: The program that runs with these files. It is restarted when one of them changes.
    type: dict
    suboptions:
      name:
        description: Name of the unit, or of the program for people.
        type: str
        required: true
      manager:
        description:
          - V(systemd) takes a unit, whose file may be one of O(files), and enables it.
          - V(none) runs C(argv), which must put itself into the background and write C(pid_file). Nothing starts it at boot.
          - V(auto) is V(systemd) where systemd runs the host, else V(none).
        type: str
        choices: [auto, systemd, none]
        default: auto
      argv:
        description: The command that starts the program, with absolute paths. Used with V(none).
        type: list
        elements: str
        default: []
      pid_file:
        description: Where the program writes its process number. Used with V(none).
        type: path
      timeout:
        description: Seconds for starting and for stopping.
        type: float
        default: 30.0
  probe:
    description: Whom to ping to prove the change.
    type: dict
    suboptions:
      address:
        description: IPv6 or IPv4 address.
        type: str
        required: true
      source:
        description: Address to ping from.
        type: str
      interface:
        description: Interface to ping through.
        type: str
      count:
        description: How many replies are wanted.
        type: int
        default: 1
      timeout:
        description: Seconds for all replies, with the time that the service needs to get ready.
        type: float
        default: 15.0
      status_file:
        description: Status file of the service (JSON). Its C(last_error) explains a failure.
        type: path
  state_dir:
    description: Where checkpoints are kept while a transaction runs. It is gone afterwards when it is empty.
    type: path
    default: /var/lib/tsp-apply
  confirm_timeout:
    description:
      - Seconds in which the controller must come back over a new connection, after a change was made and proved, and confirm it.
        Else the host undoes the change by itself, by a timer of systemd, or by a process in the background where systemd does not run it.
        So a change that cuts off the way to the host does not last.
      - V(0) confirms a proved change at once. Where a plan changes the way by which the controller came in over SSH, that is refused.
      - Where systemd runs the host and C(/etc) can be written, a host that reboots before the confirmation puts the old files back before
        its network comes up. Elsewhere the next run undoes what such a host was left with.
    type: int
    default: 0
  confirm_token:
    description: The name by which a change is confirmed. The action plugin sets it.
    type: str
  confirm_phase:
    description: Whether a change is made or confirmed. The action plugin sets it.
    type: str
    choices: [apply, confirm]
    default: apply
"""

EXAMPLES = r"""
- name: A program with its configuration, proved by a ping through its interface
  tunnelbroker.tsp.apply_config:
    name: example
    files:
      - path: /usr/local/lib/example/example.pyz
        src: example.pyz
        mode: "0755"
      - path: /etc/example/example.json
        content: '{"peer": "192.0.2.1"}'
      - path: /etc/example/password
        secret_content: "{{ example_password }}"
        mode: "0600"
      - path: /etc/systemd/system/example.service
        content: "{{ lookup('ansible.builtin.template', 'example.service.j2') }}"
    service:
      name: example.service
      argv: [/usr/local/lib/example/example.pyz, --config, /etc/example/example.json]
      pid_file: /run/example.pid
    probe:
      address: 2001:db8::1
      interface: example0
  register: example_applied

- name: How long the way was
  ansible.builtin.debug:
    msg: "{{ example_applied.proof.rtt_ms }} ms"
"""

RETURN = r"""
steps:
  description: What was done, or would be done in check mode, in order.
  returned: success
  type: list
  elements: str
  sample: ["stop tsp-agent-tsp.service", "change /etc/tsp/tsp.json", "start tsp-agent-tsp.service"]
proof:
  description: The outcome of the ping; none in check mode, without O(probe) and with O(state=absent).
  returned: success
  type: dict
  contains:
    proved:
      description: Whether the replies came.
      type: bool
    target:
      description: Who was pinged.
      type: str
    rtt_ms:
      description: Median round trip in milliseconds.
      type: float
    sent:
      description: Echo requests sent.
      type: int
    received:
      description: Replies that came.
      type: int
recovered:
  description: Whether an interrupted run was found and dealt with first.
  returned: success
  type: bool
confirmed:
  description: That the controller came back over a new connection and confirmed the change.
  returned: success, with O(confirm_timeout), when something changed
  type: bool
error:
  description: What went wrong, with C(kind), C(code), C(message) and C(hint).
  returned: failure
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._apply.task import SPEC, run
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._module.results import finish


def main() -> None:
    """Wiring."""
    module = AnsibleModule(argument_spec=SPEC, supports_check_mode=True)

    def work() -> dict:
        result = run(module.params, check_mode=module.check_mode)
        if not module._diff:
            result.pop("diff")
        return result

    finish(module, work)


if __name__ == "__main__":
    main()

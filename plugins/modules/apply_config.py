#!/usr/bin/python
# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: apply_config
short_description: Files, services, commands and the kernel's network state of a host as one transaction, proved by a ping
version_added: 0.1.0
author: The tunnelbroker.tsp authors (@tunnelbroker)
description:
  - Brings files, directories, services, and what the kernel knows of links, addresses, routes and the like to a wanted state, in one call
    and all or nothing.
  - Everything that would change is saved first. Then services are stopped, the files are put in place, each at once and durably, the
    host's own configuration system is told (O(settle)), services are started, what O(items) names is looked up in the kernel, and
    O(probe) is pinged. Only then, and only by a reply, the change is confirmed.
  - When a step fails, the kernel lacks an item, or no reply comes, everything is as it was before, services and kernel included, and the
    task fails with the reason.
  - A run that was killed is undone, or cleared away if it had been confirmed, by the next run.
  - Where nothing differs nothing is touched; O(probe) is pinged all the same. An item that is gone from the kernel is a difference.
  - What was in the place of files, items and services is remembered in O(state_dir) for each O(name). What an earlier run of the same
    name made and a later one does not name is taken away, and O(state=absent) needs nothing but the name to make the host as it was.
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
    description:
      - V(absent) takes away all that is remembered or named - files, items, what was added to files of the site - and puts back what was
        there before. Services become what they were; O(service) is stopped. Folders that were made go when they are empty.
      - A variable of the kernel that somebody has changed since stays as it is. Nothing that O(absent_files) names comes back.
    type: str
    choices: [present, absent]
    default: present
  files:
    description:
      - The files. With O(state=present) each needs one of C(content), C(template), C(src) and C(secret_content), or C(edit).
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
      template:
        description:
          - A Jinja template on the controller, searched like that of M(ansible.builtin.template). The text is the same as there.
          - With C(edit) it makes the option C(content) of the editor.
        type: path
      vars:
        description: Further variables for C(template).
        type: dict
        default: {}
      edit:
        description:
          - Extend a file of the site instead of owning it. What it becomes is computed on the host from what is there.
          - C(editor) names the editor, the other keys are its options. C(block) keeps C(content) between two lines that mark it; it knows
            C(comment) (what begins a comment, by default C(#)), C(where) (C(end) or C(start) of the file) and C(marker).
          - C(radvd) is what the role P(tunnelbroker.tsp.radvd#role) uses.
        type: dict
      mode:
        description: Permissions, octal, best as text. With C(edit) only for a file that must be made.
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
        type: list
        elements: str
        choices: [systemd, none, rc_subr, rcctl, rc_d, launchd]
  secrets:
    description: What O(files) have as C(secret_content), by number. The action plugin sets it, so that no log of the host has it.
    type: dict
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
  settle:
    description:
      - Commands that make the host be as its files say, without a shell. They run after files changed and also, by themselves, after
        files were put back. On the way back a command that fails is no failure as long as the kernel is as it was.
      - Commands of the run before that are missing now run once more, before these, so that a configuration system that is left
        learns of it. One that fails is no failure.
    type: list
    elements: dict
    default: []
    suboptions:
      argv:
        description: The command, word by word.
        type: list
        elements: str
        required: true
      timeout:
        description: Seconds after which it has failed.
        type: float
        default: 60.0
      when:
        description: V(present) runs it only on the way to the new state, V(absent) only on the way back.
        type: str
        choices: [always, present, absent]
        default: always
  service:
    description: The program that runs with these files. It is stopped before they change, and started afterwards and at boot.
    type: dict
    suboptions: &service
      name:
        description: Name of the unit, or of the program for people.
        type: str
        required: true
      manager:
        description:
          - V(systemd) takes a unit, whose file may be one of O(files).
          - V(none) runs C(argv), which must put itself into the background and write C(pid_file). Nothing starts it at boot.
          - V(rc_subr) is FreeBSD's service(8), V(rcctl) OpenBSD's, V(rc_d) NetBSD's scripts in C(/etc/rc.d), V(launchd) macOS's. The
            script, or the property list in C(/Library/LaunchDaemons), is one of O(files); its name is C(name) without C(.service),
            with C(_) in place of everything but letters and digits. With V(rc_subr) and V(rc_d) the script itself, or rc.conf(5), says
            whether it is started at boot.
          - V(auto) is V(systemd) where systemd runs the host, else the one of this system, else V(none).
        type: str
        choices: [auto, systemd, none, rc_subr, rcctl, rc_d, launchd]
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
  services:
    description: Services of the host that need these files. What they were before is remembered, and restored with O(state=absent).
    type: list
    elements: dict
    default: []
    suboptions:
      <<: *service
      state:
        description:
          - V(restarted) and V(reloaded) do that when one of C(files) changes, and start a service that does not run. V(restarted) also does
            it when the kernel lacks one of O(items) that the transaction does not make itself.
        type: str
        choices: [started, restarted, reloaded, stopped]
        default: started
      enabled:
        description: Whether it is started at boot. Without it that stays as it is.
        type: bool
      files:
        description: The files whose change concerns this service. Without it all of them do.
        type: list
        elements: path
        default: []
      reload_argv:
        description: The command that reloads it. Without it systemd reloads or restarts the unit, or the program gets SIGHUP.
        type: list
        elements: str
        default: []
      test_argv:
        description: A command that tests the configuration. It runs with the new files in place; when it fails everything is undone.
        type: list
        elements: str
        default: []
  items:
    description:
      - What the kernel shall have once the files are in force. Each is looked up there before the change is confirmed.
      - "C(kind) is one of: C(link) with C(device), C(type) (C(sit) or C(ip6tnl)), C(local), C(remote), C(mtu), C(encap) (null, or C(type)
        C(fou) with the ports C(sport) and C(dport)); C(address) with C(device), C(cidr); C(route) with C(family), C(destination),
        C(device), C(gateway), C(metric), C(type) (C(unicast) or C(unreachable)), C(from), C(table), and C(absent) for one that shall
        not be there; C(rule) with C(family), C(from), C(table), C(priority), C(suppress_prefixlength); C(sysctl) with C(name) (with
        slashes) and C(value)."
      - With C(make) the transaction makes the item itself where it is missing, else it waits for the host's configuration system.
      - A device of the name of a link that this transaction did not make is an error (C(device_taken)) before anything is touched.
    type: list
    elements: dict
    default: []
  items_timeout:
    description: Seconds in which the kernel must have all O(items).
    type: float
    default: 20.0
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
    description: Where checkpoints are kept while a transaction runs, and what was before, readable to root alone, as long as it stays.
    type: path
    default: /var/lib/tsp-apply
  facts:
    description: Facts to set when the task succeeds, in check mode too. They are found in C(ansible_facts).
    type: dict
    default: {}
  proof_fact:
    description: Name of a fact that gets RV(proof); where nothing was probed, one that says so.
    type: str
  refused:
    description:
      - An error, as RV(error) is one, that was found while options were computed. The task fails with it, and does nothing else.
      - C(refused) of P(tunnelbroker.tsp.linux_setup#filter) is meant for it.
    type: dict
  confirm_timeout:
    description:
      - Seconds in which the controller must come back over a new connection, after a change was made and proved, and confirm it.
        Else the host undoes the change by itself, by a timer of systemd, or by a process in the background where systemd does not run it.
        So a change that cuts off the way to the host does not last.
      - V(0) confirms a proved change at once. Where a plan changes the way by which the controller came in over SSH, that is refused.
      - Where systemd runs the host and C(/etc) can be written, a host that reboots before the confirmation puts the old files back before
        its network comes up. Elsewhere the next run undoes what such a host was left with.
    type: float
    default: 0.0
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

- name: A line in a file of the site, a service that reads it, and what the kernel must have in the end
  tunnelbroker.tsp.apply_config:
    name: lan
    files:
      - path: /etc/radvd.conf
        template: lan.radvd.conf.j2
        edit: {editor: block}
    services:
      - name: radvd.service
        state: reloaded
        test_argv: [/usr/sbin/radvd, --configtest, --config, /etc/radvd.conf]
    items:
      - {kind: address, device: eth1, cidr: "2001:db8:1::1/64", make: true}
      - {kind: sysctl, name: net/ipv6/conf/eth1/forwarding, value: "1", make: true}

- name: All of that taken away again, and the host as it was
  tunnelbroker.tsp.apply_config:
    name: lan
    state: absent
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

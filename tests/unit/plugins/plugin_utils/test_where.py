# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.errors import LocalError
from ansible_collections.tunnelbroker.tsp.plugins.plugin_utils._where import Host, base_folder, for_another, lease_path, on_controller


@pytest.mark.parametrize("connection, task_vars, device", [
    ("ssh", {}, False),
    ("local", {}, False),
    ("ansible.netcommon.network_cli", {}, True),
    ("ansible.netcommon.netconf", {}, True),
    ("httpapi", {}, True),
    ("winrm", {}, True),
    ("psrp", {}, True),
    ("ssh", {"ansible_network_os": "cisco.ios.ios"}, True),
    ("local", {"ansible_connection": "ansible.netcommon.network_cli"}, True),
    ("ssh", {"ansible_shell_type": "powershell"}, True),
    ("ssh", {"ansible_shell_type": "sh"}, False),
])
def test_what_is_a_device(connection, task_vars, device):
    assert Host.of(connection, {"inventory_hostname": "r1", **task_vars}).is_device is device


@pytest.mark.parametrize("run_on, proxy, device, here", [
    ("auto", False, False, False), ("auto", True, False, True), ("auto", False, True, True),
    ("target", True, True, False), ("controller", False, False, True)])
def test_where_the_exchange_runs(run_on, proxy, device, here):
    assert on_controller(run_on, proxy, Host("h", "ssh", device)) is here


def test_for_whom_the_controller_asks():
    assert for_another(Host("r1", "ssh", False)) and for_another(Host("r1", "local", True))
    assert not for_another(Host("localhost", "local", False))


def test_leases_lie_beside_the_playbook_or_the_inventory(tmp_path, monkeypatch):
    project = {"playbook_dir": "/project", "inventory_dir": "/inventory"}
    installed = {**project, "playbook_dir": "/x/ansible_collections/tunnelbroker/tsp/playbooks"}
    assert base_folder(project) == "/project"
    assert base_folder(installed) == "/inventory"
    monkeypatch.chdir(tmp_path)
    assert base_folder({"playbook_dir": installed["playbook_dir"], "inventory_dir": None}) == str(tmp_path)
    assert lease_path(None, "tsp", "r1", project) == "/project/leases/r1.json"
    assert lease_path("kept", "tsp", "r1", project) == "/project/kept/r1.json"
    assert lease_path("/abs", "wan2", "2001:db8::1", project) == "/abs/wan2/2001:db8::1.json"


@pytest.mark.parametrize("host", ["", "../r1", "a/b", ".hidden", "a\0b", ".."])
def test_a_host_whose_name_would_leave_the_folder_is_refused(host):
    with pytest.raises(LocalError) as caught:
        lease_path("/leases", "tsp", host, {"playbook_dir": "/project"})
    assert caught.value.code == "invalid_option"

# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A host whose own address changes: its stored lease answers the task until then, and not afterwards.

    host eth0 192.0.2.7, eth1 192.0.2.135 --- broker 192.0.2.1, 192.0.2.129
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest
from ansible_collections.tunnelbroker.tsp.tests.lab import Lab

pytestmark = pytest.mark.root
ROOT = Path(__file__).resolve().parents[2]
TASK = """
import json, sys
from module_utils._module.argspec import TUNNEL_SPEC
from module_utils._module.ask import Place
from module_utils._module.tunnel_task import run
given = json.loads(sys.argv[1])
params = {name: given.get(name, option.get("default")) for name, option in TUNNEL_SPEC.items()}
json.dump(run(params, Place(given["folder"] + "/tsp.fact", given["folder"] + "/state")), sys.stdout)
"""


@pytest.fixture
def net():
    with Lab("address-change") as lab:
        internet = lab.segment("internet")
        broker, host = lab.namespace("broker"), lab.namespace("host")
        internet.attach(broker, "eth0", "192.0.2.1/25", "2001:db8:1::1/64")
        internet.attach(host, "eth0", "192.0.2.7/25", "2001:db8:1::7/64")
        config = lab.folder / "broker.json"
        config.touch(0o600)
        config.write_text(json.dumps({
            "name": "broker.example", "modes": ["v6v4", "v6udpv4", "v4v6"], "data_plane": "none",
            "auth": {"passdss-3des-1": False}, "accounts": [{"username": "one", "password": "secret1"}],
            "store": {"path": "leases.db"}, "pools": {"ipv6": "2001:db8:f::/64", "ipv4": "198.51.100.0/24"},
            "log": {"file": "log"}}), encoding="utf-8")
        python = ("env", f"PYTHONPATH={ROOT / 'plugins'}", sys.executable)
        broker.popen(*python, "-m", "module_utils._broker.cli", "serve", "--config", str(config))
        log, end = lab.folder / "log", time.monotonic() + 60
        while not (log.exists() and "listening" in log.read_text(encoding="utf-8")):
            assert time.monotonic() < end, "the broker does not listen"
            time.sleep(0.05)

        def task(**options):
            given = {"folder": str(lab.folder), "broker": ["192.0.2.1"], "username": "one", "password": "secret1", "min_interval": 0}
            done = host.run(*python, "-c", TASK, json.dumps({**given, **options}))
            result = json.loads(done.stdout)
            return result["changed"], result["reason"], result["lease"]

        yield host, task


@pytest.mark.parametrize("mode, again", [("v6v4", True), ("v6udpv4", False)])
def test_a_host_with_a_new_ipv4_address_asks_again_for_v6v4(net, mode, again):
    host, task = net
    _changed, _reason, lease = task(mode=mode)
    assert (lease["local_address"], lease["client"]["ipv4"]) == ("192.0.2.7", "192.0.2.7")
    assert task(mode=mode)[0] is False
    host.ip("addr add 192.0.2.8/25 dev eth0")  # one more address, and the kernel still prefers the first
    assert task(mode=mode)[0] is False
    host.ip("addr del 192.0.2.7/25 dev eth0", "addr replace 192.0.2.8/25 dev eth0")
    changed, reason, lease = task(mode=mode)
    assert changed is again
    if again:
        assert reason == "The lease is for 192.0.2.7, and this host is now at 192.0.2.8."
        assert lease["client"]["ipv4"] == lease["local_address"] == "192.0.2.8"
    assert task(mode=mode)[0] is False
    host.ip("link set eth0 down")
    assert task(mode=mode)[0] is False, "without any way to the broker there is nobody to ask"


def test_a_host_with_a_new_ipv6_address_asks_again_for_v4v6(net):
    host, task = net
    options = {"mode": "v4v6", "broker": ["2001:db8:1::1"]}
    assert task(**options)[2]["client"]["ipv6"] == "2001:db8:1::7"
    host.ip("addr add 2001:db8:1::8/64 dev eth0 nodad", "addr change 2001:db8:1::7/64 dev eth0 preferred_lft 0")
    assert task(**options)[0] is False, "the old address is not preferred any more, and is still there"
    host.ip("addr del 2001:db8:1::7/64 dev eth0")
    changed, _reason, lease = task(**options)
    assert changed is True and lease["client"]["ipv6"] == "2001:db8:1::8"
    assert task(**options)[0] is False

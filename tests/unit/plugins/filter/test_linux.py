# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A refusal as a value, for roles: a filter cannot fail with words of its own."""

from __future__ import annotations

from ansible_collections.tunnelbroker.tsp.plugins.filter.linux import FilterModule as Linux
from ansible_collections.tunnelbroker.tsp.plugins.filter.radvd import FilterModule as Radvd
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._linux.radvd import NOTHING, radvd_setup
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._linux._hosts import host, lease

LANS = ("eth2", {"name": "eth0", "subnet": 7})


def test_the_setup_tells_its_refusal_when_asked_to():
    setup = Linux().filters()["linux_setup"]
    refused = setup(lease().to_dict(), host(), device="eth2", tell=True)
    assert refused["refused"]["code"] == "device_taken"
    assert (refused["backend"], refused["files"], refused["items"]) == ("none", [], [])
    assert setup(lease().to_dict(), host(), tell=True)["refused"] is None


def test_the_advertisements_tell_theirs():
    setup, given = Radvd().filters()["radvd_setup"], lease("v6v4", "2001:db8:a::/48").to_dict()
    refused = setup(given, host(), tell=True, lan_interfaces=LANS, valid_lifetime="soon")
    assert refused.pop("refused")["code"] == "radvd_invalid"
    made = radvd_setup(given, host(), lan_interfaces=LANS)
    assert refused == NOTHING and set(refused) == set(made)
    assert setup(given, host(), tell=True, lan_interfaces=LANS) == {**made, "refused": None}

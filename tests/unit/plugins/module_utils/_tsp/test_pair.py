# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whole sessions, client and broker in memory, on clean and on bad networks."""

from __future__ import annotations

import pytest

from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.events import Authenticated, Completed, Granted
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._tsp._pair import ConnectionPair, client_config


@pytest.mark.parametrize("transport", ["udp", "tcp"])
@pytest.mark.parametrize("method", ["anonymous", "plain", "digest-md5"])
def test_clean(transport, method):
    pair = ConnectionPair(client_config(transport, auth_method=method)).run(20)
    print(pair.events, pair.sent)
    pair.check_last_word()
    assert isinstance(pair.last, Completed)
    assert pair.client.quirks == {"address_compressed": 0} or pair.client.quirks == {}
    assert Authenticated(method) in pair.events
    assert [e for e in pair.events if isinstance(e, Granted)]
    assert pair.server.established

# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A broker in a few lines: the port `Exchange` of the tunnel task, with state, for tests."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ansible_collections.tunnelbroker.tsp.plugins.module_utils._exchange.negotiate import ExchangeResult
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._exchange.options import ExchangeOptions
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.errors import TspError
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.lease import Lease
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.request import TunnelRequest
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._module._leases import NOW, lease


class FakeBroker:
    """Grants one tunnel per user, and remembers what it was asked.

    asked: [("create" | "delete", ExchangeOptions)]. tunnels: user to Lease. refuse / refuse_delete: a TspError to raise instead.
    during: called while a create is going on.
    """

    def __init__(self) -> None:
        self.asked: list[tuple[str, ExchangeOptions]] = []
        self.requests: list[TunnelRequest] = []
        self.tunnels: dict[str | None, Lease] = {}
        self.refuse: TspError | None = None
        self.refuse_delete: TspError | None = None
        self.warnings: list[str] = []
        self.changes: dict[str, Any] = {}
        self.now = NOW
        self.during = lambda: None

    def negotiate_sync(self, request: TunnelRequest, options: ExchangeOptions) -> ExchangeResult:
        self.asked.append(("create", options))
        self.requests.append(request)
        if self.refuse is not None:
            raise self.refuse
        self.during()
        length = request.wanted_prefix_length
        mode = "v6v4" if request.mode == "v6anyv4" else request.mode
        prefix = None if length is None else f"10.0.0.0/{length}" if mode == "v4v6" else f"2001:db8:a::/{length}"
        granted = lease(mode, prefix, request, broker=options.brokers[0], username=options.username, obtained_at=self.now)
        granted = replace(granted, **self.changes)
        self.tunnels[options.username] = granted
        return ExchangeResult(granted, attempts=[{"broker": options.brokers[0], "result": "granted", "error": None}],
                              warnings=list(self.warnings))

    def delete_sync(self, lease_or_request: Lease | TunnelRequest, options: ExchangeOptions) -> list[dict[str, Any]]:
        assert isinstance(lease_or_request, Lease)
        self.asked.append(("delete", options))
        if self.refuse_delete is not None:
            raise self.refuse_delete
        del self.tunnels[lease_or_request.username]
        return [{"broker": lease_or_request.broker, "result": "deleted", "error": None}]

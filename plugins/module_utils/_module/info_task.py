# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""The task `broker_info`: what brokers offer. It logs in nowhere and creates nothing."""

from __future__ import annotations

from typing import Any, Protocol

from .._exchange import negotiate as _negotiate
from .._exchange.options import ExchangeOptions
from .ask import info_options


class Informer(Protocol):
    """The port to the brokers; `_exchange.negotiate` is the real one."""

    def broker_info_sync(self, options: ExchangeOptions) -> list[dict[str, Any]]:
        """One dict per broker. Raises LocalError."""


def run(params: dict[str, Any], *, exchange: Informer = _negotiate) -> dict[str, Any]:
    """{changed: false, brokers: [...], warnings}. params: as `INFO_SPEC` leaves them. Raises LocalError."""
    brokers = exchange.broker_info_sync(info_options(params))
    silent = [entry["broker"] for entry in brokers if not entry["reachable"]]
    warnings = [f"{broker} cannot be reached." for broker in silent]
    return {"changed": False, "brokers": brokers, "warnings": warnings}

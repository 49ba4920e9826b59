# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""What a wish and a host say without a lease: the mode to ask for, or why the broker need not be troubled at all."""

from __future__ import annotations

from typing import Any

from .._module.plan import lan_names
from .._tsp.errors import LocalError
from .._tsp.request import MODES
from . import check
from .backend import Host
from .choose import BACKENDS, DATA_PLANES, check_at_work, mode_of
from .firewall import check_nft
from .picture import DEFAULT_ROUTES
from .refusal import told


def linux_fit(mode: str, host: Host, **wishes: Any) -> dict[str, Any]:
    """{mode: the one to ask the broker for, why: a sentence, refused: None, or the `error` that says why not to ask}.

    wishes: of `fit`. What only a lease can tell is left to linux_setup.
    """
    return told(lambda: fit(mode, host, **wishes), {"mode": mode, "why": ""})


def fit(mode: str, host: Host, *, name: str = "tsp", device: str = "tsp0", backend: str = "auto", data_plane: str = "auto",
        lan_interfaces: Any = (), default_route: str = "metric", firewall_wanted: bool = False, radvd: bool = False) -> dict[str, Any]:
    """{mode, why}. firewall_wanted: a packet filter or MSS clamping. Raises LocalError: those of check.py, choose.py and tunnel_plan that
    need no lease."""
    check.check_shape(host)
    for option, value, choices in (("mode", mode, MODES), ("linux_backend", backend, BACKENDS),
                                   ("linux_data_plane", data_plane, DATA_PLANES), ("linux_default_route", default_route, DEFAULT_ROUTES)):
        if value not in choices:
            raise LocalError("invalid_option", f"{option} {value!r} is unknown.", f"Use one of {', '.join(choices)}.")
    check.check_host(host)
    check.check_writable(backend, host)
    check.check_device(device, name, host)
    check_at_work(backend, host)
    check.check_lan_interfaces(lan_names(lan_interfaces), 4 if mode == "v4v6" else 6, device, None, host)
    check.check_radvd(radvd, host)
    if firewall_wanted:
        check_nft(host)
    chosen, why = mode_of(mode, host, data_plane)
    return {"mode": chosen, "why": why}

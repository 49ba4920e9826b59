# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""What a router has to advertise on its LANs for a tunnel, and radvd's part of the transaction, out of a lease and of linux_info.

`radvd_setup` returns a dict of JSON types, options of the module apply_config:

    interfaces         what is advertised where (_apply/radvd.py): [{name, prefixes, rdnss, dnssl, mtu, default_lifetime}]
    files, services    the site's radvd.conf with the editor `radvd`; radvd itself
    state              of the transaction that these are for: absent where there is nothing to advertise. A transaction with other things
                       in it takes them in only if it has the same state; what it had before and is not given, it takes out by itself
    warnings           sentences
"""

from __future__ import annotations

from typing import Any

from .._module.plan import tunnel_plan
from .._tsp.errors import LocalError
from .._tsp.lease import Lease
from .backend import Host
from .check import check_radvd

CONFIG = "/etc/radvd.conf"
UNIT = "radvd.service"
PID_FILE = "/run/radvd.pid"
PROGRAM = "/usr/sbin/radvd"
MTU_FLOOR = 1280
NOTHING: dict[str, Any] = {"interfaces": [], "files": [], "services": [], "warnings": [], "state": "absent"}
"""The setup that was refused."""


def radvd_setup(lease: Lease | dict[str, Any] | None, host: Host, *, numbers: dict[str, Any] | None = None, lan_interfaces: Any = (),
                mtu: int | str | None = None, link_mtu: int | str | None = None, default_route: str = "metric", rdnss: Any = (),
                dnssl: Any = (), valid_lifetime: int | str = 5400, preferred_lifetime: int | str = 2700,
                default_lifetime: int | str = "auto", deprecation: int | str = 7200, config: str = CONFIG, unit: str = UNIT,
                pid_file: str = PID_FILE, manager: str = "auto", python: str = "/usr/bin/python3", state_dir: str = "/var/lib/tsp-apply",
                install: bool = False) -> dict[str, Any]:
    """The setup (module docstring). lease: None or {}: nothing is to be advertised.

    numbers: of tunnel_plan or linux_setup, instead of computing them out of lan_interfaces, mtu and link_mtu. rdnss, dnssl: resolvers
    and search domains (a lease knows none: its DNS servers are those of the reverse zone). default_lifetime: seconds, for a block of
    our own; auto: radvd's default, but 0 (RFC 7084 G-4) where the tunnel gives no default route and the host has no other. install:
    radvd will be there.

    Raises LocalError: `radvd_missing`, `radvd_invalid`, those of tunnel_plan.
    """
    warnings: list[str] = []
    wishes = _wishes(lease, host, numbers, lan_interfaces, mtu, link_mtu, rdnss, dnssl,
                     _router_lifetime(default_lifetime, default_route, host), warnings) if lease else []
    if wishes:
        check_radvd(not _truth(install), host)
    if manager not in ("auto", "systemd", "none"):
        raise LocalError("radvd_invalid", f"The service manager {manager!r} is unknown.", "Use auto, systemd or none.")
    program = host["tools"].get("radvd") or PROGRAM
    systemd = host["service_manager"] == "systemd" if manager == "auto" else manager == "systemd"
    # The editor adds units, and takes them away, while something goes (_apply/radvd_units.py).
    tidy = {"python": python, "radvd": program, "unit": unit, "state_dir": state_dir} if systemd else None
    file = {"path": config, "mode": "0644", "edit": {
        "editor": "radvd", "interfaces": wishes, "valid_lifetime": _whole(valid_lifetime, "valid_lifetime"),
        "preferred_lifetime": _whole(preferred_lifetime, "preferred_lifetime"), "deprecation": _whole(deprecation, "deprecation"),
        "tidy": tidy}}
    service: dict[str, Any] = {"name": unit if systemd else "radvd", "manager": "systemd" if systemd else "none", "state": "reloaded",
                               "files": [config], "test_argv": [program, "--configtest", "--config", config]}
    if systemd:
        service["enabled"] = True
    else:
        # In one word each: a radvd that the site started with other options is radvd all the same.
        service.update(argv=[program, f"--config={config}", f"--pidfile={pid_file}"], pid_file=pid_file)
        if wishes:
            warnings.append("Nothing on this host would end by itself what is advertised for the last time: after a change of the prefix, "
                            "run this once more when two hours are over.")
    return {"interfaces": wishes, "files": [file], "services": [service], "warnings": warnings, "state": "present" if wishes else "absent"}


def _wishes(lease: Lease | dict[str, Any] | None, host: Host, numbers: dict[str, Any] | None, lan_interfaces: Any,
            mtu: int | str | None, link_mtu: int | str | None, rdnss: Any, dnssl: Any, default_lifetime: int | None,
            warnings: list[str]) -> list[dict[str, Any]]:
    if not isinstance(lease, Lease):
        lease = Lease.from_dict(lease or {})
    if numbers is None:
        numbers = tunnel_plan(lease, lan_interfaces=lan_interfaces, mtu=mtu, link_mtu=link_mtu)
    if not numbers["lan"]:
        warnings.append("There is no LAN interface to advertise anything on. Name them in tunnel_lan_interfaces.")
    elif numbers["family"] != 6:
        warnings.append("This tunnel brings IPv4: there is nothing for radvd to advertise.")
    if numbers["family"] != 6:
        return []
    return [{"name": entry["interface"], "prefixes": [entry["network"]], "rdnss": _texts(rdnss, "rdnss"), "dnssl": _texts(dnssl, "dnssl"),
             "mtu": _mtu(numbers["ra_mtu"], host["links"].get(entry["interface"])), "default_lifetime": default_lifetime}
            for entry in numbers["lan"]]


def _mtu(wanted: int, link: dict[str, Any] | None) -> int:
    """No more than the LAN itself carries (RFC 4861 section 6.2.1)."""
    return wanted if link is None or link["mtu"] < MTU_FLOOR else min(wanted, link["mtu"])


def _router_lifetime(wanted: int | str, default_route: str, host: Host) -> int | None:
    if wanted not in ("auto", "", None):
        return _whole(wanted, "default_lifetime")
    leads_on = default_route != "none" or any(route["family"] == 6 for route in host["default_routes"])
    return None if leads_on else 0


def _texts(given: Any, name: str) -> list[str]:
    if isinstance(given, str):
        given = [given] if given else []
    if not isinstance(given, (list, tuple)) or not all(isinstance(value, str) for value in given):
        raise LocalError("radvd_invalid", f"radvd: {name} is not a list of texts.", "Write it as a list.")
    return list(given)


def _whole(given: Any, name: str) -> int:
    try:
        if isinstance(given, bool):
            raise ValueError
        return int(given)
    except (TypeError, ValueError):
        raise LocalError("radvd_invalid", f"radvd: {name} is not a number.", "Write a plain number of seconds.") from None


def _truth(given: Any) -> bool:
    return str(given).lower() in ("true", "yes", "on", "1")

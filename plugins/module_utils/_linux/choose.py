# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""What fits on a host: the mode to ask for, what carries the packets, and who configures it; each with a sentence that says why."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_interface
from typing import Any

from .._tsp.errors import LocalError
from .._tsp.lease import Lease
from .._tsp.request import MODES
from . import registry
from .backend import Backend, Host, Setup
from .check import check_shape

BACKENDS = ("auto", *registry.NAMES)
DATA_PLANES = ("auto", "fou", "tun")
SHORT_LIFETIME = 7 * 86400
"""Seconds. A lease that ends sooner is renewed by the agent: nobody runs a playbook every few days."""
RENDERERS = {"networkd": "networkd", "NetworkManager": "networkmanager"}
Registry = Callable[[str], Any]


def linux_mode(wanted: str, host: Host, *, data_plane: str = "auto") -> str:
    """The mode to ask the broker for on this host: `wanted`, or for v6anyv4 the one of its kinds that the kernel can carry.

    host: of linux_info. Raises LocalError: `invalid_option`, `no_tunnel_module` and those of `data_plane_of`.
    """
    return mode_of(wanted, host, data_plane)[0]


def mode_of(wanted: str, host: Host, data_plane: str = "auto") -> tuple[str, str]:
    """(mode, why: a sentence)."""
    check_shape(host)
    if wanted not in MODES:
        raise LocalError("invalid_option", f"The mode {wanted!r} is unknown.", f"Use one of {', '.join(MODES)}.")
    if wanted != "v6anyv4":
        data_plane_of(wanted, host, data_plane)
        return wanted, f"{wanted}, as asked."
    sit, udp = _has(host, "sit"), _can_udp(host, data_plane)
    if sit and udp:
        return wanted, "v6anyv4: the broker chooses between IPv6 in IPv4 and IPv6 in UDP, whichever gets through."
    if udp:
        return "v6udpv4", f"v6udpv4: {_no_module(host, 'sit')} for IPv6 in IPv4, so that only IPv6 in UDP is left."
    if sit and data_plane == "auto":
        return "v6v4", "v6v4: the kernel has neither fou nor a TUN device for IPv6 in UDP, so that only IPv6 in IPv4 is left."
    if data_plane != "auto":
        data_plane_of("v6udpv4", host, data_plane)  # says what is missing for that
    raise LocalError("no_tunnel_module", "The kernel of this host cannot carry IPv6 over IPv4: it has neither sit nor a TUN device.",
                     "Install the kernel's modules (sit, fou, tun), or give the container /dev/net/tun.")


def data_plane_of(mode: str, host: Host, wanted: str = "auto") -> tuple[str, str]:
    """(sit | fou | ip6tnl | tun, why: a sentence) for a mode that was granted, or is asked for by name.

    Raises LocalError: `no_sit`, `no_ip6tnl`, `no_fou`, `no_tun` when the kernel cannot, `invalid_option`.
    """
    if wanted not in DATA_PLANES:
        raise LocalError("invalid_option", f"The data plane {wanted!r} is unknown.", f"Use one of {', '.join(DATA_PLANES)}.")
    if mode == "v6v4":
        _need(host, "sit")
        return "sit", "The kernel carries it: sit, IPv6 in IPv4."
    if mode == "v4v6":
        _need(host, "ip6tnl")
        return "ip6tnl", "The kernel carries it: ip6tnl, IPv4 in IPv6."
    if wanted == "tun" or wanted == "auto" and not (_has(host, "fou") and _has(host, "sit")):
        _need(host, "tun")
        lacks = " and ".join(kind for kind in ("fou", "sit") if not _has(host, kind))
        why = "as asked" if wanted == "tun" else f"since the kernel lacks {lacks}"
        return "tun", f"The agent carries it through a TUN device, {why}."
    for kind in ("fou", "sit"):
        _need(host, kind)
    return "fou", "The kernel carries it: sit over FOU, IPv6 in UDP."


def modules_of(data_plane: str) -> list[str]:
    """The kernel modules that carry it, in the order in which they are loaded."""
    return {"sit": ["sit"], "fou": ["fou", "sit"], "ip6tnl": ["ip6_tunnel"], "tun": ["tun"]}[data_plane]


def agent_reasons(lease: Lease, data_plane: str, dynamic: bool) -> list[str]:
    """Why this lease needs a program that looks after it; empty when it can be configured once and for all."""
    grant = lease.grant
    out = []
    if data_plane == "tun":
        out.append("packets pass through a TUN device")
    if grant.mode == "v6udpv4":
        out.append("the NAT between this host and the broker forgets it without keepalive, and after that only a new exchange helps")
    if lease.auth_method == "anonymous":
        out.append("an anonymous tunnel goes with its session")
    if grant.lifetime is not None and grant.lifetime < SHORT_LIFETIME:
        out.append(f"the lease must be renewed every {_span(grant.lifetime)}")
    if dynamic:
        out.append("this host's address comes from DHCP or router advertisements, and can change")
    return out


def is_dynamic(uplink: dict[str, Any] | None, address: str) -> bool:
    """Whether the outer address of this host is one that can change. uplink: its entry of host.links."""
    return uplink is not None and any(str(ip_interface(cidr).ip) == address for cidr in uplink["dynamic"])


def choose_backend(wanted: str, reasons: list[str], setup: Setup, host: Host,
                   known: Registry = registry.backend) -> tuple[str, Backend | None, str]:
    """(name, backend (None: agent), why: a sentence).

    reasons: of `agent_reasons`. setup: the neutral picture. `auto` never mixes: whoever governs the uplink, or what touches nobody's
    files. Raises LocalError: `invalid_option`, `backend_mismatch` (named, but somebody else governs the host), `backend_cannot`.
    """
    if wanted not in BACKENDS:
        raise LocalError("invalid_option", f"The backend {wanted!r} is unknown.", f"Use one of {', '.join(BACKENDS)}.")
    if wanted != "auto":
        return _named(wanted, setup, host, known)
    if reasons:
        return registry.AGENT, None, f"The agent keeps the tunnel: {'; '.join(reasons)}."
    governor = setup["uplink"]["governor"]
    device = setup["uplink"]["device"]
    why = f"No configuration system governs {device}." if governor == "none" else ""
    if governor in registry.NATIVE:
        chosen = known(governor)
        refusal = _refusal(governor, chosen, setup, host)
        if refusal is None:
            return governor, chosen, f"{registry.TITLES[governor]} governs {device}, and keeps the tunnel as well."
        why = f"{registry.TITLES[governor]} governs {device}, but cannot keep this tunnel: {refusal}"
    chosen = known(registry.SCRIPT)
    refusal = _refusal(registry.SCRIPT, chosen, setup, host)
    if refusal is None:
        return registry.SCRIPT, chosen, f"{why} A script with a systemd unit keeps it, and touches nobody's files.".strip()
    return registry.AGENT, None, f"{why} {refusal} The agent keeps it.".strip()


def _named(wanted: str, setup: Setup, host: Host, known: Registry) -> tuple[str, Backend | None, str]:
    title = registry.TITLES[wanted]
    if wanted == registry.AGENT:
        return wanted, None, "The agent keeps the tunnel, as asked."
    if setup["data_plane"] == "tun":
        raise LocalError("backend_cannot", f"Only the agent carries packets through a TUN device, and linux_backend is {wanted}.",
                         "Set linux_backend to agent or auto.")
    check_at_work(wanted, host)
    if wanted in registry.NATIVE:
        uplink = setup["uplink"]
        governor = uplink["governor"]
        if not _governs(wanted, uplink) and not (governor == "none" and host["governors"][wanted]):
            who = f"{registry.TITLES[governor]} governs {uplink['device']}" if governor != "none" else f"{title} is not at work"
            raise _mismatch(wanted, who)
    chosen = known(wanted)
    refusal = _refusal(wanted, chosen, setup, host)
    if refusal is not None:
        raise LocalError("backend_cannot", f"{title} cannot keep this tunnel: {refusal}", "Set linux_backend to auto, script or agent.")
    return wanted, chosen, f"The tunnel is kept by {title}, as asked."


def check_at_work(wanted: str, host: Host) -> None:
    """Raises LocalError `backend_mismatch` where the configuration system of that name governs nothing on this host."""
    if wanted in registry.NATIVE and not host["governors"][wanted] and not any(_governs(wanted, link) for link in host["links"].values()):
        raise _mismatch(wanted, f"{registry.TITLES[wanted]} is not at work")


def _governs(name: str, link: dict[str, Any]) -> bool:
    return name in (link["governor"], RENDERERS.get(link["renderer"] or ""))


def _mismatch(wanted: str, who: str) -> LocalError:
    return LocalError("backend_mismatch", f"linux_backend is {wanted}, but {who} on this host.",
                      "Two systems would get into each other's way. Set linux_backend to auto, script or agent.")


def _refusal(name: str, chosen: Backend, setup: Setup, host: Host) -> str | None:
    if name == registry.SCRIPT and host["service_manager"] != "systemd":
        return "Nothing on this host would run a unit at boot."
    if name in registry.NATIVE and setup["default_route_overwrites"]:
        return "It cannot keep away a native default route that leaves no better metric for ours."
    return chosen.refuses(setup, host)


def _has(host: Host, kind: str) -> bool:
    return bool(host["kinds"][kind]["available"])


def _can_udp(host: Host, data_plane: str) -> bool:
    fou = _has(host, "fou") and _has(host, "sit")
    return {"fou": fou, "tun": _has(host, "tun")}.get(data_plane, fou or _has(host, "tun"))


def _no_module(host: Host, kind: str) -> str:
    return f"the kernel {host['kernel']} has no {kind}"


def _need(host: Host, kind: str) -> None:
    if _has(host, kind):
        return
    kernel = host["kernel"]
    if kind == "sit":
        raise LocalError("no_sit", f"The kernel {kernel} of this host has no sit, which carries IPv6 in IPv4.",
                         "Ask for v6udpv4, which a TUN device carries as well, or install the kernel's module sit.")
    if kind == "fou":
        raise LocalError("no_fou", f"The kernel {kernel} of this host has no fou, which carries IPv6 in UDP.",
                         "Set linux_data_plane to auto, or install the kernel's module fou.")
    if kind == "ip6tnl":
        raise LocalError("no_ip6tnl", f"The kernel {kernel} of this host has no ip6tnl, which carries IPv4 in IPv6.",
                         "Install the kernel's module ip6_tunnel.")
    raise LocalError("no_tun", f"The kernel {kernel} of this host has no TUN device.",
                     "Give the container /dev/net/tun, or install the kernel's module tun or fou.")


def _span(seconds: int) -> str:
    for unit, name in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * unit:
            return f"{seconds // unit} {name}"
    return f"{seconds} seconds"

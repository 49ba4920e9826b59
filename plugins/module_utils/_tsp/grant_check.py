# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""Whether a grant answers the question that was asked: what Grant itself cannot know."""

from __future__ import annotations

from .errors import RemoteError
from .lease import Grant
from .request import TunnelRequest

_FITTING = {"v6anyv4": ("v6v4", "v6udpv4")}


def check_grant(grant: Grant, request: TunnelRequest | None, *, transport: str, peer_is_loopback: bool, strict: bool) -> tuple[str, ...]:
    """Sentences about what was granted otherwise than asked. request: None where the tunnel is an older one (info).

    Raises RemoteError `bad_grant` when it cannot be used, or with `strict` when the prefix is not the one asked for or contains the
    broker's end of the tunnel.
    """
    grant.check_outer(peer_is_loopback)
    if request is None:
        return ()
    if grant.mode not in _FITTING.get(request.mode, (request.mode,)):
        _refuse(f"{request.mode} was asked for, and the tunnel is {grant.mode}")
    if grant.mode == "v6udpv4" and transport == "tcp":
        _refuse("a v6udpv4 tunnel over a TCP session, where it has no UDP port")
    difference = _prefix_difference(grant, request)
    if difference and strict:
        _refuse(difference, "strict was asked for. Ask for another prefix_length, or leave strict out.")
    warnings = [f"{difference[0].upper()}{difference[1:]}."] if difference else []
    inner = grant.inner_address(grant.server)
    if grant.prefix is not None and inner is not None and inner.version == grant.prefix.version and inner in grant.prefix:
        # Seen with small brokers. It works as long as the host route to that address wins over the one for the prefix.
        contained = f"the delegated prefix {grant.prefix} contains the broker's end of the tunnel {inner}"
        if strict:
            _refuse(contained, "strict was asked for. Report it to the broker's operator, or leave strict out.")
        warnings.append(f"{contained[0].upper()}{contained[1:]}.")
    return tuple(warnings)


def _prefix_difference(grant: Grant, request: TunnelRequest) -> str:
    wanted = request.wanted_prefix_length
    if wanted is None:
        return "" if grant.prefix is None else f"no prefix was asked for, and the broker delegated {grant.prefix}"
    if grant.prefix is None:
        return f"a prefix of length {wanted} was asked for, and the broker delegated none"
    if grant.prefix.prefixlen != wanted:
        return f"a prefix of length {wanted} was asked for, and the broker delegated {grant.prefix}"
    return ""


def _refuse(what: str, hint: str = "Nothing was changed. Report it to the broker's operator.") -> None:
    raise RemoteError("bad_grant", f"The broker granted something unusable: {what}.", hint)

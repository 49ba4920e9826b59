# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""Whether this kernel carries v6udpv4 by itself: sit inside UDP (fou). Tried, not guessed from versions or lists of modules."""

from __future__ import annotations

from .link import Kernel

TRIAL = "tsp-fou-trial"
"""A device that is there for a moment, between two addresses that nothing else has."""
MAKE = ("ip", "link", "add", "name", TRIAL, "type", "sit", "mode", "ip6ip", "local", "127.0.0.1", "remote", "127.255.255.254",
        "encap", "fou", "encap-sport", "3653", "encap-dport", "3653", "encap-csum")
REMOVE = ("ip", "link", "del", "dev", TRIAL)
LOAD = ("modprobe", "-q", "fou")


def missing(kernel: Kernel) -> str:
    """Why this kernel cannot carry it, in its own words; empty when it can.

    Nobody but us loads the module fou: sit asks for itself, but fou for no one. Under the agent's unit modprobe is forbidden, so the
    unit loads it first; elsewhere it is loaded here, once it is missed.
    """
    said = _try(kernel)
    if said and kernel.run(LOAD).rc == 0:
        said = _try(kernel)
    return said


def _try(kernel: Kernel) -> str:
    done = kernel.run(MAKE)
    if done.rc == 0 or "File exists" in done.stderr:  # another agent tries at this moment, or was killed when it did
        kernel.run(REMOVE)
        return ""
    return done.words

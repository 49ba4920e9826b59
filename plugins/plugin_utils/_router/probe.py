# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Proving a tunnel from the device: the ping to send, and what its answer means."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.errors import LocalError
from ansible_collections.tunnelbroker.tsp.plugins.plugin_utils._router.canon import interface_name

_RESULT = re.compile(r"Success rate is \d+ percent \((\d+)/(\d+)\)(?:, round-trip min/avg/max = (\d+)/(\d+)/(\d+) ms)?")
_SOURCE = re.compile(r"[0-9A-Za-z:./-]+\Z")
TRIES = 3
"""A tunnel just configured needs a moment (line protocol, duplicate address detection): so many pings before it counts as dead."""


@dataclass(frozen=True)
class Probe:
    """address: whom to ping; source: an interface or address of the device, "" for its own choice; count: echo requests;
    timeout: seconds for each. Raises LocalError `probe_invalid`."""

    address: str
    source: str = ""
    count: int = 5
    timeout: int = 2

    def __post_init__(self) -> None:
        try:
            ip_address(self.address)
        except ValueError:
            raise LocalError("probe_invalid", f"probe.address {self.address!r} is not an IP address.",
                             "Name the broker's inner address.") from None
        if self.source and not _SOURCE.match(self.source):
            raise LocalError("probe_invalid", f"probe.source {self.source!r} is neither an interface nor an address.",
                             "Use one of the device's.")
        if not 1 <= self.count <= 100 or not 1 <= self.timeout <= 60:
            raise LocalError("probe_invalid", "probe.count or probe.timeout is out of range.",
                             "Use a count of 1 to 100, a timeout of 1 to 60.")

    @classmethod
    def of(cls, given: dict[str, Any] | None) -> Probe | None:
        """Out of the module's option; None when no probe is asked for."""
        return cls(**{name: value for name, value in given.items() if value is not None}) if given else None

    @property
    def command(self) -> str:
        address = ip_address(self.address)
        words = ["ping", *(["ipv6"] if address.version == 6 else []), str(address).upper()]
        words += ["source", interface_name(self.source)] if self.source else []
        return " ".join([*words, "repeat", str(self.count), "timeout", str(self.timeout)])

    @property
    def patience(self) -> float:
        """Seconds in which the command must have ended."""
        return self.count * self.timeout + 10.0


@dataclass(frozen=True)
class Proof:
    """What the device saw. rtt_ms: the average round trip in milliseconds; answer: its words."""

    target: str
    proved: bool
    rtt_ms: float | None
    answer: str

    def to_dict(self) -> dict[str, Any]:
        return {"proved": self.proved, "rtt_ms": self.rtt_ms, "target": self.target}


def read(probe: Probe, answer: str) -> Proof:
    """The proof in the device's answer: at least one reply."""
    found = _RESULT.search(answer)
    received = int(found[1]) if found else 0
    rtt = float(found[4]) if found and found[4] else None
    return Proof(str(ip_address(probe.address)), received > 0, rtt, " ".join(answer.split()))

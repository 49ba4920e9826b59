# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""When a tunnel that is up is a reason to ask the broker: its lease is to be renewed, something is still wanted, or it is time to look
whether the preferred broker is back."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from .._tsp.lease import Lease
from .brokers import same_broker
from .pace import SOONEST_RENEWAL, renewal
from .settings import AgentConfig

RENEW, RETURN = "renewal", "return"


class Due:
    """wall() gives aware datetimes, which somebody may set; `now` is monotonic seconds. jitter() is in [0, 1)."""

    def __init__(self, config: AgentConfig, wall: Callable[[], datetime], jitter: Callable[[], float]) -> None:
        self._config = config
        self._wall, self._jitter = wall, jitter
        self.renew_at: datetime | None = None
        self.wanted = False
        """Whether the broker is to be asked as soon as it may be: the last attempt failed."""
        self._renew_by = 0.0
        self._not_before = 0.0
        self._return_at = 0.0

    def begin(self, lease: Lease, now: float) -> None:
        """A tunnel was made of this lease."""
        self.renew_at = renewal(lease, self._config.renew_at, self._jitter())
        if self.renew_at is not None:
            # By both clocks: one that is set while we run neither puts it off nor makes it happen again and again.
            self._renew_by = now + max(0.0, (self.renew_at - self._wall()).total_seconds())
        self._not_before = now + SOONEST_RENEWAL
        self.wanted = False
        self.looked(now)

    def slept(self, seconds: float) -> None:
        """The monotonic clock stood still for so long."""
        self._renew_by -= seconds

    def put_off(self, until: float) -> None:
        """It failed, or must wait."""
        self._not_before = until

    def looked(self, now: float) -> None:
        """Whether the preferred broker is back, was seen now."""
        self._return_at = now + self._config.return_after

    @property
    def at(self) -> float | None:
        """When to ask what `what` says, if that must be in time."""
        return self._not_before if self.wanted else None

    def what(self, lease: Lease | None, now: float) -> str:
        """RENEW, RETURN or ""."""
        if now < self._not_before:
            return ""
        if self.wanted or self.renew_at is not None and (self._wall() >= self.renew_at or now >= self._renew_by):
            return RENEW
        preferred = self._config.preferred
        if preferred and self._config.return_after and now >= self._return_at and lease is not None:
            if not same_broker(preferred, lease):
                return RETURN
            self.looked(now)
        return ""

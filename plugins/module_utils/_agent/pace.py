# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""When the broker may be asked again: after a failure, after several refusals of who we are, and before a lease ends.

The exchange has a courtesy of its own towards each broker, on disk (`_exchange.backoff`); this is the agent's, on top of it.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from .._tsp.errors import ApplyError, LocalError, NetworkError, RemoteError, TspError
from .._tsp.lease import Lease
from .settings import RetryConfig

WHO_WE_ARE = frozenset({"auth_failed", "no_common_mechanism", "server_key_unknown", "server_key_changed", "server_not_authentic"})
"""Broker and we do not trust each other. Trying often does not help, and looks like guessing passwords."""
HOPELESS = WHO_WE_ARE | {"mode_refused", "credentials_missing", "prefix_for_anonymous", "version_unsupported", "tunnel_refused", "no_fou",
                         "foreign_grant"}
"""Asking again changes nothing until somebody changes something."""
SOONEST_RENEWAL = 30.0
"""Seconds after a grant before which it is not renewed."""
RENEWAL_SPREAD, LATEST_RENEWAL = 0.05, 0.95
"""Shares of the lifetime: over how much of it the renewals of a fleet spread, and after how much none begins."""


class Pace:
    """Counts failures in a row. jitter(): a number in [0, 1)."""

    def __init__(self, config: RetryConfig, jitter: Callable[[], float]) -> None:
        self._config = config
        self._jitter = jitter
        self.failures = 0
        self.refusals = 0
        """Of who we are, in a row."""

    def failed(self, exc: TspError) -> None:
        """Another attempt came to nothing. A broker that cannot be reached says nothing about who we are."""
        self.failures += 1
        if exc.code in WHO_WE_ARE:
            self.refusals += 1
        elif not isinstance(exc, NetworkError):
            self.refusals = 0

    def succeeded(self) -> None:
        """A tunnel is there."""
        self.failures = self.refusals = 0

    def begin_anew(self) -> None:
        """Somebody wants it tried now, or the network is another one."""
        self.failures = self.refusals = 0

    @property
    def refused(self) -> bool:
        """Whether to stop asking until somebody says so."""
        return self.refusals >= self._config.auth_tries

    def delay(self, exc: TspError) -> float:
        """Seconds until the next attempt: doubled with each failure, a quarter more or less, and never less than the exchange wants."""
        config = self._config
        delay = min(config.longest_delay, config.first_delay * 2.0 ** min(max(self.failures - 1, 0), 16))
        if exc.code in HOPELESS and isinstance(exc, (RemoteError, LocalError, ApplyError)):
            delay = config.longest_delay
        delay *= 0.75 + 0.5 * self._jitter()
        return max(delay, float(getattr(exc, "retry_after", 0.0)))


def stopped(exc: TspError, tries: int) -> TspError:
    """The same refusal, with what to do now that nobody asks any more."""
    exc.hint = (f"{exc.hint} The broker refused {tries} times and is not asked any more: correct the configuration and start the agent "
                "again; SIGHUP asks once more as it is.").strip()
    return exc


def renewal(lease: Lease, share: float, jitter: float) -> datetime | None:
    """When to renew: after `share` of the lifetime, spread over RENEWAL_SPREAD by jitter (0 to 1); never at once, however short it is."""
    lifetime = lease.grant.lifetime
    if lease.expires_at is None or lifetime is None:
        return None
    after = min(LATEST_RENEWAL, share + RENEWAL_SPREAD * jitter) * lifetime
    return lease.obtained_at + timedelta(seconds=max(after, SOONEST_RENEWAL))

# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""What was tried, what a failure means for the next try, and how many failures become one error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .._tsp.errors import LocalError, NetworkError, RemoteError, TspError
from .options import Broker
from .session import Outcome
from .transcript import scrub

VERSION, TRANSPORT, BROKER, STOP = "version", "transport", "broker", "stop"
"""What may be tried after a failure: another version of the protocol; another transport or address; another broker; nothing."""

SUSPECT = frozenset({"server_key_unknown", "server_key_changed", "server_not_authentic", "auth_failed", "no_common_mechanism"})
"""Who asked and who answered do not trust each other: asking elsewhere would hide it, and could give secrets away."""
OVERLOADED = frozenset({"busy", "server_error", "no_more_tunnels", "server_timeout", "bad_grant"})
"""It is about this broker, not about the request."""
NOT_OFFERED = frozenset({"mode_not_offered"})
"""Nothing was asked yet, and the other transport may offer it (v6udpv4 makes no sense over TCP)."""
SHOWN = 6


def next_step(error: TspError) -> str:
    """What to do after `error` (tsp-protocol.md sections 5, 8)."""
    if isinstance(error, NetworkError):
        return STOP if error.code == "deadline" else TRANSPORT
    if not isinstance(error, RemoteError):
        return STOP
    if error.code == "version_unsupported":
        return VERSION
    if error.code in SUSPECT:
        return STOP
    if error.code in OVERLOADED:
        return BROKER
    if error.code in NOT_OFFERED or error.status is None:
        return TRANSPORT  # garbage over one transport may be a proxy in the way, not the broker
    return STOP


def is_doubtful(outcome: Outcome, *, begins_again: bool) -> bool:
    """Whether the session ended with words that may mean nothing: a message had been sent twice. Its answer was lost or late, and a broker
    that does not know copies takes one for the next message (tsp-protocol.md section 11). begins_again: it is tried once more.

    Who takes the copy of DIGEST-MD5's response so says 200 without having proven itself; at last that is a suspicion all the same.
    """
    error = outcome.error
    if not outcome.repeated or not isinstance(error, RemoteError):
        return False
    if begins_again:
        return error.status is not None or error.code == "server_not_authentic"
    # 302 may well be meant, though not behind capabilities, which are for who speaks the same version.
    return error.status is not None and (next_step(error) != VERSION or outcome.capabilities is not None)


def answer_lost(error: TspError) -> NetworkError:
    """What is told of a doubtful error: somebody with the right password must not hear that it is wrong."""
    return NetworkError("answer_lost",
                        f"An answer was lost or late, and the broker did not know the copy of our message: {error.message}",
                        "Try again; if it persists, the way to the broker loses packets, or what the broker said is meant.")


@dataclass(frozen=True)
class Attempt:
    """One attempt, or the reason why a broker was not even spoken to (then transport, peer and version are None).

    via: for people, who redirected there; None when nobody did.
    """

    broker: Broker
    result: str
    error: TspError | None = None
    transport: str | None = None
    peer: str | None = None
    version: str | None = None
    ms: float = 0.0
    via: str | None = None

    @classmethod
    def of(cls, outcome: Outcome) -> Attempt:
        """The record of a session."""
        result = "failed" if outcome.error is not None else "redirected" if outcome.redirected is not None else (
            "granted" if outcome.granted is not None else "deleted" if outcome.deleted else "answered")
        return cls(outcome.target.broker, result, outcome.error, outcome.target.label, outcome.target.peer, outcome.version,
                   round(outcome.seconds * 1000, 3))

    @property
    def where(self) -> str:
        """For people: `broker.example (udp 192.0.2.1:3653)`."""
        if self.transport is None:
            return self.broker.server
        if str(self.broker.address) in (self.peer or "") and self.broker.address is not None:
            return f"{self.transport} {self.peer}"
        return f"{self.broker.server} ({self.transport} {self.peer})"

    def to_dict(self, secret: str | None = None) -> dict[str, Any]:
        """JSON types, secrets struck out."""
        error = None
        if self.error is not None:
            error = {key: scrub(value, secret) if isinstance(value, str) else value for key, value in self.error.to_dict().items()}
        return {"broker": self.broker.server, "transport": self.transport, "peer": self.peer, "version": self.version, "ms": self.ms,
                "result": self.result, "error": error}


def _rank(attempt: Attempt) -> int:
    """The lower, the more it tells about what to do."""
    error = attempt.error
    if error is None:
        raise AssertionError
    if isinstance(error, LocalError):
        return 0
    if isinstance(error, RemoteError):
        step = next_step(error)
        return {STOP: 1, BROKER: 2, VERSION: 5}.get(step, 4 if error.code not in NOT_OFFERED else 3)
    order = {"deadline": 6, "answer_lost": 7, "connection_lost": 7, "connection_closed": 7, "went_silent": 7, "name_not_resolved": 8,
             "no_answer": 10, "unreachable": 11, "refused": 11, "too_soon": 12, "already_asked": 13}
    return order.get(error.code, 9)


def failure(attempts: Sequence[Attempt], secret: str | None = None) -> TspError:
    """The one error for a whole exchange: the most telling of `attempts` (at least one of which failed), the others named behind it."""
    failed = [attempt for attempt in attempts if attempt.error is not None]
    told = min(failed, key=_rank)
    listed = [attempt.to_dict(secret) for attempt in attempts]
    error = told.error
    if error is None:
        raise AssertionError
    message = error.message if isinstance(error, LocalError) else f"{told.where}: {error.message}"
    others = list(dict.fromkeys(
        f"{attempt.where}: {attempt.error.code}" for attempt in failed if attempt is not told and attempt.error is not None))
    if told.via and not isinstance(error, LocalError):
        message += f" {told.via} had redirected there."
    if others:
        more = f" and {len(others) - SHOWN} more" if len(others) > SHOWN else ""
        message += f" Other attempts: {', '.join(others[:SHOWN])}{more}."
    error.message = scrub(message, secret)
    error.args = (error.message,)
    error.attempts = listed
    return error

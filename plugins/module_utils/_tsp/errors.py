# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""The errors of the whole project, and what each of them carries.

Four kinds, because four different people can help: the caller (`LocalError`), the broker's operator (`RemoteError`), the
network between (`NetworkError`), the target being configured (`ApplyError`). Each has a stable machine-readable `code`, a
sentence that says what happened, and a `hint` that says what to do next. None ever holds a secret.
"""

from __future__ import annotations

from typing import Any


class TspError(Exception):
    """Base of all expected failures.

    `code` is stable across releases (documented in docs/errors.md); `message` and `hint` are sentences for people.
    `attempts` and `transcript`: filled in by the exchange (dicts as in its result), empty elsewhere.
    """

    kind = "error"

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint
        self.attempts: list[dict[str, Any]] = []
        self.transcript: list[dict[str, Any]] = []

    def to_dict(self) -> dict[str, Any]:
        """The `error` dict of module results: kind, code, message, hint, status (None unless the broker gave one)."""
        return {"kind": self.kind, "code": self.code, "message": self.message, "hint": self.hint, "status": None}

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


class LocalError(TspError):
    """We were misused: a bad parameter, a missing library, a broken file of ours."""

    kind = "local"


class RemoteError(TspError):
    """The broker refused, or broke the protocol. `status` is the TSP status code (RFC 5572 Appendix B) or None."""

    kind = "remote"

    def __init__(self, code: str, message: str, hint: str = "", status: int | None = None) -> None:
        super().__init__(code, message, hint)
        self.status = status

    def to_dict(self) -> dict[str, Any]:
        return {**super().to_dict(), "status": self.status}


class NetworkError(TspError):
    """Nothing, or not enough, came back from the broker."""

    kind = "network"


class ApplyError(TspError):
    """Configuration could not be applied to a target, or could not be proved; the old state is back."""

    kind = "apply"

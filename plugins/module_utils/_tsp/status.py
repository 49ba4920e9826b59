# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""TSP status codes (RFC 5572 Appendix B, tsp-protocol.md section 5): stable error codes and sentences for people."""

from __future__ import annotations

from typing import NamedTuple

from .errors import RemoteError

SUCCESS = 200
AUTHENTICATION_FAILED = 300
NO_MORE_TUNNELS = 301
UNSUPPORTED_VERSION = 302
UNSUPPORTED_TUNNEL_TYPE = 303
SERVER_SIDE_ERROR = 310
INVALID_REQUEST = 500
INVALID_IPV4 = 501
INVALID_IPV6 = 502
IPV4_IN_USE = 506
PREFIX_LENGTH_UNAVAILABLE = 507
DNS_DELEGATION_ERROR = 509
UNSUPPORTED_PREFIX_LENGTH = 518
PREFIX_LENGTH_MISSING = 520
REQUEST_IN_PROGRESS = 521
PREFIX_FOR_ANONYMOUS = 522
SERVER_TOO_BUSY = 530
PRIVATE_TIMEOUT = 599
REDIRECT_BASE = 1000
"""A status greater than this one is the rest plus a list of other brokers; exactly 1000 is not a redirection."""


class Meaning(NamedTuple):
    """One row: stable error code, the reason phrase we send, what it means for people, what to do next."""

    code: str
    phrase: str
    sentence: str
    hint: str


MEANINGS: dict[int, Meaning] = {
    200: Meaning("success", "Success", "The broker granted the request.", ""),
    300: Meaning("auth_failed", "Authentication failed", "The broker refused the user name or the password.",
                 "Check username and password, and that the account is enabled at the broker."),
    301: Meaning("no_more_tunnels", "No more tunnels available", "The broker has no tunnel left to give.",
                 "Ask the broker's operator for capacity, or name another broker."),
    302: Meaning("version_unsupported", "Unsupported client version", "The broker speaks none of the offered TSP versions.",
                 "Check that the address is that of a TSP broker."),
    303: Meaning("mode_refused", "Unsupported tunnel type", "The broker does not offer the tunnel mode that was asked for.",
                 "Use mode v6anyv4, or one that broker_info lists."),
    310: Meaning("server_error", "Server side error", "The broker failed on its side.",
                 "Try again later; if it persists, its operator's logs will tell."),
    500: Meaning("request_rejected", "Invalid request format", "The broker did not understand the request.",
                 "Compare the request with what this broker supports (dns_servers and prefix_length are the usual causes)."),
    501: Meaning("ipv4_rejected", "Invalid IPv4 address", "The broker refused the client's IPv4 address.",
                 "Set client_ipv4 to an address that the broker can reach, or use v6udpv4 behind NAT."),
    502: Meaning("ipv6_rejected", "Invalid IPv6 address", "The broker refused the client's IPv6 address.",
                 "Set client_ipv6 to a global address of this host."),
    506: Meaning("ipv4_in_use", "IPv4 address already used for existing tunnel",
                 "Another tunnel already ends at this IPv4 address.",
                 "Delete the other tunnel, or use v6udpv4, which several clients behind one address can share."),
    507: Meaning("prefix_unavailable", "Requested prefix length cannot be assigned",
                 "The broker cannot delegate a prefix of this length.", "Ask for another prefix_length."),
    509: Meaning("dns_delegation_failed", "DNS delegation setup error", "The broker could not set up the reverse DNS delegation.",
                 "Check that every name in dns_servers resolves and answers for the zone."),
    518: Meaning("prefix_length_unsupported", "Unsupported prefix length", "The broker does not delegate prefixes of this length.",
                 "Ask for another prefix_length, for example 48, 56 or 64."),
    520: Meaning("prefix_length_missing", "Missing prefix length", "The broker wants a prefix length for a router.",
                 "Set prefix_length."),
    521: Meaning("request_in_progress", "Request already in progress", "An earlier request of this user is still being worked on.",
                 "Wait a minute and try again."),
    522: Meaning("prefix_for_anonymous", "Prefix not available for anonymous users",
                 "The broker delegates prefixes to known users only.", "Use an account, or host_type host."),
    530: Meaning("busy", "Server too busy", "The broker is too busy.", "Wait a few minutes before the next attempt."),
    599: Meaning("server_timeout", "Negotiation timed out", "The broker gave up on the negotiation.", "Try again."),
}


def phrase(status: int) -> str:
    """Reason phrase for a status line that we send."""
    meaning = MEANINGS.get(status % REDIRECT_BASE if status > REDIRECT_BASE else status)
    if status > REDIRECT_BASE:
        return "Redirection"
    return meaning.phrase if meaning else "Unspecified"


def error_from_status(status: int, text: str = "") -> RemoteError:
    """The RemoteError for a refusal. `text` is the broker's own reason: shown quoted, stripped of control characters."""
    shown = "".join(c for c in text if c.isprintable())[:120]
    said = f' It said: "{status} {shown}".' if shown else f" Its status was {status}."
    meaning = MEANINGS.get(status)
    if meaning is None or status == SUCCESS:
        return RemoteError("refused", "The broker refused the request." + said,
                           "The code is not a registered one: ask the broker's operator.", status)
    return RemoteError(meaning.code, meaning.sentence + said, meaning.hint, status)

# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""The state tables of a TSP session, client's and broker's (RFC 5572 section 4.3).

The rules:

1. A table maps state -> event -> next state. client.py and server.py change state only through `follow`, so what is not in a table
   does not happen.
2. What the peer says (`capability`, `sasl`, `success`, `grant`, `redirect`, `refusal`, `answer`; `version`, `authenticate`, `create`, ...)
   and what we ourselves do (`connect`, `accept`, `finish`, `fail`; `offer`, `verified`, `refuse`, ...) are both events.
3. A word of the peer without an entry is a breach of the protocol: the client fails with protocol_error, the broker answers
   310 and goes on. One of our own without an entry is a defect of ours and raises KeyError.
4. A state without entries is final. Nothing leads out of it and what is received there is ignored.
5. Everywhere but in a final state a client may `fail`, a broker may `close`, and a broker may read `version`: over UDP a client behind
   the same port may start anew at any time. The tables get these added below, so that a reader sees the rest.
6. On the broker's side `refuse` is our refusal of the message just read, and leads to the state from which the client may try again.

The diagrams in the documentation are made from these tables by `mermaid`.
"""

from __future__ import annotations

Table = dict[str, dict[str, str]]

# The client.
IDLE = "IDLE"
WAIT_CAPABILITY = "WAIT_CAPABILITY"
OFFERED = "OFFERED"
WAIT_AUTH = "WAIT_AUTH"
AUTHENTICATED = "AUTHENTICATED"
WAIT_GRANT = "WAIT_GRANT"
WAIT_INFO = "WAIT_INFO"
WAIT_DELETE = "WAIT_DELETE"
GRANTED = "GRANTED"
WAIT_CONFIRM = "WAIT_CONFIRM"
COMPLETED = "COMPLETED"
REDIRECTED = "REDIRECTED"
FAILED = "FAILED"

CLIENT: Table = {
    IDLE: {"connect": WAIT_CAPABILITY},
    WAIT_CAPABILITY: {"capability": OFFERED, "redirect": REDIRECTED, "refusal": FAILED},
    # Enough is known for the action `capabilities`; everything else needs to be authenticated.
    OFFERED: {"authenticate": WAIT_AUTH, "finish": COMPLETED},
    WAIT_AUTH: {"sasl": WAIT_AUTH, "success": AUTHENTICATED, "redirect": REDIRECTED, "refusal": FAILED},
    AUTHENTICATED: {"create": WAIT_GRANT, "info": WAIT_INFO, "delete": WAIT_DELETE},
    WAIT_GRANT: {"grant": GRANTED, "redirect": REDIRECTED, "refusal": FAILED},
    # The accept is answered on UDP only, and does not exist in version 1; a grant of no use is rejected.
    GRANTED: {"accept": WAIT_CONFIRM, "finish": COMPLETED, "reject": FAILED},
    WAIT_CONFIRM: {"answer": COMPLETED, "success": COMPLETED, "silence": COMPLETED, "refusal": FAILED},
    WAIT_INFO: {"grant": COMPLETED, "redirect": REDIRECTED, "refusal": FAILED},
    WAIT_DELETE: {"success": COMPLETED, "redirect": REDIRECTED, "refusal": FAILED},
    COMPLETED: {},
    REDIRECTED: {},
    FAILED: {},
}

# The broker.
HELLO = "HELLO"
NEGOTIATED = "NEGOTIATED"
AUTHENTICATING = "AUTHENTICATING"
READY = "READY"
CONFIRMING = "CONFIRMING"
ESTABLISHED = "ESTABLISHED"
FINISHED = "FINISHED"
CLOSED = "CLOSED"

SERVER: Table = {
    # `offer`: VERSION was answered with our capabilities.
    HELLO: {"offer": NEGOTIATED, "redirect": FINISHED, "refuse": HELLO},
    NEGOTIATED: {"authenticate": AUTHENTICATING, "redirect": FINISHED, "refuse": FINISHED},
    AUTHENTICATING: {"sasl": AUTHENTICATING, "verified": READY, "redirect": FINISHED, "refuse": FINISHED},
    READY: {"create": CONFIRMING, "info": READY, "delete": READY, "redirect": FINISHED, "refuse": READY},
    CONFIRMING: {"accept": ESTABLISHED, "reject": READY, "refuse": READY},
    # A packet through the tunnel accepts it too, so the accept itself may come late.
    ESTABLISHED: {"accept": ESTABLISHED, "info": ESTABLISHED, "delete": READY, "refuse": ESTABLISHED},
    # Over UDP answers are still repeated here until the session is idle; over TCP `close` follows at once.
    FINISHED: {},
    CLOSED: {},
}

for _state, _events in CLIENT.items():
    if _events:
        _events["fail"] = FAILED
for _state, _events in SERVER.items():
    if _state != CLOSED:
        _events.update(version=HELLO, close=CLOSED)


def follow(table: Table, state: str, event: str) -> str:
    """The state after `event`. Raises KeyError when the table does not know it there."""
    return table[state][event]


def knows(table: Table, state: str, event: str) -> bool:
    """Whether `event` may happen in `state`."""
    return event in table[state]


def is_final(table: Table, state: str) -> bool:
    """Whether nothing leads out of `state`."""
    return not table[state]


def mermaid(table: Table) -> str:
    """The table as a mermaid stateDiagram, one arrow for all events between two states; the arrows of rule 5 are left out."""
    first = next(iter(table))
    lines = ["stateDiagram-v2", f"    [*] --> {first}"]
    for state, events in table.items():
        arrows: dict[str, list[str]] = {}
        for event, target in events.items():
            if event not in ("fail", "close", "version"):
                arrows.setdefault(target, []).append(event)
        lines += [f"    {state} --> {target}: {', '.join(names)}" for target, names in arrows.items()]
        if not arrows:
            lines.append(f"    {state} --> [*]")
    return "\n".join(lines) + "\n"

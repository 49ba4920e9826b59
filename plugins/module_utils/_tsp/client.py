# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""The client's half of one TSP session, sans-IO: bytes and the time come in, bytes and events go out.

One `TspClient` is one session over one connected socket (RFC 5572 section 4; tsp-protocol.md sections 1-6). What to do next after a
failure (another transport, version or broker) is the policy of `_exchange`, not of this file.

    client = TspClient(config)
    client.connect(now)
    loop:
        for data in client.data_to_send(now): send it       # UDP: one datagram each; TCP: one write each
        while (event := client.next_event()) is not None: look at it
        wait for bytes or for client.next_timer()
        client.receive(data, now) | client.receive_eof(now) | client.handle_timer(now)

Events, in order: CapabilitiesReceived, Authenticated, Granted or Deleted where the action has them, then exactly one of the
last words Completed, Failed, Redirected. `Granted` is in force only with the `Completed` behind it: on UDP a broker may still refuse
our accept. After a last word call data_to_send() once more (an accept or a reject may wait there), then let go of the socket.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Callable

from . import capability, sasl, states, xml_write
from .client_config import ClientConfig, Credentials, check_config, port_of
from .errors import LocalError, NetworkError, RemoteError, TspError
from .events import Authenticated, CapabilitiesReceived, Completed, Deleted, Event, Failed, Granted, Redirected
from .framing import SASL, TEXT, XML, Frame, FramingError, Reader
from .grant_check import check_grant
from .messages import protocol_error, read_brokers, read_grant
from .quirks import count
from .rudp import HEADER_SIZE, RudpClient
from .status import REDIRECT_BASE, error_from_status

__all__ = ["ClientConfig", "Credentials", "TspClient"]

MAX_POLLS = 4
"""Empty datagrams in a row that ask for text; more would only hammer a broker that has none."""

_DUE = {
    states.WAIT_CAPABILITY: "its capabilities were due",
    states.WAIT_AUTH: "authentication was under way",
    states.WAIT_GRANT: "a tunnel was due",
    states.WAIT_INFO: "a tunnel was due",
    states.WAIT_DELETE: "a confirmation was due",
    states.WAIT_CONFIRM: "the tunnel had been accepted",
}
_WANTS_XML = (states.WAIT_GRANT, states.WAIT_INFO)
_WANTS_HEADER = (states.WAIT_GRANT, states.WAIT_INFO, states.WAIT_DELETE)


class TspClient:
    """One session. Times are monotonic seconds; none of the verbs blocks, none raises for what the broker does.

    `quirks` counts the tolerances that were needed, by name (quirks.py explains each). `state` is a state of states.CLIENT.
    `mechanism`: the SASL mechanism at work, for what it learned (a new server key). Raises LocalError at construction when the
    configuration contradicts itself.
    """

    def __init__(self, config: ClientConfig) -> None:
        self.config = config
        self.quirks: dict[str, int] = {}
        self.state = states.IDLE
        self.mechanism: sasl.ClientMechanism | None = None
        self._client_address = check_config(config)
        self._old = config.version.startswith("1.")
        self._reader = Reader(self._quirk, statuses=True)
        self._udp = RudpClient(config.rudp) if config.transport == "udp" else None
        self._writes: list[bytes] = []
        self._events: deque[Event] = deque()
        self._first = b""
        self._polls = 0
        self._deadline: float | None = None
        self._grace: float | None = None

    # The verbs.

    @property
    def closed(self) -> bool:
        """Whether the last word was said; everything received from now on is ignored."""
        return states.is_final(states.CLIENT, self.state)

    @property
    def repeated(self) -> bool:
        """UDP: a message had to be sent again. A refusal, of a later one too, may then mean the copy: some brokers take it for the next
        message."""
        return self._udp is not None and self._udp.repeated

    def connect(self, now: float) -> None:
        """Start the session: the VERSION line becomes ready to send. Call once, when the socket is connected."""
        if self.state != states.IDLE:
            raise LocalError("internal", "A TspClient is for one session: connect() was called twice.")
        if self._udp is not None:
            # A broker tells a new session behind an old port from a late copy by its greater time stamp (rudp.py).
            # Never 0, which some brokers send whatever they got.
            self._udp.start_at(int(now * 1000) + 1)
        self._go("connect")
        self._say(f"VERSION={self.config.version}\r\n".encode("ascii"), now)

    def receive(self, data: bytes, now: float) -> None:
        """What came from the broker: UDP exactly one datagram, TCP any piece of the stream."""
        if self.closed or self.state == states.IDLE:
            return
        if self._udp is None:
            self._guard(self._segment, data, now)
            return
        payload = self._udp.receive(data, now)
        if payload is not None:
            if self._udp.timestamp_changed:
                self._quirk("timestamp_changed")
            self._guard(self._datagram, payload, now)
        elif len(data) >= HEADER_SIZE and data[0] >> 4 == 0xF and not self._udp.is_late(data):
            self._quirk("stray_datagram")

    def receive_eof(self, now: float) -> None:
        """TCP: the broker closed its side."""
        if self.closed or self.state == states.IDLE:
            return
        if self._reader.pending:
            self._guard(self._conclude, "end_by_close", now)
        if not self.closed:
            self._fail(NetworkError("connection_closed", f"The broker closed the connection while {_DUE[self.state]}.",
                                    "Try again later; the broker's logs may tell why."))

    def data_to_send(self, now: float) -> list[bytes]:
        """Take what is to be sent now. UDP: datagrams. TCP: writes (send each whole, with TCP_NODELAY)."""
        if self._udp is not None:
            return self._udp.data_to_send()
        writes, self._writes = self._writes, []
        return writes

    def next_timer(self) -> float | None:
        """When handle_timer() wants to be called at the latest; None: never."""
        if self.closed:
            return None
        if self._udp is not None:
            return self._udp.next_timer()
        if self._grace is not None and (self._deadline is None or self._grace < self._deadline):
            return self._grace
        return self._deadline

    def handle_timer(self, now: float) -> None:
        """Call at next_timer(); earlier calls do no harm."""
        if self.closed:
            return
        if self._udp is not None:
            self._udp.handle_timer(now)
            if self._udp.failed:
                self._guard(self._unanswered, b"", now)
            return
        if self._grace is not None and now >= self._grace:
            self._grace = None
            self._guard(self._conclude, "end_by_silence", now)
        if not self.closed and self._deadline is not None and now >= self._deadline:
            # A line that is still growing is not complete, or a dripping broker could have half of its offer taken for the whole.
            if self._reader.promises_more:
                self._guard(self._conclude, "end_by_silence", now)
            if not self.closed and now >= self._deadline:
                self._fail(NetworkError("no_answer" if self.state == states.WAIT_CAPABILITY else "went_silent",
                                        f"The broker took longer than {self.config.reply_timeout:g} s for an answer over TCP while "
                                        f"{_DUE[self.state]}.", "Check that the address is that of a TSP broker, or try again later."))

    def next_event(self) -> Event | None:
        """Take the oldest event; None: no more at the moment."""
        return self._events.popleft() if self._events else None

    # Bytes to frames.

    def _guard(self, work: Callable[[Any, float], None], what: Any, now: float) -> None:
        """Run a step; whatever the broker did wrong in it ends the session, and nothing is raised."""
        try:
            work(what, now)
        except FramingError as error:
            self._fail(protocol_error(str(error)))
        except TspError as error:
            self._fail(error)

    def _next(self, final: bool) -> Frame | None:
        split = self.mechanism.split if self.state == states.WAIT_AUTH and self.mechanism is not None else None
        return self._reader.next(split=split, wants_xml=self.state in _WANTS_XML, final=final)

    def _segment(self, data: bytes, now: float) -> None:
        self._reader.feed(data)
        while not self.closed:
            frame = self._next(False)
            if frame is None:
                break
            self._handle(frame, now)
        # XML may well be on its way after a pause, and half an offer must not be taken for the whole; other lines may lack their end.
        waits = not self.closed and self._reader.pending and not self._reader.promises_more and (
            self.state != states.WAIT_CAPABILITY or self._reader.begins_with_status)
        self._grace = now + self.config.grace if waits else None

    def _conclude(self, quirk: str, now: float) -> None:
        """TCP: nothing more will come, so what lies here is the answer."""
        while not self.closed:
            frame = self._next(True)
            if frame is None:
                return
            self._quirk(quirk)
            self._handle(frame, now)

    def _datagram(self, payload: bytes, now: float) -> None:
        """The answer to our outstanding message; perhaps empty, perhaps a part, perhaps several lines."""
        if self._udp is None:
            raise AssertionError
        self._reader.feed(payload)
        frames = 0
        while not self.closed and not self._udp.waiting:
            frame = self._next(False)
            if frame is None and self._reader.pending:
                if payload and self._reader.promises_more and self._poll(now):
                    self._quirk("body_polled")
                    return
                frame = self._next(True)
            if frame is None:
                break
            frames += 1
            if frames == 2:
                self._quirk("several_lines")
            self._handle(frame, now)
        self._reader.drop_padding()
        if self.closed:
            return
        if self._udp.waiting:
            if self._reader.pending:
                self._quirk("trailing_bytes")
                self._reader.clear()
        else:
            self._nothing(frames, now)

    def _nothing(self, frames: int, now: float) -> None:
        """UDP: the datagram is read, and the broker's turn is not over, or it used its turn to say nothing."""
        if self.state == states.WAIT_CONFIRM:
            self._complete("answer")
        elif self.state == states.WAIT_AUTH and self._first:
            # PLAIN and PASSDSS: the broker's empty answer to AUTHENTICATE gives us the word.
            first, self._first = self._first, b""
            self._say(first, now)
        elif not self._poll(now):
            raise protocol_error(f"it answered with empty datagrams while {_DUE[self.state]}")
        elif not frames:
            self._quirk("empty_reply")

    def _poll(self, now: float) -> bool:
        """Ask for (more) text with an empty datagram; False when that was done often enough."""
        if self._polls >= MAX_POLLS:
            return False
        self._polls += 1
        self._send(b"", now)
        return True

    def _unanswered(self, _nothing: bytes, now: float) -> None:
        if self._udp is None:
            raise AssertionError
        if self.state == states.WAIT_CONFIRM:
            # What the broker granted it has granted; only its empty answer is missing (tsp-protocol.md section 1.3).
            self._quirk("accept_unanswered")
            self._complete("silence")
        elif self._reader.pending:
            self._conclude("end_by_silence", now)
        if self.closed or self._udp.waiting:
            return
        if self._udp.answered:
            self._fail(NetworkError("went_silent", f"The broker stopped answering over UDP while {_DUE[self.state]}.",
                                    "Try again later; if it persists, a filter in between may be dropping UDP."))
        else:
            self._fail(NetworkError("no_answer", "The broker did not answer over UDP.",
                                    "Check its address and port (3653), and that UDP is let through in both directions."))

    # Frames to states.

    def _handle(self, frame: Frame, now: float) -> None:
        self._polls = 0
        event = self._event_of(frame)
        if not states.knows(states.CLIENT, self.state, event):
            raise self._unexpected(frame)
        if self.state in _WANTS_HEADER:
            if not frame.headed:
                self._quirk("header_missing")
        elif frame.headed and self.state != states.WAIT_CONFIRM:
            self._quirk("header_unexpected")
        if event == "refusal":
            if frame.status is None:
                raise AssertionError
            self._fail(error_from_status(frame.status, self._without_secret(frame.text)), event)
            return
        if event == "redirect":
            self._redirect(frame)
        elif event == "capability":
            self._capability(frame, now)
        elif event == "sasl":
            self._sasl(frame, now)
        elif event == "grant":
            self._grant(frame, now)
        elif self.state == states.WAIT_AUTH:
            self._authenticated(now)
        elif self.state == states.WAIT_DELETE:
            self._events.append(Deleted())
            self._complete(event)
        else:
            # An established session of tsps only echoes, so the accept that is sent again comes back (tsp-protocol.md section 11).
            self._quirk("accept_echoed" if frame.kind == XML else "accept_answered")
            self._complete(event)

    def _event_of(self, frame: Frame) -> str:
        """The event of states.CLIENT that a frame is; "" for none."""
        status = frame.status
        if frame.kind == SASL:
            return "sasl"
        if status is None:
            if frame.kind == XML:
                echoed = self.state == states.WAIT_CONFIRM and frame.body.strip() == xml_write.ACCEPT.partition(b"\r\n")[2].strip()
                return "success" if echoed else "grant"
            return "capability" if frame.text[:10].upper() == "CAPABILITY" else ""
        if status > REDIRECT_BASE:
            return "redirect"
        if 200 <= status < 300:
            if status != 200:
                self._quirk("status_2xx")
            return "grant" if frame.kind == XML else "success"
        return "refusal"

    def _unexpected(self, frame: Frame) -> RemoteError:
        if frame.kind == TEXT and frame.text[:8].upper() == "VERSION=":
            return RemoteError("stale_session", "The broker takes us for an older session from the same port and only echoes.",
                               "Negotiate from another source port, or wait until the broker has forgotten the old session.")
        said = "XML" if frame.kind == XML else f"{frame.status or ''} {self._without_secret(frame.text)}".strip()
        shown = "".join(c for c in said if c.isprintable())[:60]
        return protocol_error(f'it said "{shown}" while {_DUE[self.state]}')

    def _capability(self, frame: Frame, now: float) -> None:
        config = self.config
        offer = capability.parse(frame.text, self._quirk)
        if offer is None:
            raise self._unexpected(frame)
        self._go("capability")
        self._events.append(CapabilitiesReceived(config.version, offer.tunnels, offer.auths))
        if config.action == "capabilities":
            self._complete("finish")
            return
        if config.action == "create" and not capability.offers(offer.tunnels, config.request.mode):
            raise RemoteError("mode_not_offered", f"The broker does not offer tunnels of mode {config.request.mode}.",
                              f"It offers: {', '.join(sorted(offer.tunnels & set(capability.TUNNELS))).lower() or 'none that we know'}.")
        name = sasl.choose(offer.auths, config.auth_method, allow_plaintext=config.allow_plaintext,
                           have_passdss=self._have_passdss(offer.auths))
        self.mechanism = sasl.client_mechanism(
            name, username=config.credentials.username, password=config.credentials.password, server=config.server,
            version=config.version, rng=config.rng, verify_key=config.verify_key)
        self._go("authenticate")
        line, first = f"AUTHENTICATE {name}\r\n".encode("ascii"), self.mechanism.first()
        if self._udp is not None:
            self._first = first
            self._say(line, now)
        else:
            # One write: two would meet Nagle and the delayed ACK and cost 40 ms (tsp-protocol.md section 13).
            self._say(line + first, now)

    def _have_passdss(self, offered: frozenset[str]) -> bool:
        """Looked up only where it matters: it imports a large library. `any` passes it by when no key could be checked."""
        wanted = self.config.auth_method.lower()
        usable = wanted == "passdss-3des-1" or (wanted == "any" and self.config.verify_key is not None)
        return usable and sasl.PASSDSS in offered and sasl.have_passdss()

    def _sasl(self, frame: Frame, now: float) -> None:
        if self.mechanism is None:
            raise AssertionError
        answer = self.mechanism.step(frame.body)
        self._go("sasl")
        if answer:
            self._say(answer, now)
        # With nothing to say, TCP waits; on UDP the end of the datagram decides whether to poll.

    def _authenticated(self, now: float) -> None:
        if self.mechanism is None:
            raise AssertionError
        self.mechanism.finish()
        self._go("success")
        self._merge_quirks()
        self._first = b""
        self._events.append(Authenticated(self.mechanism.name.lower()))
        config, action = self.config, self.config.action
        self._go(action)
        if action == "create":
            if self._client_address is None:
                raise AssertionError
            self._say(xml_write.create(config.request, self._client_address), now)
            return
        mode, addresses = config.request.mode, [self._client_address] if self._client_address is not None else []
        if config.grant is not None:
            mode, end = config.grant.mode, config.grant.client
            addresses = [address for address in (end.ipv4, end.ipv6) if address is not None]
        self._say(xml_write.about(action, mode, config.request.proxy, addresses), now)

    def _redirect(self, frame: Frame) -> None:
        if frame.status is None:
            raise AssertionError
        brokers = read_brokers(frame.body, self._quirk, loopback=self.config.peer_is_loopback)
        self._stop()
        self._go("redirect")
        self._events.append(Redirected(frame.status, brokers))

    def _grant(self, frame: Frame, now: float) -> None:
        if not frame.body:
            raise protocol_error("it reported success without a tunnel")
        config, asked = self.config, self.state == states.WAIT_GRANT
        if asked:
            self._go("grant")
        try:
            grant = read_grant(frame.body, self._quirk, config.request, server_port=port_of(config.server))
            warnings = check_grant(grant, config.request if asked else None, transport=config.transport,
                                   peer_is_loopback=config.peer_is_loopback, strict=config.strict)
        except RemoteError as error:
            if asked and error.code == "bad_grant" and not self._old:
                self._send(xml_write.REJECT, now)
                self._go("reject")
                self._stop()
                self._events.append(Failed(error))
                return
            raise
        if "prefix_host_bits" in self.quirks:
            warnings += (f"The broker wrote the delegated prefix with bits behind its length; {grant.prefix} was taken.",)
        self._events.append(Granted(grant, warnings))
        if not asked:
            self._complete("grant")
        elif self._old:
            self._complete("finish")
        elif self._udp is None:
            self._send(xml_write.ACCEPT, now)
            self._complete("finish")
        else:
            self._go("accept")
            self._udp.send(xml_write.ACCEPT, now, config.rudp.tries_accept)

    # Small things.

    def _go(self, event: str) -> None:
        self.state = states.follow(states.CLIENT, self.state, event)

    def _complete(self, event: str) -> None:
        self._stop()
        self._go(event)
        self._events.append(Completed())

    def _fail(self, error: TspError, event: str = "fail") -> None:
        self._merge_quirks()
        self._stop()
        self._go(event)
        self._events.append(Failed(error))

    def _without_secret(self, said: str) -> str:
        """What a broker says is quoted in errors; after PLAIN that may be our password, so it goes before the text is cut or cleaned."""
        secret = self.config.credentials.password
        return said.replace(secret, "***") if secret else said

    def _stop(self) -> None:
        self._reader.clear()
        if self._udp is not None:
            self._udp.cancel()

    def _say(self, payload: bytes, now: float) -> None:
        """Send a message that the broker is to answer."""
        self._send(payload, now)
        self._deadline = now + self.config.reply_timeout

    def _send(self, payload: bytes, now: float) -> None:
        if self._udp is not None:
            self._udp.send(payload, now)
        else:
            self._writes.append(payload)

    def _merge_quirks(self) -> None:
        if self.mechanism is not None:
            for name, times in self.mechanism.quirks.items():
                count(self.quirks, name, times)
            self.mechanism.quirks = {}

    def _quirk(self, name: str) -> None:
        count(self.quirks, name)

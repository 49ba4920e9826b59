# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""Text framing (RFC 5572 section 4.4; tsp-protocol.md sections 1.3, 1.5): bytes in, complete messages out.

The same text travels over TCP (a stream, cut anywhere) and reliable UDP (whole in a datagram). Nothing here depends on where a
stream was cut. What ends a message:

- a line: CR LF, LF, or the CR BS of one third-party client;
- XML: the end of its tunnel element. Content-length is read and its errors are counted, but it decides nothing where the element ends
  by itself: too many peers count wrongly (tsp-protocol.md sections 1.5, 12 rows 8 and 13);
- a SASL message: what its mechanism says;
- `final`: the caller knows that nothing more will come.
"""

from __future__ import annotations

import re
from typing import Callable, NamedTuple

MAX_LINE = 4096
MAX_BODY = 65536

TEXT, XML, SASL = "text", "xml", "sasl"

_PADDING = b"\0\r\n\t \x08\xef\xbb\xbf"
_LINE_END = re.compile(rb"\r?\n|\r\x08")
_HEADER = re.compile(rb"(content-length)([ \t]*:[ \t]*)(\d{1,12})[ \t\0]*\Z", re.IGNORECASE)
_STATUS = re.compile(rb"(\d{3,4})(?:[ \t]+(.*))?\Z", re.DOTALL)
_STATUS_BEGINS = re.compile(rb"\d{3,4}[ \t\r\n]")
_STATUS_PERHAPS = re.compile(rb"\d{1,4}\Z")
_ROOT_END = re.compile(rb"</tunnel[ \t\r\n]*>", re.IGNORECASE)
_ROOT_EMPTY = re.compile(rb"<tunnel\b[^<>]*/>", re.IGNORECASE)


class FramingError(Exception):
    """A message is larger than any TSP message may be, or its length is not a number. The text is a sentence without a full stop."""


class Frame(NamedTuple):
    """One message. kind: text (a line), xml (perhaps with a status line before it), sasl.

    status: the number of the status line, None without one. text: the line, after the number where there is one; not trusted, printable
    only if you make it so. body: the XML from its first `<` to the end of the tunnel element (b"" where the status promised XML and
    none came), or the SASL message. headed: it carried Content-length.
    """

    kind: str
    status: int | None
    text: str
    body: bytes
    headed: bool = False


class Reader:
    """Cuts what a peer sends into messages. quirk(name) is told each tolerance, once per message (see quirks.py).

    statuses: the peer sends status lines, so they are recognised before SASL messages and XML may follow them (a client reading a
    broker). Without it, a SASL message may begin with NULs (a broker reading a client, PLAIN).
    """

    def __init__(self, quirk: Callable[[str], None], *, statuses: bool) -> None:
        self._quirk = quirk
        self._statuses = statuses
        self._buffer = bytearray()
        self._scanned = 0
        self._held = ""

    def feed(self, data: bytes) -> None:
        """Add what came. Raises FramingError when more lies unread than any exchange needs."""
        self._buffer += data
        if len(self._buffer) > MAX_BODY + 2 * MAX_LINE:
            raise FramingError("a message is larger than 64 KiB")

    @property
    def pending(self) -> bool:
        """Whether anything but padding lies unread."""
        buffer = self._buffer
        return bool(buffer) and (buffer[0] not in _PADDING or bool(buffer.strip(_PADDING)))

    def drop_padding(self) -> None:
        """At the end of a datagram: forget padding; a rest that is none stays."""
        if self._buffer and not self.pending:
            if 0 in self._buffer:
                self._quirk("trailing_padding")
            self.clear()

    def clear(self) -> None:
        """Forget what lies unread."""
        self._buffer.clear()
        self._scanned = 0
        self._held = ""

    @property
    def promises_more(self) -> bool:
        """Whether the beginning of a message with XML lies here without its end: worth asking for the rest (client, UDP)."""
        head = bytes(self._buffer[:MAX_LINE]).lstrip(_PADDING)
        status = _STATUS_BEGINS.match(head)
        return head[:1] == b"<" or head[:14].lower() == b"content-length" or (status is not None and int(status[0][:-1]) > 1000)

    @property
    def begins_with_status(self) -> bool:
        """Whether a status line lies here, perhaps without its end."""
        return _STATUS.match(bytes(self._buffer[:MAX_LINE]).strip(_PADDING)) is not None

    def next(self, *, split: Callable[[bytes], int | None] | None = None, wants_xml: bool = False, final: bool = False) -> Frame | None:
        """The next complete message, None while more is needed.

        split: the SASL mechanism's measure while one is at work. wants_xml: a status 200 is followed by XML. final: nothing more
        will come, so what lies here is the message. Raises FramingError.
        """
        buffer = self._buffer
        if split is not None and not self._statuses:
            return self._sasl(split, final)
        if not buffer:
            return None
        if buffer[0] in _PADDING:
            padding = len(buffer) - len(buffer.lstrip(_PADDING))
            if padding == len(buffer):
                return None
            # Line ends alone are what was left of the message before.
            if buffer[:padding].strip(b"\r\n"):
                self._held = "leading_padding"
            del buffer[:padding]
            self._scanned = 0
        if split is not None and not _STATUS_BEGINS.match(buffer) and buffer[:1] != b"<" and buffer[:14].lower() != b"content-length":
            if not _STATUS_PERHAPS.match(buffer):
                return self._sasl(split, final)
            if not final:
                return None
        return self._text(wants_xml, final)

    def _take(self, size: int, quirks: list[str]) -> None:
        del self._buffer[:size]
        self._scanned = 0
        if self._held:
            quirks.append(self._held)
            self._held = ""
        for name in dict.fromkeys(quirks):
            self._quirk(name)

    def _sasl(self, split: Callable[[bytes], int | None], final: bool) -> Frame | None:
        message = bytes(self._buffer)
        size = split(message)
        if size is None and final and message.strip(_PADDING):
            size = len(message)
        if size is None:
            if len(message) > MAX_BODY:
                raise FramingError("a SASL message is larger than 64 KiB")
            return None
        self._take(size, [])
        return Frame(SASL, None, "", message[:size])

    def _line(self, start: int, quirks: list[str], final: bool) -> tuple[bytes, int] | None:
        """The line at `start` and where the next one begins."""
        found = _LINE_END.search(self._buffer, start)
        if found is None:
            if len(self._buffer) - start > MAX_LINE:
                raise FramingError("a line is longer than 4096 bytes")
            if not final:
                return None
            quirks.append("line_end_missing")
            return bytes(self._buffer[start:]), len(self._buffer)
        if found.start() - start > MAX_LINE:
            raise FramingError("a line is longer than 4096 bytes")
        if found.end() - found.start() == 1:
            quirks.append("line_feed_only")
        return bytes(self._buffer[start:found.start()]), found.end()

    def _text(self, wants_xml: bool, final: bool) -> Frame | None:
        buffer = self._buffer
        quirks: list[str] = []
        at, length = 0, None
        if buffer[:1] != b"<":
            read = self._line(0, quirks, final)
            if read is None:
                return None
            header = _HEADER.match(read[0])
            if header is None:
                return self._body(0, read, None, quirks, wants_xml, final)
            length = self._length(header, quirks)
            at = read[1]
            blank = _LINE_END.match(buffer, at)
            if blank is not None:
                at = blank.end()
                quirks.append("header_blank_line")
            elif not final and bytes(buffer[at:at + 2]) in (b"", b"\r"):
                return None
        if buffer[at:at + 1] == b"<":
            if self._statuses:
                quirks.append("status_missing")
            return self._xml(at, at, length, None, "", quirks, final)
        read = self._line(at, quirks, final)
        if read is None:
            return None
        return self._body(at, read, length, quirks, wants_xml, final)

    @staticmethod
    def _length(header: re.Match[bytes], quirks: list[str]) -> int:
        length = int(header[3])
        if length > MAX_BODY:
            raise FramingError("Content-length promises more than 64 KiB")
        if header[1] != b"Content-length":
            quirks.append("header_case")
        if header[2] != b": ":
            quirks.append("header_spacing")
        if header[3][:1] == b"0" and len(header[3]) > 1:
            quirks.append("content_length_zeros")
        return length

    def _body(self, start: int, read: tuple[bytes, int], length: int | None, quirks: list[str], wants_xml: bool,
              final: bool) -> Frame | None:
        """What stands behind the header, if any: a line, or a status line and XML."""
        line, end = read
        status = _STATUS.match(line.rstrip(b"\0 \t")) if self._statuses else None
        if status is None:
            self._take(end, quirks)
            return Frame(TEXT, None, _decode(line), b"", length is not None)
        number, text = int(status[1]), _decode(status[2] or b"")
        if not text:
            quirks.append("reason_missing")
        if number > 1000 or (wants_xml and 200 <= number < 300):
            return self._xml(start, end, length, number, text, quirks, final)
        if length is not None:
            size = len(line.rstrip(b"\0 \t"))
            self._judge(length, size, quirks, slack=end - start - size + 2)
        self._take(end, quirks)
        return Frame(TEXT, number, text, b"", length is not None)

    def _xml(self, start: int, at: int, length: int | None, status: int | None, text: str, quirks: list[str],
             final: bool) -> Frame | None:
        """XML from `at` on; Content-length counts from `start`."""
        buffer = self._buffer
        # Everything before self._scanned was searched before; a tag may have been cut there.
        end = _ROOT_END.search(buffer, max(at, self._scanned - 64))
        empty = _ROOT_EMPTY.search(buffer, at, at + MAX_LINE) if self._scanned <= at + MAX_LINE else None
        if empty is not None and (end is None or empty.end() < end.end()):
            end = empty
        if end is None:
            if len(buffer) - at > MAX_BODY:
                raise FramingError("XML is larger than 64 KiB")
            if not final:
                self._scanned = len(buffer)
                return None
            stop = len(buffer)
            if length is not None and length > stop - start:
                quirks.append("content_length_long")
        else:
            stop = end.end()
            if stop - at > MAX_BODY:
                raise FramingError("XML is larger than 64 KiB")
            if length is not None:
                self._judge(length, stop - start, quirks, slack=2)
        body = bytes(buffer[at:stop]).strip(_PADDING)
        self._take(stop, quirks)
        return Frame(XML, status, text, body, length is not None)

    @staticmethod
    def _judge(length: int, size: int, quirks: list[str], slack: int) -> None:
        """Compare Content-length with what was found; the last line end may be counted or not, and so may a blank line behind it."""
        if length < size:
            quirks.append("content_length_short")
        elif length > size + slack:
            quirks.append("content_length_long")


def _decode(line: bytes) -> str:
    return line.strip(_PADDING).decode("utf-8", "replace")

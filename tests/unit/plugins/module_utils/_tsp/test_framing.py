# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Framing: what ends a message, wherever the stream was cut."""

from __future__ import annotations

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.framing import MAX_BODY, MAX_LINE, Frame, FramingError, Reader

XML = b'<tunnel action="info">\r\n <server/>\r\n</tunnel>'


def read(data, *, statuses=True, final=False, pieces=1, **how):
    """Frames and quirks of `data`, fed in so many pieces."""
    quirks = []
    reader = Reader(quirks.append, statuses=statuses)
    frames = []
    step = max(1, len(data) // pieces)
    for at in range(0, len(data), step):
        reader.feed(data[at:at + step])
        while (frame := reader.next(**how)) is not None:
            frames.append(frame)
    while final and (frame := reader.next(final=True, **how)) is not None:
        frames.append(frame)
    return frames, sorted(quirks), reader


def headed(body, number=None):
    return b"Content-length: %d\r\n" % (len(body) if number is None else number) + body


ANSWERS = [
    (b"200 Success\r\n", Frame("text", 200, "Success", b""), []),
    (b"200 Success\n", Frame("text", 200, "Success", b""), ["line_feed_only"]),
    (b"200\r\n", Frame("text", 200, "", b""), ["reason_missing"]),
    (b"\0\0 200 Success\r\n", Frame("text", 200, "Success", b""), ["leading_padding"]),
    (b"\r\n\r\n200 Success\r\n", Frame("text", 200, "Success", b""), []),
    (b"200 Success\0\0\r\n", Frame("text", 200, "Success", b""), []),
    (b"310 Out of order\r\b", Frame("text", 310, "Out of order", b""), []),
    (b"CAPABILITY TUNNEL=V6V4\r\n", Frame("text", None, "CAPABILITY TUNNEL=V6V4", b""), []),
    (headed(b"310 no\r\n"), Frame("text", 310, "no", b"", True), []),
    (headed(b"310 no\r\n", 6), Frame("text", 310, "no", b"", True), []),
    (headed(b"310 no\r\n", 3), Frame("text", 310, "no", b"", True), ["content_length_short"]),
    (headed(b"310 no\r\n", 50), Frame("text", 310, "no", b"", True), ["content_length_long"]),
    (headed(b"200 OK\r\n" + XML + b"\r\n"), Frame("xml", 200, "OK", XML, True), []),
    (headed(b"200 OK\r\n" + XML), Frame("xml", 200, "OK", XML, True), []),
    (headed(b"200 OK\r\n" + XML, len(XML) + 10), Frame("xml", 200, "OK", XML, True), []),
    (headed(b"200 OK\r\n" + XML, len(XML)), Frame("xml", 200, "OK", XML, True), ["content_length_short"]),
    (headed(b"200 OK\r\n" + XML, 400), Frame("xml", 200, "OK", XML, True), ["content_length_long"]),
    (b"content-LENGTH:%d\r\n200 OK\r\n" % (len(XML) + 8) + XML, Frame("xml", 200, "OK", XML, True), ["header_case", "header_spacing"]),
    (b"Content-length: 0%d\r\n200 OK\r\n" % (len(XML) + 8) + XML, Frame("xml", 200, "OK", XML, True), ["content_length_zeros"]),
    (b"Content-length: %d\r\n\r\n200 OK\r\n" % (len(XML) + 8) + XML, Frame("xml", 200, "OK", XML, True), ["header_blank_line"]),
    (headed(b"200 OK\n" + XML), Frame("xml", 200, "OK", XML, True), ["line_feed_only"]),
    (headed(XML), Frame("xml", None, "", XML, True), ["status_missing"]),
    (XML, Frame("xml", None, "", XML), ["status_missing"]),
    (b"200 OK\r\n" + XML, Frame("xml", 200, "OK", XML), []),
    (b"1200 Go\r\n" + XML, Frame("xml", 1200, "Go", XML), []),
    (b"200 OK\r\n<tunnel action='info'/>\r\n", Frame("xml", 200, "OK", b"<tunnel action='info'/>"), []),
    (b"200 OK\r\n<TUNNEL></TUNNEL\r\n>", Frame("xml", 200, "OK", b"<TUNNEL></TUNNEL\r\n>"), []),
]


@pytest.mark.parametrize("data, frame, quirks", ANSWERS)
@pytest.mark.parametrize("pieces", [1, 2, 3, 1000])
def test_answers(data, frame, quirks, pieces):
    frames, counted, reader = read(data, pieces=pieces, wants_xml=True) if frame.kind == "xml" else read(data, pieces=pieces)
    assert frames == [frame]
    assert counted == quirks
    assert not reader.pending


@pytest.mark.parametrize("data, frame", [
    (b"200 Success", Frame("text", 200, "Success", b"")),
    (b"CAPABILITY AUTH=PLAIN", Frame("text", None, "CAPABILITY AUTH=PLAIN", b"")),
    (headed(b"310 no", 6), Frame("text", 310, "no", b"", True)),
])
def test_a_line_without_its_end_waits_until_nothing_more_comes(data, frame):
    assert read(data)[0] == []
    frames, quirks, _reader = read(data, final=True)
    assert frames == [frame]
    assert quirks == ["line_end_missing"]


def test_xml_without_its_end_waits_too():
    part = headed(b"200 OK\r\n" + XML[:-9])
    assert read(part, wants_xml=True)[0] == []
    assert read(part, wants_xml=True)[2].promises_more
    frames, _quirks, _reader = read(part, wants_xml=True, final=True)
    assert frames == [Frame("xml", 200, "OK", XML[:-9].strip(), True)]


def test_success_without_a_tunnel():
    assert read(b"200 Success\r\n", wants_xml=True)[0] == []
    assert read(b"200 Success\r\n", wants_xml=True, final=True)[0] == [Frame("xml", 200, "Success", b"")]
    assert read(b"200 Success\r\n", wants_xml=False)[0] == [Frame("text", 200, "Success", b"")]


def test_several_answers_in_one_piece():
    frames, quirks, _reader = read(b"200 Success\r\n" + headed(b"310 no\r\n") + b"CAPABILITY\r\n")
    assert [(frame.status, frame.text) for frame in frames] == [(200, "Success"), (310, "no"), (None, "CAPABILITY")]
    assert quirks == []


def test_padding_is_told_from_a_rest():
    _frames, quirks, reader = read(b"200 Success\r\n\0\0")
    reader.drop_padding()
    assert not reader.pending
    assert quirks == []
    quirks = []
    reader = Reader(quirks.append, statuses=True)
    reader.feed(b"200 Success\r\n\0\0")
    reader.next()
    reader.drop_padding()
    assert quirks == ["trailing_padding"]


def first_line(buffer):
    end = buffer.find(b"\n")
    return None if end < 0 else end + 1


@pytest.mark.parametrize("pieces", [1, 1000])
def test_sasl_messages_and_status_lines(pieces):
    """A broker's base64 is told from its verdict."""
    frames, _quirks, _reader = read(b"cnNwYXV0aD0=\r\n200 Success\r\n", split=first_line, pieces=pieces)
    assert frames == [Frame("sasl", None, "", b"cnNwYXV0aD0=\r\n"), Frame("text", 200, "Success", b"")]
    frames, _quirks, _reader = read(b"3001cmVhbG0=\r\n", split=first_line, pieces=pieces)
    assert frames == [Frame("sasl", None, "", b"3001cmVhbG0=\r\n")]
    frames, _quirks, _reader = read(b"1200 Go\r\n" + XML, split=first_line, pieces=pieces)
    assert [frame.status for frame in frames] == [1200]
    frames, _quirks, _reader = read(headed(b"300 no\r\n"), split=first_line, pieces=pieces)
    assert [frame.status for frame in frames] == [300]


def test_a_clients_sasl_message_may_begin_with_nul():
    frames, _quirks, _reader = read(b"\0\0alice\0secret1\r\n", statuses=False, split=first_line)
    assert frames == [Frame("sasl", None, "", b"\0\0alice\0secret1\r\n")]


@pytest.mark.parametrize("pieces", [1, 2, 1000])
@pytest.mark.parametrize("data", [
    headed(XML + b"\r\n"), headed(XML), headed(XML, len(XML) + 2), b"content-length:%d\n\n" % len(XML) + XML, XML,
    b"Content-length: 0%d\r\b" % len(XML) + XML])
def test_a_clients_xml(data, pieces):
    frames, _quirks, reader = read(data, statuses=False, pieces=pieces)
    assert [frame.body for frame in frames] == [XML]
    assert not reader.pending


@pytest.mark.parametrize("data, words", [
    (b"x" * (MAX_LINE + 1), "line is longer"),
    (b"x" * (MAX_LINE + 1) + b"\r\n", "line is longer"),
    (b"Content-length: 99999999\r\n", "promises more"),
    (b"200 OK\r\n" + b"x" * (MAX_BODY + 1), "larger than 64 KiB"),
    (b"200 OK\r\n<tunnel>" + b"x" * (MAX_BODY + 1), "larger than 64 KiB"),
    (b"x" * 200000, "larger than 64 KiB"),
])
def test_oversize_is_refused(data, words):
    with pytest.raises(FramingError, match=words):
        read(data, wants_xml=True)


def test_xml_in_single_bytes_is_not_searched_again_and_again():
    """64 KiB of XML byte by byte: a search from the beginning each time would take minutes."""
    reader = Reader(lambda _name: None, statuses=True)
    reader.feed(b"200 OK\r\n<tunnel>")
    looked = 0
    for _again in range(MAX_BODY - 100):
        reader.feed(b"x")
        looked += reader.next(wants_xml=True) is not None
    reader.feed(b"</tunnel>")
    frame = reader.next(wants_xml=True)
    assert looked == 0
    assert frame is not None and len(frame.body) == MAX_BODY - 100 + len(b"<tunnel></tunnel>")

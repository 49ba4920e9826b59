# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What every answer of our broker must look like, because old clients insist on it (tsp-protocol.md sections 1.3, 1.5, 4.3, 12)."""

from __future__ import annotations

import re

_ADDRESS = re.compile(rb'<address type="(ipv4|ipv6|dn)">([^<>]*)</address>')
_FULL_IPV6 = re.compile(rb"[0-9a-f]{4}(:[0-9a-f]{4}){7}")
_TAG = re.compile(rb"</?([A-Za-z_]+)((?: [a-z_]+=\"[^\"]*\")*)/?>")


def check_text(text: bytes, *, to_xml: bool) -> None:
    """One answer without its UDP header. to_xml: it answers a message with XML."""
    if not text:
        return
    assert b"\0" not in text
    assert text.endswith(b"\r\n"), "the last line needs its end"
    assert b"\n" not in text.replace(b"\r\n", b""), "LF alone"
    body = text
    header = re.match(rb"(?i)content-length:.*\r\n", text)
    if header is not None:
        body = text[header.end():]
        assert header[0] == b"Content-length: %d\r\n" % len(body), "row 2: spelled exactly so, and counted right"
    assert (header is not None) == to_xml, "row 2: answers to XML carry Content-length, others do not"
    if to_xml:
        assert re.match(rb"\d{3,4} [^\r\n]+\r\n", body), "a status line comes first"
    if b"<" in body:
        xml = body[body.index(b"<"):]
        assert b"<?" not in xml and b"<!" not in xml and b"'" not in xml, "section 4.3: no prolog, no comment, double quotes"
        assert not _TAG.sub(b"", xml).count(b"<"), "section 4.3: lower-case attributes, one blank before each"
        for tag, _attributes in _TAG.findall(xml):
            assert tag == tag.lower()
        for kind, value in _ADDRESS.findall(xml):
            assert value == value.strip() and value
            if kind == b"ipv6" and b'action="list"' not in xml:
                assert _FULL_IPV6.fullmatch(value), "row 14: eight full groups"
        for value in re.findall(rb"<prefix[^>]*>([^<]*)</prefix>", xml):
            assert b":" not in value or _FULL_IPV6.fullmatch(value), "row 14"


def check_udp(request: bytes, answers: list[bytes]) -> None:
    """Rows 10 and 18: one answer to each datagram, header unchanged."""
    assert len(answers) == 1, "each datagram gets exactly one answer"
    assert answers[0][:8] == request[:8], "both words of the header come back"


def is_xml(text: bytes) -> bool:
    """Whether a client's message carries XML."""
    return b"<tunnel" in text

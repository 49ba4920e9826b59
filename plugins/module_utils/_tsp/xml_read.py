# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""XML off the wire into a small tree: size-capped, no DTD, no entities, no processing instructions, nothing fetched.

Not ElementTree: its parser lets declarations pass before it complains, and the tolerances (tsp-protocol.md section 4.3) are to be counted
while parsing. The whole vocabulary of TSP is a dozen elements (section 4.4).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Callable
from xml.parsers import expat

from .framing import MAX_BODY

MAX_DEPTH = 12
MAX_ELEMENTS = 1000

_NO_ELEMENTS = expat.errors.codes[expat.errors.XML_ERROR_NO_ELEMENTS]

KNOWN = frozenset(("tunnel", "server", "client", "broker", "router", "prefix", "dns_server", "address", "keepalive"))


class XmlError(Exception):
    """The XML cannot be accepted. The text says why, without a full stop, and quotes nothing from the wire."""


class Element:
    """A node: tag and attribute names in lower case, attribute values as sent, text with its blanks."""

    __slots__ = ("tag", "attributes", "children", "text", "parent")

    def __init__(self, tag: str, attributes: dict[str, str], parent: Element | None) -> None:
        self.tag = tag
        self.attributes = attributes
        self.children: list[Element] = []
        self.text = ""
        self.parent = parent

    def find(self, tag: str) -> Element | None:
        """The first child of that name."""
        for child in self.children:
            if child.tag == tag:
                return child
        return None

    def all(self, tag: str) -> Iterator[Element]:
        """The children of that name."""
        return (child for child in self.children if child.tag == tag)

    def walk(self) -> Iterator[Element]:
        """This element and everything below it, in document order."""
        yield self
        for child in self.children:
            yield from child.walk()


class _Tree:
    """Collects what expat reports."""

    def __init__(self, quirk: Callable[[str], None]) -> None:
        self.quirk = quirk
        self.root: Element | None = None
        self.open: Element | None = None
        self.depth = 0
        self.elements = 0

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        self.depth += 1
        self.elements += 1
        if self.depth > MAX_DEPTH or self.elements > MAX_ELEMENTS:
            raise XmlError("it has too many elements")
        lower = tag.lower()
        if attributes:
            names = {name.lower(): value for name, value in attributes.items()}
            if len(names) != len(attributes):
                raise XmlError("an attribute is given twice")
            if lower != tag or names.keys() != attributes.keys():
                self.quirk("xml_case")
        else:
            names = attributes
            if lower != tag:
                self.quirk("xml_case")
        if lower not in KNOWN:
            self.quirk("xml_unknown_element")
        element = Element(lower, names, self.open)
        if self.open is None:
            self.root = element
        else:
            self.open.children.append(element)
        self.open = element

    def end(self, _tag: str) -> None:
        self.depth -= 1
        if self.open is None:
            raise AssertionError
        self.open = self.open.parent

    def text(self, data: str) -> None:
        if self.open is not None:
            self.open.text += data

    def prolog(self, _version: str, _encoding: str | None, _standalone: int) -> None:
        self.quirk("xml_prolog")

    def comment(self, _data: str) -> None:
        self.quirk("xml_comment")

    def declaration(self, *_args: object) -> None:
        raise XmlError("it contains declarations, which TSP does not have")


def parse(data: bytes, quirk: Callable[[str], None]) -> Element:
    """The root of `data`, which must be a tunnel element. quirk(name) is told each tolerance (quirks.py). Raises XmlError."""
    if len(data) > MAX_BODY:
        raise XmlError("it is larger than 64 KiB")
    if b"\0" in data or b"\x08" in data:
        # Padding, and the BS that one client puts where LF belongs (tsp-protocol.md section 12 row 8).
        # A NUL inside becomes a space, never nothing: taking it out would make one clean name of two hostile halves.
        data = data.strip(b"\0").replace(b"\0", b" ").replace(b"\x08", b"\n")
        quirk("xml_nul")
    if b"='" in data or b"= '" in data:
        quirk("xml_single_quotes")
    seen: set[str] = set()

    def once(name: str) -> None:
        if name not in seen:
            seen.add(name)
            quirk(name)

    tree = _Tree(once)
    # The encoding is fixed, whatever a prolog says: addresses and names are ASCII, and UTF-16 has served to smuggle things.
    parser = expat.ParserCreate("utf-8")
    parser.buffer_text = True
    parser.StartElementHandler = tree.start
    parser.EndElementHandler = tree.end
    parser.CharacterDataHandler = tree.text
    parser.XmlDeclHandler = tree.prolog
    parser.CommentHandler = tree.comment
    parser.StartDoctypeDeclHandler = tree.declaration
    parser.EntityDeclHandler = tree.declaration
    parser.ProcessingInstructionHandler = tree.declaration
    parser.ExternalEntityRefHandler = tree.declaration  # type: ignore[assignment]
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        if error.code != _NO_ELEMENTS or tree.depth != 1:
            raise XmlError(f"it is not well-formed (line {error.lineno}: {expat.ErrorString(error.code)})") from None
        once("xml_root_unclosed")
        tree.end("")
    if tree.root is None or tree.depth:
        raise XmlError("it is incomplete")
    if tree.root.tag != "tunnel":
        raise XmlError("its root is not a tunnel element")
    return tree.root

# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""The tolerances our client has towards brokers: each has a name and a sentence, and each use is counted.

The counts stand in `TspClient.quirks` and end up in `lease.quirks`, so that an odd broker shows without a packet trace.
What brokers were seen doing: tsp-protocol.md sections 1.5, 4, 11 and 12. A name that is not in this table cannot be counted.
"""

from __future__ import annotations

QUIRKS: dict[str, str] = {
    # Lines, lengths and datagrams (framing.py, client.py)
    "leading_padding": "NULs or blanks stood before an answer.",
    "trailing_padding": "NULs stood behind an answer.",
    "trailing_bytes": "Bytes that mean nothing stood behind a complete answer.",
    "line_feed_only": "Lines ended with LF alone.",
    "line_end_missing": "The last line of an answer had no end.",
    "header_case": "Content-length was spelled in other letters.",
    "header_spacing": "Content-length was not followed by exactly a colon and one blank.",
    "header_missing": "An answer that must carry Content-length did not.",
    "header_unexpected": "An answer carried Content-length where none is due.",
    "header_blank_line": "A blank line followed Content-length.",
    "content_length_zeros": "The number in Content-length had leading zeros.",
    "content_length_short": "Content-length was smaller than the answer.",
    "content_length_long": "Content-length was greater than the answer.",
    "status_missing": "An answer began with XML instead of a status line.",
    "status_2xx": "Success was reported with a number other than 200.",
    "reason_missing": "A status line was the bare number.",
    "several_lines": "One datagram held several lines.",
    "empty_reply": "An empty datagram came where text was due, and the text was asked for again.",
    "body_polled": "An answer was incomplete, and the rest was asked for with empty datagrams.",
    "end_by_silence": "An answer had no recognisable end and was taken as it was after a silence.",
    "end_by_close": "An answer over TCP had no recognisable end and was taken as it was when the broker closed.",
    "stray_datagram": "A datagram with another sequence number was ignored.",
    "timestamp_changed": "The time stamp of a datagram was not returned as it was.",
    "accept_unanswered": "The accept got no answer; the tunnel was taken as granted.",
    "accept_echoed": "The accept came back as it was; the tunnel was in force already.",
    "accept_answered": "The accept was answered with text instead of an empty datagram.",
    # CAPABILITY (capability.py)
    "capability_case": "Words of CAPABILITY were not in upper case.",
    "capability_separator": "Words of CAPABILITY were not separated by single blanks.",
    "capability_without_tunnels": "CAPABILITY named no tunnel mode at all.",
    # XML (xml_read.py)
    "xml_prolog": "The XML began with a prolog.",
    "xml_comment": "The XML contained comments.",
    "xml_single_quotes": "Attributes stood in single quotes.",
    "xml_case": "Names of elements or attributes were not in lower case.",
    "xml_value_case": "Values of attributes were not in lower case.",
    "xml_blank_in_value": "White space surrounded an address, a name or a number.",
    "xml_unknown_element": "There were elements that TSP does not know.",
    "xml_root_unclosed": "The end tag of the tunnel element was missing.",
    "xml_nul": "There were NULs or backspaces inside the XML.",
    # Redirection lists and grants (messages.py)
    "redirect_entry_dropped": "An entry of a broker list was no usable address and was dropped.",
    "redirect_entry_repeated": "A broker list named the same broker twice.",
    "redirect_list_cut": "A broker list had more than 50 entries; the rest was dropped.",
    "action_unexpected": "The tunnel element had another action than the one that was due.",
    "address_compressed": "IPv6 addresses were written in compressed form.",
    "address_repeated": "The same address was given twice.",
    "address_type_missing": "An address had no type; its form told.",
    "address_type_wrong": "An address was of another type than it said.",
    "address_type_ns": "An address was of type ns.",
    "address_type_unknown": "An address of an unknown type was ignored.",
    "prefix_empty": "There was a prefix element without a prefix, which was taken for none.",
    "prefix_host_bits": "The delegated prefix had bits behind its length, which were cut off.",
    "prefix_with_length": "The length of the prefix stood behind a slash in its text.",
    "dns_server_address": "A DNS server was given by address, which has no place in a lease, and was ignored.",
    "lifetime_missing": "No lifetime was given.",
    "lifetime_zero": "The lifetime was 0, which was taken for none.",
    "lifetime_capped": "The lifetime was absurdly long and was cut to ten years.",
    "keepalive_missing": "Keepalive was asked for and not answered.",
    "keepalive_zero": "The keepalive interval was 0, which was taken for none.",
    "keepalive_capped": "The keepalive interval was absurdly long and was cut to a day.",
    "keepalive_misplaced": "The keepalive element stood elsewhere than in the client element.",
    "keepalive_interval_missing": "The keepalive element had no interval; the one asked for was taken.",
    "keepalive_address_missing": "The keepalive element named nobody to ping.",
    "keepalive_address_unusable": "The keepalive address cannot be pinged through the tunnel and was dropped.",
    # SASL (digest_md5.py, passdss.py)
    "digest_without_realm": "The DIGEST-MD5 challenge had no realm.",
    "digest_without_qop": "The DIGEST-MD5 challenge had no qop.",
    "digest_without_algorithm": "The DIGEST-MD5 challenge had no algorithm.",
    "digest_without_charset": "The DIGEST-MD5 challenge had no charset.",
}


def count(quirks: dict[str, int], name: str, times: int = 1) -> None:
    """Add to `quirks`. Raises KeyError for a name that has no sentence above."""
    QUIRKS[name]
    quirks[name] = quirks.get(name, 0) + times

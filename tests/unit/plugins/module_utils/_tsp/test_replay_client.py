# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Every recorded session, with our client in the old client's place: configured as it was, fed what the server said.

Our bytes must be the old client's (but for its stray NUL behind AUTHENTICATE), as long as ours has no reason to go another way;
and it must reach the end that the recording shows, or a better one where the old client had a defect (`BETTER`).
"""

from __future__ import annotations

import re
from base64 import b64decode
from ipaddress import IPv4Address, IPv6Address, ip_network

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp import events, sasl
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.client import ClientConfig, Credentials, TspClient
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.request import TunnelRequest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.status import MEANINGS
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._tsp._accounts import counting_rng, rng_saying
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._tsp._recordings import TABLES, load, load_table, names

needs_passdss = pytest.mark.skipif(not sasl.have_passdss(), reason="needs the package cryptography")

NOT_REPLAYED = {
    "retry-51": "nothing listens: no session comes about, the retry rule is that of _exchange",
    "retry-60": "nothing listens: no session comes about, the retry rule is that of _exchange",
}

BETTER = {
    "stub-caps-lower": ("WAIT_AUTH", {"capability_case": 1}, "old clients take lower-case words for a broker without modes"),
    "stub-create-caplen": ("FAILED", {"header_case": 1}, "old clients exit with 0, not with the broker's refusal"),
    "stub-tcp-split10": ("COMPLETED", {}, "old clients need the first line in one piece"),
    "stub-tcp-digest-coalesced": ("WAIT_GRANT", {}, "old clients hang when rspauth and 200 come together"),
}

REFUSED = {
    "rto-midsilent": "went_silent",
    "redir-1000": "refused",
    "redir-empty": "redirect_empty",
    "stub-any-onlyanon": "no_common_mechanism",
    "tsps-udp-passdss-notoffered": "no_common_mechanism",
    "stub-caps-nomode": "mode_not_offered",
    "stub-caps-nomode-gw6c60": "mode_not_offered",
    "tsps-v6v4-notoffered": "mode_not_offered",
}

PASSDSS = ("stub-udp-v6v4-passdss", "stub-udp-v6v4-passdss-keyknown", "stub-tcp-v6v4-passdss-3des-1", "stub-tcp-any",
           "stub-passdss-badsig", "stub-passdss-shortsig")
"""The old client's secrets are not in the recordings, so these cannot go on behind the server's signature, which must fail."""

QUIRKS = {
    "redir-empty": {},
    "stub-caps-lower": {"capability_case": 1},
    "stub-caps-lowerauth": {"capability_case": 1},
    "stub-create-caplen": {"header_case": 1},
    "stub-create-nolen": {"header_missing": 1},
    "stub-udp-tszero": {"timestamp_changed": 4},
    "stub-udp-wrongseq": {"stray_datagram": 4},
    "stub-noka": {},
    "stub-prefix-48": {"prefix_host_bits": 1},
    "stub-prefix-56": {"prefix_host_bits": 1},
}
"""Tolerances expected in the recordings of the scripted responder; none where nothing stands here (checked below)."""


WARNINGS = {
    "tsps-router-prefix": 1,  # no prefix, though one was asked for
    "stub-prefix-48": 2,  # bits behind the length; without them the prefix contains the broker's end of the tunnel
    "stub-prefix-56": 1,
    "stub-prefix-compressed-48": 1,
}


def cnonce_of(session):
    for message in session.sent("C"):
        if message.text.startswith(b"Y2hhcnNldD"):
            return re.search(rb'cnonce="([^"]*)"', b64decode(message.text)).group(1).decode()
    return None


def client_for(recording, session):
    conf = recording.conf
    version = re.match(rb"VERSION=([0-9.]+)", session.sent("C")[0].text).group(1).decode()
    router = conf["host_type"] == "router"
    request = TunnelRequest(
        mode=conf["tunnel_mode"], host_type=conf["host_type"], prefix_length=int(conf["prefixlen"]) if router else None,
        dns_servers=tuple(name for name in conf["dns_server"].split(":") if name) if router else (),
        client_ipv4=None if conf["client_v4"] == "auto" else IPv4Address(conf["client_v4"]), proxy=conf["proxy_client"] == "yes",
        keepalive=conf["keepalive"] == "yes", keepalive_interval=int(conf["keepalive_interval"]))
    cnonce = cnonce_of(session)
    return TspClient(ClientConfig(
        transport=session.transport, server=conf["server"], request=request, version=version,
        local_address=IPv4Address(session.client.rsplit(":", 1)[0]), rng=counting_rng() if cnonce is None else rng_saying(cnonce),
        auth_method=conf["auth_method"], credentials=Credentials(conf["userid"] or None, conf["passwd"]), verify_key=lambda blob: None))


class Replay:
    """One recorded session played to one client. `said`: our texts. `heard`: how many recorded answers were delivered."""

    def __init__(self, recording, session):
        self.name = recording.name
        self.session = session
        self.client = client_for(recording, session)
        self.said: list[bytes] = []
        self.sequences: list[bytes] = []
        self.times: list[float] = []
        self.stamp = bytes(4)
        self.now = 0.0
        self.client.connect(self.now)
        self.collect()

    def collect(self):
        for data in self.client.data_to_send(self.now):
            if self.session.transport == "udp":
                self.sequences.append(data[:4])
                self.stamp = data[4:8]
                data = data[8:]
            self.said.append(data)
            self.times.append(self.now)

    def advance(self, until):
        while (timer := self.client.next_timer()) is not None and timer <= until:
            self.now = max(self.now, timer)
            self.client.handle_timer(self.now)
            self.collect()
        self.now = max(self.now, until)

    def run(self):
        start = self.session.messages[0].time
        for message in self.session.messages:
            if self.session.transport == "udp" and message.data[:1] < b"\xf0":
                break  # the data plane has begun
            if message.direction == "S":
                # Timers fire only up to what the server said: the recorded network was never slower than our retransmission.
                self.advance(message.time - start)
                data = message.data
                if self.session.transport == "udp" and data[4:8] != bytes(4):
                    data = data[:4] + self.stamp + data[8:]  # the server echoes our time stamp, not the old client's
                self.client.receive(data, self.now)
                self.collect()
        last = self.session.messages[-1].time - start
        self.advance(last if self.name in BETTER and self.heard else last + 120)
        return self

    @property
    def heard(self):
        return len(self.session.sent("S"))

    def events(self):
        found = []
        while (event := self.client.next_event()) is not None:
            found.append(event)
        return found


def _replays():
    for name in names():
        if name in TABLES or name in NOT_REPLAYED:
            continue
        recording = load(name)
        number = 0
        for session in recording.sessions():
            if session.messages and session.messages[0].text.startswith(b"VERSION="):
                number += 1
                if number <= 4:  # redir-loop has the same session twenty times
                    yield pytest.param(recording, session, id=f"{name}-{number}",
                                       marks=[needs_passdss] if name in PASSDSS and session.sent("S") else [])


def replays():
    return list(_replays())


def test_no_recording_is_forgotten():
    replayed = {parameter.values[0].name for parameter in replays()}
    assert replayed | set(NOT_REPLAYED) | set(TABLES) == set(names())
    assert not replayed & set(NOT_REPLAYED)


def without_stray_nul(text):
    return text.replace(b"\r\n\0", b"\r\n", 1) if text.startswith(b"AUTHENTICATE") else text


@pytest.mark.parametrize("recording, session", replays())
def test_our_bytes_are_the_old_clients_bytes(recording, session):
    replay = Replay(recording, session).run()
    recorded = session.sent("C")
    if session.transport == "tcp":
        theirs = b"".join(without_stray_nul(m.text) for m in recorded)
        ours = b"".join(replay.said)
    else:
        theirs = [without_stray_nul(m.text) for m in recorded]
        ours = list(replay.said)
    if recording.name in PASSDSS and replay.heard:
        # Up to the exchange value, which is random.
        if session.transport == "udp":
            assert ours[:2] == theirs[:2] and len(ours) == 3 <= len(theirs)
        else:
            length = theirs.index(b"PASSDSS-3DES-1\r\n") + 16
            assert ours[:length] == theirs[:length] and replay.said[-1].startswith(b"AUTHENTICATE PASSDSS-3DES-1\r\nAAAA")
        return
    if recording.name in BETTER or not replay.heard:
        # The old client stopped early: by a defect, or because an ICMP error told it that nobody listens.
        assert ours[:len(theirs)] == theirs
        assert len(ours) >= len(theirs)
    else:
        assert ours == theirs
    if session.transport == "udp":
        assert replay.sequences[:len(recorded)] == [m.data[:4] for m in recorded]


@pytest.mark.parametrize("name", ["rto-drop2", "rto-midsilent", "rto-silent-v6udpv4", "rto-silent-v6anyv4"])
def test_retransmissions_come_when_the_old_clients_came(name):
    recording = load(name)
    session = next(s for s in recording.sessions() if s.transport == "udp")
    replay = Replay(recording, session).run()
    recorded = [m.time - session.messages[0].time for m in session.sent("C")]
    assert len(replay.times) == len(recorded)
    for ours, theirs in zip(replay.times, recorded):
        assert ours == pytest.approx(theirs, abs=0.05)


def test_the_time_stamp_is_fresh_on_each_retransmission():
    recording = load("rto-silent-v6udpv4")
    client = client_for(recording, recording.sessions()[0])
    client.connect(0.0)
    stamps = []
    for now in (0.0, 2.0, 4.0):
        client.handle_timer(now)
        stamps += [int.from_bytes(data[4:8], "big") for data in client.data_to_send(now)]
    assert [stamp - stamps[0] for stamp in stamps] == [0, 2000, 4000]
    assert 0 <= stamps[0] < 1000


def expected_end(recording, session):
    """(state, error code or None) that the recording, or our better knowledge, asks for."""
    if recording.name in BETTER and session.sent("S"):
        return BETTER[recording.name][0], None
    if not session.sent("S"):
        return "FAILED", "no_answer"
    if recording.name in PASSDSS:
        return "FAILED", "server_not_authentic"
    if any(b"accept" in message.text for message in session.sent("C")):
        return "COMPLETED", None
    last = b"".join(m.text for m in session.sent("S")[-1:])
    last = re.sub(rb"\AContent-length: \d+\r\n", b"", last, flags=re.IGNORECASE)
    if b"VERSION=1.0.1" in session.sent("C")[0].text:
        return "COMPLETED", None
    if recording.name in REFUSED:
        return "FAILED", REFUSED[recording.name]
    status = int(last[:4].split()[0])
    return ("REDIRECTED", None) if status > 1000 else ("FAILED", MEANINGS[status].code)


@pytest.mark.parametrize("recording, session", replays())
def test_the_end_is_the_recorded_one(recording, session):
    replay = Replay(recording, session).run()
    found = replay.events()
    state, code = expected_end(recording, session)
    assert replay.client.state == state, found
    last_words = [event for event in found if isinstance(event, (events.Completed, events.Failed, events.Redirected))]
    if state == "COMPLETED":
        assert [type(event) for event in found] == [events.CapabilitiesReceived, events.Authenticated, events.Granted, events.Completed]
    elif state == "FAILED":
        assert len(last_words) == 1 and isinstance(found[-1], events.Failed)
        if code is not None:
            assert found[-1].error.code == code
        assert found[-1].error.hint
        if recording.conf["passwd"]:
            assert recording.conf["passwd"] not in str(found[-1].error.to_dict())
    elif state == "REDIRECTED":
        assert len(last_words) == 1 and found[-1].brokers
    else:
        assert last_words == []


@pytest.mark.parametrize("recording, session", replays())
def test_the_grant_is_what_the_template_script_was_told(recording, session):
    granted = [event for event in Replay(recording, session).run().events() if isinstance(event, events.Granted)]
    if not granted or not recording.env:
        return
    # With several sessions the environment is that of the first tunnel; the recorded servers grant the same each time.
    grant, env = granted[0].grant, recording.env
    assert grant.mode == env["TSP_TUNNEL_MODE"]
    assert grant.client.ipv4 == IPv4Address(env["TSP_CLIENT_ADDRESS_IPV4"])
    assert grant.client.ipv6 == IPv6Address(env["TSP_CLIENT_ADDRESS_IPV6"])
    assert grant.server.ipv4 == IPv4Address(env["TSP_SERVER_ADDRESS_IPV4"])
    assert grant.server.ipv6 == IPv6Address(env["TSP_SERVER_ADDRESS_IPV6"])
    assert grant.client.dns_name == env.get("TSP_CLIENT_DNS_NAME")
    if "TSP_PREFIXLEN" in env:
        assert grant.prefix is not None and grant.prefix.prefixlen == int(env["TSP_PREFIXLEN"])
        groups = env["TSP_PREFIX"].rstrip(":")
        assert grant.prefix == ip_network(f"{groups}::/{env['TSP_PREFIXLEN']}", strict=False)
    else:
        assert grant.prefix is None
    if recording.conf["keepalive"] == "no":
        assert grant.keepalive is None
    elif recording.name != "ka-server60":
        assert grant.keepalive is not None and grant.keepalive.interval == int(recording.conf["keepalive_interval"])
    else:
        assert grant.keepalive is not None and grant.keepalive.interval == 60
    assert grant.lifetime == 604800
    assert len(granted[0].warnings) == WARNINGS.get(recording.name, 0), granted[0].warnings


@pytest.mark.parametrize("recording, session", replays())
def test_only_expected_tolerances_are_counted(recording, session):
    replay = Replay(recording, session).run()
    quirks = dict(replay.client.quirks)
    if recording.name.startswith("tsps-"):
        quirks.pop("address_compressed", None)  # its style
    if recording.name == "stub-prefix-compressed-48":
        assert quirks.pop("address_compressed") >= 1
    if not replay.heard:
        assert quirks == {}
        return
    if recording.name == "stub-create-caplen":
        quirks.pop("content_length_long", None)  # its last octets are a second line end
    assert quirks == QUIRKS.get(recording.name, {}), "a tolerance was counted that nobody expected"


def test_the_redirect_lists_are_those_of_the_recordings():
    expected = {
        "redir-single": [("ipv4", "192.0.2.253")],
        "redir-1302": [("ipv4", "192.0.2.253")],
        "redir-version": [("ipv4", "192.0.2.252"), ("ipv4", "192.0.2.253")],
        "redir-create": [("ipv4", "192.0.2.252"), ("ipv4", "192.0.2.253")],
    }
    for name, brokers in expected.items():
        recording = load(name)
        found = Replay(recording, recording.answered()[0]).run().events()[-1]
        assert isinstance(found, events.Redirected)
        assert [(broker.family, broker.address) for broker in found.brokers] == brokers, name
        assert all(broker.port is None for broker in found.brokers)


def test_a_broker_that_is_gone_or_of_another_family_stays_in_the_list():
    recording = load("redir-dead")
    found = Replay(recording, recording.answered()[0]).run().events()[-1]
    assert {broker.family for broker in found.brokers} == {"ipv4", "ipv6", "dn"}


# stub-create-variants: what the old client did with odd answers to create; re-made from their names and tsp-protocol.md 1.5 and 4.3.

OK_BODY = (
    '200 Success\r\n<tunnel action="info" type="v6v4" lifetime="604800">\r\n'
    '  <server>\r\n    <address type="ipv4">192.0.2.254</address>\r\n    <address type="ipv6">2001:db8:4000::4</address>\r\n  </server>\r\n'
    '  <client>\r\n    <address type="ipv4">192.0.2.1</address>\r\n    <address type="ipv6">2001:db8:4000::5</address>\r\n'
    '    <keepalive interval="30">\r\n      <address type="ipv6">2001:db8:4000::4</address>\r\n    </keepalive>\r\n'
    '  </client>\r\n</tunnel>\r\n')


def headed(body, length=None, header="Content-length: {}\r\n"):
    return (header.format(len(body) if length is None else length) + body).encode()


def sub(pattern, replacement):
    changed = re.sub(pattern, replacement, OK_BODY)
    assert changed != OK_BODY
    return headed(changed)


VARIANTS = {
    "ok": (headed(OK_BODY), ()),
    "singlequote": (sub('"', "'"), ("xml_single_quotes",)),
    "prolog": (sub("<tunnel", '<?xml version="1.0"?>\r\n<tunnel'), ("xml_prolog",)),
    "comment": (sub(r'(ipv[46]">)(192.0.2.1<|2001:db8:4000::5)', r"\1<!-- here -->\2"), ("xml_comment",)),
    "wsaddr": (sub(r'(ipv6">)([^<]*)', r"\1 \2 "), ("xml_blank_in_value",)),
    "upper": (sub(r"( action| type| lifetime| interval)=", lambda match: match[0].upper()), ("xml_case",)),
    "uppertag": (sub(r"(</?)(\w+)", lambda match: match[1] + match[2].upper()), ("xml_case",)),
    "uppervalue": (sub(r'"(info|v6v4|ipv4|ipv6)"', lambda match: match[0].upper()), ("xml_value_case",)),
    "lenminus5": (headed(OK_BODY, len(OK_BODY) - 5), ("content_length_short",)),
    "lenplus0lf": (headed(OK_BODY.replace("\r\n", "\n")), ("line_feed_only",)),
    "nocrlfend": (headed(OK_BODY.rstrip("\r\n")), ()),
    "nospacehdr": (headed(OK_BODY, header="Content-length:{}\r\n"), ("header_spacing",)),
    "zerohdr": (headed(OK_BODY, header="Content-length: 000{}\r\n"), ("content_length_zeros",)),
    "lfhdr": (headed(OK_BODY, header="Content-length: {}\n"), ("line_feed_only",)),
    "unknownelem": (sub("</client>", "  <colour><shade depth=\"3\">blue</shade></colour>\r\n  </client>"), ("xml_unknown_element",)),
    "nolifetime": (sub(' lifetime="604800"', ""), ("lifetime_missing",)),
    "noserver6": (sub(r'    <address type="ipv6">2001:db8:4000::4</address>\r\n  </server>', "  </server>"), None),
    "noka": (sub(r"(?s)    <keepalive.*</keepalive>\r\n", ""), ("keepalive_missing",)),
    "kazero": (sub('interval="30"', 'interval="0"'), ("keepalive_zero",)),
    "plus50": (headed(OK_BODY, len(OK_BODY) + 50), ("content_length_long",)),
    "status201": (sub("200 Success", "201 OK"), ("status_2xx",)),
    "noreason": (sub("200 Success", "200"), ("reason_missing",)),
    "selfclose": (sub("</client>", '  <colour name="blue"/>\r\n  </client>'), ("xml_unknown_element",)),
}


def test_every_variant_is_made_again():
    assert {row[0] for row in load_table("stub-create-variants")} == set(VARIANTS)


def at_create(transport):
    client = TspClient(ClientConfig(transport=transport, server="192.0.2.254", request=TunnelRequest(mode="v6v4"), version="2.0.1",
                                    local_address=IPv4Address("192.0.2.1"), rng=counting_rng(), auth_method="anonymous"))
    client.connect(0.0)
    for text in (b"CAPABILITY TUNNEL=V6V4 AUTH=ANONYMOUS\r\n", b"200 Success\r\n"):
        answer(client, transport, text)
    assert client.state == "WAIT_GRANT"
    return client


def answer(client, transport, text, piece=None):
    sent = client.data_to_send(0.0)
    if transport == "udp":
        client.receive(sent[-1][:8] + text, 0.0)
    else:
        for at in range(0, len(text), piece or len(text)):
            client.receive(text[at:at + (piece or len(text))], 0.0)


@pytest.mark.parametrize("transport, piece", [("udp", None), ("tcp", None), ("tcp", 1), ("tcp", 7)])
@pytest.mark.parametrize("name", VARIANTS)
def test_variants_of_a_create_answer(name, transport, piece):
    text, quirks = VARIANTS[name]
    accepted_by_old = any(row[0] == name and row[3] for row in load_table("stub-create-variants"))
    client = at_create(transport)
    answer(client, transport, text, piece)
    now = 0.0
    while client.state == "WAIT_GRANT" and client.next_timer() is not None and now < 60:
        now = client.next_timer()
        client.handle_timer(now)
    if quirks is None:
        assert not accepted_by_old and client.state == "FAILED"
        found = [client.next_event() for _unused in range(3)][-1]
        assert found.error.code == "bad_grant"
        assert b'<tunnel action="reject"></tunnel>\r\n' in b"".join(client.data_to_send(now))
        return
    assert client.state in ("WAIT_CONFIRM", "COMPLETED"), "refused what can be read"
    found = []
    while (event := client.next_event()) is not None:
        found.append(event)
    grant = next(event.grant for event in found if isinstance(event, events.Granted))
    assert grant.client.ipv6 == IPv6Address("2001:db8:4000::5") and grant.server.ipv6 == IPv6Address("2001:db8:4000::4")
    counted = set(client.quirks) - {"address_compressed"}
    assert set(quirks) <= counted and counted <= {*quirks, "content_length_short", "content_length_long"}
    assert b'Content-length: 35\r\n<tunnel action="accept"></tunnel>\r\n' in b"".join(client.data_to_send(now))

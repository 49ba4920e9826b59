# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The XML of TSP, both directions: layout to the byte, and what becomes of everything that may be wrong in it."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_network

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp import xml_write
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.errors import RemoteError
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.events import BrokerAddress
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.lease import MAX_LIFETIME, Endpoint, Keepalive
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.messages import (
    ClientMessage,
    Refusal,
    read_address,
    read_brokers,
    read_client,
    read_grant,
)
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.quirks import QUIRKS, count
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.request import TunnelRequest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.xml_read import XmlError, parse
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._tsp._pair import CLIENT_V4, a_grant

S6 = "2001:0db8:4000:0000:0000:0000:0000:0004"
C6 = "2001:0db8:4000:0000:0000:0000:0000:0005"
SERVER = f'<server><address type="ipv4">192.0.2.254</address><address type="ipv6">{S6}</address></server>'
ENDS = f'<address type="ipv4">192.0.2.1</address><address type="ipv6">{C6}</address>'
KEEPALIVE = f'<keepalive interval="30"><address type="ipv6">{S6}</address></keepalive>'


def info(client=ENDS + KEEPALIVE, *, server=SERVER, attributes='action="info" type="v6v4" lifetime="604800"', more=""):
    return f"<tunnel {attributes}>{server}<client>{client}</client>{more}</tunnel>".encode()


def grant_of(body, request=None, **how):
    quirks = []
    grant = read_grant(body, quirks.append, request or TunnelRequest(mode="v6v4"), **how)
    assert set(quirks) <= set(QUIRKS)
    return grant, quirks


# What we send.


def test_create_of_a_router_is_the_old_clients():
    request = TunnelRequest(mode="v6anyv4", host_type="router", prefix_length=60, dns_servers=("ns1.example", "ns2.example"))
    assert xml_write.create(request, CLIENT_V4) == (
        b'Content-length: 394\r\n<tunnel action="create" type="v6anyv4" proxy="no">\r\n <client>\r\n  <address type="ipv4">192.0.2.1'
        b'</address>\r\n  <keepalive interval="30">\r\n    <address type="ipv6">::</address>\r\n  </keepalive>\r\n  <router>\r\n'
        b'   <prefix length="60"/>\r\n   <dns_server>\r\n     <address type="dn">ns1.example</address>\r\n'
        b'     <address type="dn">ns2.example</address>\r\n   </dns_server>\r\n  </router>\r\n </client>\r\n</tunnel>\r\n')


@pytest.mark.parametrize("mode, length", [("v6v4", 211), ("v6udpv4", 214), ("v6anyv4", 214)])
def test_create_of_a_host_has_the_recorded_length(mode, length):
    assert xml_write.create(TunnelRequest(mode=mode), CLIENT_V4).startswith(b"Content-length: %d\r\n" % length)


def test_create_by_proxy_without_keepalive():
    request = TunnelRequest(mode="v6v4", proxy=True, keepalive=False)
    assert xml_write.create(request, IPv4Address("192.0.2.77")) == (
        b'Content-length: 129\r\n<tunnel action="create" type="v6v4" proxy="yes">\r\n <client>\r\n'
        b'  <address type="ipv4">192.0.2.77</address>\r\n </client>\r\n</tunnel>\r\n')


def test_create_v4v6():
    request = TunnelRequest(mode="v4v6", host_type="router")
    text = xml_write.create(request, IPv6Address("2001:db8::1"))
    assert b'<address type="ipv6">2001:db8::1</address>' in text
    assert b'<address type="ipv4">127.0.0.1</address>' in text
    assert b'<prefix length="24"/>' in text


def test_info_is_what_old_clients_know():
    grant = a_grant("v6udpv4", prefix=ip_network("2001:db8:4000:20::/60"), client=Endpoint(
        CLIENT_V4, IPv6Address("2001:db8:4000::5"), "alice.broker.example"))
    assert xml_write.info(grant) == (
        b'Content-length: 664\r\n200 Success\r\n<tunnel action="info" type="v6udpv4" lifetime="604800">\r\n  <server>\r\n'
        b'    <address type="ipv4">192.0.2.254</address>\r\n    <address type="ipv6">2001:0db8:4000:0000:0000:0000:0000:0004</address>\r\n'
        b'  </server>\r\n  <client>\r\n    <address type="ipv4">192.0.2.1</address>\r\n'
        b'    <address type="ipv6">2001:0db8:4000:0000:0000:0000:0000:0005</address>\r\n'
        b'    <address type="dn">alice.broker.example</address>\r\n    <router>\r\n'
        b'      <prefix length="60">2001:0db8:4000:0020:0000:0000:0000:0000</prefix>\r\n    </router>\r\n    <keepalive interval="30">\r\n'
        b'      <address type="ipv6">2001:0db8:4000:0000:0000:0000:0000:0004</address>\r\n    </keepalive>\r\n  </client>\r\n</tunnel>\r\n')


def test_info_names_our_own_end_where_nobody_else_is_to_be_pinged():
    text = xml_write.info(a_grant(keepalive=Keepalive(60)))
    assert b'<keepalive interval="60">\r\n      <address type="ipv6">2001:0db8:4000:0000:0000:0000:0000:0004</address>' in text


@pytest.mark.parametrize("mode", ["v6v4", "v6udpv4", "v4v6"])
def test_what_is_written_is_read_back(mode):
    prefix = "203.0.113.0/28" if mode == "v4v6" else "2001:db8:4100::/48"
    grant = a_grant(mode, prefix=ip_network(prefix), dns_servers=("ns.example",))
    text = xml_write.info(grant)
    body = text[text.index(b"<tunnel"):]
    assert grant_of(body, TunnelRequest(mode=mode)) == (grant, [])


def test_status_lines_hold_no_control_characters():
    assert xml_write.status_line(500, "no\r\n200 Success\0") == b"500 no200 Success\r\n"
    assert xml_write.status_line(301) == b"301 No more tunnels available\r\n"


def test_redirection():
    brokers = (BrokerAddress("ipv4", "192.0.2.252"), BrokerAddress("ipv6", "2001:db8::1", 4000), BrokerAddress("dn", "b.example", 3653))
    text = xml_write.redirection(brokers)
    assert text.startswith(b'1200 Redirection\r\n<tunnel action="list" type="broker">\r\n  <broker>\r\n')
    assert b'<address type="ipv6">[2001:db8::1]:4000</address>' in text
    assert b'<address type="dn">b.example</address>' in text


# XML as such.


@pytest.mark.parametrize("text", [
    b'<!DOCTYPE tunnel [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]><tunnel>&b;</tunnel>',
    b'<!DOCTYPE tunnel SYSTEM "file:///etc/passwd"><tunnel/>',
    b"<!DOCTYPE tunnel><tunnel/>",
    b'<?xml version="1.0"?><?php echo 1 ?><tunnel/>',
    b"<tunnel>&undefined;</tunnel>",
    b"<tunnel>", b"<tunnel", b"", b"no xml", b"<tunnel/><tunnel/>", b"<list/>", b"<tunnel a='1' A='2'/>", b"<tunnel a='1' a='2'/>",
    b"<tunnel>\xff\xfe</tunnel>", b"<tunnel>" + b"<a>" * 20, b"<tunnel>" + b"<a/>" * 2000 + b"</tunnel>",
    b"<tunnel>" + b" " * 70000 + b"</tunnel>", '<?xml version="1.0" encoding="utf-16"?><tunnel/>'.encode("utf-16"),
])
def test_xml_that_is_refused(text):
    if text == b"<tunnel>":
        assert parse(text, lambda _name: None).tag == "tunnel"  # only the end tag is missing, which is forgiven
        return
    with pytest.raises(XmlError):
        parse(text, lambda _name: None)


@pytest.mark.parametrize("text, quirk", [
    (b'<?xml version="1.0" encoding="iso-8859-1"?><tunnel/>', "xml_prolog"),
    (b"<tunnel><!-- hello --></tunnel>", "xml_comment"),
    (b"<tunnel type='v6v4'/>", "xml_single_quotes"),
    (b"<TUNNEL></TUNNEL>", "xml_case"),
    (b'<tunnel TYPE="v6v4"/>', "xml_case"),
    (b"<tunnel><hello/></tunnel>", "xml_unknown_element"),
    (b"<tunnel><server></server>", "xml_root_unclosed"),
    (b"<tunnel>\0\0</tunnel>", "xml_nul"),
])
def test_xml_that_is_tolerated(text, quirk):
    quirks = []
    assert parse(text, quirks.append).tag == "tunnel"
    assert quirks == [quirk]


# Grants.


def test_a_plain_grant():
    assert grant_of(info()) == (a_grant(), [])


def test_the_layout_does_not_matter():
    body = b'<tunnel\n\taction = "info"\n type="v6v4" lifetime="604800">' + info().split(b">", 1)[1].replace(b"><", b">\n\t<")
    assert grant_of(body)[0] == a_grant()


@pytest.mark.parametrize("body, quirks, changes", [
    (info(ENDS), ["keepalive_missing"], {"keepalive": None}),
    (info(ENDS + '<keepalive interval="0"/>'), ["keepalive_zero"], {"keepalive": None}),
    (info(ENDS + KEEPALIVE.replace("30", "99999999")), ["keepalive_capped"], {"keepalive": Keepalive(86400, IPv6Address(S6))}),
    (info(ENDS + "<keepalive/>"), ["keepalive_interval_missing", "keepalive_address_missing"], {"keepalive": Keepalive(30)}),
    (info(ENDS + KEEPALIVE.replace(S6, "::")), ["keepalive_address_unusable"], {"keepalive": Keepalive(30)}),
    (info(ENDS + KEEPALIVE.replace(S6, "no address")), ["keepalive_address_unusable"], {"keepalive": Keepalive(30)}),
    (info(ENDS + KEEPALIVE.replace("ipv6", "ipv4").replace(S6, "127.0.0.1")), ["keepalive_address_unusable"], {"keepalive": Keepalive(30)}),
    (info(ENDS, more=KEEPALIVE), ["keepalive_misplaced"], {}),
    (info(ENDS + f"<router>{KEEPALIVE}</router>"), ["keepalive_misplaced"], {}),
    (info(attributes='action="info" type="v6v4"'), ["lifetime_missing"], {"lifetime": None}),
    (info(attributes='action="info" type="v6v4" lifetime="0"'), ["lifetime_zero"], {"lifetime": None}),
    (info(attributes='action="info" type="v6v4" lifetime="99999999999"'), ["lifetime_capped"], {"lifetime": MAX_LIFETIME}),
    (info(attributes=f'action="info" type="v6v4" lifetime="{2**64 - 1}"'), ["lifetime_capped"], {"lifetime": MAX_LIFETIME}),
    (info(attributes='action="INFO" type="V6V4" lifetime="604800"'), ["xml_value_case"], {}),
    (info(attributes='action="create" type="v6v4" lifetime="604800"'), ["action_unexpected"], {}),
    (info().replace(C6.encode(), b"2001:db8:4000::5"), ["address_compressed"], {}),
    (info().replace(b"192.0.2.1<", b"\r\n  192.0.2.1 <"), ["xml_blank_in_value"], {}),
    (info().replace(b'"30"', b'" 30 "'), ["xml_blank_in_value"], {}),
    (info(ENDS + ENDS + KEEPALIVE), ["address_repeated"], {}),
    (info(ENDS.replace(' type="ipv4"', "") + KEEPALIVE), ["address_type_missing"], {}),
    (info(ENDS.replace('"ipv4"', '"ipv6"') + KEEPALIVE), ["address_type_wrong"], {}),
    (info(ENDS + '<address type="ns">2001:db8::53</address>' + KEEPALIVE), ["address_type_ns"], {}),
    (info(ENDS + '<address type="mac">00:00:5e:00:53:01</address>' + KEEPALIVE), ["address_type_unknown"], {}),
    (info(ENDS + '<router><prefix length="48"/></router>' + KEEPALIVE), ["prefix_empty"], {}),
    (info(ENDS + '<router><dns_server><address type="ipv6">2001:db8::53</address></dns_server></router>' + KEEPALIVE),
     ["dns_server_address"], {}),
])
def test_tolerances(body, quirks, changes):
    assert grant_of(body) == (a_grant(**changes), quirks)


@pytest.mark.parametrize("prefix, quirks", [
    ('<prefix length="56">2001:0db8:4100:0200:0000:0000:0000:0000</prefix>', []),
    ('<prefix length="56">2001:db8:4100:200::</prefix>', ["address_compressed"]),
    ("<prefix>2001:db8:4100:200::/56</prefix>", ["prefix_with_length", "address_compressed"]),
    ('<prefix length="56">2001:db8:4100:200::/56</prefix>', ["prefix_with_length", "address_compressed"]),
    ('<prefix length="56">2001:0db8:4100:0234:0000:0000:0000:0001</prefix>', ["prefix_host_bits"]),
])
def test_prefixes(prefix, quirks):
    body = info(f"{ENDS}<router>{prefix}<dns_server><address type='dn'>ns.example</address></dns_server></router>{KEEPALIVE}")
    grant, counted = grant_of(body)
    assert grant.prefix == ip_network("2001:db8:4100:200::/56")
    assert grant.dns_servers == ("ns.example",)
    assert [quirk for quirk in counted if quirk != "xml_single_quotes"] == quirks


HOSTILE = ("a;reboot", "a\nb", "$(reboot)", "`reboot`", "a b", "-rf", "a..b", "x" * 64, "é.example", "!", "a/../b", "end")
ROUTER = '<router><prefix length="{}">{}</prefix></router>'


@pytest.mark.parametrize("body", [
    info(server=SERVER.replace("192.0.2.254", "192.0.2.256")),
    info(server=SERVER.replace("192.0.2.254", "192.0.2.254; reboot")),
    info(server=SERVER.replace("192.0.2.254", "0.0.0.0")),
    info(server=SERVER.replace("192.0.2.254", "224.0.0.1")),
    info(server=SERVER.replace("192.0.2.254", "255.255.255.255")),
    info(server=SERVER.replace(S6, "::1")),
    info(server=SERVER.replace(S6, "::")),
    info(server=SERVER.replace(S6, "ff02::1")),
    info(server=SERVER.replace(S6, "fe80::1")),
    info(server=SERVER.replace(S6, "2001:db8::1%eth0")),
    info(server=SERVER.replace(S6, "2001:db8::1%$(reboot)")),
    info(server=SERVER.replace(S6, "::ffff:192.0.2.9")),
    info(server=SERVER.replace(S6, "2001:db8::1&#10;reboot")),
    info(server=SERVER.replace("192.0.2.254", "192.0.02.254")),
    info(server=SERVER.replace("192.0.2.254", "192.0.2.25٤")),
    info(server=SERVER.replace("192.0.2.254", "3221226238")),
    info(attributes='action="info" type="v6v4" lifetime="٦٠"'),
    info(attributes='action="info" type="v6v4" lifetime="+60"'),
    info(attributes='action="info" type="v6v4" lifetime="6_0"'),
    info(attributes='action="info" type="v6v4" lifetime="0x60"'),
    info(attributes=f'action="info" type="v6v4" lifetime="{"9" * 5000}"'),
    info(ENDS + '<keepalive interval="-30"/>'),
    info(ENDS + '<keepalive interval="3_0"/>'),
    info(ENDS + ROUTER.format("٤٨", "2001:db8:4100::")),
    info(ENDS + ROUTER.format("+48", "2001:db8:4100::")),
    info(ENDS + ROUTER.format("4_8", "2001:db8:4100::")),
    info(ENDS + ROUTER.format("-48", "2001:db8:4100::")),
    info(ENDS + ROUTER.format(1, "8000::")),
    info(ENDS + ROUTER.format(4, "f000::")),
    info(ENDS + ROUTER.format(96, "::ffff:0:0")),
    info(ENDS + ROUTER.format(64, "64:ff9b::")),
    info(server=SERVER.replace(f'<address type="ipv6">{S6}</address>', "")),
    info(server=SERVER + SERVER),
    info(server=SERVER.replace("</server>", '<address type="ipv4">192.0.2.253</address></server>')),
    info(ENDS.replace(C6, S6).replace("192.0.2.1", "192.0.2.254")),
    info('<address type="ipv4">192.0.2.1</address>'),
    info(attributes='action="info" type="v6anyv4"'),
    info(attributes='action="info" type="gre"'),
    info(attributes='action="info"'),
    info(attributes='action="info" type="v6v4" lifetime="long"'),
    info(attributes='action="info" type="v6v4" lifetime="-1"'),
    info(attributes='action="info" type="v6v4" lifetime="1e9"'),
    info(ENDS + '<keepalive interval="soon"/>'),
    info(ENDS + f'<keepalive interval="{"9" * 21}"/>'),
    info(ENDS + ROUTER.format(48, "192.0.2.0")),
    info(ENDS + ROUTER.format(24, "203.0.113.0")),
    info(ENDS + ROUTER.format(129, "2001:db8:4100::")),
    info(ENDS + ROUTER.format(0, "2001:db8:4100::")),
    info(ENDS + ROUTER.format("", "2001:db8:4100::")),
    info(ENDS + ROUTER.format("48; reboot", "2001:db8:4100::")),
    info(ENDS + ROUTER.format(48, "2001:db8:4100::/56")),
    info(ENDS + ROUTER.format(48, "2001:db8:4100")),
    info(ENDS + ROUTER.format(8, "ff00::")),
    info(ENDS + ROUTER.format(10, "fe80::")),
    info(ENDS + "<router><prefix length='48'>2001:db8:1::</prefix><prefix length='48'>2001:db8:2::</prefix></router>"),
    *[info(f'{ENDS}<address type="dn">{name}</address>') for name in HOSTILE if name != "end"],
    info(ENDS + '<address type="dn">a.example</address><address type="dn">b.example</address>'),
    *[info(f'{ENDS}<router><dns_server><address type="dn">{name}</address></dns_server></router>') for name in HOSTILE if name != "end"],
    info(ENDS + "<router><dns_server>" + "".join(f"<address type='dn'>n{n}.example</address>" for n in range(20))
         + "</dns_server></router>"),
])
def test_grants_of_no_use(body):
    with pytest.raises(RemoteError) as caught:
        grant_of(body)
    assert caught.value.code == "bad_grant"
    assert caught.value.message.isprintable()
    for name in HOSTILE[:5]:
        assert name not in caught.value.message


@pytest.mark.parametrize("length, prefix", [(48, "2002:c000:2fe::"), (64, "2002:c000:201:7::"), (16, "2002::"), (3, "2000::")])
def test_a_prefix_that_contains_an_outer_address(length, prefix):
    with pytest.raises(RemoteError) as caught:
        grant_of(info(ENDS + ROUTER.format(length, prefix)))
    assert caught.value.code == "bad_grant" and "contains the tunnel's own outer endpoint 192.0.2." in caught.value.message
    assert str(grant_of(info(ENDS + ROUTER.format(48, "2002:c000:203::")))[0].prefix) == "2002:c000:203::/48"


@pytest.mark.parametrize("body", [
    b"<tunnel/>", b'<tunnel action="list"><broker/></tunnel>', info(server=""), b"<html></html>", b"<tunnel><!"])
def test_what_is_no_grant_at_all(body):
    with pytest.raises(RemoteError) as caught:
        grant_of(body)
    assert caught.value.code == "protocol_error"


def test_the_brokers_port_goes_into_v6udpv4_only():
    udp = info(attributes='action="info" type="v6udpv4" lifetime="604800"')
    assert grant_of(udp, server_port=4000)[0].server.udp_port == 4000
    assert grant_of(info(), server_port=4000)[0].server.udp_port is None


@pytest.mark.parametrize("text", [
    "", "1", "1.2.3", "1.2.3.4.5", "01.2.3.4567", "::g", ":", "1::2::3", "2001:db8::1%1", "::1 ", "a.example", "\u0663.1.1.1"])
def test_what_is_no_address(text):
    assert read_address(text) is None


# Broker lists.


def brokers_of(entries, **how):
    quirks = []
    body = '<tunnel action="list" type="broker"><broker>' + entries + "</broker></tunnel>"
    return read_brokers(body.encode(), quirks.append, **how), quirks


def entry(kind, text):
    return f'<address type="{kind}">{text}</address>'


def test_a_broker_list_keeps_its_order():
    entries = entry("dn", "B.Example.") + entry("ipv6", "2001:db8::1") + "</broker><broker>" + entry("ipv4", "192.0.2.9")
    assert brokers_of(entries) == ((
        BrokerAddress("dn", "b.example"), BrokerAddress("ipv6", "2001:db8::1"), BrokerAddress("ipv4", "192.0.2.9")), [])


@pytest.mark.parametrize("text, broker", [
    ("192.0.2.9:4000", BrokerAddress("ipv4", "192.0.2.9", 4000)),
    ("[2001:db8::1]:4000", BrokerAddress("ipv6", "2001:db8::1", 4000)),
    ("[2001:db8::1]", BrokerAddress("ipv6", "2001:db8::1")),
    ("b.example:4000", BrokerAddress("dn", "b.example", 4000)),
])
def test_brokers_with_ports(text, broker):
    assert brokers_of(entry(broker.family, text)) == ((broker,), [])


@pytest.mark.parametrize("text", [
    *HOSTILE[:-1], "", "192.0.2.256", "0.0.0.0", "224.0.0.1", "127.0.0.1", "::1", "::", "fe80::1", "2001:db8::1%eth0", "b.example:0",
    "b.example:65536", "b.example:http", "[2001:db8::1", "[2001:db8::1]x", "[2001:db8::1]:"])
def test_entries_of_no_use_are_dropped(text):
    brokers, quirks = brokers_of(entry("dn", text) + entry("ipv4", "192.0.2.9"))
    assert brokers == (BrokerAddress("ipv4", "192.0.2.9"),)
    assert "redirect_entry_dropped" in quirks


def test_loopback_only_where_the_broker_is_there_too():
    assert brokers_of(entry("ipv4", "127.0.0.2"), loopback=True)[0] == (BrokerAddress("ipv4", "127.0.0.2"),)
    with pytest.raises(RemoteError):
        brokers_of(entry("ipv4", "127.0.0.2"))


def test_repeated_and_too_many_entries():
    brokers, quirks = brokers_of(entry("ipv4", "192.0.2.9") * 2)
    assert brokers == (BrokerAddress("ipv4", "192.0.2.9"),)
    assert quirks == ["redirect_entry_repeated"]
    brokers, quirks = brokers_of("".join(entry("ipv4", f"192.0.2.{n}") for n in range(1, 80)))
    assert len(brokers) == 50
    assert quirks == ["redirect_list_cut"]


@pytest.mark.parametrize("entries", ["", entry("ipv4", "no"), "<address/>"])
def test_an_empty_broker_list(entries):
    with pytest.raises(RemoteError) as caught:
        brokers_of(entries)
    assert caught.value.code == "redirect_empty"


# What a broker reads.


def test_the_old_clients_create():
    text = xml_write.create(TunnelRequest(mode="v6anyv4", host_type="router", prefix_length=60, dns_servers=("ns1.example",)), CLIENT_V4)
    message = read_client(text[text.index(b"<"):])
    assert message.action == "create"
    assert message.request == TunnelRequest(mode="v6anyv4", host_type="router", prefix_length=60, dns_servers=("ns1.example",),
                                            client_ipv4=CLIENT_V4)


@pytest.mark.parametrize("text, message", [
    (b'<tunnel action="accept"></tunnel>', ClientMessage("accept")),
    (b'<tunnel action="accept"/>', ClientMessage("accept")),
    (b'<tunnel action="accept" type="v6v4"></tunnel>', ClientMessage("accept")),
    (b'<tunnel action="reject"></tunnel>', ClientMessage("reject")),
    # tsp-ruby sends these two without any address.
    (b'<tunnel action="delete"></tunnel>', ClientMessage("delete")),
    (b'<tunnel action="info" type="v6anyv4">\n</tunnel>', ClientMessage("info")),
    ((b'<tunnel action="delete" type="v6v4"><client><address type="ipv4">192.0.2.1</address><address type="ipv6">2001:db8::5</address>'
      b"</client></tunnel>"), ClientMessage("delete", None, CLIENT_V4, IPv6Address("2001:db8::5"))),
])
def test_other_messages(text, message):
    assert read_client(text) == message


def create(client="", attributes='action="create" type="v6v4" proxy="no"'):
    return f"<tunnel {attributes}><client>{client}</client></tunnel>".encode()


@pytest.mark.parametrize("text, request_", [
    (create(), TunnelRequest(mode="v6v4", keepalive=False)),
    (create(attributes='action="create" type="V6V4"'), TunnelRequest(mode="v6v4", keepalive=False)),
    (b'<tunnel action="create" type="v6v4"/>', TunnelRequest(mode="v6v4", keepalive=False)),
    (create("<keepalive/>"), TunnelRequest(mode="v6v4", keepalive_interval=30)),
    (create('<keepalive interval="10"/>'), TunnelRequest(mode="v6v4", keepalive_interval=10)),
    (create('<keepalive interval="0"/>'), TunnelRequest(mode="v6v4", keepalive=False)),
    (create('<keepalive interval="999999999"/>'), TunnelRequest(mode="v6v4", keepalive_interval=86400)),
    (create("<router/>"), TunnelRequest(mode="v6v4", host_type="router", keepalive=False)),
    (create('<router><prefix length="0"/></router>'), TunnelRequest(mode="v6v4", host_type="router", keepalive=False)),
    (create('<address type="ipv4">127.0.0.1</address>'), TunnelRequest(mode="v6v4", keepalive=False)),
    (create(attributes='action="create" type="v6v4" proxy="YES"'), TunnelRequest(mode="v6v4", proxy=True, keepalive=False)),
])
def test_lenient_with_creates(text, request_):
    assert read_client(text).request == request_


def test_loopback_is_named_but_not_asked_for():
    assert read_client(create('<address type="ipv4">127.0.0.1</address>')).ipv4 == IPv4Address("127.0.0.1")


@pytest.mark.parametrize("text, status", [
    (b"<tunnel", 500), (b"<hello/>", 500), (b'<tunnel action="dance"/>', 500), (b"<tunnel/>", 500), (b"<!DOCTYPE tunnel><tunnel/>", 500),
    (create(attributes='action="create"'), 303), (create(attributes='action="create" type="gre"'), 303),
    (create(attributes='action="create" type="v6udpv4" proxy="yes"'), 303),
    (create('<address type="ipv4">224.0.0.1</address>'), 501), (create('<address type="ipv4">0.0.0.0</address>'), 501),
    (create('<address type="ipv4">255.255.255.255</address>'), 501), (create('<address type="ipv4">$(reboot)</address>'), 501),
    (create('<address type="ipv6">ff02::1</address>'), 502), (create('<address type="ipv6">::</address>'), 502),
    (create('<router><prefix length="129"/></router>'), 518), (create('<router><prefix length="x"/></router>'), 518),
    (create('<router><dns_server><address type="dn">a;b</address></dns_server></router>'), 509),
    (create('<router><dns_server><address type="ipv4">192.0.2.53</address></dns_server></router>'), 509),
])
def test_refused_creates(text, status):
    with pytest.raises(Refusal) as caught:
        read_client(text)
    assert caught.value.status == status
    assert caught.value.text.isprintable()


# The table of tolerances.


def test_only_tolerances_with_a_meaning_are_counted():
    quirks = {}
    count(quirks, "xml_prolog")
    count(quirks, "xml_prolog", 2)
    assert quirks == {"xml_prolog": 3}
    with pytest.raises(KeyError):
        count(quirks, "no_such_thing")
    assert all(sentence.endswith(".") and sentence.isprintable() for sentence in QUIRKS.values())

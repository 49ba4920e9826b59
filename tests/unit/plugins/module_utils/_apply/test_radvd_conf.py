# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A site's radvd.conf: what is put in comes out again, and leaves every byte of the site's as it was."""

from __future__ import annotations

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._apply import radvd_conf as conf
from hypothesis import given, settings
from hypothesis import strategies as st

SITE = """# radvd.conf of the site { not a block
interface eth1
{
    AdvSendAdvert on; # yes }
    advLinkMTU 9000;
    prefix 2001:db8:5::/64 { AdvOnLink on; AdvValidLifetime 100; };
    RDNSS 2001:db8::53 2001:db8::54 { };
    DNSSL example.net Example.org { AdvDNSSLLifetime 60; };
};
interface "odd } name" { AdvSendAdvert off; };
INTERFACE eth3 { AdvSendAdvert on; };"""
OURS = "    prefix 2001:db8:a::/64 {\n    };\n"

BLANKS = st.sampled_from(["", " ", "\n", "\n\n", "\t", "  # a { comment } \n", "\n    # tunnelbroker.tsp\n", " #\n"])
STATEMENTS = st.sampled_from(["AdvSendAdvert on;", "AdvLinkMTU 1400;", "prefix 2001:db8:5::/64 { AdvOnLink on; };", 'X "a } \\" { b";',
                              "RDNSS 2001:db8::53 { };", "clients { fe80::1; };", "a#b c;"])


@st.composite
def sites(draw):
    text = draw(BLANKS)
    for name in draw(st.lists(st.sampled_from(["eth0", "eth1", "eth2", "br-lan.7"]), unique=True)):
        inside = "".join(draw(BLANKS) + one for one in draw(st.lists(STATEMENTS, max_size=3)))
        text += f"interface {name}{draw(BLANKS)}{{{inside}{draw(BLANKS)}}}{draw(BLANKS)};{draw(BLANKS)}"
    return text + draw(st.sampled_from(["", "# no end of line", "\n"]))


STEPS = st.lists(st.tuples(st.sampled_from(["one", "two", "eth1"]), st.sampled_from(["eth0", "eth1", "eth2", "eth9"]),
                           st.sampled_from([OURS, "", OURS + OURS, None])), max_size=12)


@settings(max_examples=300, deadline=None)
@given(sites(), STEPS)
def test_whatever_is_put_in_leaves_no_trace(site, steps):
    text = site
    inside = {}
    for owner, interface, lines in steps:
        if lines is None:
            text = conf.take(text, owner, interface)
            inside.pop((owner, interface), None)
        else:
            text = conf.put(text, owner, interface, lines)
            inside[owner, interface] = lines
            assert conf.put(text, owner, interface, lines) == text
        for name in ("one", "two", "eth1"):
            assert conf.own(text, name) == {where: what for (who, where), what in inside.items() if who == name}
        assert set(conf.interfaces(text)) == set(conf.interfaces(site)) | {where for _who, where in inside}
    for owner, interface in list(inside):
        text = conf.take(text, owner, interface)
    assert text == site


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet='ab{};/#"\\ \n', max_size=40))
def test_no_text_is_too_odd_to_be_refused(text):
    try:
        out = conf.put(text, "one", "eth1", OURS)
    except conf.ConfError:
        return
    assert conf.take(out, "one", "eth1") == text


def test_what_the_site_says():
    blocks = conf.interfaces(SITE)
    assert list(blocks) == ["eth1", '"odd } name"', "eth3"]
    assert blocks["eth1"].settings == {"advsendadvert": "on", "advlinkmtu": "9000"}
    assert blocks["eth1"].lists == {"prefix": ["2001:db8:5::/64"], "rdnss": ["2001:db8::53", "2001:db8::54"],
                                    "dnssl": ["example.net", "Example.org"]}


def test_our_lines_stand_last_in_the_block_of_the_site():
    text = conf.put(SITE, "tsp", "eth1", OURS)
    assert text == SITE.replace("60; };\n};", f"60; }};\n    # BEGIN tunnelbroker.tsp tsp\n{OURS}    # END tunnelbroker.tsp tsp\n}};")


def test_a_block_of_ours_at_the_end_where_the_site_has_none():
    text = conf.put("# only a comment", "tsp", "eth7", OURS)
    assert text.startswith("# only a comment\n# BEGIN tunnelbroker.tsp eth7 interface (this breaks a line)\ninterface eth7 {\n")
    assert conf.wholly_ours(text, "eth7")
    assert not conf.wholly_ours(SITE, "eth1")


def test_what_somebody_wrote_after_us_stays_on_lines_of_its_own():
    text = conf.put("# only a comment", "tsp", "eth7", OURS) + "interface eth8 { };\n"
    assert conf.take(text, "tsp", "eth7") == "# only a comment\ninterface eth8 { };\n"


@pytest.mark.parametrize(("text", "said"), [
    ("interface eth1 {", "no end"), ("interface eth1 { }", "does not end"), ("prefix 2001:db8::/64 { };", "line 1"),
    ("\n\ninterface eth1 { 'x' };", "line 3"), ('interface eth1 { "x };', "line 1"), ("interface", "does not begin"),
    ("# BEGIN tunnelbroker.tsp tsp\n", "begins what nothing ends"), ("# END tunnelbroker.tsp tsp\n", "ends what nothing begins"),
    ("interface eth1 { # BEGIN tunnelbroker.tsp tsp\n};", "does not stand alone")])
def test_a_file_that_cannot_be_read_is_refused_with_the_place(text, said):
    with pytest.raises(conf.ConfError, match=said):
        conf.put(text, "tsp", "eth1", OURS)
        conf.parts(text)

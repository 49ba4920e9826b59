# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is advertised, and how what was advertised goes: across runs, without a memory, without the file, and by the program alone."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._apply import radvd, radvd_conf, radvd_tidy
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._apply.edits import EDITORS, EditContext
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.errors import LocalError
from hypothesis import given, settings
from hypothesis import strategies as st

NOW = 1_790_000_000
OLD, NEW = "2001:db8:a::/64", "2001:db8:b::/64"
SITE = """# the site's
interface eth1 {
    AdvSendAdvert on;
    AdvLinkMTU 1500;
    prefix 2001:db8:5::/64 { };
    RDNSS 2001:db8::53 { };
};
"""
TIDY = {"python": "/usr/bin/python3", "radvd": "/usr/sbin/radvd", "unit": "radvd.service", "state_dir": "/var/lib/tsp-apply"}


def wish(*prefixes, name="eth1", **more):
    return {"name": name, "prefixes": list(prefixes), **more}


def run(text, *wishes, state=None, now=NOW, present=True, name="tsp", **options):
    return radvd.edit(EditContext("/etc/radvd.conf", text, present, {"interfaces": list(wishes), **options}, name, state or {}, now))


def advertised(text, interface="eth1"):
    """{prefix: (valid, preferred)} as radvd would read it."""
    block = radvd_conf.interfaces(text)[interface]
    body = text[block.start:block.close]
    return {prefix: (int(valid), int(preferred)) for prefix, valid, preferred in re.findall(
        r"prefix (\S+) \{[^}]*AdvValidLifetime (\d+);\s+AdvPreferredLifetime (\d+);", body)}


def test_it_is_known_by_its_name():
    assert EDITORS["radvd"] is radvd.edit


def test_a_host_without_a_file_gets_one_that_goes_again():
    made = run(None, wish(NEW, mtu=1480, rdnss=["2001:db8::53"], dnssl=["example.net"]))
    assert made.text == """# BEGIN tunnelbroker.tsp eth1 interface
interface eth1 {
    AdvSendAdvert on;
    # BEGIN tunnelbroker.tsp tsp
    AdvLinkMTU 1480;
    prefix 2001:db8:b::/64 {
        AdvValidLifetime 5400;
        AdvPreferredLifetime 2700;
    };
    RDNSS 2001:db8::53 {
    };
    DNSSL example.net {
    };
    # END tunnelbroker.tsp tsp
};
# END tunnelbroker.tsp eth1 interface
"""
    gone = run(made.text, state=made.state, present=False)
    assert advertised(gone.text) == {NEW: (5100, 0)}
    assert "AdvDefaultLifetime 0;" in gone.text
    assert "AdvRDNSSLifetime 0;" in gone.text
    later = run(gone.text, state=gone.state, present=False, now=NOW + 5400)
    assert (later.text, later.state) == (None, {})


def test_the_block_of_the_site_is_extended_and_comes_back():
    made = run(SITE, wish(NEW, mtu=1480))
    assert made.text.replace("    # BEGIN tunnelbroker.tsp tsp\n" + made.text.partition("BEGIN tunnelbroker.tsp tsp\n")[2].partition(
        "    # END tunnelbroker.tsp tsp\n")[0] + "    # END tunnelbroker.tsp tsp\n", "") == SITE
    assert radvd_conf.interfaces(made.text)["eth1"].lists["prefix"] == ["2001:db8:5::/64", NEW]
    gone = run(made.text, state=made.state, present=False, deprecation=0)
    assert advertised(gone.text) == {NEW: (0, 0)}
    assert run(gone.text, state=gone.state, present=False, now=NOW + radvd.WITHDRAWN).text == SITE


@pytest.mark.parametrize(("site_mtu", "ours", "warned"), [("1400", None, False), ("1500", "1480", True), ("0", "1480", False),
                                                          (None, "1480", False)])
def test_the_smaller_mtu_is_advertised(site_mtu, ours, warned):
    site = SITE.replace("    AdvLinkMTU 1500;\n", f"    AdvLinkMTU {site_mtu};\n" if site_mtu else "")
    made = run(site, wish(NEW, mtu=1480))
    assert ("AdvLinkMTU 1480;" in made.text) == (ours is not None)
    assert bool(made.warnings) == warned
    assert radvd_conf.interfaces(made.text)["eth1"].settings["advlinkmtu"] == (ours or site_mtu)


def test_a_second_run_changes_nothing_also_while_a_prefix_goes():
    first = run(SITE, wish(OLD))
    second = run(first.text, wish(NEW), state=first.state)
    assert list(advertised(second.text).items()) == [(NEW, (5400, 2700)), (OLD, (5100, 0))]
    for now in (NOW, NOW + 299):
        third = run(second.text, wish(NEW), state=second.state, now=now)
        assert (third.text, third.state) == (second.text, second.state)


def test_a_prefix_that_comes_back_is_used_again():
    first = run(SITE, wish(OLD))
    second = run(first.text, wish(NEW), state=first.state)
    third = run(second.text, wish(OLD), state=second.state)
    assert advertised(third.text) == {OLD: (5400, 2700), NEW: (5100, 0)}


def test_two_hours_at_most():
    first = run(SITE, wish(OLD), valid_lifetime=86400, preferred_lifetime=14400)
    second = run(first.text, wish(NEW), state=first.state, valid_lifetime=86400, preferred_lifetime=14400)
    assert advertised(second.text)[OLD] == (6900, 0)
    assert OLD in advertised(run(second.text, wish(NEW), state=second.state, now=NOW + 7199).text)
    assert OLD not in run(second.text, wish(NEW), state=second.state, now=NOW + 7200).text


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4000), st.booleans()), min_size=1, max_size=8), st.integers(1, 7200))
def test_nothing_is_ever_promised_beyond_the_deadline(looks, deprecation):
    """Whoever looks, the next run or the program, and whenever: what hosts hear until the next look ends with the deadline."""
    first = run(SITE, wish(OLD), deprecation=deprecation, valid_lifetime=9000)
    made = run(first.text, wish(NEW), state=first.state, deprecation=deprecation)
    deadline, now, step = NOW + deprecation, NOW, radvd.step_of(deprecation)
    looked = now
    for later, by_program in looks:
        now = min(now + later, looked + step)  # by then the timer has the program look
        heard = advertised(made.text).get(OLD)
        assert heard is None or heard[0] <= max(deadline - now, 0)
        if by_program or now == looked + step:
            looked = now
            text, waiting = radvd_tidy.aged(made.text, "tsp", now, step)
            assert waiting == (now < deadline)
        else:
            text = made.text
        made = radvd.Edited(run(text, wish(NEW), state=made.state, now=now, deprecation=deprecation).text, made.state)
        assert made.text == text or now >= deadline
        assert (OLD in made.text) == (now < deadline)


def test_a_lost_memory_and_a_file_that_was_written_anew():
    first = run(SITE, wish(OLD))
    assert advertised(run(first.text, wish(NEW)).text) == {NEW: (5400, 2700), OLD: (5100, 0)}
    assert advertised(run(SITE, wish(NEW), state=first.state).text) == {NEW: (5400, 2700), OLD: (5100, 0)}


def test_two_tunnels_on_one_lan_leave_one_another_alone():
    one = run(None, wish(OLD), name="one")
    two = run(one.text, wish(NEW, default_lifetime=1800), name="two")
    assert set(advertised(two.text)) == {OLD, NEW}
    gone = run(two.text, state=one.state, name="one", present=False)
    assert advertised(gone.text) == {OLD: (5100, 0), NEW: (5400, 2700)}
    assert "AdvDefaultLifetime 0" not in gone.text
    left = run(gone.text, state=gone.state, name="one", present=False, now=NOW + 7200)
    assert run(left.text, wish(NEW, default_lifetime=1800), name="two").text == left.text
    assert set(advertised(left.text)) == {NEW}
    other = run(left.text, name="two", state=two.state, present=False)
    assert run(other.text, name="two", state=other.state, present=False, now=NOW + 9999).text is None


def test_two_transactions_cannot_advertise_one_prefix():
    one = run(SITE, wish(OLD), name="one")
    with pytest.raises(LocalError) as caught:
        run(one.text, wish(OLD), name="two")
    assert caught.value.code == "radvd_twice" and "one" in caught.value.message


def test_what_one_transaction_lets_go_another_takes_over():
    one = run(SITE, wish(OLD, NEW, rdnss=["2001:db8::54"]), name="one")
    gone = run(one.text, state=one.state, name="one", present=False)
    two = run(gone.text, wish(OLD, rdnss=["2001:db8::54"]), name="two", now=NOW + 60)
    assert advertised(two.text) == {OLD: (5400, 2700), NEW: (5100, 0)}
    assert two.text.count("RDNSS 2001:db8::54") == two.text.count(f"prefix {OLD}") == 1
    assert run(two.text, wish(OLD, rdnss=["2001:db8::54"]), name="two", state=two.state, now=NOW + 60).text == two.text
    # Nor does the first one, which remembers it, end it again.
    later = run(two.text, state=gone.state, name="one", present=False, now=NOW + 120)
    assert later.text == two.text
    assert OLD not in str(later.state) and NEW in str(later.state)


def test_what_the_site_advertises_itself_is_left_to_it():
    made = run(SITE, wish("2001:db8:5::/64", rdnss=["2001:db8:0::53"]))
    assert made.text == SITE
    assert len(made.warnings) == 2
    assert made.state == {}


def test_a_site_with_all_networks_of_the_interface_is_warned():
    assert "::/64" in run(SITE.replace("2001:db8:5::/64", "::/64"), wish(NEW)).warnings[0]


@pytest.mark.parametrize(("text", "wishes", "code"), [
    (SITE.replace("Advert on", "Advert off"), [wish(NEW)], "radvd_off"), ("interface eth1 {", [wish(NEW)], "radvd_config_invalid"),
    (SITE, [wish(NEW), wish(OLD)], "invalid_plan"), (SITE, [wish("2001:db8::1/64")], "invalid_plan"),
    (SITE, [wish(NEW, dnssl=["a b"])], "invalid_plan"), (SITE, [wish(NEW, mtu=1279)], "invalid_plan"),
    (SITE, [wish(NEW, name="eth1 {")], "invalid_plan"), (SITE, [wish(NEW, rdnss=["192.0.2.1"])], "invalid_plan")])
def test_refused(text, wishes, code):
    with pytest.raises(LocalError) as caught:
        run(text, *wishes)
    assert caught.value.code == code
    assert caught.value.hint


def test_whoever_ends_it_is_there_as_long_as_something_goes():
    first = run(SITE, wish(OLD), tidy=TIDY)
    assert set(first.others.values()) == {None}
    second = run(first.text, wish(NEW), state=first.state, tidy=TIDY)
    program, service, timer, drop_in = (second.others[path] for path in second.others)
    assert list(first.others) == list(second.others)
    compile(program, "program", "exec")
    assert "OnUnitActiveSec=270\n" in timer
    assert "Wants=tsp-deprecate-tsp.timer" in drop_in
    assert '--now "{\\"config\\"' in service


@pytest.fixture
def host(tmp_path):
    """The program of a host, its file and its memory, with stand-ins for radvd and systemctl that keep what they were told."""
    told = tmp_path / "told"
    told.touch()
    for name in ("radvd", "systemctl"):
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\necho {name} \"$*\" >> {told}\nexit $(cat {tmp_path}/{name}.rc 2>/dev/null || echo 0)\n")
        path.chmod(0o755)
    program = tmp_path / "library" / "tidy.py"
    program.parent.mkdir()
    program.write_text(radvd_tidy.program())
    job = {"name": "tsp", "config": str(tmp_path / "radvd.conf"), "step": 300, "radvd": str(tmp_path / "radvd"), "unit": "radvd.service",
           "state_dir": str(tmp_path / "state"), "timer": "t.timer", "files": [str(program)]}
    (tmp_path / "state").mkdir()

    def look(verb="--now"):
        told.write_text("")
        done = subprocess.run([sys.executable, "-B", "-E", "-s", str(program), verb, json.dumps(job)], capture_output=True, text=True,
                              env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}, check=False)
        assert "Traceback" not in done.stderr
        return done.returncode, told.read_text().splitlines()

    return tmp_path, look


def going(deadline):
    """The site's file with one prefix in use and one that goes, of which 6900 seconds were left when it was written."""
    first = run(SITE, wish(OLD), valid_lifetime=7200, now=deadline - 7200)
    return run(first.text, wish(NEW), state=first.state, valid_lifetime=7200, now=deadline - 7200).text


def test_the_program_lets_numbers_follow_the_clock(host):
    folder, look = host
    deadline = int(radvd_tidy.time.time()) + 3600
    (folder / "radvd.conf").write_text(going(deadline))
    rc, told = look()
    assert rc == 0
    assert 3000 <= advertised((folder / "radvd.conf").read_text())[OLD][0] <= 3300
    assert told == [f"radvd --configtest --config {folder}/radvd.conf", "systemctl --no-ask-password try-reload-or-restart radvd.service"]
    (folder / "radvd.conf").write_text(going(deadline))
    assert look("--begin")[1] == told[:1]


def test_the_program_ends_what_is_over_and_itself(host):
    folder, look = host
    (folder / "radvd.conf").write_text(going(int(radvd_tidy.time.time()) - 1))
    rc, told = look()
    assert rc == 0
    assert advertised((folder / "radvd.conf").read_text()) == {NEW: (7200, 2700)}
    assert not (folder / "library").exists()
    assert told[-2:] == ["systemctl --no-ask-password stop t.timer", "systemctl --no-ask-password daemon-reload"]


@pytest.mark.parametrize("was", [{"active": False, "enabled": False}, {"active": True, "enabled": True}])
@pytest.mark.parametrize("tunnel", [False, True], ids=["teardown", "the tunnel stays"])
def test_what_is_left_when_the_program_has_ended(host, was, tunnel):
    """Of our lines nothing, in either case; and radvd is as it was, without another run."""
    folder, look = host
    over = int(radvd_tidy.time.time()) - 7200
    first = run(SITE, wish(OLD), now=over)
    gone = run(first.text, state=first.state, present=False, now=over)
    (folder / "radvd.conf").write_text(gone.text)
    memory = folder / "state" / "tsp.before.json"
    kept = {"edits": {}, "services": {}, "directories": {}, "devices": ["tsp0"] if tunnel else []}
    memory.write_text(json.dumps({**kept, "edits": {str(folder / "radvd.conf"): {"made": False, "state": gone.state}},
                                  "services": {"radvd.service": {"was": was}}}))
    memory.chmod(0o600)
    rc, told = look()
    assert rc == 0
    assert (folder / "radvd.conf").read_text() == SITE
    assert memory.exists() == tunnel == memory.parent.exists()
    if tunnel:
        assert json.loads(memory.read_text()) == kept and memory.stat().st_mode & 0o777 == 0o600
    ended = {f"systemctl --no-ask-password {verb} radvd.service" for verb in ("disable", "stop")}
    assert ended & set(told) == (set() if was["active"] else ended)


def test_the_program_leaves_radvd_to_another_tunnel(host):
    folder, look = host
    over = int(radvd_tidy.time.time()) - 7200
    first = run(SITE, wish(OLD), now=over)
    gone = run(first.text, state=first.state, present=False, now=over)
    (folder / "radvd.conf").write_text(gone.text)
    used = {"services": {"radvd.service": {"was": {"active": False, "enabled": False}}}}
    (folder / "state" / "tsp.before.json").write_text(
        json.dumps({**used, "edits": {str(folder / "radvd.conf"): {"made": False, "state": gone.state}}}))
    (folder / "state" / "other.before.json").write_text(json.dumps(used))
    (folder / "state" / "broken.before.json").write_text("[")
    assert not {"systemctl --no-ask-password stop radvd.service", "systemctl --no-ask-password disable radvd.service"} & set(look()[1])
    assert sorted(path.name for path in (folder / "state").iterdir()) == ["broken.before.json", "other.before.json"]


def test_the_program_leaves_radvd_to_a_transaction_that_wants_it(host):
    """Even where it has nothing of its own in the file, since the site advertises the same."""
    folder, look = host
    over = int(radvd_tidy.time.time()) - 7200
    first = run(SITE, wish(OLD), now=over)
    second = run(first.text, wish("2001:db8:5::/64"), state=first.state, now=over)
    (folder / "radvd.conf").write_text(second.text)
    memory = folder / "state" / "tsp.before.json"
    memory.write_text(json.dumps({"edits": {str(folder / "radvd.conf"): {"made": False, "state": second.state}},
                                  "services": {"radvd.service": {"was": {"active": False, "enabled": False}}}}))
    before = memory.read_text()
    assert "stop radvd.service" not in " ".join(look()[1])
    assert (folder / "radvd.conf").read_text() == SITE and memory.read_text() == before


def test_the_program_takes_back_what_radvd_refuses(host):
    folder, look = host
    text = going(int(radvd_tidy.time.time()) - 1)
    (folder / "radvd.conf").write_text(text)
    (folder / "radvd.rc").write_text("1")
    assert look()[0] == 1
    assert (folder / "radvd.conf").read_text() == text


def test_the_program_waits_for_a_change_that_is_not_confirmed(host):
    folder, look = host
    text = going(int(radvd_tidy.time.time()) - 1)
    (folder / "radvd.conf").write_text(text)
    (folder / "state" / "tsp").mkdir()
    assert look() == (0, [])
    assert (folder / "radvd.conf").read_text() == text


@pytest.mark.skipif(shutil.which("radvd") is None, reason="radvd is not installed")
@pytest.mark.parametrize("site", [None, SITE, "# no end", SITE + "interface eth3 { AdvSendAdvert on; };"])
def test_radvd_accepts_it(tmp_path, site):
    options = {"interfaces": [wish(NEW, mtu=1480, rdnss=["2001:db8::54"], dnssl=["example.net"], default_lifetime=0), wish(name="eth3")]}
    first = run(site, wish(OLD, rdnss=["2001:db8::55"], dnssl=["example.org"]), wish("2001:db8:c::/64", name="eth3"))
    second = run(first.text, *options["interfaces"], state=first.state)
    third = run(second.text, state=second.state, present=False)
    for number, made in enumerate((first, second, third)):
        path = tmp_path / f"{number}.conf"
        path.write_text(made.text)
        path.chmod(0o644)
        done = subprocess.run(["radvd", "--configtest", "--config", str(path)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, made.text + done.stderr

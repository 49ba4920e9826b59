# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Bad input, end to end: every failure of the task `tunnel` is one clear error, and the lease in force stays byte for byte.

`Judge` (beside the unit tests of `_module`) runs the task in this process over real sockets and checks what every failure must
have: error.code, error.status, a sentence and what to do next; no traceback, no secret in the result or in any file, nothing but
printable text, the old lease untouched. Tests named play_* are real runs of ansible-playbook. Where each kind is shown (`bad` stands for
tests/unit/plugins/module_utils/_module/test_bad_brokers.py, `store` and `task` for test_leasestore.py and test_tunnel_task.py there,
`loopback` for test_loopback.py there; no prefix: this file):

    wrong password, unknown user      bad: test_wrong_password_and_unknown_user; loopback: test_who_is_not_let_in_…; test_play_failures
    unreachable                       bad: test_nobody_listens; test_names_and_addresses_that_lead_nowhere; test_play_failures
    silent, half-open                 bad: test_silent_and_half_open; test_a_broker_that_falls_silent_in_the_middle
    garbage                           bad: test_garbage_and_too_much_of_it; test_play_failures
    truncated                         bad: test_grants_that_cannot_be_used[cut, torn, empty]; test_a_grant_cut_anywhere
    oversized                         bad: test_garbage_and_too_much_of_it; test_more_than_any_broker_has_to_say
    slow-dripping                     bad: test_slow_dripping; test_dripping_in_the_middle_of_a_grant
    changed key                       loopback: test_a_changed_key_is_refused; test_a_key_that_changed
    redirects to itself               bad: test_a_redirect_to_itself; test_redirects_that_lead_nowhere; test_play_failures
    wrong family                      bad: test_grants_that_cannot_be_used[family, prefix family]; test_numbers_and_addresses
    hostile name (; newline $() NUL)  bad: test_grants_that_cannot_be_used[semicolon …]; test_numbers_and_addresses
    prefix holding its own endpoint   test_a_prefix_that_holds_an_end_of_its_own_tunnel
    hostile XML                       test_hostile_xml, test_odd_xml_that_harms_nobody
    hostile words in refusals         test_what_a_broker_says_is_shown_and_nothing_else; test_play_failures
    disk full                         task: test_a_disk_that_is_full_…; store: test_a_file_system_that_is_full_…; test_play_full_disk
    interrupted while writing         store: test_killed_at_any_step_…; test_play_killed_while_the_broker_is_asked
    another file in the lease's place store: test_a_file_that_holds_no_lease_…, test_what_is_no_plain_file_…;
                                      task: test_a_file_that_is_no_lease_…
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shlex
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.tunnelbroker.tsp.tests.lab.ansible import Ansible
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._broker.running import broker_in_thread
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._exchange._brokers import (
    FakeBroker,
    Talk,
    framed,
    info,
    redirect,
)
from ansible_collections.tunnelbroker.tsp.tests.unit.plugins.module_utils._module._judge import CANARY, Judge, in_thread, talking

UNUSABLE = ("bad_grant", "protocol_error")


@pytest.fixture
def judge(tmp_path: Path) -> Judge:
    return Judge(tmp_path)


def cut(answer: bytes, size: int, *, drip: bool = False) -> Any:
    """The TCP side of a broker whose grant ends after `size` bytes: hung up, or with `drip` continued one byte at a time for ever."""
    talk = Talk(users={"alice": CANARY})

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = writer.get_extra_info("peername")
        while data := await reader.read(65536):
            if b'action="create"' not in data:
                reply = talk(data, peer, "tcp")
                writer.write(reply or b"")
                continue
            writer.write(answer[:size])
            while drip:
                await writer.drain()
                await asyncio.sleep(0.01)
                writer.write(b" ")
            return

    return serve


def heard(broker: FakeBroker, words: bytes) -> bool:
    """Whether the broker's thread gets to read this, which was sent already."""
    until = time.monotonic() + 20
    while not (found := any(words in message for _transport, message in list(broker.log))) and time.monotonic() < until:
        time.sleep(0.01)
    return found


def test_a_grant_cut_anywhere(judge: Judge) -> None:
    """Up to the end of what it says; a root that is merely not closed has lost nothing, and is a tolerance."""
    whole = info("v6v4", prefix="2001:db8:77::/56")
    end = whole.index(b"</client>") + len(b"</client>")
    for size in [0, 1, *range(7, end, 37), end - 1]:
        with in_thread(lambda size=size: FakeBroker(udp="refuse", on_tcp=cut(whole, size))) as broker:
            error = judge(broker, transport="tcp")
        assert error["code"] in ("connection_closed", *UNUSABLE), (size, error)


def test_dripping_in_the_middle_of_a_grant(judge: Judge) -> None:
    whole = info("v6v4")
    with in_thread(lambda: FakeBroker(udp="refuse", on_tcp=cut(whole, len(whole) // 2, drip=True))) as broker:
        error = judge(broker, transport="tcp", deadline=0.8)
    assert (error["kind"], error["code"]) == ("network", "deadline")


@pytest.mark.parametrize("step", ["auth", "create"])
@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_a_broker_that_falls_silent_in_the_middle(judge: Judge, step: str, transport: str) -> None:
    with in_thread(talking(**{step: lambda _message: None})) as broker:
        error = judge(broker, transport=transport, deadline=0.8, auth_method="plain")
    assert (error["kind"], error["code"], error["status"]) == ("network", "deadline", None)


@pytest.mark.parametrize("name", ["192.0.2.300", "no-such-host.invalid", "[2001:db8::1]", "localhost:1"])
def test_names_and_addresses_that_lead_nowhere(judge: Judge, name: str) -> None:
    if name == "192.0.2.300":
        result = judge.run(name)
        assert result["error"]["code"] == "invalid_option" and judge.path.read_bytes() == judge.before
        return
    error = judge(name, deadline=15.0)
    assert error["kind"] == "network" and error["code"] in ("name_not_resolved", "name_lookup_timeout", "wrong_family", "refused")


@pytest.mark.parametrize("answer", [
    b"Content-length: 999999999999\r\n200 Success\r\n", b"Content-length: 70000\r\n200 Success\r\n" + b"x" * 70000,
    b"200 Success\r\n<tunnel>" + b"<client>" * 10000, framed("200 Success\r\n<tunnel>" + " " * 70000 + "</tunnel>\r\n"),
    b"200 " + b"y" * 9000 + b"\r\n", b"200 Success\r\n" * 20000], ids=["promise", "body", "open XML", "blank XML", "line", "lines"])
@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_more_than_any_broker_has_to_say(judge: Judge, answer: bytes, transport: str) -> None:
    answer = answer[:60000] if transport == "udp" else answer
    with in_thread(talking(create=answer)) as broker:
        error = judge(broker, transport=transport, deadline=8.0)
    assert error["kind"] in ("remote", "network")


def grant(old: str = "", new: str = "", **changes: Any) -> bytes:
    """A router's grant with one text in it replaced; it must be there."""
    text = info("v6v4", prefix="2001:db8:77::/48", **changes).partition(b"\r\n")[2].decode()
    assert old in text
    return framed(text.replace(old, new, 1))


USELESS = [
    *[grant('lifetime="604800"', f'lifetime="{n}"') for n in ("-1", "+5", "1_0", "0x10", "1e9", "٣٠", "6０", "", " ", "9" * 4000, "1;id")],
    *[grant('interval="30"', f'interval="{n}"') for n in ("-1", "+30", "3_0", "٣٠", "9" * 21, "$(id)")],
    *[grant('length="48"', f'length="{n}"') for n in ("0", "129", "-48", "+48", "4_8", "٤٨", "48.0", "48&#10;49", "0" * 20 + "48")],
    *[grant(">127.0.0.1<", f">{a}<") for a in ("127.0.0.01", "2130706433", "0x7f000001", "127.1", "127.0.0.1;id", "127.0.0.1&#10;id",
                                               "１２７.0.0.1", "127.0.0.1%lo", "224.0.0.1", "255.255.255.255", "::1", "")],
    *[grant("2001:0db8:0000:0000:0000:0000:0000:0002", a) for a in (
        "2001:db8::2%eth0", "2001:db8::2%;id", "fe80::2", "fe80::2%eth0", "::ffff:192.0.2.1", "::ffff:c000:201", "::1", "::", "ff02::1",
        "2001:db8::2/64", "2001:db8::2&#13;&#10;id", "2001:db8::٢", "2001:db8:::2", "192.0.2.1", "x" * 5000)],
    *[grant("2001:db8:77::", a) for a in ("2001:db8:77::%eth0", "fe80::", "ff02::", "::", "::ffff:0:0", "192.0.2.0", "2001:db8:77::/49")],
    *[grant(extra=f'<address type="dn">{n}</address>') for n in (
        "a;id", "a\nid", "$(id)", "`id`", "a\0id", "a|id", "a b", "../../etc/passwd", "{{ 7 * 7 }}", "-rf", "a&#x9b;31m",
        "é.example", "a" * 300)],
    *[grant("</router>", f'<dns_server><address type="dn">{n}</address></dns_server></router>')
      for n in ("n;id", "n\nid", "$(id)", "{{ id }}")],
    grant('type="v6v4"', 'type="v4v6"'), grant('type="v6v4"', 'type="v6udpv4; id"'), grant("</client>", "</client><client/>"),
    grant("</server>", "</server><server/>"), grant("</router>", '<prefix length="48">2001:db8:78::</prefix></router>'),
]


@pytest.mark.parametrize("answer", USELESS, ids=range(len(USELESS)))
def test_numbers_and_addresses(judge: Judge, answer: bytes) -> None:
    with in_thread(talking(create=answer)) as broker:
        error = judge(broker, transport="udp", host_type="router", prefix_length=48, deadline=8.0)
        assert not any(b'action="accept"' in message for _transport, message in broker.log)
        assert error["code"] == "protocol_error" or heard(broker, b'action="reject"')
    assert error["code"] in UNUSABLE and error["kind"] == "remote"
    assert "id" not in error["message"].replace("did", "").split() and "$" not in error["message"] and "{" not in error["message"]


@pytest.mark.parametrize("xml", [
    '<!DOCTYPE t [<!ENTITY a "ha">' + "".join(f'<!ENTITY {new} "{f"&{old};" * 9}">' for old, new in zip("abcdefghi", "bcdefghij"))
    + "]><tunnel>&j;</tunnel>",
    '<!DOCTYPE t SYSTEM "file:///etc/passwd"><tunnel/>', '<!DOCTYPE t [<!ENTITY x SYSTEM "file:///etc/passwd">]><tunnel>&x;</tunnel>',
    '<!DOCTYPE t [<!ENTITY % p SYSTEM "http://192.0.2.1/p">%p;]><tunnel/>', "<tunnel>&unknown;</tunnel>", "<tunnel>&#0;</tunnel>",
    '<?php id ?><tunnel action="info"/>', "<tunnel>" + "<client>" * 50 + "</client>" * 50 + "</tunnel>",
    "<tunnel>" + "<client/>" * 5000 + "</tunnel>", '<tunnel action="info" action="info"/>', '<tunnel action="info" ACTION="info"/>',
    "<tunnel action=\"\udc80\"/>", "<tunnel><server></tunnel>", "<tunnel xmlns='x' " + "a" * 60000 + "='1'/>", "<html></html>"],
    ids=["laughs", "external DTD", "external entity", "parameter entity", "unknown entity", "NUL reference", "instruction", "deep", "many",
         "attribute twice", "attribute twice in other case", "invalid UTF-8", "not nested", "long attribute", "HTML"])
@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_hostile_xml(judge: Judge, xml: str, transport: str) -> None:
    body = b"200 Success\r\n" + xml.encode("utf-8", "surrogateescape") + b"\r\n"
    with in_thread(talking(create=b"Content-length: %d\r\n%s" % (len(body), body))) as broker:
        error = judge(broker, transport=transport, deadline=8.0)
    assert error["code"] in ("protocol_error", "deadline") and error["kind"] in ("remote", "network")
    assert "root:" not in json.dumps(error) and "passwd" not in json.dumps(error)


@pytest.mark.parametrize("answer", [
    grant("<tunnel ", "<tunnel " + " ".join(f'a{n}="{n}"' for n in range(4000)) + " "),
    grant("</client>", "<unknown><deeper>text</deeper></unknown></client>"),
    grant("<tunnel ", '<?xml version="1.0" encoding="UTF-16"?><tunnel '), grant(">127.0.0.1<", "><![CDATA[127.0.0.1]]><"),
    grant('length="48"', 'length="048"'), grant("</server>", "</server><!-- $(id) -->"),
    grant('interval="30"', 'interval="86401"'), grant('lifetime="604800"', f'lifetime="{2**64 - 1}"'),
], ids=["attributes", "elements", "prolog", "CDATA", "zeros", "comment", "keepalive", "lifetime"])
def test_odd_xml_that_harms_nobody(judge: Judge, answer: bytes) -> None:
    with in_thread(talking(create=answer)) as broker:
        result = judge.run(broker.name, host_type="router", prefix_length=48)
    assert not result.get("failed"), result
    assert (result["lease"]["prefix"], result["lease"]["client"]["ipv4"]) == ("2001:db8:77::/48", "127.0.0.1")
    assert "id" not in json.dumps(result["lease"]).split('"')


@pytest.mark.parametrize("prefix", ["2002:7f00:1::/48", "2002:7f00:1:5::/64", "2002::/16", "2000::/3"])
def test_a_prefix_that_holds_an_end_of_its_own_tunnel(judge: Judge, prefix: str) -> None:
    """IPv6 inside, IPv4 outside: the end is in the prefix when its 6to4 network is."""
    with in_thread(talking(create=info("v6v4", prefix=prefix))) as broker:
        error = judge(broker, host_type="router", prefix_length=48)
    assert error["code"] == "bad_grant" and "contains the tunnel's own outer endpoint 127.0.0.1" in error["message"]


def test_a_prefix_that_holds_the_brokers_inner_end(judge: Judge) -> None:
    """Old clients take it, so it is a warning; with strict it is not taken."""
    with in_thread(talking(create=info("v6v4", prefix="2001:db8::/48"))) as broker:
        error = judge(broker, host_type="router", prefix_length=48, strict=True)
        assert error["code"] == "bad_grant" and "contains the broker's end of the tunnel" in error["message"]
        result = judge.run(broker.name, host_type="router", prefix_length=48)
    assert any("contains the broker's end of the tunnel" in warning for warning in result["warnings"])


def test_a_key_that_changed(judge: Judge, tmp_path_factory: pytest.TempPathFactory) -> None:
    pytest.importorskip("cryptography")
    options: dict[str, Any] = {"auth_method": "passdss-3des-1", "server_key_policy": "accept_new", "username": "alice"}
    with broker_in_thread(tmp_path_factory.mktemp("broker"), {"accounts": [{"username": "alice", "password": CANARY}]}) as broker:
        granted = judge.run(broker.server, **options)
        assert not granted.get("failed"), granted
        keys = judge.folder / "state" / "tsp-known-keys.txt"
        words = keys.read_text().split()
        keys.write_text(" ".join([*words[:2], words[2][:-12] + "A" * 8 + words[2][-4:]]) + "\n")
        judge.before, known = judge.path.read_bytes(), keys.read_bytes()
        error = judge(broker.server, **options)
        assert (error["kind"], error["code"]) == ("remote", "server_key_changed") and str(keys) in error["message"]
        assert keys.read_bytes() == known, "a changed key is never taken over by itself"
        assert broker.log_lines("granted")[1:] == []


@pytest.mark.parametrize("where", ["self", "another name", "ring", "nowhere", "junk"])
@pytest.mark.parametrize("step", ["version", "auth", "create"])
def test_redirects_that_lead_nowhere(judge: Judge, where: str, step: str) -> None:
    with in_thread(talking()) as broker, in_thread(talking()) as other:
        port = broker.port
        target = {"self": (broker.name,), "another name": (f"localhost:{port}", f"LOCALHOST.:{port}"), "ring": (other.name,),
                  "nowhere": ("127.0.0.1:1",), "junk": ("224.0.0.1", "0.0.0.0", "a;id", "192.0.2.1:99999", "x y", "fe80::1%25lo")}[where]
        broker.script = Talk(users={"alice": CANARY}, **{step: redirect(*target)})
        other.script = Talk(users={"alice": CANARY}, **{step: redirect(broker.name)})
        error = judge(broker, auth_method="plain", allow_plaintext=True, transport="tcp")
        assert broker.connections + other.connections <= 4
    assert error["code"] in {"nowhere": ("refused",), "junk": ("redirect_empty",)}.get(where, ("redirect_loop", "already_asked")), error


@pytest.mark.parametrize("said", [
    "\x1b[31mred\x1b[0m \x07\x9b5m", "{{ lookup('ansible.builtin.pipe', 'id') }}", "z" * 3000, "a\tb\x0b\x0c\x85\u2028\u202ec",
    f"the password of alice is {CANARY}, is it not?", "x" * 100 + CANARY, "'\"\\ %s %(x)s {0} !unsafe"])
@pytest.mark.parametrize("step", ["version", "auth", "create"])
def test_what_a_broker_says_is_shown_and_nothing_else(judge: Judge, said: str, step: str) -> None:
    line = f"530 {said}\r\n".encode()
    with in_thread(talking(**{step: framed(line.decode()) if step == "create" else line})) as broker:
        error = judge(broker, transport="tcp", auth_method="plain")
    assert (error["code"], error["status"]) == ("busy", 530) and len(error["message"]) < 700 and CANARY[:6] not in error["message"]


# With ansible-playbook


@contextlib.contextmanager
def three_brokers() -> Iterator[dict[str, str]]:
    """good, hostile (refuses with a template and colours in its words) and loop (redirects to itself), by name."""
    words = "530 {{ lookup('ansible.builtin.pipe', 'touch ' ~ marker) }}{% raw %} \x1b[41mred\r\n"
    with in_thread(talking()) as good, in_thread(talking(create=framed(words))) as hostile, in_thread(talking()) as loop, \
            in_thread(talking(version=b"\xff\xfe;$(id)\n")) as garbage, in_thread(talking(create=info("v6v4", server4="224.0.0.1"))) as bad:
        loop.script = Talk(version=redirect(loop.name))
        yield {"good": good.name, "hostile": hostile.name, "loop": loop.name, "garbage": garbage.name, "bad": bad.name}


@pytest.mark.parametrize("run_on", ["target", "controller"])
def test_play_failures(tmp_path: Path, run_on: str) -> None:
    ansible = Ansible(tmp_path / "ansible", ANSIBLE_REMOTE_TEMP=str(tmp_path / "remote"))
    out = tmp_path / "out"
    out.mkdir()
    kept = out / ("leases/node.json" if run_on == "controller" else "kept.fact")
    with three_brokers() as brokers:
        cases = [
            {"code": "auth_failed", "status": 300, "broker": brokers["good"], "password": "wrong-" + CANARY},
            {"code": "auth_failed", "status": 300, "broker": brokers["good"], "username": "mallory"},
            {"code": "refused", "status": None, "broker": "127.0.0.1:1"},
            {"code": "busy", "status": 530, "broker": brokers["hostile"]},
            {"code": "redirect_loop", "status": 1200, "broker": brokers["loop"]},
            {"code": "protocol_error", "status": None, "broker": brokers["garbage"]},
            {"code": "bad_grant", "status": None, "broker": brokers["bad"]}]
        place = {"lease_dir": str(out / "leases"), "proxy": True, "client_ipv4": "192.0.2.7"} if run_on == "controller" else {
            "lease_file": str(kept)}
        task = {**place, "broker": brokers["good"], "username": "alice", "password": CANARY, "mode": "v6v4", "min_interval": 0,
                "state_dir": str(out / "state"), "transport": "tcp", "run_on": run_on, "deadline": 20}
        failing = {**task, "renew": True, "broker": "{{ item.broker }}", "password": "{{ item.password | default(secret) }}",
                   "username": "{{ item.username | default('alice') }}"}
        known = {"cases": cases, "secret": CANARY, "marker": str(tmp_path / "marker")}
        play = [{"hosts": "all", "gather_facts": False, "vars": known, "tasks": [
            {"tunnelbroker.tsp.tunnel": task},
            {"ansible.builtin.copy": {"src": str(kept), "dest": str(out / "before"), "mode": "0600", "remote_src": True}},
            {"tunnelbroker.tsp.tunnel": failing, "loop": "{{ cases }}", "loop_control": {"label": "{{ item.code }}"},
             "ignore_errors": True, "register": "failed"},
            # As playbooks do: what was said goes through templates, facts and files again.
            {"ansible.builtin.set_fact": {"said": "{{ failed.results | map(attribute='msg') | list }}"}},
            {"ansible.builtin.debug": {"msg": "They said {{ said | join(' / ') }}"}},
            {"ansible.builtin.copy": {"dest": str(out / "said.json"), "mode": "0600",
                                      "content": "{{ failed.results | map(attribute='error') | to_json }}"}},
        ]}]
        (tmp_path / "play.yml").write_text(json.dumps(play), encoding="utf-8")
        inventory = ansible.write_inventory({"all": {"hosts": {"node": {
            "ansible_connection": "local", "ansible_python_interpreter": "{{ ansible_playbook_python }}"}}}})
        run = ansible.playbook(str(tmp_path / "play.yml"), "--diff", inventory=inventory)
    assert run.returncode == 0 and run.recap["node"]["ignored"] == 1, run.output
    said = json.loads((out / "said.json").read_text(encoding="utf-8"))
    assert [(error["code"], error["status"]) for error in said] == [(case["code"], case["status"]) for case in cases], run.output
    assert all(error["hint"] for error in said)
    assert "lookup('ansible.builtin.pipe'" in said[3]["message"] and "[41mred" in said[3]["message"], "the broker's words, as words"
    assert not (tmp_path / "marker").exists(), "the broker's words were taken for a template"
    assert "\x1b" not in run.output and "Traceback" not in run.output
    assert kept.read_bytes() == (out / "before").read_bytes()
    for file in out.rglob("*"):
        assert not file.is_file() or CANARY not in file.read_text(encoding="utf-8"), file


def anonymous_play(folder: Path, broker: str, **options: Any) -> Path:
    """A play on this machine that asks for a tunnel into folder/lease."""
    task = {"broker": broker, "auth_method": "anonymous", "mode": "v6v4", "min_interval": 0, "lease_file": str(folder / "lease"),
            "state_dir": str(folder.parent / "state"), "run_on": "target", "transport": "tcp", "deadline": 60, **options}
    path = folder.parent / "play.yml"
    path.write_text(json.dumps([{"hosts": "all", "gather_facts": False, "tasks": [{"tunnelbroker.tsp.tunnel": task}]}]), encoding="utf-8")
    return path


def arguments(ansible: Ansible) -> list[str]:
    inventory = ansible.write_inventory({"all": {"hosts": {"node": {
        "ansible_connection": "local", "ansible_python_interpreter": "{{ ansible_playbook_python }}"}}}})
    program = shutil.which("ansible-playbook", path=ansible.environment["PATH"])
    assert program is not None
    return [program, "-i", str(inventory)]


def here(ansible: Ansible, words: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, env=ansible.environment, stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, timeout=200, check=False)


@pytest.mark.root
def test_play_full_disk(tmp_path: Path) -> None:
    """A small file system of its own, filled to the last byte behind the first lease."""
    ansible = Ansible(tmp_path / "ansible", ANSIBLE_REMOTE_TEMP=str(tmp_path / "remote"))
    small = tmp_path / "small"
    small.mkdir()
    with in_thread(talking()) as broker:
        first = anonymous_play(small, broker.name).rename(tmp_path / "first.yml")
        again = anonymous_play(small, broker.name, renew=True)
        words = shlex.join([*arguments(ansible)])
        script = (f'mount -t tmpfs -o size=64k none "{small}" && {words} first.yml && cp "{small}/lease" before && '
                  f'{{ cat /dev/zero > "{small}/ballast"; '
                  f'{words} play.yml; echo "ended $?"; cmp before "{small}/lease" && echo intact; ls -A "{small}"; }}')
        done = subprocess.run(["unshare", "--mount", "sh", "-c", script], cwd=tmp_path, env=ansible.environment, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300, check=False)
        creates = sum(b'action="create"' in message for _transport, message in broker.log)
    assert first.exists() and again.exists()
    assert "ended 2" in done.stdout and "lease_not_stored" in done.stdout and "No space left on device" in done.stdout, done.stdout
    assert "intact" in done.stdout.split() and done.stdout.split()[-2:] == ["ballast", "lease"], done.stdout
    assert "Traceback" not in done.stdout, done.stdout
    assert creates == 1, "the broker was asked for what could not have been kept"


@pytest.mark.root
def test_play_killed_while_the_broker_is_asked(tmp_path: Path) -> None:
    ansible = Ansible(tmp_path / "ansible", ANSIBLE_REMOTE_TEMP=str(tmp_path / "remote"))
    folder = tmp_path / "leases"
    folder.mkdir()
    asked = threading.Event()
    with in_thread(talking()) as broker:
        run = [*arguments(ansible), str(anonymous_play(folder, broker.name))]
        done = here(ansible, run)
        assert done.returncode == 0, done.stdout
        before = (folder / "lease").read_bytes()

        broker.script = Talk(create=lambda _message: asked.set())
        anonymous_play(folder, broker.name, renew=True)
        # A process namespace of its own: what is killed takes everything that it started along, as a machine that loses power does.
        killed = subprocess.Popen(["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", *run], env=ansible.environment,
                                  stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            assert asked.wait(120) and killed.poll() is None
        finally:
            killed.kill()
            killed.wait()
        assert (folder / "lease").read_bytes() == before
        assert all(name.name == "lease" or name.name.startswith(".lease.") for name in folder.iterdir())

        broker.script = Talk()
        done = here(ansible, run)
    assert done.returncode == 0 and "changed=1" in done.stdout, done.stdout
    assert json.loads((folder / "lease").read_text(encoding="utf-8"))["schema"] == 1

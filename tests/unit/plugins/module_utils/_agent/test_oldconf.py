# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A gw6c.conf or gogoc.conf, as it stands, means what it always meant, or says why not."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent import cli, oldagent
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent.oldargs import OldArgs
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent.oldconf import read
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent.oldkeys import KEYS
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._agent.settings import AgentConfig
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.errors import LocalError
from hypothesis import given, settings
from hypothesis import strategies as st

SECRET = "canary=of the # old file"
ANONYMOUS = "server=broker.example\nauth_method=anonymous\ntemplate=linux\n"
USER = f"server=broker.example\nuserid=alice\npasswd={SECRET}\ntemplate=linux\n"


class Files(oldagent.Host):
    """A host that has these files, and every folder that is named like one."""

    def __init__(self, *files: str, folders: tuple[str, ...] = ("/usr/local/gw6c",)) -> None:
        self.files, self.folders = files, folders

    def is_file(self, path: str) -> bool:
        return path in self.files

    def is_folder(self, path: str) -> bool:
        return path in self.folders


def agent(text: str, *files: str, path: str = "/etc/gw6c/gw6c.conf", args: OldArgs | None = None, platform: str = "linux",
          **given: str) -> AgentConfig:
    conf = read(text, path, platform, {} if args is None else args.keys)
    return oldagent.agent_config(conf, args, oldagent.Given(**given), Files(*files), platform)


def wrong(text: str, **given: Any) -> str:
    with pytest.raises(LocalError) as caught:
        agent(text, **given)
    assert caught.value.code == "config_invalid" and caught.value.message.startswith("/etc/gw6c/gw6c.conf: ")
    return caught.value.message


def test_the_grammar() -> None:
    conf = read(f"\ufeff# comment\r\n  server =  broker.example:3653 \r\n\r\n\tuserid=alice\r\n   # passwd=no\r\npasswd={SECRET}\r\n"
                "retry_delay=\r\nretry_delay_max=600\nretry_delay_max=700", "gw6c.conf")
    assert (conf["server"], conf["userid"], conf["passwd"]) == ("broker.example:3653", "alice", SECRET)
    assert conf["retry_delay"] == 30 and conf["retry_delay_max"] == 700 and conf.where("retry_delay_max") == "line 9: retry_delay_max"
    assert conf.warnings == ("line 9: retry_delay_max stands in line 8 as well; the last one counts.",)
    assert "canary" not in repr(conf)


def test_an_empty_last_value_is_the_default() -> None:
    assert read(USER + "prefixlen=48\nprefixlen=\n")["prefixlen"] == 64


def test_the_defaults() -> None:
    conf = read(USER)
    assert set(conf.values) == set(KEYS)
    for key, value in {"auth_method": "any", "host_type": "host", "prefixlen": 64, "auto_retry_connect": True, "retry_delay": 30,
                       "retry_delay_max": 300, "keepalive": True, "keepalive_interval": 30, "tunnel_mode": "v6anyv4",
                       "if_tunnel_v6v4": "sit1", "if_tunnel_v6udpv4": "tun", "if_tunnel_v4v6": "sit0", "client_v4": None,
                       "proxy_client": False, "broker_list": "tsp-broker-list.txt", "last_server": "tsp-last-server.txt",
                       "always_use_same_server": False, "log_console": 0, "log_stderr": 1, "log_file": 0, "log_syslog": 0,
                       "log_filename": "gw6c.log", "log_rotation": True, "log_rotation_delete": False, "log_rotation_size": 32,
                       "syslog_facility": "user"}.items():
        assert conf[key] == value, key
    assert read(USER, "/x/gogoc.conf")["log_filename"] == "gogoc.log"
    assert read(USER + "gogoc_dir=/x\n").kind == "gogoc" and read(USER).kind == "gw6c"
    assert [read(USER, platform=system)["if_tunnel_v6v4"] for system in ("freebsd14", "openbsd7", "darwin")] == ["gif0"] * 3


@pytest.mark.parametrize(("line", "part"), [
    ("prefixlen=0", "prefixlen is '0'; it can be a number from 1 to 128"), ("prefixlen=129", "'129'"), ("prefixlen=6x", "'6x'"),
    ("host_type=bridge", "it can be host, router"), ("auth_method=kerberos", "it can be any, anonymous, plain"),
    ("retry_delay=3601", "0 to 3600"), ("retry_delay_max=-1", "0 to 3600"), ("keepalive=maybe", "it can be yes, no"),
    ("keepalive_interval=0", "is 0; with keepalive=yes"), ("tunnel_mode=v6v6", "v6anyv4, v6v4, v6udpv4, v4v6"),
    ("client_v4=2001:db8::1", "auto or an IPv4"), ("client_v6=192.0.2.1", "auto or an IPv6"), ("server=bro ker", "Use host"),
    ("server=192.0.2.1:99999", "server is '192.0.2.1:99999'"), ("if_tunnel_v6v4=a/b", "name of an interface"),
    ("log_stderr=4", "0 to 3"), ("log_rotation_size=64", "it can be 16, 32, 128, 1024"), ("syslog_facility=MAIL", "user, local0"),
    ("dns_server=a_b:c d", "DNS names"), ("template=../../x", "name of a script"), ("userid=" + "x" * 254, "up to 253"),
    ("broker_list=" + "x" * 257, "up to 256"), ("log_syslog=yes", "0 to 3")])
def test_a_bad_value_is_named_with_its_line_and_what_it_can_be(line: str, part: str) -> None:
    message = wrong(ANONYMOUS + line + "\n")
    assert "line 4: " in message and part in message and line.partition("=")[0] in message


def test_all_that_is_wrong_is_named_at_once_and_no_password_is() -> None:
    message = wrong(f"prefixlen=0\npasswd={SECRET}{'x' * 128}\nhost_type=router\ncanary\nlog_file=9")
    for part in ("line 1: prefixlen", "line 2: passwd cannot be used; it can be up to 128", "server is missing", "userid is missing",
                 "if_prefix is missing", "line 5: log_file"):
        assert part in message
    assert "canary" not in message


def test_what_cannot_be_meant_is_told_without_the_text_of_the_line() -> None:
    conf = read(f"{USER}Userid=bob\n{SECRET}\npasswd {SECRET}\n{SECRET}=1\ncolour=red\nuserid={'x' * 2050}")
    assert len(conf.warnings) == 6 and all(f"line {n}" in said for n, said in enumerate(conf.warnings, 5))
    assert "'colour' is not known" in conf.warnings[4] and conf["userid"] == "alice"
    assert "canary of" not in "".join(conf.warnings) and SECRET not in "".join(conf.warnings)


def test_a_password_that_is_not_utf8_is_refused_not_changed() -> None:
    text = b"server=b.example\nuserid=alice\npasswd=\xe9t\xe9\n# caf\xe9\n"
    with pytest.raises(LocalError, match="line 3: passwd cannot be used; it can be up to 128 printable characters, in UTF-8"):
        oldagent.load(text, "/etc/gw6c.conf", OldArgs(), "linux", {})


def test_a_host() -> None:
    config = agent(USER)
    assert (config.name, config.lease_file, config.runtime_dir) == ("gw6c", "/var/lib/tsp/gw6c.lease", "/run/tsp")
    assert config.options.brokers == ("broker.example",) and config.options.credentials.password == SECRET
    assert (config.request.mode, config.request.host_type, config.request.prefix_length) == ("v6anyv4", "host", None)
    assert config.link.mtu == 1280 and config.link.lan_interfaces == () and config.hooks.script == ""
    assert (config.retry.first_delay, config.retry.longest_delay, config.retry.reconnect) == (30, 300, True)
    assert config.warnings == () and "canary" not in repr(config)
    assert (config.device_of("v6v4"), config.device_of("v6udpv4")) == ("sit1", "tun")


def test_a_router() -> None:
    config = agent(USER + "host_type=router\nif_prefix=eth1\nprefixlen=56\ndns_server=ns1.example:ns2.example\nkeepalive_interval=20\n")
    assert config.request.prefix_length == 56 and config.request.dns_servers == ("ns1.example", "ns2.example")
    assert config.link.lan_interfaces == ("eth1",) and config.request.keepalive_interval == 20
    assert len(config.warnings) == 1 and "line 6: if_prefix: eth1 gets its address, but nothing advertises" in config.warnings[0]
    assert agent(USER + "host_type=router\nif_prefix=eth1\n").request.prefix_length == 64


def test_modes_and_devices() -> None:
    v4v6 = agent(ANONYMOUS + "tunnel_mode=v4v6\nclient_v6=2001:db8::7\nhost_type=router\nif_prefix=eth1\n")
    assert v4v6.request.client_ipv6 == IPv6Address("2001:db8::7") and v4v6.request.wanted_prefix_length == 24
    assert v4v6.device == "tsp0" and not any("sit0" in said for said in v4v6.warnings), "sit0, the default, is the kernel's own"
    udp = agent(ANONYMOUS + "tunnel_mode=v6udpv4\nif_tunnel_v6udpv4=tun7\nclient_v4=192.0.2.9\n")
    assert udp.device == "tun7" and udp.request.client_ipv4 == IPv4Address("192.0.2.9")
    said = agent(ANONYMOUS + "tunnel_mode=v6v4\nif_tunnel_v6v4=sit0\n")
    assert said.device == "tsp0" and "line 5: if_tunnel_v6v4 is sit0, which belongs to the kernel" in said.warnings[0]


def test_the_old_files_keep_their_place() -> None:
    config = agent(USER + "gw6_dir=/usr/local/gw6c\nlast_server=last.txt\nbroker_list=/var/lib/list.txt\nalways_use_same_server=yes\n")
    options = config.options
    assert (options.last_server_file, options.broker_list_file) == ("/usr/local/gw6c/last.txt", "/var/lib/list.txt")
    assert options.always_use_same_server and options.known_keys_file == "/usr/local/gw6c/gw6ckeys.pub"
    assert config.hooks.home_dir == "/usr/local/gw6c" and config.log.filename == "/usr/local/gw6c/gw6c.log"
    beside = agent(USER)
    assert beside.options.last_server_file == "/etc/gw6c/tsp-last-server.txt" and beside.warnings == ()
    gone = agent(USER + "gw6_dir=/opt/gone\n")
    assert gone.options.last_server_file == "/etc/gw6c/tsp-last-server.txt"
    assert "line 5: gw6_dir: /opt/gone is no folder" in gone.warnings[0]
    keys = "/var/lib/gogoc/gogockeys.pub"
    assert agent(USER, keys, path="/etc/gogoc/gogoc.conf").options.known_keys_file == keys


def test_logs() -> None:
    log = agent(USER + "log_console=1\nlog_stderr=0\nlog_file=3\nlog_syslog=2\nlog_filename=/var/log/x.log\nlog_rotation=no\n"
                "log_rotation_size=1024\nlog_rotation_delete=yes\nsyslog_facility=LOCAL5\n").log
    assert (log.console, log.stderr, log.file, log.syslog, log.filename) == (1, 0, 3, 2, "/var/log/x.log")
    assert (log.rotation, log.rotation_size, log.rotation_delete, log.syslog_facility) == (False, 1024, True, "LOCAL5")


def test_retries() -> None:
    retry = agent(USER + "auto_retry_connect=no\nretry_delay=600\n").retry
    assert (retry.first_delay, retry.longest_delay, retry.reconnect) == (600, 600, False)
    hammering = agent(USER + "retry_delay=0\nretry_delay_max=0\n")
    assert hammering.retry.first_delay == 1 and "line 5: retry_delay is 0" in hammering.warnings[0]
    assert agent(USER, args=OldArgs(boot=True)).retry.auth_tries == 1


def test_a_template_of_ones_own_sets_everything_up() -> None:
    path = "/usr/local/gw6c/template/linux.sh"
    text = ANONYMOUS + "gw6_dir=/usr/local/gw6c\nif_tunnel_v4v6=sit0\ntunnel_mode=v4v6\n"
    config = agent(text, path)
    assert config.hooks.script == path and config.hooks.script_sets_up and config.device == "sit0"
    assert not agent(text).hooks.script_sets_up
    own = ANONYMOUS + "template=mine\ngw6_dir=/usr/local/gw6c\n"
    assert agent(own, "/usr/local/gw6c/template/mine.sh").hooks.script.endswith("/mine.sh")
    assert "line 4: template is 'mine', but /usr/local/gw6c/template/mine.sh does not exist" in wrong(own)


@pytest.mark.parametrize(("template", "platform", "warnings"), [
    ("linux", "linux", 0), ("openwrt", "linux", 0), ("freebsd", "freebsd14", 0), ("freebsd", "linux", 1), ("gogocpe", "linux", 1),
    ("dongle6", "linux", 1), ("", "linux", 0)])
def test_the_stock_templates_are_the_agents_own_work(template: str, platform: str, warnings: int) -> None:
    config = agent(ANONYMOUS.replace("template=linux", f"template={template}"), platform=platform)
    assert not config.hooks.script and len(config.warnings) == warnings


@pytest.mark.parametrize(("lines", "parts"), [
    ("proxy_client=yes\ntunnel_mode=v6v4", ("line 4: proxy_client is yes", "role tunnel")),
    ("proxy_client=yes\ntunnel_mode=v6udpv4", ("line 4: proxy_client", "v6udpv4 cannot have")),
    ("tunnel_mode=dslite", ("line 4: tunnel_mode is dslite",)), ("template=cisco", ("line 4: template is cisco", "role cisco")),
    ("template=checktunnel", ("line 4: template is checktunnel",)), ("template=windows", ("line 4: template is windows",)),
    ("tunnel_mode=v4v6\nhost_type=router\nif_prefix=e\nprefixlen=48", ("line 7: prefixlen", "1 to 32")),
    ("client_v4=127.0.0.1", ("line 4: client_v4", "cannot be a tunnel endpoint"))])
def test_what_is_no_tunnel_of_this_host_is_refused_with_what_to_do_instead(lines: str, parts: tuple[str, ...]) -> None:
    message = wrong(ANONYMOUS + lines + "\n")
    assert all(part in message for part in parts), message


def test_what_is_not_done_is_told_with_its_reason() -> None:
    config = agent(USER + "hap6_web_enabled=yes\nhap6_document_root=/x\nhaccess_proxy_enabled=yes\nhap6_proxy_enabled=no\nprefixlen=48\n"
                   "dns_server=a.example\nclient_v6=2001:db8::1\nkeepalive_interval=999999\n", args=OldArgs(unexplained=True))
    said = " ".join(config.warnings)
    for part in ("line 5: hap6_web_enabled", "line 6: hap6_document_root", "line 7: haccess_proxy_enabled", "line 9: prefixlen",
                 "line 10: dns_server", "line 11: client_v6", "line 12: keepalive_interval", "-c: "):
        assert part in said
    assert "hap6_proxy_enabled" not in said and config.request.keepalive_interval == 86400


def test_every_key_does_something_or_is_told(tmp_path: Path) -> None:
    """Each key, set to another value than its default, changes the agent's configuration or is named in a warning or an error."""
    other = {"userid": "bob", "passwd": "other", "server": "other.example", "auth_method": "plain", "host_type": "host",
             "prefixlen": "60",
             "if_prefix": "eth7", "dns_server": "n.example", "gw6_dir": str(tmp_path), "gogoc_dir": str(tmp_path), "retry_delay": "77",
             "retry_delay_max": "777", "keepalive_interval": "77", "tunnel_mode": "v6v4", "client_v4": "192.0.2.77",
             "client_v6": "2001:db8::77", "template": "freebsd", "broker_list": "b", "last_server": "l", "log_filename": "f",
             "log_rotation_size": "128", "syslog_facility": "LOCAL1", "hap6_document_root": "/x", "haccess_document_root": "/x",
             "if_tunnel_v6v4": "a", "if_tunnel_v6udpv4": "b", "if_tunnel_v4v6": "c", "dslite_client": "192.0.2.1",
             "dslite_server": "192.0.2.1"}
    base = USER + "host_type=router\nif_prefix=eth1\n"
    v4v6 = base + "tunnel_mode=v4v6\n"
    for key, (_check, default) in KEYS.items():
        value = other.get(key) or ({True: "no", False: "yes"}[default] if isinstance(default, bool) else "3")
        start = v4v6 if key in ("if_tunnel_v4v6", "client_v6") else base
        if key.startswith("dslite_"):
            start = base + "tunnel_mode=dslite\n"
        before = read(start)
        try:
            config = agent(f"{start}{key}={value}\n")
            assert config != agent(start) or key in " ".join(config.warnings), key
            if key == "passwd":
                assert config.options.credentials.password == "other"
        except LocalError as exc:
            assert key in exc.message or "dslite" in exc.message, key
        assert before[key] == read(start)[key]


def test_the_command_line_takes_the_place_of_lines() -> None:
    args = OldArgs(keys={"if_tunnel_v6v4": "sit9", "if_tunnel_v6udpv4": "tun9", "retry_delay": "5"}, verbose=4, accept_keys=True)
    config = agent(USER + "if_tunnel_v6v4=sit3\nlog_stderr=0\n", args=args)
    assert (config.device_of("v6v4"), config.device_of("v6udpv4"), config.retry.first_delay) == ("sit9", "tun9", 5)
    assert config.log.stderr == 3 and config.options.server_key_policy == "accept_new"
    with pytest.raises(LocalError, match="command line: retry_delay is 'soon'; it can be a number from 0 to 3600"):
        agent(USER, args=OldArgs(keys={"retry_delay": "soon"}))


@pytest.mark.parametrize(("path", "name"), [
    ("/etc/gw6c/gw6c.conf", "gw6c"), ("/etc/Office-2.conf", "office_2"), ("/etc/2.conf", "tsp"), ("/etc/.conf", "tsp")])
def test_the_tunnel_is_called_like_the_file(path: str, name: str) -> None:
    assert agent(USER, path=path).name == name
    assert agent(USER, path=path, name="other").name == "other"


def test_a_password_that_others_can_read_is_told_loudly_and_used(tmp_path: Path) -> None:
    path = tmp_path / "gw6c.conf"
    for mode, text, loud in ((0o644, USER, True), (0o640, USER, True), (0o600, USER, False), (0o644, ANONYMOUS, False)):
        path.write_text(text)
        path.chmod(mode)
        config = oldagent.load(path.read_bytes(), str(path), OldArgs(), "linux", {})
        assert any("HOLDS A PASSWORD" in said and "chmod 600" in said for said in config.warnings) == loud
        assert "canary" not in " ".join(config.warnings)


KEY = st.sampled_from(sorted(KEYS)) | st.text(max_size=12)
VALUE = st.text(max_size=30) | st.sampled_from(
    ["", "yes", "no", "0", "1", "30", "auto", "router", "v4v6", "192.0.2.1", "::1", "a.example", "/x", "linux", "any"])
LINE = st.builds(lambda key, value: f"{key}={value}", KEY, VALUE) | st.text(max_size=40)


@settings(max_examples=300, deadline=None)
@given(lines=st.lists(LINE, max_size=12), anonymous=st.booleans())
def test_any_text_is_a_configuration_or_one_error_and_no_password_is_told(lines: list[str], anonymous: bool) -> None:
    whole = "\n".join([f"passwd={SECRET}", "userid=alice", "server=b.example", *lines, *(["auth_method=anonymous"] if anonymous else [])])
    try:
        config = agent(whole)
        said = " ".join(config.warnings) + repr(config)
        assert config.request.proxy is False and config.device
    except LocalError as exc:
        assert exc.code == "config_invalid"
        said = str(exc)
    assert SECRET not in said


@settings(max_examples=300, deadline=None)
@given(words=st.lists(st.sampled_from(["-f", "-i", "-v", "-vvvv", "-r", "-x", "status", "--config", "--json", "--name", "--user=", "-h"])
                      | st.text(max_size=8), max_size=6))
def test_any_command_line_is_a_command(words: list[str]) -> None:
    command = cli.parse(["gw6c", *words], {}, "linux")
    assert command.action in ("run", "check", "apply", "status", "help", "error")
    assert (command.action == "error") == (command.code > 0) and (not command.code or command.text)

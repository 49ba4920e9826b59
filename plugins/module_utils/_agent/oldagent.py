# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""What the agent makes of an old client's configuration: every key with its old meaning, or a warning that says why not.

File names without a folder are below gw6_dir (gogoc_dir), or beside the file where that does not exist: the old clients took them from
the working directory, and their guide has users start them in the one.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address

from .._exchange.options import ExchangeOptions
from .._module.ask import NAME, identity_of
from .._tsp.client_config import Credentials
from .._tsp.errors import LocalError
from .._tsp.request import TunnelRequest
from . import oldconf
from .config import USER
from .oldargs import OldArgs
from .oldconf import OldConf
from .oldkeys import STOCK_TEMPLATES
from .settings import AgentConfig, HooksConfig, LinkConfig, LogConfig, RetryConfig

TUNNEL_MTU = 1280
"""What every template of the old clients forced (guide, "Tunnel Maximum Transmission Unit")."""
LONGEST_INTERVAL = 86400
RESERVED = frozenset({"sit0", "ip6tnl0", "tunl0", "gre0", "ip6gre0", "lo"})
"""Devices that are Linux's own as soon as a module is there."""
OUR_DEVICE = "tsp0"
GOGOC_KEYS = "/var/lib/gogoc/gogockeys.pub"
NATIVE = ("linux", "openwrt", "freebsd", "netbsd", "openbsd", "darwin")
"""Stock templates whose work the agent does by itself."""


@dataclass(frozen=True)
class Given:
    """What an old file cannot say, from the command line. Empty means the default."""

    name: str = ""
    lease_file: str = ""
    state_dir: str = ""
    runtime_dir: str = ""
    user: str = ""


class Host:
    """What of this host counts: a port, so that tests can do without files."""

    def is_file(self, path: str) -> bool:
        return os.path.isfile(path)

    def is_folder(self, path: str) -> bool:
        return os.path.isdir(path)


def load(text: bytes, path: str, args: OldArgs, platform: str, given: Mapping[str, str]) -> AgentConfig:
    """From the bytes of a file. given: the fields of Given. Raises LocalError `config_invalid`."""
    conf = oldconf.read(text.decode("utf-8", "surrogateescape"), path, platform, args.keys)
    config = agent_config(conf, args, Given(**given), platform=platform)
    said = _exposure(conf)
    return replace(config, warnings=(said, *config.warnings)) if said else config


def _exposure(conf: OldConf) -> str:
    if not conf["passwd"] or conf["auth_method"] == "anonymous":
        return ""
    try:
        mode = stat.S_IMODE(os.stat(conf.path).st_mode)
    except OSError:
        return ""
    if not mode & 0o077:
        return ""
    return (f"{conf.path} HOLDS A PASSWORD, AND OTHERS THAN ITS OWNER CAN READ IT (mode {mode:04o}): chmod 600 {conf.path}, "
            "and change the password.")


def agent_config(conf: OldConf, args: OldArgs | None = None, given: Given | None = None, host: Host | None = None,
                 platform: str = "linux") -> AgentConfig:
    """Raises LocalError `config_invalid`: the keys that mean something else than a tunnel of this host, each with what to do instead."""
    args, given, host = args or OldArgs(), given or Given(), host or Host()
    wrong: list[str] = []
    warnings = list(conf.warnings)
    if args.unexplained:
        warnings.append("-c: no document of gw6c says what it does; nothing is done for it.")
    name = _name(conf, given, wrong)
    state_dir, runtime_dir = given.state_dir or "/var/lib/tsp", given.runtime_dir or "/run/tsp"
    for option, value in (("--state-dir", state_dir), ("--runtime-dir", runtime_dir), ("--lease-file", given.lease_file or "/")):
        if not value.startswith("/"):
            wrong.append(f"{option} {value!r} is no absolute path")
    if given.user and not USER.match(given.user):
        wrong.append(f"--user {given.user!r} cannot be a user")
    home = _home(conf, host, warnings)
    request = _request(conf, warnings, wrong)
    hooks = _hooks(conf, home, host, platform, warnings, wrong)
    devices = _devices(conf, hooks.script_sets_up, platform, warnings)
    _others(conf, warnings)
    options = None if wrong else _options(conf, args, home, state_dir, name, host, wrong)
    if wrong or request is None or options is None:
        raise LocalError("config_invalid", f"{conf.path}: {'; '.join(wrong)}.", "Correct it; nothing was done.")
    router = conf["host_type"] == "router"
    return AgentConfig(
        name=name, device=next(iter(devices.values())), devices=tuple(devices.items()), request=request, options=options,
        link=LinkConfig(mtu=TUNNEL_MTU, lan_interfaces=(conf["if_prefix"],) if router else ()),
        retry=_retry(conf, args, warnings), hooks=hooks, log=_log(conf, args, home),
        lease_file=given.lease_file or os.path.join(state_dir, f"{name}.lease"), state_dir=state_dir, runtime_dir=runtime_dir,
        user=given.user or AgentConfig.user, warnings=tuple(warnings))


def _name(conf: OldConf, given: Given, wrong: list[str]) -> str:
    """What the file is called, as far as a tunnel can be called so."""
    if given.name:
        if not NAME.match(given.name):
            wrong.append(f"--name {given.name!r} cannot name a tunnel: use lower-case letters, digits and underscores, a letter first")
        return given.name
    stem = re.sub(r"[^a-z0-9_]", "_", os.path.splitext(os.path.basename(conf.path))[0].lower())[:64]
    return stem if NAME.match(stem) else "tsp"


def _home(conf: OldConf, host: Host, warnings: list[str]) -> str:
    """Where what the file names without a folder lies; TSP_HOME_DIR."""
    beside = os.path.dirname(os.path.abspath(conf.path))
    if not conf.home_dir:
        return beside
    home = os.path.normpath(os.path.join(beside, conf.home_dir))
    if host.is_folder(home):
        return home
    key = "gogoc_dir" if conf.kind == "gogoc" and conf["gogoc_dir"] else "gw6_dir" if conf["gw6_dir"] else "gogoc_dir"
    warnings.append(f"{conf.where(key)}: {home} is no folder; what it should hold is looked for in {beside}.")
    return beside


def _request(conf: OldConf, warnings: list[str], wrong: list[str]) -> TunnelRequest | None:
    mode, router = conf["tunnel_mode"], conf["host_type"] == "router"
    if mode == "dslite":
        wrong.append(f"{conf.where('tunnel_mode')} is dslite, which needs no broker's tunnel; it can be v6anyv4, v6v4, v6udpv4, v4v6 here")
        return None
    if conf["proxy_client"]:
        wrong.append(f"{conf.where('proxy_client')} is yes, but the tunnel of an agent ends at its own host; ask for another device's "
                     "tunnel with the role tunnel and tunnel_run_on, or the module tunnel with proxy: true")
        return None
    length = conf["prefixlen"] if router else None
    if mode == "v4v6" and router and "prefixlen" not in conf.places:
        length = None  # the default of 64 is one of IPv6
    elif not router and "prefixlen" in conf.places:
        warnings.append(f"{conf.where('prefixlen')} is for host_type=router, and asks for nothing here.")
    if conf["dns_server"] and not router:
        warnings.append(f"{conf.where('dns_server')} is for host_type=router, and asks for nothing here.")
    if mode == "v4v6" and "client_v4" in conf.places and conf["client_v4"] or mode != "v4v6" and conf["client_v6"]:
        unused = "client_v4" if mode == "v4v6" else "client_v6"
        warnings.append(f"{conf.where(unused)} is of the other family than a {mode} tunnel's outer address, and was left out.")
    interval = conf["keepalive_interval"]
    if interval > LONGEST_INTERVAL:
        warnings.append(f"{conf.where('keepalive_interval')} is more than a day; {LONGEST_INTERVAL} is asked for.")
        interval = LONGEST_INTERVAL
    try:
        return TunnelRequest(
            mode=mode, host_type=conf["host_type"], prefix_length=length, dns_servers=conf["dns_server"] if router else (),
            client_ipv4=IPv4Address(conf["client_v4"]) if conf["client_v4"] and mode != "v4v6" else None,
            client_ipv6=IPv6Address(conf["client_v6"]) if conf["client_v6"] and mode == "v4v6" else None,
            keepalive=conf["keepalive"], keepalive_interval=interval if conf["keepalive"] else TunnelRequest.keepalive_interval)
    except LocalError as exc:
        keys = {"prefix_length": "prefixlen", "client_ipv4": "client_v4", "client_ipv6": "client_v6"}
        key = next((old for new, old in keys.items() if exc.message.startswith(new)), "tunnel_mode")
        wrong.append(f"{conf.where(key)}: {str(exc).rstrip('.')}")
        return None


def _options(conf: OldConf, args: OldArgs, home: str, state_dir: str, name: str, host: Host, wrong: list[str]) -> ExchangeOptions | None:
    keys = os.path.join(home, "gw6ckeys.pub")
    if conf.kind == "gogoc" and not host.is_file(keys):
        keys = GOGOC_KEYS if host.is_file(GOGOC_KEYS) else os.path.join(home, "gogockeys.pub")
    credentials = None
    if conf["auth_method"] != "anonymous":
        credentials = Credentials(conf["userid"], conf["passwd"])
    try:
        options = ExchangeOptions(
            brokers=(conf["server"],), auth_method=conf["auth_method"], credentials=credentials, known_keys_file=keys,
            server_key_policy="accept_new" if args.accept_keys else "reject", state_dir=state_dir, identity=identity_of("", name),
            always_use_same_server=conf["always_use_same_server"], last_server_file=os.path.join(home, conf["last_server"]),
            broker_list_file=os.path.join(home, conf["broker_list"]))
        options.check_credentials()
        return options
    except LocalError as exc:
        wrong.append(str(exc).rstrip("."))
        return None


def _retry(conf: OldConf, args: OldArgs, warnings: list[str]) -> RetryConfig:
    first = conf["retry_delay"]
    if first == 0:
        warnings.append(f"{conf.where('retry_delay')} is 0; one second is kept, since a broker shuts those out who hammer it.")
        first = 1
    return RetryConfig(first_delay=float(first), longest_delay=float(max(first, conf["retry_delay_max"])),
                       auth_tries=1 if args.boot else RetryConfig.auth_tries, reconnect=conf["auto_retry_connect"])


def _log(conf: OldConf, args: OldArgs, home: str) -> LogConfig:
    return LogConfig(
        stderr=min(args.verbose, 3) if args.verbose else conf["log_stderr"], console=conf["log_console"], file=conf["log_file"],
        syslog=conf["log_syslog"], filename=os.path.join(home, conf["log_filename"]), rotation=conf["log_rotation"],
        rotation_size=conf["log_rotation_size"], rotation_delete=conf["log_rotation_delete"],
        syslog_facility=conf["syslog_facility"].upper())


def _hooks(conf: OldConf, home: str, host: Host, platform: str, warnings: list[str], wrong: list[str]) -> HooksConfig:
    """The script sets everything up, as it always did, where there is one; else we do the work of those that came with the clients."""
    template, where = conf["template"], conf.where("template")
    script = os.path.join(home, "template", f"{template}.sh")
    if template and host.is_file(script):
        return HooksConfig(script=script, script_sets_up=True, home_dir=home)
    if template == "cisco":
        wrong.append(f"{where} is cisco, which writes a router's configuration; configure routers with the role cisco")
    elif template in ("checktunnel", "windows", "solaris", "sunos"):
        wrong.append(f"{where} is {template}, which sets up no tunnel of this system, and {script} does not exist; "
                     f"it can be {', '.join(NATIVE)}, or the name of a script of your own there")
    elif template and template not in STOCK_TEMPLATES:
        wrong.append(f"{where} is {template!r}, but {script} does not exist; put the script there, or take the name of a stock one "
                     f"({', '.join(NATIVE)}), whose work the agent does by itself")
    elif template in ("dongle6", "gogocpe"):
        warnings.append(f"{where} is {template}: the tunnel and the LAN are set up, but no LED, no resolv.conf and no DHCPv6 server.")
    elif template and template != re.sub(r"[0-9.]+\Z", "", platform) and not (template == "openwrt" and platform == "linux"):
        warnings.append(f"{where} is {template}, but this is {platform}: the tunnel is set up as this system needs it.")
    if conf["host_type"] == "router":
        warnings.append(f"{conf.where('if_prefix')}: {conf['if_prefix']} gets its address, but nothing advertises the prefix there. The "
                        "template started radvd (the BSDs: rtadvd): have it do so, for example by the role radvd.")
    return HooksConfig(home_dir=home)


def _devices(conf: OldConf, scripted: bool, platform: str, warnings: list[str]) -> dict[str, str]:
    """The device's name for each mode that the broker may grant."""
    mode = conf["tunnel_mode"]
    out = {}
    for granted in ("v6v4", "v6udpv4") if mode == "v6anyv4" else (mode,):
        key = f"if_tunnel_{granted}"
        name = conf.values.get(key, OUR_DEVICE)
        if not scripted and platform.startswith("linux") and name in RESERVED:
            if key in conf.places:
                warnings.append(f"{conf.where(key)} is {name}, which belongs to the kernel; the device is called {OUR_DEVICE}.")
            name = OUR_DEVICE
        out[granted] = name
    return out


def _others(conf: OldConf, warnings: list[str]) -> None:
    for prefix, name in (("hap6", "HomeAccess"), ("haccess", "Home Access")):
        for key in (f"{prefix}_web_enabled", f"{prefix}_proxy_enabled", f"{prefix}_document_root"):
            if conf[key]:
                warnings.append(f"{conf.where(key)}: {name} published web pages by a service of the vendor's that no longer exists; "
                                "nothing is done for it.")

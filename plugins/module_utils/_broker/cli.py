# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""The command line: serve, check, users, leases. Passwords come from a prompt, standard input or a file, never from an argument."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from pathlib import Path
from typing import Any, Optional

from .._tsp.errors import LocalError, TspError
from . import accounts as accounts_module
from . import config as config_module
from .accounts import Account, check_username, with_password
from .config import Config, fixed_problems
from .logs import Log
from .report import account_rows, describe, lease_rows, table
from .service import Broker, offered_mechanisms
from .store import Store

VERSION = "0.1.0"
DEFAULT_CONFIG = "/etc/tsp-broker/broker.yml"


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run a command. Returns the exit code: 0, 1 for a failure that is explained on standard error, 2 for wrong usage."""
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.run(arguments) or 0)
    except TspError as exc:
        sys.stderr.write(f"tsp-broker: {exc}\n")
        return 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130


def _say(text: str) -> None:
    """A line for whoever ran the command."""
    sys.stdout.write(text + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tsp-broker", description="A tunnel broker that speaks TSP (RFC 5572).")
    parser.add_argument("--version", action="version", version=f"tsp-broker {VERSION}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(under: Any, name: str, run: Callable[[argparse.Namespace], Any], help: str) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = under.add_parser(name, help=help, description=help)
        made.add_argument("--config", type=Path, default=Path(DEFAULT_CONFIG), metavar="FILE", help=f"default {DEFAULT_CONFIG}")
        made.set_defaults(run=run)
        return made

    command(commands, "serve", _serve, "run the broker until SIGTERM; SIGHUP reads accounts, redirect and limits again")
    command(commands, "check", _check, "validate the configuration and say what it would do")
    users = commands.add_parser("users", help="accounts in the store").add_subparsers(required=True, metavar="ACTION")
    for name, run, help in (("add", _users_add, "make an account"), ("passwd", _users_passwd, "give an account a new password")):
        one = command(users, name, run, help)
        one.add_argument("name")
        source = one.add_mutually_exclusive_group()
        source.add_argument("--password-stdin", action="store_true", help="read the password from the first line of standard input")
        source.add_argument("--password-file", type=Path, metavar="FILE", help="read it from the first line of a file")
        one.add_argument("--no-digest", action="store_true", help="keep no HA1: safer if the store leaks, but no DIGEST-MD5")
        if name == "add":
            one.add_argument("--tunnels", type=int, default=1, metavar="N", help="tunnels at once, told apart by outer address (default 1)")
            one.add_argument("--proxy", action="store_true", help="may ask for tunnels that end at other machines")
            one.add_argument("--disabled", action="store_true")
            one.add_argument("--ipv6", type=IPv6Address, metavar="ADDRESS", help="fixed address")
            one.add_argument("--prefix", type=IPv6Network, metavar="PREFIX", help="fixed delegated prefix")
            one.add_argument("--ipv4", type=IPv4Address, metavar="ADDRESS", help="fixed address for v4v6")
            one.add_argument("--print", action="store_true", dest="only_print", help="print it for `accounts` in YAML, store nothing")
    for name, run, help in (("remove", _users_remove, "delete an account; its leases stay until they expire or are released"),
                            ("enable", _users_enable, "let an account log in"),
                            ("disable", _users_enable, "keep an account from logging in")):
        one = command(users, name, run, help)
        one.add_argument("name")
        one.set_defaults(action=name)
    command(users, "list", _users_list, "all accounts").add_argument("--json", action="store_true")
    leases = commands.add_parser("leases", help="leases in the store").add_subparsers(required=True, metavar="ACTION")
    command(leases, "list", _leases_list, "all leases").add_argument("--json", action="store_true")
    command(leases, "release", _leases_release, "end leases and free their addresses").add_argument(
        "which", nargs="+", metavar="NUMBER|USER", help="number of a lease, or all leases of a user")
    return parser


# ---- serve and check ----

def _serve(arguments: argparse.Namespace) -> int:
    config = config_module.load(arguments.config)
    log = Log(config.log.level, config.log.format, config.log.file)
    try:
        asyncio.run(_run(Broker(config, log, arguments.config), log))
    finally:
        log.close()
    return 0


async def _run(broker: Broker, log: Log) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.set_exception_handler(lambda _loop, context: log.error("defect", why=str(context.get("exception") or context["message"])))

    def end(name: str) -> None:
        log.info("stopping", why=name)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end, number.name)
    async with broker:
        loop.add_signal_handler(signal.SIGHUP, broker.reload)
        # What is there now stays; sessions come and go by the thousand and are no cyclic garbage.
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 20, 50)
        _notify("READY=1")
        await stop.wait()
        _notify("STOPPING=1")


def _notify(state: str) -> None:
    """Tell systemd, where it asked to be told (sd_notify(3))."""
    name = os.environ.get("NOTIFY_SOCKET")
    if name:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as one:
            one.sendto(state.encode(), "\0" + name[1:] if name.startswith("@") else name)


def _check(arguments: argparse.Namespace) -> int:
    config = config_module.load(arguments.config)
    offered, left_out = offered_mechanisms(config)
    stored = []
    if config.store.exists():
        with contextlib.closing(Store(config.store)) as store:
            stored = store.accounts()
    _say(describe(config, offered, [w for w in (*config.warnings, left_out) if w], stored))
    return 0


# ---- users ----

def _store(arguments: argparse.Namespace) -> tuple[Config, Store]:
    config = config_module.load(arguments.config)
    return config, Store(config.store)


def _password(arguments: argparse.Namespace) -> str:
    if arguments.password_stdin:
        line = sys.stdin.readline()
    elif arguments.password_file:
        try:
            with open(arguments.password_file, encoding="utf-8") as file:
                line = file.readline()
        except (OSError, UnicodeDecodeError) as exc:
            raise LocalError("bad_password", f"The password file cannot be read: {getattr(exc, 'strerror', None) or 'not UTF-8'}.",
                             "Check its name and permissions.") from None
    elif sys.stdin.isatty():
        import getpass
        line = getpass.getpass("Password: ")
        if getpass.getpass("Again: ") != line:
            raise LocalError("bad_password", "The two passwords differ.", "Try again.")
    else:
        raise LocalError("bad_password", "There is no terminal to ask for the password.", "Use --password-stdin or --password-file.")
    return accounts_module.check_password(line.rstrip("\r\n"))


def _configured(config: Config, name: str) -> None:
    if any(account.username == name for account in config.accounts):
        raise LocalError("account_in_configuration", f"The account {name} stands in the configuration.",
                         "Change it there, then send the broker SIGHUP.")


def _users_add(arguments: argparse.Namespace) -> int:
    config = config_module.load(arguments.config)
    name = check_username(arguments.name)
    if arguments.tunnels < 1:
        raise LocalError("bad_account", "--tunnels must be 1 or more.", "")
    account = Account(name, not arguments.disabled, tunnels=arguments.tunnels, proxy=arguments.proxy, ipv6=arguments.ipv6,
                      prefix=arguments.prefix, ipv4=arguments.ipv4, origin="store")
    wrong = fixed_problems(config, account)
    if wrong:
        raise LocalError("bad_account", wrong[0], "Choose from the pools of the configuration.")
    if not arguments.only_print:
        _configured(config, name)
        with contextlib.closing(Store(config.store)) as store:
            if store.account(name) is not None:
                raise LocalError("account_exists", f"The account {name} exists already.", "Use `users passwd`, or remove it first.")
            store.save_account(with_password(account, _password(arguments), config.realm, os.urandom, not arguments.no_digest))
        _say(f"{name}: added")
        return 0
    account = with_password(account, _password(arguments), config.realm, os.urandom, not arguments.no_digest)
    values: dict[str, Any] = {"username": name, "scrypt": account.scrypt}
    if account.digest is not None:
        values["digest_ha1"] = account.digest.hex()
    if not account.enabled:
        values["enabled"] = False
    if account.tunnels > 1:
        values["tunnels"] = account.tunnels
    if account.proxy:
        values["proxy"] = True
    values.update({key: str(getattr(account, key)) for key in ("ipv6", "prefix", "ipv4") if getattr(account, key) is not None})
    _say("\n".join(f"{'- ' if i == 0 else '  '}{key}: {json.dumps(value)}" for i, (key, value) in enumerate(values.items())))
    return 0


def _stored_account(config: Config, store: Store, name: str) -> Account:
    _configured(config, name)
    account = store.account(name)
    if account is None:
        raise LocalError("no_such_account", f"There is no account {name} in the store.", "`users list` shows them.")
    return account


def _users_passwd(arguments: argparse.Namespace) -> int:
    config, store = _store(arguments)
    with contextlib.closing(store):
        account = _stored_account(config, store, arguments.name)
        store.save_account(with_password(account, _password(arguments), config.realm, os.urandom, not arguments.no_digest))
    _say(f"{arguments.name}: password changed")
    return 0


def _users_enable(arguments: argparse.Namespace) -> int:
    from dataclasses import replace
    config, store = _store(arguments)
    with contextlib.closing(store):
        store.save_account(replace(_stored_account(config, store, arguments.name), enabled=arguments.action == "enable"))
    _say(f"{arguments.name}: {arguments.action}d")
    return 0


def _users_remove(arguments: argparse.Namespace) -> int:
    config, store = _store(arguments)
    with contextlib.closing(store):
        _stored_account(config, store, arguments.name)
        store.remove_account(arguments.name)
        held = store.count(arguments.name)
    _say(f"{arguments.name}: removed" + (f"; {held} of its leases remain, see `leases release {arguments.name}`" if held else ""))
    return 0


def _users_list(arguments: argparse.Namespace) -> int:
    config, store = _store(arguments)
    with contextlib.closing(store):
        found = [*config.accounts, *store.accounts()]
    rows = account_rows(found, config.realm)
    _say(json.dumps(rows, indent=2) if arguments.json else table(rows, "No accounts."))
    return 0


# ---- leases ----

def _leases_list(arguments: argparse.Namespace) -> int:
    _config, store = _store(arguments)
    with contextlib.closing(store):
        rows = lease_rows(store.leases(), time.time())
    if arguments.json:
        _say(json.dumps(rows, indent=2))
    else:
        shown = [{k: row[k] for k in ("id", "user", "mode", "client", "inside", "prefix", "state", "expires_in")} for row in rows]
        _say(table(shown, "No leases."))
    return 0


def _leases_release(arguments: argparse.Namespace) -> int:
    _config, store = _store(arguments)
    with contextlib.closing(store):
        running = store.broker_runs()
        chosen = {}
        for word in arguments.which:
            found = [lease for lease in store.leases() if lease.username == word or word.isdigit() and lease.id == int(word)]
            if not found:
                raise LocalError("no_such_lease", f"There is no lease {word}.", "Nothing was released. `leases list` shows them.")
            chosen.update({lease.id: lease for lease in found})
        for number in chosen:
            store.mark_released(number) if running else store.remove(number)
    _say(f"{len(chosen)} released" + (": the running broker ends them within seconds" if running else ""))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

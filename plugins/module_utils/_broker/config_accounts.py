# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""Accounts written in YAML: inline in the configuration, or in a file of their own."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

from .._tsp.errors import LocalError
from . import schema
from .accounts import Account, check_password, check_scrypt, check_username, ha1
from .schema import Problems, Section, Wrong


def read_accounts(problems: Problems, entries: list[tuple[str, Any]], realm: str, path: Path | None) -> list[Account]:
    """The accounts in a list of (path in the file, mapping). path: the file, which others must not be able to read."""
    accounts = [made for where, value in entries for made in [_account(problems, where, value, realm)] if made is not None]
    if accounts and path is not None:
        _check_mode(problems, path)
    return accounts


def read_accounts_file(problems: Problems, path: Path, realm: str) -> list[Account]:
    """The accounts in a file that holds nothing but a list of them."""
    try:
        data = schema.load_yaml(path)
    except LocalError as exc:
        problems.add("accounts_file", str(exc))
        return []
    if isinstance(data, dict) and set(data) == {"accounts"}:
        data = data["accounts"]
    if not isinstance(data, list):
        problems.add("accounts_file", f"{path} must hold a list of accounts.")
        return []
    return read_accounts(problems, [(f"{path.name}[{i}]", entry) for i, entry in enumerate(data)], realm, path)


def _check_mode(problems: Problems, path: Path) -> None:
    """Secrets in a file that everybody can read are no secrets; a group may read (the service's own)."""
    try:
        mode = stat.S_IMODE(os.stat(path).st_mode)
    except OSError:
        return
    if mode & 0o027:
        problems.add("accounts", f"{path} holds accounts, but its mode {mode:04o} lets others read or change it: chmod 0600 {path}.")


def _account(problems: Problems, where: str, value: Any, realm: str) -> Account | None:
    section = Section(problems, where, value)
    before = len(problems.found)
    name = section.take("username", _username)
    enabled = section.take("enabled", schema.boolean, True)
    clear = section.take("password", _password, None, hide=True)
    scrypt = section.take("scrypt", _scrypt, None, hide=True)
    digest = section.take("digest_ha1", _ha1, None, hide=True)
    account = Account(
        name, enabled, scrypt, digest, realm if digest else "",
        tunnels=section.take("tunnels", schema.number(1, 1_000_000), 1), proxy=section.take("proxy", schema.boolean, False),
        ipv6=section.take("ipv6", schema.ipv6, None), prefix=section.take("prefix", schema.network6, None),
        ipv4=section.take("ipv4", schema.ipv4, None))
    section.close()
    if isinstance(value, dict) and clear is None and scrypt is None and digest is None and len(problems.found) == before:
        problems.add(where, "has no password; use `users add NAME --print` to make scrypt and digest_ha1, or give password.")
    if clear is not None and (scrypt is not None or digest is not None):
        problems.add(where, "has password besides scrypt or digest_ha1; leave one of both out.")
    if len(problems.found) != before:
        return None
    if clear is not None:
        account = Account(name, enabled, None, ha1(name, realm, clear), realm, account.tunnels, account.proxy, account.ipv6,
                          account.prefix, account.ipv4)
    return account


def _username(value: Any) -> str:
    try:
        return check_username(value if isinstance(value, str) else "")
    except LocalError as exc:
        raise Wrong(exc.hint) from None


def _password(value: Any) -> str:
    try:
        return check_password(value if isinstance(value, str) else "")
    except LocalError as exc:
        raise Wrong(f"{exc.hint} (Numbers must be quoted.)") from None


def _scrypt(value: Any) -> str:
    try:
        return check_scrypt(value if isinstance(value, str) else "")
    except ValueError:
        raise Wrong("expected a hash that `users add NAME --print` made.") from None


def _ha1(value: Any) -> bytes:
    try:
        made = bytes.fromhex(value if isinstance(value, str) else "")
    except ValueError:
        made = b""
    if len(made) != 16:
        raise Wrong("expected 32 hexadecimal digits in quotes, as `users add NAME --print` makes them.")
    return made

# Copyright (c) 2026, The tunnelbroker.tsp authors
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Accounts: what is kept of a password checks it, and does not give it away."""

from __future__ import annotations

import hashlib

import pytest
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._broker import accounts
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._broker.accounts import Account, AccountBook, with_password
from ansible_collections.tunnelbroker.tsp.plugins.module_utils._tsp.errors import LocalError

SALT = b"0123456789abcdef"


def salt(count: int) -> bytes:
    return SALT[:count]


def test_scrypt_hash_is_the_standard_one_and_checks() -> None:
    stored = accounts.scrypt_hash("secret1", SALT, 10)
    assert stored.startswith("$scrypt$ln=10,r=8,p=1$")
    assert accounts.scrypt_matches("secret1", stored) and not accounts.scrypt_matches("secret2", stored)
    raw = hashlib.scrypt(b"secret1", salt=SALT, n=1024, r=8, p=1, dklen=32)
    assert stored.endswith(accounts._b64(raw))


@pytest.mark.parametrize("broken", ["", "x", "$scrypt$ln=10,r=8,p=1$AAAA$AAAA", "$scrypt$ln=99,r=8,p=1$a$b", "$scrypt$ln=x$a$b",
                                    "$1$2$3$4"])
def test_a_broken_hash_matches_nothing(broken: str) -> None:
    assert not accounts.scrypt_matches("secret1", broken)


def test_with_digest_every_mechanism_works() -> None:
    account = with_password(Account("alice"), "secret1", "r", salt)
    assert account.verify("secret1") and not account.verify("secret2")
    assert account.ha1("r") == hashlib.md5(b"alice:r:secret1").digest()
    assert account.ha1("other") is None, "HA1 of one realm was given for another"
    assert account.password is None


def test_without_digest_only_the_hash_is_kept() -> None:
    account = with_password(Account("alice"), "secret1", "r", salt, digest=False)
    assert account.digest is None and account.ha1("r") is None
    assert account.verify("secret1") and not account.verify("x")


def test_nothing_of_a_secret_is_shown() -> None:
    account = with_password(Account("alice"), "canary-1", "r", salt)
    assert account.scrypt and account.scrypt not in repr(account)
    assert "canary" not in repr(account) and repr(account.digest) not in repr(account)


@pytest.mark.parametrize("name", ["", " a", "a\n", "a\0b", "x" * 254])
def test_bad_user_names(name: str) -> None:
    with pytest.raises(LocalError):
        accounts.check_username(name)


@pytest.mark.parametrize("password", ["", "canary\n", "canary" * 30])
def test_bad_passwords_are_not_quoted(password: str) -> None:
    with pytest.raises(LocalError) as caught:
        accounts.check_password(password)
    assert "canary" not in str(caught.value)


def test_the_configuration_goes_before_the_store() -> None:
    stored = {"alice": Account("alice", origin="store"), "bob": Account("bob", origin="store")}
    book = AccountBook({"alice": Account("alice")}, stored.get)
    assert book("alice").origin == "configuration" and book("bob").origin == "store" and book("eve") is None

# Copyright (c) 2026, The tunnelbroker.tsp authors
# Simplified BSD License (see LICENSES/BSD-2-Clause.txt or https://opensource.org/licenses/BSD-2-Clause)
# SPDX-License-Identifier: BSD-2-Clause

"""The broker's DSA key and its signatures (PASSDSS-3DES-1, tsp-protocol.md section 3.5), and the binary forms they travel in.

Needs the package cryptography, imported when it is used: `library`. Bytes come in and go out; files are the broker's business.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Any, NamedTuple

from .errors import LocalError
from .sasl import MAX_MESSAGE, missing_library

SSH_DSS = b"ssh-dss"
NUMBER_OCTETS = 20
"""r and s must both have exactly this length for the old client."""


class Library(NamedTuple):
    """The parts of the package cryptography that are used."""

    dsa: Any
    utils: Any
    hashes: Any
    serialization: Any
    ciphers: Any
    triple_des: Any
    invalid_signature: Any


def library() -> Library:
    """What is needed of the package cryptography. Raises LocalError `missing_library`."""
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives import ciphers, hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import dsa, utils
        try:
            from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
        except ImportError:  # before cryptography 43
            from cryptography.hazmat.primitives.ciphers.algorithms import TripleDES  # type: ignore[attr-defined,no-redef,unused-ignore]
    except Exception:  # noqa: BLE001 - a broken installation fails in many ways, some of them not ImportError
        raise missing_library() from None
    return Library(dsa, utils, hashes, serialization, ciphers, TripleDES, InvalidSignature)


# Encodings.


def uint32(number: int) -> bytes:
    """Four octets, most significant first."""
    return number.to_bytes(4, "big")


def string(data: bytes) -> bytes:
    """uint32 length and the octets."""
    return uint32(len(data)) + data


def mpint(number: int) -> bytes:
    """Minimal and unsigned, without the zero octet that the draft puts before a set top bit (tsp-protocol.md section 3.5)."""
    return string(number.to_bytes((number.bit_length() + 7) // 8, "big"))


class Short(Exception):
    """The data ends before the structure does."""


class Reader:
    """Takes structures off the front of `data`. Raises Short at its end, ValueError for a length that no message has."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, count: int) -> bytes:
        if self.at + count > len(self.data):
            raise Short
        self.at += count
        return self.data[self.at - count:self.at]

    def length(self) -> int:
        number = int.from_bytes(self.take(4), "big")
        if number > MAX_MESSAGE:
            raise ValueError("a length is out of range")
        return number

    def string(self) -> bytes:
        return self.take(self.length())

    def mpint(self) -> int:
        return int.from_bytes(self.string(), "big")  # a leading zero octet does no harm here


# The server's key.


class DsaKey:
    """The broker's key pair. `blob`: the public part as clients store it. Make one with `generate_dsa_key` or `load_dsa_key`."""

    def __init__(self, private: Any) -> None:
        numbers = private.public_key().public_numbers()
        parameters = numbers.parameter_numbers
        if (parameters.p.bit_length(), parameters.q.bit_length()) != (1024, 8 * NUMBER_OCTETS):
            raise LocalError("invalid_key", "The broker's DSA key is not of 1024 bits with a q of 160 bits.",
                             "The old clients know no other size: let the broker make a new key.")
        self._private = private
        self.blob = key_blob(parameters.p, parameters.q, parameters.g, numbers.y)

    def sign(self, digest: bytes) -> tuple[int, int]:
        """r and s over `digest` (20 octets, not hashed again), both of 20 octets: signed anew until they are."""
        lib = library()
        algorithm = lib.utils.Prehashed(lib.hashes.SHA1())
        while True:
            r, s = lib.utils.decode_dss_signature(self._private.sign(digest, algorithm))
            if len(mpint(r)) == len(mpint(s)) == 4 + NUMBER_OCTETS:
                return r, s

    def to_pem(self) -> bytes:
        """The private key, PKCS#8 in PEM, not encrypted: to be kept in a file of mode 0600."""
        encodings = library().serialization
        pem: bytes = self._private.private_bytes(encodings.Encoding.PEM, encodings.PrivateFormat.PKCS8, encodings.NoEncryption())
        return pem

    def __repr__(self) -> str:
        return f"<DsaKey {fingerprint(self.blob)}>"


def generate_dsa_key() -> DsaKey:
    """A new key of 1024 bits, the only size that the old clients know. Raises LocalError `missing_library`."""
    return DsaKey(library().dsa.generate_private_key(1024))


def load_dsa_key(pem: bytes) -> DsaKey:
    """The inverse of DsaKey.to_pem. Raises LocalError `missing_library` or `invalid_key`."""
    lib = library()
    try:
        private = lib.serialization.load_pem_private_key(pem, password=None)
    except Exception:  # noqa: BLE001 - ValueError, TypeError or UnsupportedAlgorithm, depending on the version
        private = None
    if not isinstance(private, lib.dsa.DSAPrivateKey):
        raise LocalError("invalid_key", "The broker's key file holds no DSA private key in PEM.",
                         "Restore the file from a backup, or remove it so that the broker makes a new key (clients will notice).")
    return DsaKey(private)


def key_blob(p: int, q: int, g: int, y: int) -> bytes:
    """The public key as SSH writes it, zero octets included: it is compared and stored as a whole, never re-encoded."""
    def ssh_mpint(number: int) -> bytes:
        return string(number.to_bytes(number.bit_length() // 8 + 1, "big"))
    return string(SSH_DSS) + b"".join(ssh_mpint(number) for number in (p, q, g, y))


def fingerprint(blob: bytes) -> str:
    """How people compare keys: SHA256:<base64>, as ssh-keygen -l prints it."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode("ascii").rstrip("=")


def verify(blob: bytes, digest: bytes, r: int, s: int) -> bool:
    """Whether (r, s) signs `digest` under the key `blob`. Raises ValueError for an unreadable or too small key."""
    lib, reader = library(), Reader(blob)
    if reader.string() != SSH_DSS:
        raise ValueError("the key is not ssh-dss")
    p, q, g, y = (reader.mpint() for _unused in range(4))
    if reader.at != len(blob):
        raise ValueError("octets follow the key")
    if not (1024 <= p.bit_length() <= 4096 and 160 <= q.bit_length() <= 256):
        raise ValueError("the key has a size that is not a DSA key's")  # before any arithmetic on what a stranger chose
    if not (1 < g < p - 1 and 1 < y < p - 1 and pow(g, q, p) == 1 and pow(y, q, p) == 1):
        raise ValueError("the key is not a DSA key")
    public = lib.dsa.DSAPublicNumbers(y, lib.dsa.DSAParameterNumbers(p, q, g)).public_key()
    try:
        public.verify(lib.utils.encode_dss_signature(r, s), digest, lib.utils.Prehashed(lib.hashes.SHA1()))
    except lib.invalid_signature:
        return False
    return True

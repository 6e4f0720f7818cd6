"""Ed25519 keys: made, kept in files, checked; a public key is its 64 lowercase hex digits, everywhere.

`verify` alone does not protect against keys of small order: with one of those a single signature fits every message.
So a key is registered only after `check_public`: canonical encoding, on the curve, in the prime-order subgroup.

IO: reads and writes key files.
"""

import hashlib
import os
import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from .errors import KeyInvalid, SignatureInvalid

_HEX64 = re.compile(r"[0-9a-f]{64}")
_HEADER = "p2p-llm-forge ed25519 "

# The curve of RFC 8032: -x² + y² = 1 + d·x²·y² over the integers mod P; L is the order of the base point.
_P = 2**255 - 19
_L = 2**252 + 27742317777372353535851937790883648493
_D = -121665 * pow(121666, _P - 2, _P) % _P
_SQRT_M1 = pow(2, (_P - 1) // 4, _P)


class PrivateKey:
    """One Ed25519 key pair; never printed, written only by `save`."""

    __slots__ = ("_key", "public")

    def __init__(self, seed: bytes) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self.public: str = self._key.public_key().public_bytes_raw().hex()

    @classmethod
    def generate(cls) -> "PrivateKey":
        """A new key from the system's randomness."""
        return cls(os.urandom(32))

    @classmethod
    def load(cls, path: Path | str) -> "PrivateKey":
        """The key in a file written by `save`.

        Raises:
            KeyInvalid: missing, readable by others, or not a key file.
        """
        try:
            mode = os.stat(path).st_mode
            with open(path, "rb") as file:
                data = file.read(256)
        except OSError as exc:
            raise KeyInvalid(f"{path}: cannot read the key: {exc.strerror}; forge-ledger keygen makes one") from exc
        if mode & 0o077:
            raise KeyInvalid(f"{path}: others may read this key (mode {mode & 0o777:03o}); run: chmod 600 {path}")
        text = data.decode("latin-1")
        seed = text.removeprefix(_HEADER).removesuffix("\n")
        if text != f"{_HEADER}{seed}\n" or not _HEX64.fullmatch(seed):
            raise KeyInvalid(f"{path}: not a key file; it should be one line that begins with {_HEADER.strip()!r}")
        return cls(bytes.fromhex(seed))

    def save(self, path: Path | str) -> None:
        """Write the key, for its owner only, whole or not at all; an existing file is never overwritten.

        Raises:
            KeyInvalid: the file exists, or cannot be written.
        """
        target = Path(path)
        text = f"{_HEADER}{self._key.private_bytes_raw().hex()}\n"
        temporary = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(text.encode())
                    file.flush()
                    os.fsync(file.fileno())
                os.link(temporary, target)  # fails if the target exists, so nothing is ever overwritten
            finally:
                os.unlink(temporary)
            folder = os.open(target.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except FileExistsError as exc:
            raise KeyInvalid(f"{path}: exists already and is not overwritten; choose another name") from exc
        except OSError as exc:
            raise KeyInvalid(f"{path}: cannot write the key: {exc.strerror}") from exc

    def sign(self, message: bytes) -> bytes:
        """The 64 bytes of the (deterministic) signature."""
        return self._key.sign(message)

    def __repr__(self) -> str:
        return f"PrivateKey({self.public[:8]}…)"


def verify(public: str, message: bytes, signature: bytes) -> None:
    """Check a signature.

    Raises:
        SignatureInvalid: it does not verify; KeyInvalid: `public` is no key.
    """
    try:
        _loaded(public).verify(signature, message)
    except InvalidSignature as exc:
        raise SignatureInvalid(f"the signature of {public[:16]}… does not verify") from exc


@lru_cache(maxsize=65536)
def _loaded(public: str) -> Ed25519PublicKey:
    if not _HEX64.fullmatch(public):
        raise KeyInvalid(f"{public[:72]!r} is not a public key; a key is 64 lowercase hex digits")
    return Ed25519PublicKey.from_public_bytes(bytes.fromhex(public))


_checked: set[str] = set()


def take_as_checked(publics: Iterable[str]) -> None:
    """Check these keys no more: who started this process did. `check_public` takes a millisecond."""
    _checked.update(publics)


@lru_cache(maxsize=65536)
def check_public(public: str) -> None:
    """Check that a key may be registered: canonical, on the curve, of prime order.

    Raises:
        KeyInvalid: it may not.
    """
    if public in _checked:
        return
    if type(public) is not str or not _HEX64.fullmatch(public):
        raise KeyInvalid(f"{str(public)[:72]!r} is not a public key; a key is 64 lowercase hex digits")
    point = _decompress(bytes.fromhex(public))
    if point is None:
        raise KeyInvalid(f"key {public[:16]}… is not a canonical point of the curve")
    if _is_identity(_multiply(8, point)):
        raise KeyInvalid(f"key {public[:16]}… is of small order: one signature would fit every message")
    if not _is_identity(_multiply(_L, point)):
        raise KeyInvalid(f"key {public[:16]}… is of mixed order: verifiers would disagree about its signatures")


_Point = tuple[int, int, int, int]  # extended coordinates X, Y, Z, T with x = X/Z, y = Y/Z, x·y = T/Z


def _decompress(data: bytes) -> _Point | None:
    y = int.from_bytes(data, "little")
    sign, y = y >> 255, y & (2**255 - 1)
    if y >= _P:
        return None
    u, v = (y * y - 1) % _P, (_D * y * y + 1) % _P
    x = u * pow(v, 3, _P) * pow(u * pow(v, 7, _P), (_P - 5) // 8, _P) % _P
    if v * x * x % _P != u:
        x = x * _SQRT_M1 % _P
        if v * x * x % _P != u:
            return None
    if x == 0 and sign:
        return None
    if x & 1 != sign:
        x = _P - x
    return (x, y, 1, x * y % _P)


def _add(p: _Point, q: _Point) -> _Point:
    a, b = (p[1] - p[0]) * (q[1] - q[0]) % _P, (p[1] + p[0]) * (q[1] + q[0]) % _P
    c, d = 2 * p[3] * q[3] * _D % _P, 2 * p[2] * q[2] % _P
    e, f, g, h = b - a, d - c, d + c, b + a
    return (e * f % _P, g * h % _P, f * g % _P, e * h % _P)


def _double(p: _Point) -> _Point:
    a, b, c = p[0] * p[0] % _P, p[1] * p[1] % _P, 2 * p[2] * p[2] % _P
    h = a + b
    e, g = h - (p[0] + p[1]) ** 2 % _P, a - b
    f = c + g
    return (e * f % _P, g * h % _P, f * g % _P, e * h % _P)


def _multiply(scalar: int, point: _Point) -> _Point:
    result: _Point = (0, 1, 1, 0)
    for bit in bin(scalar)[2:]:
        result = _double(result)
        if bit == "1":
            result = _add(result, point)
    return result


def _is_identity(p: _Point) -> bool:
    return p[0] % _P == 0 and (p[1] - p[2]) % _P == 0


def fingerprint(data: bytes) -> str:
    """SHA-256 in hex: how specs and genesis files are named."""
    return hashlib.sha256(data).hexdigest()

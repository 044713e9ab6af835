"""Callers of a generation service: each with a name and a scope, known by the hash of its token alone.

    POLYRAY_API_TOKEN     the caller "default", scope user
    POLYRAY_ADMIN_TOKEN   the caller "admin", scope admin: may also do what a user may
    tokens_file           further callers, a YAML list:

        - name: alice
          scope: user
          sha256: 2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824
          requests_per_minute: 30      # left out: the service's own limit

Without any of them everybody is "anonymous" with scope admin. A book holds no token's text, only SHA-256, so it
travels to replicas as it is; nothing here is salted or slow, because tokens are long and random.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, SecretStr, StringConstraints, ValidationError

from polyray.config.base import StrictModel
from polyray.config.generation import MAKE_A_TOKEN
from polyray.errors import ConfigError
from polyray.serving.auth import TOKEN_VARIABLE, given_token, token_from_environment

logger = logging.getLogger(__name__)

TokenScope = Literal["user", "admin"]

ADMIN_TOKEN_VARIABLE = "POLYRAY_ADMIN_TOKEN"
RESERVED_NAMES = ("default", "admin", "anonymous")

_HASHES_OF_NOTHING = frozenset(hashlib.sha256(text).hexdigest() for text in (b"", b"\n"))


@dataclass(frozen=True, slots=True)
class Caller:
    """A caller of the service.

    Example:
        Caller(name="alice", scope="user", requests_per_minute=30.0)
    """

    name: str
    scope: TokenScope
    requests_per_minute: float | None = None
    """None: the service's own limit."""


ANONYMOUS = Caller("anonymous", "admin")


@dataclass(frozen=True, slots=True)
class KnownToken:
    """A token, by its hash.

    Example:
        KnownToken(Caller("alice", "user"), sha256="2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824")
    """

    caller: Caller
    sha256: str = field(repr=False)
    """64 lowercase hexadecimal digits."""

    @classmethod
    def of(cls, caller: Caller, token: SecretStr) -> KnownToken:
        """Keeps the hash of `token`."""
        return cls(caller, _sha256(token.get_secret_value()))


@dataclass(frozen=True, slots=True)
class TokenBook:
    """Every token that a service knows.

    Example:
        TokenBook((KnownToken.of(Caller("default", "user"), SecretStr("s3cret")),))
    """

    tokens: tuple[KnownToken, ...] = ()

    @classmethod
    def load(cls, tokens_file: str | None = None) -> TokenBook:
        """The tokens of this process's environment and of the file.

        Raises ConfigError naming the variable, or the file, the entry and its line; never with a token's text.
        """
        found = [
            (variable, KnownToken.of(caller, token))
            for variable, caller in (
                (TOKEN_VARIABLE, Caller("default", "user")),
                (ADMIN_TOKEN_VARIABLE, Caller("admin", "admin")),
            )
            if (token := token_from_environment(variable)) is not None
        ]
        if tokens_file is not None:
            found += _read_tokens_file(Path(tokens_file))
        _refuse_duplicates(found)
        return cls(tuple(known for _, known in found))

    @property
    def needs_token(self) -> bool:
        """False if the service is open to everyone in reach."""
        return bool(self.tokens)

    @property
    def has_admin(self) -> bool:
        """Whether any caller may use the admin routes."""
        return not self.tokens or any(known.caller.scope == "admin" for known in self.tokens)

    def find(self, authorization: str) -> Caller | None:
        """Caller with the token of an Authorization header; None: no known caller.

        Compares with every entry, so that the time it takes does not tell which one was nearest.
        """
        if not self.tokens:
            return ANONYMOUS
        given = _sha256(given_token(authorization))
        found = None
        for known in self.tokens:
            if hmac.compare_digest(known.sha256, given):
                found = known.caller
        return found


class _Entry(StrictModel):
    """One entry of a tokens_file."""

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$")]
    scope: TokenScope
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-fA-F]{64}$")]
    requests_per_minute: float | None = Field(default=None, gt=0, allow_inf_nan=False, strict=True)


def _sha256(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def _read_tokens_file(path: Path) -> list[tuple[str, KnownToken]]:
    """Token of each entry, after its place in the file."""
    try:
        mode = path.stat().st_mode
        nodes, values = _parse(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = "" if mark is None else f" in line {mark.line + 1}"
        raise ConfigError(f"tokens_file {path} is not valid YAML{line}") from None
    except OSError as error:
        raise ConfigError(f"tokens_file {path} cannot be read: {error.strerror}") from None
    except ValueError as error:  # of decoding UTF-8, and of YAML values like a date that does not exist
        kind = (
            "not UTF-8 text" if isinstance(error, UnicodeError) else "not valid YAML: a value cannot be read"
        )
        raise ConfigError(f"tokens_file {path} is {kind}") from None
    if not nodes:
        raise ConfigError(
            f"tokens_file {path} holds no list of {{name, scope, sha256}}, and without a token the service would be "
            f"open to everybody; write an entry, whose token and sha256 are made by `{MAKE_A_TOKEN}`, or set "
            "tokens_file to null"
        )
    if mode & (stat.S_IROTH | stat.S_IWOTH):
        logger.warning("tokens_file %s can be read or written by every user; run `chmod o-rw %s`", path, path)
    found = []
    for number, (node, value) in enumerate(zip(nodes, values, strict=True), start=1):
        origin = f"tokens_file {path}: entry {number} (line {node.start_mark.line + 1})"
        found.append((origin, _known_token(node, value, origin)))
    return found


def _parse(text: str) -> tuple[list[yaml.Node], list[Any]]:
    """The entries as YAML knows them, with their lines, and as values; nothing where there is no list."""
    loader = yaml.SafeLoader(text)
    try:
        root = loader.get_single_node()
        if not isinstance(root, yaml.SequenceNode):
            return [], []
        return list(root.value), list(loader.construct_document(root))
    finally:
        loader.dispose()


def _known_token(node: yaml.Node, value: Any, origin: str) -> KnownToken:
    if not isinstance(value, dict) or not isinstance(node, yaml.MappingNode):
        raise ConfigError(f"{origin} is not a mapping of name, scope and sha256")
    keys = [str(key.value) for key, _ in node.value]
    if twice := [key for at, key in enumerate(keys) if key in keys[:at]]:
        raise ConfigError(f"{origin}: the key {twice[0]!r} comes twice")
    try:
        entry = _Entry.model_validate(value)
    except ValidationError as error:
        raise ConfigError(f"{origin}: " + "; ".join(_explain(item) for item in error.errors())) from None
    if entry.name in RESERVED_NAMES:
        raise ConfigError(f"{origin}: the name {entry.name!r} is the service's own; choose another")
    if entry.sha256.lower() in _HASHES_OF_NOTHING:
        raise ConfigError(f"{origin}: sha256 is that of an empty token; make one by `{MAKE_A_TOKEN}`")
    return KnownToken(Caller(entry.name, entry.scope, entry.requests_per_minute), entry.sha256.lower())


def _explain(item: Any) -> str:
    """Problem of a key of an entry; without its value, which may be a token."""
    key = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        return f"unknown key {key!r}; known are {', '.join(_Entry.model_fields)}"
    if item["type"] == "missing":
        return f"{key}: this key is required"
    if key == "sha256":
        return f"sha256 is not 64 hexadecimal digits; the hash of a token, never the token: `{MAKE_A_TOKEN}`"
    return f"{key}: {item['msg']}"


def _refuse_duplicates(found: Sequence[tuple[str, KnownToken]]) -> None:
    names: dict[str, str] = {}
    hashes: dict[str, str] = {}
    for origin, known in found:
        if known.caller.name in names:
            raise ConfigError(
                f"{origin}: the name {known.caller.name!r} is that of {names[known.caller.name]}"
            )
        if known.sha256 in hashes:
            raise ConfigError(
                f"{origin} has the same token as {hashes[known.sha256]}; every caller needs one of their own"
            )
        names[known.caller.name] = hashes[known.sha256] = origin

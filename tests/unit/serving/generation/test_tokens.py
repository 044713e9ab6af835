"""Callers by hashes of tokens: environment, file, messages without secrets."""

from __future__ import annotations

import hashlib
import hmac
import logging
import pickle
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from polyray.config.generation import MAKE_A_TOKEN
from polyray.errors import ConfigError
from polyray.serving.auth import TOKEN_VARIABLE
from polyray.serving.generation.tokens import ADMIN_TOKEN_VARIABLE, ANONYMOUS, Caller, TokenBook
from tests.unit.serving.generation.operation_fixtures import ADMIN, ALICE, BOOK, CALLERS, USER, book_of

HELLO, OTHER = (hashlib.sha256(text).hexdigest() for text in (b"hello", b"world"))
SECRET = "written-by-mistake"


@pytest.fixture(autouse=True)
def no_tokens_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    monkeypatch.delenv(ADMIN_TOKEN_VARIABLE, raising=False)


def tokens_file(tmp_path: Path, text: str | bytes, mode: int = 0o600) -> str:
    path = tmp_path / "tokens.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    path.chmod(mode)
    return str(path)


def entry(**changes: object) -> str:
    values = {"name": "alice", "scope": "user", "sha256": HELLO, **changes}
    return "- {" + ", ".join(f"{key}: {value}" for key, value in values.items() if value is not None) + "}\n"


@pytest.mark.parametrize(
    ("header", "token"),
    [
        (f"Bearer {USER}", USER),
        (f"bearer   {ADMIN} ", ADMIN),
        (f"BEARER {ALICE}", ALICE),
        ("", None),
        ("Bearer ", None),
        (f"Bearer {USER}x", None),
        (f"Bearer {USER[:-1]}", None),
        (f"Bearer {USER.upper()}", None),
        (f"Bearer {USER} {ADMIN}", None),
        (f"Bearer {USER}, Bearer {USER}", None),
        (f"Basic {USER}", None),
        (USER, None),
        ("Bearer t\xf6k\xe9n", None),
        ("Bearer \ud800", None),
        (f"Bearer {USER}\x00", None),
        (f"Bearer {hashlib.sha256(USER.encode()).hexdigest()}", None),
    ],
)
def test_token_book_finds_the_caller_of_a_header(
    header: str, token: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[str] = []
    real = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: bool(compared.append(a)) or real(a, b))
    assert BOOK.find(header) == (None if token is None else CALLERS[token])
    if token is not None:
        assert compared == [known.sha256 for known in BOOK.tokens], "every entry, in constant time"


def test_token_book_without_tokens_finds_an_anonymous_admin() -> None:
    book = TokenBook.load()
    assert book == TokenBook() and not book.needs_token and book.has_admin
    for header in ("", "Bearer anything", "\xff"):
        assert book.find(header) == Caller("anonymous", "admin") == ANONYMOUS
    assert [book_of(*tokens).has_admin for tokens in ((USER, ALICE), (ADMIN,))] == [False, True]
    assert book_of(USER).needs_token


def test_token_book_joins_environment_and_file_and_travels_without_secrets(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, USER)
    monkeypatch.setenv(ADMIN_TOKEN_VARIABLE, ADMIN)
    own = entry(name="alice@example.org", sha256=HELLO.upper(), requests_per_minute=30)
    book = TokenBook.load(tokens_file(tmp_path, own + entry(name="ops", scope="admin", sha256=OTHER)))
    callers = {
        USER: Caller("default", "user"),
        ADMIN: Caller("admin", "admin"),
        "hello": Caller("alice@example.org", "user", 30.0),
        "world": Caller("ops", "admin"),
    }
    assert [known.caller for known in book.tokens] == [*callers.values()]
    content = pickle.dumps(book)
    assert USER.encode() not in content and ADMIN.encode() not in content
    for each in (book, pickle.loads(content)):
        assert {token: each.find(f"Bearer {token}") for token in callers} == callers
        assert each.find("Bearer Hello") is None
        shown = repr(each) + str(each.tokens[0])
        assert not any(secret in shown for secret in (USER, ADMIN, *(known.sha256 for known in book.tokens)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (entry(sha256=SECRET), "entry 1 (line 1): sha256"),
        (entry(sha256=HELLO[:-1]), "entry 1 (line 1): sha256"),
        (entry(sha256=HELLO + "0"), "entry 1 (line 1): sha256"),
        (entry(sha256=12), "entry 1 (line 1): sha256"),
        (entry(sha256=hashlib.sha256(b"").hexdigest()), "entry 1 (line 1): sha256"),
        (entry(sha256=hashlib.sha256(b"\n").hexdigest()), "entry 1 (line 1): sha256"),
        (entry(sha256=None, token=SECRET), "'token'; known are name, scope, sha256, requests_per_minute"),
        (entry(scope="root"), "entry 1 (line 1): scope"),
        (entry(scope=None), "entry 1 (line 1): scope"),
        (entry(name="'two words'"), "entry 1 (line 1): name"),
        (entry(name=7), "entry 1 (line 1): name"),
        (entry(name="admin"), "entry 1 (line 1): the name 'admin'"),
        (entry(requests_per_minute=0), "entry 1 (line 1): requests_per_minute"),
        (entry(requests_per_minute=".inf"), "entry 1 (line 1): requests_per_minute"),
        (entry(requests_per_minute="yes"), "entry 1 (line 1): requests_per_minute"),
        ("# people\n\n" + entry() + entry(name="bob"), "entry 2 (line 4) "),
        (entry() + entry(sha256=OTHER), "entry 2 (line 2): the name 'alice'"),
        (entry() + entry(name="bob", sha256=HELLO.upper()), "entry 2 (line 2) "),
        (f"- name: a\n  scope: user\n  scope: admin\n  sha256: {HELLO}\n", "'scope'"),
        (f"- {SECRET}\n", "entry 1 (line 1) "),
        ("- {1: 2}\n", "entry 1 (line 1): name"),
        (f"tokens:\n  {entry()}", "{name, scope, sha256}"),
        ("", "{name, scope, sha256}"),
        ("[]", "{name, scope, sha256}"),
        (entry() + f"- {{name: *{SECRET}", "YAML in line 2"),
        (entry() + "---\n" + entry(), "YAML in line 2"),
        ("- 2026-13-45\n", "YAML"),
        (b"- \xff\n", "UTF-8"),
        ("- \x07\n", "YAML"),
        (None, ""),
    ],
)
def test_token_book_broken_file_is_named_without_its_secrets(
    tmp_path: Path, text: str | bytes | None, message: str
) -> None:
    path = str(tmp_path) if text is None else tokens_file(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        TokenBook.load(path)
    assert message in str(caught.value) and str(caught.value).startswith(f"tokens_file {path}")
    assert SECRET not in str(caught.value) and HELLO not in str(caught.value).lower()


@pytest.mark.parametrize(
    ("user", "admin", "in_file", "message"),
    [
        ("hello", "hello", False, "POLYRAY_ADMIN_TOKEN .*POLYRAY_API_TOKEN"),
        ("hello", None, True, r"entry 1 \(line 1\) .*POLYRAY_API_TOKEN"),
        (None, "", False, "POLYRAY_ADMIN_TOKEN"),
    ],
)
def test_token_book_contradicting_tokens_are_refused(
    user: str | None,
    admin: str | None,
    in_file: bool,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    for variable, value in ((TOKEN_VARIABLE, user), (ADMIN_TOKEN_VARIABLE, admin)):
        if value is not None:
            monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError, match=message):
        TokenBook.load(tokens_file(tmp_path, entry()) if in_file else None)


@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o640, False), (0o644, True), (0o602, True)])
def test_token_book_file_open_to_every_user_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: int, warned: bool
) -> None:
    path = tokens_file(tmp_path, entry(), mode)
    with caplog.at_level(logging.WARNING, logger="polyray.serving.generation.tokens"):
        TokenBook.load(path)
    assert [f"`chmod o-rw {path}`" in record.getMessage() for record in caplog.records] == [True] * warned


def test_token_command_of_the_documents_makes_a_token_and_its_entry(tmp_path: Path) -> None:
    _, *arguments = shlex.split(MAKE_A_TOKEN)
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=60, check=True
    )
    token, sha256 = done.stdout.split()
    book = TokenBook.load(tokens_file(tmp_path, entry(sha256=sha256)))
    assert len(token) == 43 and book.find(f"Bearer {token}") == Caller("alice", "user")

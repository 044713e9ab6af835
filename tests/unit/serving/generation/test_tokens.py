"""Callers by hashes of tokens: environment, file, messages without secrets."""

from __future__ import annotations

import hashlib
import hmac
import logging
import pickle
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from polyray.config.generation import MAKE_A_TOKEN
from polyray.errors import ConfigError
from polyray.serving.auth import TOKEN_VARIABLE
from polyray.serving.generation.tokens import ADMIN_TOKEN_VARIABLE, ANONYMOUS, Caller, KnownToken, TokenBook
from tests.unit.serving.generation.operation_fixtures import ADMIN, ALICE, BOOK, CALLERS, USER, book_of

HELLO = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
"""SHA-256 of `hello`."""
OTHER = "486ea46224d1bb4fb680f34f7c9ad96a8f24ec88be73ea8e5a6c65260e9cb8a7"
"""SHA-256 of `world`."""
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


@pytest.mark.parametrize(
    ("header", "token"),
    [
        (f"Bearer {USER}", USER),
        (f"bearer   {ADMIN} ", ADMIN),
        (f"BEARER {ALICE}", ALICE),
        ("", None),
        ("Bearer", None),
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
        ("Bearer " + "x" * 1_000_000, None),
        (f"Bearer {hashlib.sha256(USER.encode()).hexdigest()}", None),
    ],
)
def test_authorization_header_selects_the_caller(header: str, token: str | None):
    assert BOOK.find(header) == (None if token is None else CALLERS[token])


@pytest.mark.parametrize("header", ["", "Bearer anything", "nonsense", "\xff"])
def test_without_tokens_everybody_is_an_anonymous_admin(header: str):
    book = TokenBook.load()
    assert book == TokenBook() and not book.needs_token and book.has_admin
    assert book.find(header) == Caller("anonymous", "admin") == ANONYMOUS


@pytest.mark.parametrize("token", [USER, ALICE, "unknown", ""])
def test_every_entry_is_compared_for_any_token(monkeypatch: pytest.MonkeyPatch, token: str):
    compared: list[str] = []
    real = hmac.compare_digest

    def counted(known: str, given: str) -> bool:
        compared.append(known)
        return real(known, given)

    monkeypatch.setattr(hmac, "compare_digest", counted)
    BOOK.find(f"Bearer {token}")
    assert compared == [known.sha256 for known in BOOK.tokens]


def test_tokens_come_from_the_environment_and_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv(TOKEN_VARIABLE, USER)
    monkeypatch.setenv(ADMIN_TOKEN_VARIABLE, ADMIN)
    text = f"- {{name: alice@example.org, scope: user, sha256: {HELLO.upper()}, requests_per_minute: 30}}\n"
    book = TokenBook.load(tokens_file(tmp_path, text + f"- name: ops\n  scope: admin\n  sha256: '{OTHER}'\n"))
    assert [known.caller for known in book.tokens] == [
        Caller("default", "user"),
        Caller("admin", "admin"),
        Caller("alice@example.org", "user", 30.0),
        Caller("ops", "admin"),
    ]
    assert book.find("Bearer hello") == Caller("alice@example.org", "user", 30.0)
    assert book.find("Bearer world") == Caller("ops", "admin")
    assert book.find(f"Bearer {USER}") == Caller("default", "user")
    assert book.find(f"Bearer {ADMIN}") == Caller("admin", "admin")
    assert book.find("Bearer Hello") is None


@pytest.mark.parametrize(
    ("tokens", "needs_token", "has_admin"),
    [((), False, True), ((USER,), True, False), ((ADMIN,), True, True), ((USER, ALICE), True, False)],
)
def test_book_reports_whether_it_needs_tokens_and_has_admins(tokens, needs_token, has_admin):
    book = book_of(*tokens)
    assert (book.needs_token, book.has_admin) == (needs_token, has_admin)


def entry(**changes: object) -> str:
    values = {"name": "alice", "scope": "user", "sha256": HELLO, **changes}
    return "- {" + ", ".join(f"{key}: {value}" for key, value in values.items() if value is not None) + "}\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (entry(sha256=SECRET), "entry 1 (line 1): sha256"),
        (entry(sha256=HELLO[:-1]), "entry 1 (line 1): sha256"),
        (entry(sha256=HELLO + "0"), "entry 1 (line 1): sha256"),
        (entry(sha256=12), "entry 1 (line 1): sha256"),
        (
            entry(sha256=None, token=SECRET),
            "'token'; known are name, scope, sha256, requests_per_minute",
        ),
        (entry(scope="root"), "entry 1 (line 1): scope"),
        (entry(scope=None), "entry 1 (line 1): scope"),
        (entry(name="'two words'"), "entry 1 (line 1): name"),
        (entry(name=r'"a\n"'), "entry 1 (line 1): name"),
        (entry(name=7), "entry 1 (line 1): name"),
        (entry(name="admin"), "entry 1 (line 1): the name 'admin'"),
        (entry(name="anonymous"), "entry 1 (line 1): the name 'anonymous'"),
        (
            entry(requests_per_minute=0),
            "entry 1 (line 1): requests_per_minute",
        ),
        (
            entry(requests_per_minute=".inf"),
            "entry 1 (line 1): requests_per_minute",
        ),
        (
            entry(requests_per_minute="yes"),
            "entry 1 (line 1): requests_per_minute",
        ),
        (entry(sha256=hashlib.sha256(b"").hexdigest()), "entry 1 (line 1): sha256"),
        (
            entry(sha256=hashlib.sha256(b"\n").hexdigest()),
            "entry 1 (line 1): sha256",
        ),
        ("# people\n\n" + entry() + entry(name="bob"), "entry 2 (line 4) "),
        (entry() + entry(sha256=OTHER), "entry 2 (line 2): the name 'alice'"),
        (
            entry() + entry(name="bob", sha256=HELLO.upper()),
            "entry 2 (line 2) ",
        ),
        (f"- name: a\n  scope: user\n  scope: admin\n  sha256: {HELLO}\n", "'scope'"),
        (f"- {SECRET}\n", "entry 1 (line 1) "),
        (entry() + f"- [{SECRET}]\n", "entry 2 (line 2) "),
        ("- {1: 2}\n", "entry 1 (line 1): name"),
        (f"tokens:\n  {entry()}", "{name, scope, sha256}"),
        (SECRET, "{name, scope, sha256}"),
        ("", "{name, scope, sha256}"),
        ("[]", "{name, scope, sha256}"),
        (entry() + f"- {{name: *{SECRET}", "YAML in line 2"),
        (entry() + "---\n" + entry(), "YAML in line 2"),
        (f"- !{SECRET} x", "YAML in line 1"),
        ("- 2026-13-45\n", "YAML"),
        (b"- \xff\n", "UTF-8"),
        ("- \x07\n", "YAML"),
    ],
)
def test_broken_tokens_file_is_named_without_its_secrets(tmp_path: Path, text: str | bytes, message: str):
    path = tokens_file(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        TokenBook.load(path)
    assert message in str(caught.value) and str(caught.value).startswith(f"tokens_file {path}")
    assert SECRET not in str(caught.value) and HELLO not in str(caught.value).lower()


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path):
    missing = str(tmp_path / "none.yaml")
    with pytest.raises(ConfigError) as caught:
        TokenBook.load(missing)
    assert str(caught.value).startswith(f"tokens_file {missing} ")
    with pytest.raises(ConfigError, match=f"tokens_file {tmp_path} "):
        TokenBook.load(str(tmp_path))


def test_one_token_for_two_scopes_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv(TOKEN_VARIABLE, "hello")
    monkeypatch.setenv(ADMIN_TOKEN_VARIABLE, "hello")
    with pytest.raises(ConfigError) as caught:
        TokenBook.load()
    assert re.match("POLYRAY_ADMIN_TOKEN .*POLYRAY_API_TOKEN", str(caught.value))
    monkeypatch.delenv(ADMIN_TOKEN_VARIABLE)
    with pytest.raises(ConfigError, match=r"entry 1 \(line 1\) .*POLYRAY_API_TOKEN"):
        TokenBook.load(tokens_file(tmp_path, entry()))


def test_an_admin_token_that_cannot_work_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(ADMIN_TOKEN_VARIABLE, "")
    with pytest.raises(ConfigError, match="POLYRAY_ADMIN_TOKEN"):
        TokenBook.load()


@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o640, False), (0o644, True), (0o602, True)])
def test_a_file_that_every_user_can_read_or_write_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: int, warned: bool
):
    path = tokens_file(tmp_path, entry(), mode)
    with caplog.at_level(logging.WARNING, logger="polyray.serving.generation.tokens"):
        TokenBook.load(path)
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == int(warned)
    assert all(message.startswith(f"tokens_file {path} ") for message in messages)
    assert all(f"`chmod o-rw {path}`" in message for message in messages)


def test_a_book_travels_without_a_tokens_text_and_shows_no_hash(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setenv(TOKEN_VARIABLE, USER)
    monkeypatch.setenv(ADMIN_TOKEN_VARIABLE, ADMIN)
    book = TokenBook.load(tokens_file(tmp_path, entry()))
    bytes_of_it = pickle.dumps(book)
    assert USER.encode() not in bytes_of_it and ADMIN.encode() not in bytes_of_it
    copy = pickle.loads(bytes_of_it)
    assert copy == book and copy.find("Bearer hello") == Caller("alice", "user")
    assert copy.find(f"Bearer {ADMIN}") == Caller("admin", "admin")
    for text in (repr(book), repr(copy), str(copy.tokens[0])):
        assert USER not in text and ADMIN not in text
        assert not any(known.sha256 in text for known in book.tokens)
    assert repr(KnownToken(Caller("a", "user"), HELLO)) == (
        "KnownToken(caller=Caller(name='a', scope='user', requests_per_minute=None))"
    )


def test_the_command_that_errors_name_makes_a_token_and_its_entry(tmp_path: Path):
    _, *arguments = shlex.split(MAKE_A_TOKEN)
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=60, check=True
    )
    token, sha256 = done.stdout.split()
    book = TokenBook.load(tokens_file(tmp_path, entry(sha256=sha256)))
    assert len(token) == 43 and book.find(f"Bearer {token}") == Caller("alice", "user")

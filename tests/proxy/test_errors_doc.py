"""docs/errors.md says what is so: each statement on it is judged, each message compared, and nothing that pgveil refuses is left out."""

from __future__ import annotations

import ast
import os
import re
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

import proxy.errors
from keys.ring import UnknownDomainError
from keys.sealed import DataKey
from proxy.errors import NoPostgresClient, PgveilError, ProtocolError
from proxy.explain import REFUSED, explain
from proxy.explain_text import psql_lines
from proxy.session.extended import _too_long
from proxy.session.gate import BadValue, Refuse
from proxy.session.judging import too_many
from proxy.session.limits import SessionLimits
from proxy.session.state import AUDIT_DOWN
from proxy.session.values import ValueCodec
from proxy.session.witness import disagreement
from rules.lexer import LexError, lex, literal_value
from rules.model import ColumnName, Verdict
from rules.plan import Reason
from tests.proxy.golden import RULES, SETTINGS, gate, statements

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

LOGINS = ("teller", "agent", "owner")
# PostgreSQL's own words for a wrong value, which come without a hint there too.
NO_HINT = frozenset({Reason.BAD_VALUE})
# What the command line says, not a client's connection.
COMMANDS = frozenset({"explain_command.py", "command.py", "offline.py", "statistics.py", "keeper.py"})
PAN = ColumnName("public", "cards", "pan")


class Keys:
    """One key for each domain but those that are missing."""

    def __init__(self, *missing: str) -> None:
        self._missing = missing

    def newest(self, domain: str) -> DataKey:
        if domain in self._missing:
            raise UnknownDomainError(domain)
        return DataKey(domain, 1, bytes(64))

    def keys(self, domain: str) -> Mapping[int, DataKey]:
        return {1: self.newest(domain)}


GATE = gate(ValueCodec(Keys(), random=os.urandom))


class Example(NamedTuple):
    """One statement of the page, and the message behind it, if any."""

    section: str
    login: str
    sql: str
    message: str | None


@pytest.fixture(scope="module")
def page(request: pytest.FixtureRequest) -> str:
    root: Path = request.config.rootpath
    return (root / "docs" / "errors.md").read_text()


def sections(page: str) -> dict[str, str]:
    parts = re.split(r"^## (.*)$", page, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def examples(page: str) -> Iterator[Example]:
    pattern = re.compile(r"```sql\n-- (\w+)\n(.*?)\n```(?:\n\n```text\n(.*?)\n```)?", re.DOTALL)
    for section, text in sections(page).items():
        for login, sql, message in pattern.findall(text):
            yield Example(section, login, sql, message or None)


def test_each_reason_has_its_section(page: str) -> None:
    assert {r.value for r in Reason} <= sections(page).keys()


def test_the_bank_is_the_golden_one(page: str) -> None:
    found = re.search(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert found is not None
    assert found[1].strip() == RULES.strip()


def test_every_statement_on_the_page_is_found(page: str) -> None:
    assert page.count("```sql") == len(list(examples(page))) >= 60


def test_every_message_is_what_comes(page: str) -> None:
    """Refused statements get the page's message; the others run."""
    for example in examples(page):
        found = explain(GATE, example.sql, example.login, SETTINGS)
        if example.message is None:
            assert found.outcome != REFUSED, example
            continue
        assert found.refusal is not None, example
        assert found.refusal.reason == example.section, example
        assert "\n".join(psql_lines(found.refusal, example.sql)) == example.message


def test_after_each_refusal_the_page_says_what_works(page: str) -> None:
    for reason in Reason:
        here = [e for e in examples(page) if e.section == reason]
        if any(e.message is not None for e in here):
            assert here[-1].message is None, f"{reason}: a way out behind the last refusal"


def codec_error(ring: Keys, cell: bytes) -> BadValue:
    column = GATE.column(PAN)
    assert column is not None
    with pytest.raises(BadValue) as caught:
        ValueCodec(ring, random=os.urandom).open_batch(column, Verdict.CLEAR, [cell], 0)
    return caught.value


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ("witness", disagreement(PAN)),
        ("damaged", codec_error(Keys(), b"~AAC" + b"A" * 24)),
        ("damaged", codec_error(Keys("pan"), b"~AAB" + b"A" * 24)),
        ("audit", AUDIT_DOWN),
        ("limit", too_many("prepared statements", SessionLimits().statements)),
        ("limit", _too_long(70_000_000)),
    ],
)
def test_messages_of_the_session_are_what_comes(page: str, section: str, said: Any) -> None:
    lines = [f"ERROR:  {said.sqlstate}: {said.message}"]
    lines += [f"DETAIL:  {said.detail}"] if said.detail else []
    lines += [f"HINT:  {said.hint}"] if getattr(said, "hint", None) else []
    assert "```text\n" + "\n".join(lines) + "\n```" in sections(page)[section]


def test_errors_that_end_a_connection_are_on_the_page(page: str, request: pytest.FixtureRequest) -> None:
    """Every message of a PgveilError in the proxy's source; of protocol violations the family is enough, and some are told nobody."""
    table = page.split("## Errors of the session")[1]
    kinds = {
        name: kind
        for name, kind in vars(proxy.errors).items()
        if isinstance(kind, type) and issubclass(kind, PgveilError) and kind not in {ProtocolError, NoPostgresClient}
    }
    root: Path = request.config.rootpath
    checked = 0
    for path in sorted((root / "proxy").rglob("*.py")):
        if path.name in COMMANDS:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or not node.args:
                continue
            name = "ServerUnreachable" if node.func.id == "CatalogUnavailable" else node.func.id
            if name in kinds:
                checked += 1
                for words in fixed_words(node.args[0]):
                    assert words in table, f"{path.name}:{node.lineno}"
                assert f"`{kinds[name].sqlstate}`" in table
    assert checked >= 20


def fixed_words(message: ast.expr) -> list[str]:
    """The parts of a message that are the same each time."""
    if isinstance(message, ast.Constant):
        return [str(message.value)]
    assert isinstance(message, ast.JoinedStr), "a message is written where it is raised"
    parts = [str(v.value).strip(" :") for v in message.values if isinstance(v, ast.Constant)]
    return [part for part in parts if len(part) > 2]


def test_every_refusal_says_what_would_work_and_no_value() -> None:
    """All golden statements, for each login, by either protocol: a hint, a message without a full stop, no literal in either."""
    seen = set()
    for sql in statements():
        for login in LOGINS:
            for extended in (False, True):
                decision = GATE.decide(sql.encode(), GATE.principal(login), SETTINGS, extended=extended)
                if not isinstance(decision, Refuse):
                    continue
                refusal = decision.refusal
                seen.add(refusal.reason)
                assert refusal.hint or refusal.reason in NO_HINT, (sql, refusal)
                assert not refusal.message.endswith("."), refusal
                said = " ".join(filter(None, (refusal.message, refusal.detail, refusal.hint)))
                for value in values(sql):
                    assert value not in said, (sql, refusal)
    assert len(seen) >= 12


def values(sql: str) -> list[str]:
    """The string constants of a text that are long enough to be told from words."""
    try:
        lexed = lex(sql)
        found = [literal_value(lexed, i) for i in lexed.literals]
    except LexError:
        return []
    return [v for v in found if len(v) > 2 and not v.isalpha()]

"""Rules files: YAML of any kind to Rules or problems, and what is done with rules that were accepted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Final

from jsonschema import Draft202012Validator
from ruamel.yaml import YAML

from rules.agreement import compare
from rules.document import MAX_PROBLEMS, Place
from rules.load import check_rules
from rules.model import Verdict
from rules.problems import Severity
from rules.protect import ProtectionMap
from rules.schema import COLUMN_KEYS, ROLE_KEYS, TABLE_KEYS, TOP_KEYS, json_schema
from tests.fuzz.target import Cursor, Target, promise
from tests.rules.test_decisions_golden import RULES, bank_catalog

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rules.load import Checked
    from rules.model import Rules

_ROOT: Final = Path(__file__).parent.parent.parent
_FILE: Final = "rules.yaml"
_LINE_ENDS: Final = "\n\r\x85\u2028\u2029"
_OTHER_WORDS: Final = (
    "core important general masked sealed none deterministic randomized keep_last name phone email constant null pseudonym varchar(19) "
    "numeric(6,2) timestamptz text[] enum date public.customers public.customers.phone per_minute lookup equality "
    ": |- >+ ? - & * ! % @ ` { } [ ] , # << --- ... \\ ' \" ~ 0x1 .inf 1e9"
)
_WORDS: Final = tuple(
    word.encode()
    for word in (
        *TOP_KEYS,
        *TABLE_KEYS,
        *COLUMN_KEYS,
        *ROLE_KEYS,
        *Verdict,
        *_OTHER_WORDS.split(),
        "\n  ",
        "\n    ",
        "\t",
        "\u2028",
        "\ufeff",
    )
)


_FULL: Final = """version: 1
tables:
  public.t:
    subject: id
    columns:
      id: {level: important, protection: sealed, mode: deterministic, type: text, mask: name}
      b: {level: core, protection: sealed, mode: randomized, type: 'int4[]', on_damage: placeholder, placeholder: '{}'}
roles:
  clerk:
    logins: [ann]
    member_of: [staff]
    levels: {core: masked}
    columns:
      public.t.id: {verdict: masked, lookup: equality}
    lookups: {per_minute: 3}
"""


def _check(text: str, checked: Checked) -> None:
    lines = 1 + sum(map(text.count, _LINE_ENDS))
    for problem in checked.problems:
        promise(problem.file == _FILE, "a problem of another file")
        promise(1 <= problem.line <= lines and 1 <= problem.column <= len(text) + 1, "a problem outside of the text")
        promise(str(problem).isprintable() or "\n    fix: " in str(problem), "a problem that a terminal can't show")
    promise(len(checked.problems) <= MAX_PROBLEMS + 1, "problems without end")
    promise(
        list(checked.problems) == sorted(checked.problems, key=lambda p: (p.line, p.column)), "problems out of order"
    )
    wrong = any(p.severity is Severity.ERROR for p in checked.problems)
    promise((checked.rules is None) == wrong, "rules with an error, or none without one")
    for place in checked.places.values():
        promise(isinstance(place, Place) and 1 <= place.line <= lines, "a table or column outside of the text")


def _rules() -> Callable[[bytes], int]:
    validator = Draft202012Validator(json_schema())
    catalog = bank_catalog()

    def run(data: bytes) -> int:
        cursor = Cursor(data)
        flags = cursor.byte()
        text = cursor.rest().decode(errors="replace")
        checked = check_rules(text, _FILE)
        _check(text, checked)
        rules = checked.rules
        if rules is None:
            return 1
        promise(check_rules(text, "other.yaml").rules == rules, "the same text means something else")
        if flags & 1:
            plain = YAML(typ="safe", pure=True).load(text)
            promise(validator.is_valid(json.loads(json.dumps(plain, default=str))), "the published schema refuses it")
        for login in ("teller", "ann", "nobody"):
            _sees(rules, login)
        compare(rules, catalog, _FILE, checked.places, strict=bool(flags & 2))
        ProtectionMap(rules, catalog)
        return 1

    return run


def _sees(rules: Rules, login: str) -> None:
    """Clear is what every role of a login says is clear, and nothing else."""
    roles = rules.roles_of(login, ("staff",))
    policy = rules.principal(login, ("staff",)).policy
    for column in rules.protected_columns():
        given = [rules.role_verdict(role, column) for role in roles]
        clear = bool(given) and all(verdict is Verdict.CLEAR for verdict in given)
        promise(
            (policy.verdict(column.name) is Verdict.CLEAR) == clear, "a protected column is clear, and no role says so"
        )


def _seeds() -> Iterator[bytes]:
    blocks = (_ROOT / "docs" / "rules.md").read_text().split("```")
    texts = [RULES, *(block.partition("\n")[2] for block in blocks[1::2] if block.startswith("yaml"))]
    texts += [
        "version: 1\ntables:\n  public.t: &t\n    columns: {a: {level: general}}\n  public.u: *t\n",
        'version: 1\ntables: {"public.t": {columns: {a: {level: core, protection: sealed, type: "varchar(19)", mask: {kind: keep_last, n: 4}}}}}\n',
        _FULL,
    ]
    for text in texts:
        for flags in (0, 3):
            yield bytes((flags,)) + text.encode()


TARGETS: Final = (
    Target(
        "rules", "rules files as YAML, and rules laid over a catalog", _rules, _seeds, longest=4096, dictionary=_WORDS
    ),
)

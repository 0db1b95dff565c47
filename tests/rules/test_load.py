"""YAML to rules: what a good file means, what is said of a bad one and where, and that nothing else can happen."""

from __future__ import annotations

import json
import re
from dataclasses import FrozenInstanceError
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from keys.mask import MASK_KINDS as REAL_MASKS
from keys.mask import MaskError, make_mask
from keys.types import TypeSpecError, equality_is_bytes, parse_type
from rules.columns import Stored
from rules.document import MAX_BYTES, MAX_LINE
from rules.load import check_rules, check_rules_text, load_rules, load_rules_text
from rules.logical import LOGICAL_TYPES, Family, canonical_type, family, has_equality, misfit, type_of_oid
from rules.masks import MASK_KINDS
from rules.model import ColumnName, Level, MaskSpec, OnDamage, Protection, SealMode, TableName, Verdict
from rules.names import NameFormError, show_name, split_name
from rules.problems import Problem, RulesError, Severity
from rules.schema import COLUMN_KEYS, STORED, json_schema

if TYPE_CHECKING:
    from pathlib import Path

GOOD = '''\
version: 1
tables:
  public.customers:
    subject: id
    columns:
      name:       {level: important, protection: masked, mask: name}
      phone:      {level: important, mask: phone}
      birth_date: {level: important, protection: masked, mask: year, type: date}
      id_number:  {level: core, protection: sealed, mode: deterministic, type: character varying(18), mask: id_number}
      notes:      {level: general}
  public.cards:
    columns:
      pan:
        level: core
        mode: deterministic
        type: varchar(19)
        domain: pan
        mask: {kind: keep_last, n: 4}
        on_damage: placeholder
        placeholder: "?"
      cvv: {level: core, protection: sealed, mode: randomized, type: "char(3)"}
  '"Odd Name".客户':
    columns:
      '"Some ""Column"""': {level: important, mask: {kind: constant, value: "-"}}
roles:
  teller:
    logins: [Teller_Anna]
    member_of: ['"Tellers"']
    levels: {core: masked, important: clear}
    columns: {public.cards.PAN: clear}
  审计:
    member_of: [auditors]
'''


def errors(text: str) -> list[Problem]:
    rules, problems = check_rules_text(text, "f.yaml")
    found = [p for p in problems if p.severity is Severity.ERROR]
    assert (rules is None) == bool(found)
    return found


def warnings(text: str) -> list[Problem]:
    rules, problems = check_rules_text(text, "f.yaml")
    assert rules is not None, problems
    return list(problems)


def column_text(body: str) -> str:
    return f"version: 1\ntables:\n  public.t:\n    columns:\n      c: {{{body}}}\n"


class TestGoodFile:
    def test_everything_lands_where_it_belongs(self) -> None:
        rules = load_rules_text(GOOD, "f.yaml")
        customers = rules.tables[TableName("public", "customers")]
        assert customers.subject == "id"
        phone = customers.columns["phone"]
        assert (phone.level, phone.protection, phone.mask) == (Level.IMPORTANT, Protection.MASKED, MaskSpec("phone"))
        assert (phone.mode, phone.type, phone.domain) == (None, None, None)
        number = customers.columns["id_number"]
        assert (number.protection, number.mode, number.type) == (
            Protection.SEALED,
            SealMode.DETERMINISTIC,
            "varchar(18)",
        )
        assert number.domain == "public.customers.id_number"
        assert customers.columns["notes"].protection is Protection.NONE
        pan = rules.column(ColumnName("public", "cards", "pan"))
        assert pan is not None
        assert pan.protection is Protection.SEALED
        assert (pan.domain, pan.mask) == ("pan", MaskSpec("keep_last", (("n", 4),)))
        assert (pan.on_damage, pan.placeholder) == (OnDamage.PLACEHOLDER, "?")
        odd = rules.column(ColumnName("Odd Name", "客户", 'Some "Column"'))
        assert odd is not None
        assert odd.mask == MaskSpec("constant", (("value", "-"),))
        teller = rules.roles["teller"]
        assert teller.logins == {"teller_anna"}
        assert teller.member_of == {"Tellers"}
        assert teller.columns == {ColumnName("public", "cards", "pan"): Verdict.CLEAR}

    def test_defaults_of_masks_are_filled_in(self) -> None:
        rules = load_rules_text(column_text("level: important, mask: keep_first_last"), "f")
        column = rules.column(ColumnName("public", "t", "c"))
        assert column is not None
        assert column.mask == MaskSpec("keep_first_last", (("first", 3), ("last", 4)))

    def test_version_names_the_content_and_not_the_text(self) -> None:
        first = load_rules_text(GOOD, "a")
        assert re.fullmatch("[0-9a-f]{16}", first.version)
        assert (
            load_rules_text("# a comment\n" + GOOD.replace("[Teller_Anna]", "\n      - teller_anna"), "b").version
            == first.version
        )
        assert load_rules_text(GOOD.replace("n: 4", "n: 5"), "a").version != first.version
        assert load_rules_text(GOOD.replace("important: clear", "important: masked"), "a").version != first.version

    def test_rules_cannot_be_changed(self) -> None:
        rules = load_rules_text(GOOD, "f")
        with pytest.raises(TypeError):
            rules.tables[TableName("a", "b")] = rules.tables[TableName("public", "cards")]  # type: ignore[index]
        with pytest.raises(FrozenInstanceError):
            rules.version = ""  # type: ignore[misc]

    def test_aliases_repeat_a_value(self) -> None:
        text = "version: 1\ntables:\n  public.t: {columns: {a: &p {level: important, mask: phone}, b: *p}}\n"
        rules = load_rules_text(text, "f")
        columns = rules.tables[TableName("public", "t")].columns
        assert columns["a"].mask == columns["b"].mask

    def test_from_a_file(self, tmp_path: Path) -> None:
        path = tmp_path / "rules.yaml"
        path.write_bytes(b"\xef\xbb\xbf" + GOOD.encode())
        assert load_rules(path).version == load_rules_text(GOOD, "f").version

    def test_places_tell_where_things_stand(self) -> None:
        places = check_rules(GOOD, "f").places
        assert (places[TableName("public", "cards")].line, places[TableName("public", "cards")].column) == (11, 3)
        assert places[ColumnName("public", "cards", "cvv")].line == 21


# A column's body; the position of the error in the line `      c: {body}`; a piece of the message; a piece of the fix.
BAD_COLUMNS = [
    ("level: kore", "kore", "level cannot be 'kore'", "did you mean `core`"),
    ("level: 5", "5", "level cannot be '5'", "allowed here: core"),
    ("level: general, typ: text", "typ:", "unknown key 'typ'", "did you mean `type`"),
    ("level: core, mode: deterministic", "{", "no `type`", "type: varchar(19)"),
    ("level: core, type: text", "{", "no `mode`", "mode: deterministic"),
    ("level: core, mode: randomised, type: text", "randomised", "mode cannot be", "did you mean `randomized`"),
    ("level: core, protection: masked", "{", "a core column must be sealed", "stored: plain"),
    ("level: core, protection: none", "{", "a core column must be sealed", "protection: sealed"),
    ("level: core, protection: none, stored: plain", "{", "`stored: plain` with `protection: none`", "masked"),
    (
        "level: core, protection: sealed, stored: plain, type: text, mode: randomized",
        "{",
        "`stored: plain` with",
        "masked",
    ),
    ("level: important, stored: plain", "{", "`stored` is for core", "remove"),
    ("level: important, protection: none", "{", "must be masked or sealed", "level: general"),
    ("level: important, mode: randomized", "randomized", "`mode` is for sealed", "seal the column"),
    ("level: important, domain: pan", "pan", "`domain` is for sealed", "seal the column"),
    ("level: important, on_damage: fail", "fail", "`on_damage` is for sealed", "seal the column"),
    ("level: general, mask: phone", "phone", "would never be used", "protection: masked"),
    ("level: core, type: varchr(19), mode: randomized", "varchr", "not a type", "did you mean `varchar`"),
    ("level: core, type: varchar(0), mode: randomized", "varchar(0)", "not a type", "check its length"),
    ("level: core, type: jsonb, mode: deterministic", "deterministic", "cannot be compared", "randomized"),
    ("level: core, type: text, mode: randomized, domain: a b", "a b", "cannot name a key domain", "letters"),
    ("level: core, type: text, mode: randomized, domain: 7", "7", "domain must be a string", 'in quotes: "7"'),
    (
        "level: core, type: text, mode: randomized, on_damage: placeholder",
        "placeholder",
        "without a placeholder",
        "placeholder: null",
    ),
    ("level: core, type: text, mode: randomized, placeholder: x", "x}", "never shown", "on_damage: placeholder"),
    (
        "level: core, type: varchar(2), mode: randomized, on_damage: placeholder, placeholder: gone",
        "gone",
        "has 4 characters",
        "varchar(2)",
    ),
    (
        "level: core, type: date, mode: randomized, on_damage: placeholder, placeholder: gone",
        "gone",
        "not a value of type date",
        "NULL",
    ),
    (
        f"level: core, type: text, mode: randomized, on_damage: placeholder, placeholder: {'x' * 201}",
        "x" * 201,
        "more than 200",
        None,
    ),
    (
        "level: core, type: text, mode: randomized, on_damage: placeholder, placeholder: 5",
        "5",
        "must be a string",
        '"5"',
    ),
    (f"level: important, mask: {{kind: pseudonym, scope: {'x' * 64}}}", "x" * 64, "0 to 63 characters", None),
    (
        "level: important, type: 'enum m(a, b)', mask: {kind: constant, value: c}",
        "c}",
        "not a value of type enum",
        None,
    ),
    ("level: important, type: json, mask: {kind: constant, value: '[NaN]'}", "'[NaN", "not a value of type json", None),
    (
        "level: important, type: timestamp, mask: {kind: constant, value: '2000-13-01 00:00:00'}",
        "'2000",
        "not a value",
        None,
    ),
    ("level: important, mask: phon", "phon", "unknown mask 'phon'", "did you mean `phone`"),
    ("level: important, mask: null", "null", "an empty mask", '"null"'),
    ("level: important, mask: {n: 3}", "{n", "a mask has no `kind`", "kind:"),
    ("level: important, mask: [phone]", "[phone", "mask must be a string", None),
    ("level: important, mask: {kind: keep_last, cuont: 3}", "cuont", "no parameter 'cuont'", None),
    ("level: important, mask: {kind: keep_last, n: 99}", "99", "from 0 to 32", None),
    ("level: important, mask: {kind: keep_last, n: true}", "true", "a whole number", None),
    ("level: important, mask: range", "range", "no `width`", "width: ..."),
    ("level: important, type: date, mask: phone", "phone", "does not fit the type date", "year"),
    ('level: important, type: "text[]", mask: phone', "phone", "does not fit the type text[]", "null"),
    ("level: important, type: varchar(5), mask: pseudonym", "pseudonym", "does not fit", "keep_last"),
    ("level: important, type: int4, mask: {kind: constant, value: x}", "x}", "not a value of type int4", "int4"),
]


@pytest.mark.parametrize(("body", "at", "message", "fix"), BAD_COLUMNS, ids=[b[0] for b in BAD_COLUMNS])
def test_bad_columns(body: str, at: str, message: str, fix: str | None) -> None:
    text = column_text(body)
    (problem,) = errors(text)
    assert message in problem.message
    assert problem.line == 5
    line = text.splitlines()[4]
    # Values are looked for behind the key that holds them: at their last occurrence.
    assert problem.column == (line.index(at) if at in {"{", "{n"} else line.rindex(at)) + 1, line[problem.column - 1 :]
    if fix is not None:
        assert fix in (problem.fix or "")


def in_role(body: str) -> str:
    return GOOD.split("roles:", maxsplit=1)[0] + "roles:\n  r: " + body + "\n"


BAD_FILES = [
    ("", 1, 1, "the file is empty"),
    ("# nothing\n", 1, 1, "the file is empty"),
    ("- a\n", 1, 1, "must be a mapping, not a list"),
    ("hello\n", 1, 1, "must be a mapping, not a string"),
    ("version: 1\n", 1, 1, "no `tables`"),
    ("tables: {}\n", 1, 1, "no `version`"),
    ("version: 2\ntables: {}\n", 1, 10, "unknown version"),
    ("version: true\ntables: {}\n", 1, 10, "unknown version"),
    ("version: 1\ntabels: {}\ntables: {}\n", 2, 1, "unknown key 'tabels'"),
    ("version: 1\ntables:\n", 2, 7, "tables must be a mapping, not empty"),
    ("version: 1\ntables: {customers: {columns: {}}}\n", 2, 10, "not a table with its schema"),
    ("version: 1\ntables: {a.b.c: {columns: {}}}\n", 2, 10, "not a table with its schema"),
    ("version: 1\ntables: {public.Odd Name: {columns: {}}}\n", 2, 10, "not a name as SQL writes it"),
    ("version: 1\ntables: {public.: {columns: {}}}\n", 2, 10, "not a name as SQL writes it"),
    ("version: 1\ntables: {pg_catalog.t: {columns: {}}}\n", 2, 10, "not one for customers' data"),
    ("version: 1\ntables: {pgveil.t: {columns: {}}}\n", 2, 10, "not one for customers' data"),
    ("version: 1\ntables: {public.t: {}}\n", 2, 10, "has no `columns`"),
    ("version: 1\ntables: {public.t: {columns: {}}, PUBLIC.T: {columns: {}}}\n", 2, 35, "twice under two spellings"),
    (
        "version: 1\ntables: {public.t: {columns: {a: {level: general}, A: {level: general}}}}\n",
        2,
        52,
        "twice under two spellings",
    ),
    (
        "version: 1\ntables: {public.t: {columns: {a: {level: general}, a: {level: general}}}}\n",
        2,
        52,
        "here twice (first in line 2)",
    ),
    ("version: 1\ntables: {public.t: {subject: [a], columns: {}}}\n", 2, 30, "subject must be a string, not a list"),
    (f"version: 1\ntables: {{public.{'x' * 64}: {{columns: {{}}}}}}\n", 2, 10, "64 bytes"),
    (in_role("{logins: anna}"), 26, 15, "must be a list"),
    (in_role("{logins: [5]}"), 26, 16, "must be a string, not a number"),
    (in_role("{logins: [a.b]}"), 26, 16, "2 parts; one is wanted"),
    (in_role("{levels: {core: maskd}}"), 26, 22, "cannot be 'maskd'"),
    (in_role("{levels: {importnt: clear}}"), 26, 16, "unknown key 'importnt'"),
    (in_role("{columns: {public.cards.pam: clear}}"), 26, 17, "is not in `tables`"),
    (in_role("{columns: {pan: clear}}"), 26, 17, "not a column with its table and schema"),
    (in_role("{columns: {public.customers.notes: masked}}"), 26, 41, "the column is not protected"),
    (in_role("{columns: {public.cards.pan: clear, PUBLIC.cards.pan: clear}}"), 26, 42, "twice under two spellings"),
    (in_role("[]"), 26, 6, "must be a mapping, not a list"),
    (GOOD.replace("  teller:", '  "a{b":'), 26, 3, "cannot name a role"),
    ("a: [\n", 2, 1, "not YAML"),
    ("a:\n\t- b\n", 2, 1, "a tab where YAML wants spaces"),
    ("a: b: c\n", 1, 5, "mapping values are not allowed"),
    ("a: 'x\n", 2, 1, "unexpected end"),
    ("a: \x07\n", 1, 4, "a character that YAML does not allow"),
    ('a: "\\ud800"\n', 1, 4, "no PostgreSQL text"),
    ("---\na: 1\n---\nb: 2\n", 3, 1, "a second document"),
    ("%YAML 1.1\n---\nversion: 1\ntables: {}\n", 2, 1, "directives"),
    ("version: !!int 1\ntables: {}\n", 1, 10, "tags"),
    ("version: 1\ntables: {}\n<<: {roles: {}}\n", 3, 1, "merge keys"),
    ("? [a, b]\n: c\n", 1, 3, "a key must be a word"),
    ("version: 1\ntables: *t\n", 2, 9, "no anchor &t"),
    ("version: 1\ntables: &t {public.a: *t}\n", 2, 23, "holds itself"),
    ("a: " + "[" * 40 + "]" * 40, 1, 19, "nested more than 16"),
    ("a" * (MAX_LINE + 1), 1, 1, "a line of more than"),
    ("a\n" * (MAX_BYTES // 2 + 1), 1, 1, "larger than"),
]


@pytest.mark.parametrize(
    ("text", "line", "column", "message"), BAD_FILES, ids=[f"{b[3]}-{i}" for i, b in enumerate(BAD_FILES)]
)
def test_bad_files(text: str, line: int, column: int, message: str) -> None:
    found = errors(text)
    assert (line, column) in [(p.line, p.column) for p in found if message in p.message], found


def test_billion_laughs_is_refused_at_once() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    assert any("aliases followed" in p.message for p in errors("\n".join(lines)))


def test_all_problems_in_one_go_sorted_by_position() -> None:
    text = (
        column_text("level: kore") + "      d: {level: core}\n      e: {levle: 1}\nroles:\n  r: {levels: {core: no}}\n"
    )
    with pytest.raises(RulesError) as caught:
        load_rules_text(text, "rules.yaml")
    problems = caught.value.problems
    assert [p.line for p in problems] == [5, 6, 6, 7, 7, 9, 9]
    assert str(problems[0]) == "rules.yaml:5:18: error: level cannot be 'kore'\n    fix: did you mean `core`?"
    assert str(problems[0]) in str(caught.value)


def test_problems_are_bounded() -> None:
    text = "version: 1\ntables:\n" + "".join(f"  t{i}: {{columns: {{}}}}\n" for i in range(500))
    found = errors(text)
    assert len(found) == 101
    assert "500 problems in all" in found[-1].message


def test_one_error_through_an_alias_is_told_once() -> None:
    text = "version: 1\ntables:\n  public.t: {columns: {a: &p {level: important, mask: phon}, b: *p}}\n"
    assert len(errors(text)) == 1


class TestDomains:
    def text(self, first: str, second: str) -> str:
        return f"version: 1\ntables:\n  public.t:\n    columns:\n      a: {{level: core, {first}}}\n      b: {{level: core, {second}}}\n"

    def test_sharing_needs_one_type(self) -> None:
        (problem,) = errors(
            self.text("type: varchar(19), mode: deterministic, domain: d", "type: text, mode: deterministic, domain: d")
        )
        assert "share the domain d but not a type" in problem.message

    def test_sharing_needs_deterministic_mode(self) -> None:
        (problem,) = errors(
            self.text("type: text, mode: deterministic, domain: d", "type: text, mode: randomized, domain: d")
        )
        assert problem.line == 6
        assert "sealed randomized" in problem.message

    def test_one_can_join_the_default_domain_of_another(self) -> None:
        text = self.text("type: text, mode: deterministic", "type: text, mode: deterministic, domain: public.t.a")
        assert errors(text) == []
        assert len(errors(text.replace("type: text", "type: uuid", 1))) == 1

    def test_names_with_dots_cannot_share_a_default_by_accident(self) -> None:
        body = "{columns: {c: {level: core, type: text, mode: deterministic}}}"
        text = f"version: 1\ntables:\n  '\"a.b\".c': {body}\n  'a.\"b.c\"': {body}\n"
        (problem,) = errors(text)
        assert "default domain of two columns" in problem.message


def test_a_randomized_subject_cannot_be_searched() -> None:
    text = "version: 1\ntables: {public.t: {subject: c, columns: {c: {level: core, type: text, mode: randomized}}}}\n"
    (problem,) = errors(text)
    assert "nobody's rows could be found" in problem.message


WARNINGS = [
    (column_text("level: core, stored: plain, mask: phone"), "policy article 3.2 asks for sealing"),
    (column_text("level: important"), "no mask"),
    (in_role("{logins: [a], levels: {core: masked}}"), "refused public.cards.cvv: no mask"),
    (in_role("{logins: [a], columns: {public.cards.cvv: masked}}"), "is refused public.cards.cvv"),
    (in_role("{logins: [a], levels: {general: refused}}"), "sees public.customers.notes all the same"),
    (in_role("{logins: [a, A]}"), "twice"),
    (in_role("{}"), "nobody holds the role r"),
    (in_role(""), "nobody holds the role r"),
    (in_role("{logins: [a]}\n  s: {logins: [a]}"), "also holds the role r; the strictest verdict holds"),
]


def test_a_column_that_the_role_refuses_by_name_is_no_surprise() -> None:
    assert warnings(in_role("{logins: [a], levels: {core: masked}, columns: {public.cards.cvv: refused}}")) == []


@pytest.mark.parametrize(("text", "message"), WARNINGS, ids=[w[1] for w in WARNINGS])
def test_warnings_leave_the_rules_usable(text: str, message: str) -> None:
    (problem,) = warnings(text)
    assert problem.severity is Severity.WARNING
    assert message in problem.message


@pytest.mark.parametrize(
    ("type_", "value"), [("bool", "true"), ("int4", "-5"), ("text", "5"), ("jsonb", "'[1]'"), ("'text[]'", "'{}'")]
)
def test_constants_are_written_plainly(type_: str, value: str) -> None:
    text = column_text(f"level: important, type: {type_}, mask: {{kind: constant, value: {value}}}")
    column = load_rules_text(text, "f").column(ColumnName("public", "t", "c"))
    assert column is not None
    assert column.mask is not None
    assert column.type is not None
    make_mask(column.mask.kind, dict(column.mask.params), parse_type(column.type))


def test_a_default_domain_can_be_printed() -> None:
    text = "version: 1\ntables: {public.t: {columns: {a\u200bb: {level: core, type: text, mode: randomized}}}}\n"
    (problem,) = errors(text)
    assert problem.fix == "add `domain:`"
    assert errors(text.replace("type: text", "type: text, domain: d")) == []


def test_a_good_file_may_have_no_warning() -> None:
    assert warnings(GOOD.replace("core: masked", "core: refused")) == []


@pytest.mark.parametrize("raw", [b"\xff\xfe", b"a: \xe5\x8d", b"version: 1\n# caf\xe9\n"])
def test_bytes_that_are_not_utf8(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "f.yaml"
    path.write_bytes(raw)
    with pytest.raises(RulesError, match="not UTF-8") as caught:
        load_rules(path)
    assert caught.value.problems[0].line == raw.count(b"\n", 0, raw.find(b"\xe9") if b"\xe9" in raw else 0) + 1


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(RulesError, match="No such file"):
        load_rules(tmp_path / "none.yaml")
    with pytest.raises(RulesError, match="cannot be read"):
        load_rules(tmp_path)
    big = tmp_path / "big.yaml"
    big.write_bytes(b"#" * (MAX_BYTES + 1))
    with pytest.raises(RulesError, match="larger than"):
        load_rules(big)


# --- any text gives Rules or RulesError, nothing else -------------------------------------------------------------------------------

YAML_PIECES = st.sampled_from(
    ["version: 1\n", "tables:", "\n  ", "\n    ", "public.t", ": ", "{", "}", "[", "]", ", ", "columns", "level: core", "level", "mask",
     "&a ", "*a", "!!str ", "'", '"', "|\n", ">-\n", "? ", "- ", "# x\n", "---\n", "...\n", "%YAML 1.2\n", "\t", "\\x", "\\u12", "0x1", "1e5",
     "null", "~", "true", "12345678901234567890", "roles", "logins: [a]", "<<", "\u2028", "\x85", "\ufeff", "客户", "\n"]
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.text(max_size=200), st.lists(YAML_PIECES, max_size=40).map("".join)))
@example('"\\U99999999"')
@example('"\\xzz"')
@example("%YAML 99999999999999999999.1\n---\na")
@example("a: \ud800")
@example("%TAG ! a\n%TAG ! b\n--- x")
@example("!<a\n")
@example("&\n")
@example("|99\n")
def test_any_text_gives_rules_or_rules_error(text: str) -> None:
    problems: tuple[Problem, ...] = ()
    try:
        load_rules_text(text, "f")
    except RulesError as error:
        problems = error.problems
    # Told at a place of the text, and not passed over in silence.
    assert all(p.line >= 1 and p.column >= 1 for p in problems)
    assert bool(problems) == (check_rules_text(text, "f")[0] is None)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, len(GOOD)), st.integers(0, 30), st.one_of(YAML_PIECES, st.text(max_size=5)))
def test_a_damaged_good_file_gives_rules_or_rules_error(at: int, gone: int, piece: str) -> None:
    rules, problems = check_rules_text(GOOD[:at] + piece + GOOD[at + gone :], "f")
    assert (rules is None) == any(p.severity is Severity.ERROR for p in problems)


# --- the published schema and the loader ---------------------------------------------------------------------------------------------

VALIDATOR = jsonschema.Draft202012Validator(json_schema())


def schema_takes(text: str) -> bool:
    return bool(VALIDATOR.is_valid(YAML(typ="safe", pure=True).load(text)))


def test_schema_is_a_schema_and_is_published(request: pytest.FixtureRequest) -> None:
    jsonschema.Draft202012Validator.check_schema(json_schema())
    published = request.config.rootpath / "docs" / "rules.schema.json"
    assert json.loads(published.read_text()) == json.loads(json.dumps(json_schema())), (
        "run: pgveil schema > docs/rules.schema.json"
    )
    assert set(COLUMN_KEYS) == set(json_schema()["$defs"]["column"]["properties"])
    assert [*Stored] == [*STORED]


@pytest.mark.parametrize("text", [GOOD, *(w[0] for w in WARNINGS)])
def test_schema_takes_what_the_loader_takes(text: str) -> None:
    assert schema_takes(text)


# What only the loader can see: relations between keys, names that mean the same, YAML's own matters.
FORM_ERRORS = [
    column_text(b)
    for b, *_ in BAD_COLUMNS
    if re.match(
        r"level: (kore|5)|.*typ: |level: core, mode: randomised|.*domain: (a b|7)|.*mask: (phon\b|null|\{n: 3|\[|\{kind: keep_last|range)",
        b,
    )
    and "type: date" not in b
]
FORM_ERRORS += [b[0] for b in BAD_FILES[2:13] if b[0] != "hello\n"]


@pytest.mark.parametrize("text", FORM_ERRORS)
def test_schema_refuses_errors_of_form(text: str) -> None:
    assert errors(text)
    assert not schema_takes(text)


WORDS = st.sampled_from(
    [
        "core",
        "important",
        "general",
        "sealed",
        "masked",
        "none",
        "phone",
        "text",
        "x",
        "a b",
        "null",
        "1",
        "deterministic",
    ]
)
VALUES = st.recursive(
    st.one_of(WORDS, st.integers(-5, 50), st.booleans(), st.none(), st.sampled_from([1.5, "char(3)", "keep_last"])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["kind", "n", "width", "value", "scope", "level", "x"]), inner, max_size=3),
    ),
    max_leaves=4,
)
COLUMN = st.fixed_dictionaries(
    {"level": st.sampled_from([*Level, "x"])},
    optional={
        "protection": st.sampled_from([*Protection, "x"]),
        "stored": st.sampled_from(STORED),
        "mode": st.sampled_from([*SealMode]),
        "type": st.sampled_from(["text", "date", "varchar(3)", "int", "nothing"]),
        "domain": st.sampled_from(["d", "a b", 5]),
        "mask": st.one_of(
            st.sampled_from([*MASK_KINDS]),
            st.fixed_dictionaries(
                {"kind": st.sampled_from([*MASK_KINDS])},
                optional={
                    "n": st.integers(-1, 40),
                    "width": st.integers(0, 10),
                    "value": VALUES,
                    "scope": WORDS,
                    "first": st.integers(0, 3),
                },
            ),
            VALUES,
        ),
        "on_damage": st.sampled_from([*OnDamage]),
        "placeholder": VALUES,
        "odd": VALUES,
    },
)


@settings(max_examples=200, deadline=None)
@given(st.one_of(COLUMN, st.dictionaries(st.sampled_from([*COLUMN_KEYS]), VALUES, max_size=4)))
def test_whatever_the_loader_takes_the_schema_takes(column: dict[str, Any]) -> None:
    document = {
        "version": 1,
        "tables": {"public.t": {"subject": "c", "columns": {"c": column}}},
        "roles": {"r": {"levels": {"core": "clear"}}},
    }
    rules, _ = check_rules_text(json.dumps(document, indent=1), "f")
    if rules is not None:
        VALIDATOR.validate(json.loads(json.dumps(document)))


@settings(max_examples=100, deadline=None)
@given(st.lists(YAML_PIECES, max_size=25).map("".join))
def test_whatever_text_the_loader_takes_the_schema_takes(tail: str) -> None:
    text = "version: 1\ntables: {}\n" + tail
    if check_rules_text(text, "f")[0] is None:
        return
    try:
        assert schema_takes(text)
    except YAMLError:
        pytest.fail("YAML itself refuses what the loader took")


# --- names, types and masks agree with PostgreSQL's and keys' own ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a", ("a",)),
        ("Public.T", ("public", "t")),
        ('"Public"."T"', ("Public", "T")),
        ('"a.b".c', ("a.b", "c")),
        ('"say ""hi"""', ('say "hi"',)),
        ("客户.Ärger", ("客户", "Ärger")),
        ("_a$1", ("_a$1",)),
    ],
)
def test_names(text: str, parts: tuple[str, ...]) -> None:
    assert split_name(text) == parts
    assert split_name(show_name(*parts)) == parts


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "a.",
        ".a",
        "a..b",
        "1a",
        "a b",
        '"a',
        '""',
        'a"b"',
        '"a"b',
        "a-b",
        '"a\x00"',
        '"a\nb"',
        "x" * 64,
        "客" * 22,
    ],
)
def test_what_is_not_a_name(text: str) -> None:
    with pytest.raises(NameFormError) as caught:
        split_name(text)
    assert caught.value.fix


@settings(max_examples=100)
@given(st.lists(st.text(min_size=1, max_size=10), min_size=1, max_size=3))
def test_a_name_shown_reads_back(parts: list[str]) -> None:
    try:
        assert split_name(show_name(*parts)) == tuple(parts)
    except NameFormError:
        assert any(ord(c) < 0x20 for p in parts for c in p)


SPELLINGS = [
    *LOGICAL_TYPES[:-1], "character varying(19)", "TEXT []", "bpchar(3)", "int", "numeric(12,2)", "numeric(5)", "numeric( 5 , -2 )", "decimal",
    "timestamp(3) with time zone", "timestamptz(3)", "time with time zone", "float", "float(10)", "double precision", "boolean", "smallint",
    "enum public.mood(sad, 'it''s', happy)", "enum mood", 'enum "A b".c[]', "uuid[]", "bytea[][]", "varchar(3)[ ]", "timestamp(0)",
]  # fmt: skip


@pytest.mark.parametrize("text", SPELLINGS)
def test_types_mean_what_keys_says(text: str) -> None:
    canonical = canonical_type(text)
    assert canonical is not None
    assert parse_type(canonical) == parse_type(text)
    assert canonical_type(canonical) == canonical
    assert has_equality(canonical) == equality_is_bytes(parse_type(text))
    real = parse_type(text)
    if real.oid:
        assert type_of_oid(real.oid, real.typmod) == canonical


@pytest.mark.parametrize(
    "text", ["", "[]", "enum", "enum m()", "enum a.b.c", "enum m(a, a)", "interval", "money", "text(3)", "varchar(0)", "bpchar", "int4(3)",
             "timestamp(7)", "numeric(1001)", "numeric(5,2000)", "varchar(3", "float(54)", "float(1,2)", "public.mood"]
)  # fmt: skip
def test_what_is_no_type(text: str) -> None:
    assert canonical_type(text) is None


@settings(max_examples=150)
@given(st.text(alphabet="abcdefgimnorstuvxyz ()[],'.\"0123456789-", max_size=25))
def test_whatever_type_the_rules_take_keys_takes(text: str) -> None:
    canonical = canonical_type(text)
    if canonical is not None:
        parse_type(canonical)


def test_masks_are_those_of_keys() -> None:
    assert set(MASK_KINDS) == set(REAL_MASKS)
    for name, kind in MASK_KINDS.items():
        real = {p.name: p for p in REAL_MASKS[name].parameters}
        assert set(kind.params) == set(real), name
        for key, param in kind.params.items():
            theirs = real[key]
            assert (param.kind, param.default, param.minimum, param.maximum) == (
                theirs.type,
                theirs.default,
                theirs.minimum,
                theirs.maximum,
            )


TYPES_FOR_MASKS = [
    canonical_type(t) or ""
    for t in (*LOGICAL_TYPES[:-1], "varchar(9)", "varchar(10)", "char(3)", "text[]", "int4[]", "enum m('a')")
]


@pytest.mark.parametrize("logical", TYPES_FOR_MASKS)
def test_masks_fit_the_types_that_keys_says(logical: str) -> None:
    needed: dict[str, dict[str, object]] = {
        "range": {"width": 10},
        "constant": {"value": VALUE_OF[family(logical) or Family.TEXT]},
    }
    if logical.endswith("[]"):
        needed["constant"] = {"value": "{}"}
    elif "tz" in logical:
        needed["constant"] = {"value": f"{needed['constant']['value']}+00"}
    for name, kind in MASK_KINDS.items():
        try:
            make_mask(name, needed.get(name, {}), parse_type(logical))
        except MaskError:
            assert not kind.suits(logical), name
        else:
            assert kind.suits(logical), name


VALUE_OF = {
    Family.TEXT: "x", Family.INTEGER: "5", Family.NUMERIC: "1", Family.FLOAT: "1.5", Family.BOOLEAN: "true", Family.DATE: "2000-02-29",
    Family.TIME: "12:00:00", Family.TIMESTAMP: "2000-01-01 00:00:00", Family.UUID: "00000000-0000-0000-0000-000000000000",
    Family.BYTES: "\\x00ff", Family.JSON: '{"a": 1}', Family.ENUM: "a",
}  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from([*TYPES_FOR_MASKS, "numeric(4,2)", "numeric(3,-1)", "numeric(2,4)", "timestamptz(3)"]),
    st.one_of(
        st.sampled_from([*VALUE_OF.values(), "{}", "", "-1", "12.34", "99999", "0.001", "2000-02-30", "0000-01-01", "24:00:00", "12:00:00+00", "2000-01-01 00:00:00+00", "NaN",
                         "2000-01-01", "[1e999]", "tru", "0x1", "1_0", "٣", "b", "{1}", "9223372036854775808", '"\\u0000"', "1e5", " 1", "99:00:00"]),
        st.text(max_size=5),
        st.integers().map(str),
        st.decimals(allow_nan=False, allow_infinity=False, places=2).map(str),
    ),
)  # fmt: skip
def test_whatever_fixed_value_the_rules_take_keys_takes(logical: str, text: str) -> None:
    if "\x00" in text or any("\ud800" <= c <= "\udfff" for c in text):
        return
    if misfit(text, logical) is None:
        make_mask("constant", {"value": text}, parse_type(logical))


@pytest.mark.parametrize("text", ['"\\u0000"', '"\\ud800"', '{"a": "\\uDFFF"}'])
def test_what_jsonb_cannot_store(text: str) -> None:
    assert misfit(text, "jsonb") is not None
    assert misfit(text, "json") is None


def test_types_of_unknown_oids_are_none() -> None:
    assert type_of_oid(16384, -1) is None
    with pytest.raises(TypeSpecError):
        parse_type("interval")

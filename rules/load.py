"""YAML -> Rules. Every problem in one go, each with its position and its fix; docs/rules.md is the reference of the form.

`load_rules` and `load_rules_text` give Rules or raise RulesError, nothing else; `check_rules_text` also gives the warnings.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from rules.columns import read_column
from rules.document import MAX_BYTES, Place, Scalar, read_document
from rules.document import Mapping as Branches
from rules.mixed import mixed_in_role
from rules.model import Column, ColumnName, Level, Role, Rules, SealMode, Table, TableName, Verdict
from rules.names import NameFormError, column_name, show_name, single_name, table_name
from rules.problems import Problem, RulesError, nearest_name
from rules.reading import Reader
from rules.schema import (
    DEFAULT_LOOKUPS,
    FORMAT_VERSION,
    LOOKUP_FORMS,
    LOOKUPS_KEYS,
    MAX_LOOKUPS,
    ROLE_COLUMN_KEYS,
    ROLE_FORM,
    ROLE_KEYS,
    TABLE_KEYS,
    TOP_KEYS,
    WRITE_FORMS,
)

if TYPE_CHECKING:
    from collections.abc import Collection
    from collections.abc import Mapping as ReadOnly
    from pathlib import Path

    from rules.document import Node

__all__ = [
    "Checked",
    "Problem",
    "RulesError",
    "check_rules",
    "check_rules_text",
    "load_rules",
    "load_rules_text",
    "read_rules_file",
]


def load_rules(path: Path) -> Rules:
    """The rules of a file. Raises RulesError (a file that cannot be read is one problem of it)."""
    return load_rules_text(read_rules_file(path), str(path))


def load_rules_text(text: str, filename: str) -> Rules:
    """The rules of a text; `filename` is for messages. Raises RulesError."""
    rules, problems = check_rules_text(text, filename)
    if rules is None:
        raise RulesError(problems)
    return rules


def check_rules_text(text: str, filename: str) -> tuple[Rules | None, tuple[Problem, ...]]:
    """The rules, or None where there is an error; and every problem, warnings included, by position."""
    checked = check_rules(text, filename)
    return checked.rules, checked.problems


@dataclass(frozen=True, slots=True)
class Checked:
    """What a text gave. `places`: where each table and column of it stands, for messages about them."""

    rules: Rules | None
    problems: tuple[Problem, ...]
    places: ReadOnly[TableName | ColumnName, Place]


def check_rules(text: str, filename: str) -> Checked:
    """As `check_rules_text`, with the places of what was found. Raises nothing."""
    reader = Reader(filename)
    root, faults = read_document(text)
    for fault in faults:
        reader.error(fault.place, fault.message, fault.fix)
    file = _File(reader)
    if root is not None:
        file.read(root)
    elif not faults:
        reader.error(Place(1, 1), "the file is empty", f"begin with `version: {FORMAT_VERSION}` and `tables:`")
    rules = None
    if not reader.failed:
        rules = Rules(_digest(file.tables, file.roles), MappingProxyType(file.tables), MappingProxyType(file.roles))
        file.check_lookups(rules)
        file.check_writes(rules)
        file.check_mixed(rules)
        rules = None if reader.failed else rules
    return Checked(rules, reader.problems(), MappingProxyType(file.places))


def read_rules_file(path: Path) -> str:
    """The text of a rules file, UTF-8. Raises RulesError where it cannot be read, is too large or not UTF-8."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        problem = Problem(str(path), 1, 1, f"the file cannot be read: {error.strerror or type(error).__name__}")
        raise RulesError((problem,)) from None
    if len(raw) > MAX_BYTES:
        raise RulesError((Problem(str(path), 1, 1, f"the file is larger than {MAX_BYTES} bytes"),))
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        column = len(raw[raw.rfind(b"\n", 0, error.start) + 1 : error.start].decode(errors="replace")) + 1
        raise RulesError((Problem(str(path), line, column, "not UTF-8", "save the file as UTF-8"),)) from None


class _File:
    """Reads one document into `tables` and `roles`; remembers where things stand for the checks across them."""

    def __init__(self, reader: Reader) -> None:
        self.tables: dict[TableName, Table] = {}
        self.roles: dict[str, Role] = {}
        self.places: dict[TableName | ColumnName, Place] = {}
        self._reader = reader
        # Columns with errors of their own are known by name, so that a role's mention of them is not a second error.
        self._known: dict[ColumnName, Column | None] = {}
        self._holders: dict[str, str] = {}
        self._lookups_asked: list[tuple[Role, ColumnName, Place]] = []
        self._writes_asked: list[tuple[Role, ColumnName, Place]] = []
        self._role_places: dict[str, Place] = {}
        self._mixed_places: dict[str, ReadOnly[str, Place]] = {}

    def read(self, root: Node) -> None:
        fields = self._reader.fields(root, "a rules file", TOP_KEYS)
        if fields is None:
            return
        self._reader.required(root.place, "the file", fields, ("version", "tables"))
        version = fields.get("version")
        if version is not None and not (
            isinstance(version, Scalar) and version.value == FORMAT_VERSION and version.value is not True
        ):
            self._reader.error(
                version.place, "an unknown version of the file's form", f"write `version: {FORMAT_VERSION}`"
            )
        if "tables" in fields:
            for key, node in self._reader.mapping(fields["tables"], "tables") or ():
                self._table(key, node)
            self._check_domains()
        if "roles" in fields:
            for key, node in self._reader.mapping(fields["roles"], "roles", empty=True) or ():
                self._role(key, node)

    def _table(self, key: Scalar, node: Node) -> None:
        try:
            name = table_name(key.text)
        except NameFormError as error:
            self._reader.error(key.place, str(error), error.fix)
            return
        if _is_reserved(name.schema):
            self._reader.error(
                key.place,
                f"the schema {name.schema} is not one for customers' data",
                "name the application's own tables",
            )
        if name in self.tables:
            self._reader.error(key.place, f"the table {name} is here twice under two spellings", "merge the two")
        self.places[name] = key.place
        fields = self._reader.fields(node, f"table {name}", TABLE_KEYS)
        if fields is None:
            return
        self._reader.required(key.place, f"table {name}", fields, ("columns",))
        subject = self._reader.name(fields.get("subject"), "subject")
        columns: dict[str, Column] = {}
        if "columns" in fields:
            for column_key, column_node in self._reader.mapping(fields["columns"], f"the columns of {name}") or ():
                self._column(name, column_key, column_node, columns)
        held = columns.get(subject or "")
        if held is not None and held.mode is SealMode.RANDOMIZED:
            self._reader.error(
                fields["subject"].place,
                f"the subject {held.name} is sealed randomized, so nobody's rows could be found by it",
                "seal it with `mode: deterministic`",
            )
        self.tables[name] = Table(name, MappingProxyType(columns), subject)

    def _column(self, table: TableName, key: Scalar, node: Node, columns: dict[str, Column]) -> None:
        try:
            name = ColumnName(*table, single_name(key.text))
        except NameFormError as error:
            self._reader.error(key.place, str(error), error.fix)
            return
        if name in self._known:
            self._reader.error(key.place, f"the column {name} is here twice under two spellings", "merge the two")
        self.places[name] = key.place
        self._known[name] = column = read_column(self._reader, name, node)
        if column is not None:
            columns[name.column] = column

    def _check_domains(self) -> None:
        """Columns of one key domain are compared as ciphertext, so they must seal alike."""
        domains: dict[str, list[Column]] = {}
        for column in self._known.values():
            if column is not None and column.domain is not None:
                domains.setdefault(column.domain, []).append(column)
        for domain, columns in domains.items():
            first, *others = columns
            for other in others:
                place = self.places[other.name]
                if domain == str(first.name) == str(other.name):
                    self._reader.error(
                        place,
                        f"{domain} is the default domain of two columns",
                        "give one of them a `domain` of its own",
                    )
                elif other.type != first.type and None not in {other.type, first.type}:
                    self._reader.error(
                        place,
                        f"{other.name} ({other.type}) and {first.name} ({first.type}) share the domain {domain} but not a type",
                        "give both the same type, or each its own domain",
                    )
            for column in columns if others else ():
                if column.mode is SealMode.RANDOMIZED:
                    self._reader.error(
                        self.places[column.name],
                        f"{column.name} shares the domain {domain} but is sealed randomized, so it cannot be joined",
                        "seal it with `mode: deterministic`, or give it its own domain",
                    )

    def _role(self, key: Scalar, node: Node) -> None:
        name = key.text
        what = f"role {name[:80]}"
        if re.fullmatch(ROLE_FORM, name) is None:
            self._reader.error(
                key.place, f"{name[:80]!r} cannot name a role", "use at most 63 letters, digits, spaces, `_` and `-`"
            )
        fields = self._reader.fields(node, what, ROLE_KEYS, empty=True)
        if fields is None:
            return
        logins = self._reader.names(fields.get("logins"), f"the logins of {what}")
        member_of = self._reader.names(fields.get("member_of"), f"member_of of {what}")
        if not logins and not member_of:
            self._reader.warn(key.place, f"nobody holds the {what}", "add `logins: [...]` or `member_of: [...]`")
        for login, place in logins:
            holder = self._holders.setdefault(login, name)
            if holder != name:
                self._reader.warn(
                    place,
                    f"the login {login} also holds the role {holder}; the strictest verdict holds",
                    "list it once",
                )
        asked: dict[ColumnName, Place] = {}
        written: dict[ColumnName, Place] = {}
        columns = self._verdicts(what, fields.get("columns"), asked, written)
        levels = self._levels(what, fields.get("levels"), named=columns.keys())
        limit = self._lookup_limit(what, fields.get("lookups"), {**asked, **written})
        mixed = dict(self._reader.words(fields.get("mixed_domains"), f"the mixed_domains of {what}"))
        self._role_places[name], self._mixed_places[name] = key.place, mixed
        self.roles[name] = made = Role(
            name,
            frozenset(n for n, _ in logins),
            frozenset(n for n, _ in member_of),
            MappingProxyType(levels),
            MappingProxyType(columns),
            frozenset(asked),
            limit,
            frozenset(written),
            frozenset(mixed),
        )
        self._lookups_asked += [(made, column, place) for column, place in asked.items()]
        self._writes_asked += [(made, column, place) for column, place in written.items()]

    def _lookup_limit(self, what: str, node: Node | None, asked: Collection[ColumnName]) -> int | None:
        if node is None:
            return DEFAULT_LOOKUPS if asked else None
        fields = self._reader.fields(node, f"the lookups of {what}", LOOKUPS_KEYS)
        value = None if fields is None else fields.get("per_minute")
        number = value.value if isinstance(value, Scalar) else None
        if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= MAX_LOOKUPS:
            place = node.place if value is None else value.place
            self._reader.error(
                place,
                f"{what}: per_minute is a whole number from 1 to {MAX_LOOKUPS}",
                "write `lookups: {per_minute: 30}`",
            )
            return DEFAULT_LOOKUPS
        if not asked:
            self._reader.warn(
                node.place,
                f"{what} has no look-ups to limit",
                "give a column of the role `lookup: equality` or `write: values`, or leave it out",
            )
        return number

    def check_lookups(self, rules: Rules) -> None:
        """What a look-up needs, once all of the file is known."""
        for role, name, place in self._lookups_asked:
            column = rules.column(name)
            if column is None:
                continue
            what = f"role {role.name}: look-up by {name}"
            verdict = rules.role_verdict(role, column)
            if verdict is not Verdict.MASKED:
                self._reader.error(
                    place,
                    f"{what}: the role sees the column {verdict}",
                    "look-ups are for columns that the role sees masked: take `lookup` away, or write `verdict: masked`",
                )
            elif column.mode is SealMode.RANDOMIZED:
                self._reader.error(
                    place,
                    f"{what}: the column is sealed randomized, so nothing can be found by it",
                    "seal it deterministic",
                )
            elif column.type is None:
                self._reader.error(
                    place,
                    f"{what}: the column's `type` must be known",
                    "give the column its type, as `type: varchar(20)`",
                )
            elif column.type.endswith("]"):
                self._reader.error(place, f"{what}: the column is an array", "take `lookup` away")

    def check_writes(self, rules: Rules) -> None:
        """What a column needs that a role may change without seeing it."""
        for role, name, place in self._writes_asked:
            column = rules.column(name)
            if column is None:
                continue
            what = f"role {role.name}: writing {name}"
            if rules.role_verdict(role, column) is Verdict.CLEAR:
                self._reader.error(
                    place, f"{what}: the role sees the column clear, and may write it anyway", "take `write` away"
                )
            elif column.type is None:
                self._reader.error(
                    place,
                    f"{what}: the column's `type` must be known",
                    "give the column its type, as `type: varchar(20)`",
                )
            elif column.type.endswith("]"):
                self._reader.error(place, f"{what}: the column is an array", "take `write` away")

    def check_mixed(self, rules: Rules) -> None:
        """Key domains of which a role sees some columns clear and others not: meant, or told of."""
        for role in rules.roles.values():
            found = {mixed.domain: mixed for mixed in mixed_in_role(rules, role)}
            for domain, place in self._mixed_places[role.name].items():
                if domain not in found:
                    self._reader.warn(
                        place,
                        f"role {role.name} sees all columns of key domain {domain[:80]} alike",
                        "take it out of `mixed_domains`",
                    )
            for domain, mixed in found.items():
                if not mixed.accepted:
                    self._reader.warn(
                        self._role_places[role.name],
                        f"role {role.name} sees {mixed.clear[0]} clear and {mixed.hidden[0]} not, and both are of key domain {domain}:"
                        " a login that may write the one and read what is stored in the other could copy values over past pgveil, and read them",
                        "let the role see both alike, or give them domains of their own; `pgveil apply` refuses where a login has these privileges",
                    )

    def _levels(self, what: str, node: Node | None, *, named: Collection[ColumnName]) -> dict[Level, Verdict]:
        """Verdicts by level; `named` are the columns for which the role says something of its own."""
        levels: dict[Level, Verdict] = {}
        fields = None if node is None else self._reader.fields(node, f"the levels of {what}", tuple(Level), empty=True)
        for word, value in (fields or {}).items():
            verdict = self._reader.choice(value, f"{what}, level {word}", Verdict)
            if verdict is not None:
                levels[Level(word)] = verdict
                concerned = [
                    c for c in self._known.values() if c is not None and c.level is Level(word) and c.name not in named
                ]
                self._warn_level(what, concerned, verdict, value.place)
        return levels

    def _warn_level(self, what: str, columns: list[Column], verdict: Verdict, place: Place) -> None:
        bare = [c for c in columns if c.protected and c.mask is None]
        if verdict is Verdict.MASKED and bare:
            self._reader.warn(
                place, f"{what} is refused {_some(bare)}: no mask there", "add a mask to the column, or write `refused`"
            )
        open_ = [c for c in columns if not c.protected]
        if verdict is not Verdict.CLEAR and open_:
            self._reader.warn(
                place, f"{what} sees {_some(open_)} all the same: not protected", "add `protection` to the column"
            )

    def _role_column(self, what: str, value: Node) -> tuple[Verdict | None, Place | None, Place | None]:
        """A verdict, or a mapping with one and with `lookup` and `write`; the places of those that are allowed."""
        if not isinstance(value, Branches):
            return self._reader.choice(value, what, Verdict), None, None
        fields = self._reader.fields(value, what, ROLE_COLUMN_KEYS) or {}
        verdict = self._reader.choice(fields["verdict"], f"{what}, verdict", Verdict) if "verdict" in fields else None
        lookup = self._form(fields.get("lookup"), f"{what}: `lookup`", LOOKUP_FORMS)
        write = self._form(fields.get("write"), f"{what}: `write`", WRITE_FORMS)
        return verdict, lookup, write

    def _form(self, node: Node | None, what: str, forms: tuple[str, str]) -> Place | None:
        """Where the first of two words stands."""
        word = None if node is None else self._reader.word(node, what)
        if node is not None and word is not None and word not in forms:
            key = what.rsplit("`", 2)[1]
            self._reader.error(node.place, f"{what} is `{forms[0]}` or `{forms[1]}`", f"write `{key}: {forms[0]}`")
        return node.place if node is not None and word == forms[0] else None

    def _verdicts(
        self, what: str, node: Node | None, asked: dict[ColumnName, Place], written: dict[ColumnName, Place]
    ) -> dict[ColumnName, Verdict]:
        verdicts: dict[ColumnName, Verdict] = {}
        entries = None if node is None else self._reader.mapping(node, f"the columns of {what}", empty=True)
        for key, value in entries or ():
            try:
                name = column_name(key.text)
            except NameFormError as error:
                self._reader.error(key.place, str(error), error.fix)
                continue
            verdict, lookup, write = self._role_column(f"{what}, column {name}", value)
            if name not in self._known:
                meant = nearest_name(name, self._known)
                fix = "classify it under `tables`" if meant is None else f"did you mean `{show_name(*meant)}`?"
                self._reader.error(key.place, f"{what}: the column {name} is not in `tables`", fix)
                continue
            if name in verdicts:
                self._reader.error(
                    key.place, f"{what}: the column {name} is here twice under two spellings", "merge the two"
                )
            column = self._known[name]
            if lookup is not None:
                asked[name] = lookup
            if write is not None:
                written[name] = write
            if verdict is None or column is None:
                continue
            verdicts[name] = verdict
            self._check_verdict(what, column, verdict, value.place)
        return verdicts

    def _check_verdict(self, what: str, column: Column, verdict: Verdict, place: Place) -> None:
        if not column.protected and verdict is not Verdict.CLEAR:
            self._reader.error(
                place,
                f"{what} cannot be `{verdict}` on {column.name}: the column is not protected",
                "give the column `protection: masked` or `protection: sealed`",
            )
        elif verdict is Verdict.MASKED and column.mask is None:
            self._reader.warn(
                place,
                f"{what} is refused {column.name}: it has no mask",
                "add a mask to the column, or write `refused`",
            )


def _some(columns: list[Column]) -> str:
    """A few names for a message."""
    names = [str(c.name) for c in columns[:3]]
    return ", ".join(names) + (f" and {len(columns) - 3} more" if len(columns) > 3 else "")


def _is_reserved(schema: str) -> bool:
    """PostgreSQL's own schemas and pgveil's."""
    return schema.startswith(("pg_", "pgveil_")) or schema in {"information_schema", "pgveil"}


def _digest(tables: ReadOnly[TableName, Table], roles: ReadOnly[str, Role]) -> str:
    """16 hex digits that name what the file says, whatever its comments, order and layout."""
    content = [
        FORMAT_VERSION,
        sorted(
            (t.name, t.subject, [_column_content(t.columns[c]) for c in sorted(t.columns)]) for t in tables.values()
        ),
        sorted(
            (
                r.name,
                sorted(r.logins),
                sorted(r.member_of),
                sorted(r.levels.items()),
                sorted(r.columns.items()),
                *([sorted(r.lookups), r.lookups_per_minute] if r.lookups else ()),
                *([sorted(r.writes), r.lookups_per_minute, "write"] if r.writes else ()),
                *([sorted(r.mixed_domains), "mixed"] if r.mixed_domains else ()),
            )
            for r in roles.values()
        ),
    ]
    return hashlib.sha256(json.dumps(content, separators=(",", ":")).encode()).hexdigest()[:16]


def _column_content(column: Column) -> tuple[object, ...]:
    mask = None if column.mask is None else [column.mask.kind, column.mask.params]
    return (
        column.name,
        column.level,
        column.protection,
        column.mode,
        column.type,
        column.domain,
        mask,
        column.on_damage,
        column.placeholder,
    )

"""Forms of PostgreSQL's that sqlglot does not know, in a spelling that it does. Only the analysis sees it; the text that runs stays the client's."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from rules.analyse.constants import type_end
from rules.analyse.keywords import RESERVED
from rules.lexer import Kind

if TYPE_CHECKING:
    from rules.lexer import Lexed

_NAMES: Final = (Kind.WORD, Kind.QUOTED)
_BEHIND_A_LABEL: Final = frozenset({",", "from", ")"})
# SQL/JSON functions, whose arguments end in clauses that change nothing that the analysis asks (PostgreSQL manual, 9.16.1 and 9.16.2).
_JSON: Final = frozenset(
    f"json_{name}"
    for name in ("object", "array", "objectagg", "arrayagg", "query", "value", "exists", "serialize", "scalar", "table")
) | {"json"}
_PASSING: Final = frozenset({"json_query", "json_exists"})
_ON: Final = (("on",), ("empty", "error"))
_TAILS: Final = (
    (("null", "absent"), ("on",), ("null",)),
    (("with", "without"), ("unique",), ("keys",)),
    (("with", "without"), ("unique",)),
    *((("with", "without"), *((w,) for w in words), ("wrapper",)) for words in ((), ("array",))),
    *(
        (("with",), ("conditional", "unconditional"), *((w,) for w in words), ("wrapper",))
        for words in ((), ("array",))
    ),
    (("keep", "omit"), ("quotes",), ("on",), ("scalar",), ("string",)),
    (("keep", "omit"), ("quotes",)),
    (("format",), ("json",), ("encoding",), ("utf8", "utf16", "utf32")),
    (("format",), ("json",)),
    (("error", "null", "true", "false", "unknown", "empty"), *_ON),
    (("empty",), ("array", "object"), *_ON),
)
_OVERRIDING: Final = frozenset({("system", "value"), ("user", "value")})


@dataclass(slots=True)
class Normalised:
    """How tokens are spelled otherwise ("" leaves one out).

    `accounted`: tokens that name no column and no relation. `join_aliases`: of JOIN ... USING (columns) AS alias, the alias's token by the first
    column's. `returnings`: the tokens RETURNING of statements, with what OLD and NEW are called behind each.
    """

    spellings: dict[int, str] = field(default_factory=dict)
    accounted: set[int] = field(default_factory=set)
    join_aliases: dict[int, int] = field(default_factory=dict)
    returnings: dict[int, dict[str, str]] = field(default_factory=dict)

    def row_names(self, token: int | None) -> dict[str, str]:
        """What OLD and NEW are called in the RETURNING list that a token stands in."""
        before = [at for at in self.returnings if token is not None and at < token]
        return {"old": "old", "new": "new"} | (self.returnings[max(before)] if before else {})


def normalise(lexed: Lexed, first: int, last: int) -> Normalised:
    """The forms in tokens `first..last`."""
    return _Scan(lexed, first, last).run()


class _Scan:
    def __init__(self, lexed: Lexed, first: int, last: int) -> None:
        self._lexed = lexed
        self._first = first
        self._last = last
        self._found = Normalised()
        self._within: list[str] = []  # the words before the parentheses that are open

    def run(self) -> Normalised:
        forms = {
            "overriding": self._overriding,
            "current": self._current_of,
            "using": self._using,
            "only": self._only,
            "collate": self._collate,
            "returning": self._returning,
        }
        for index in range(self._first, self._last + 1):
            token = self._lexed.tokens[index]
            if token.kind is Kind.PUNCT:
                self._nest(index, token.value)
            if token.kind is not Kind.WORD or index in self._found.spellings:
                continue
            if self._within and self._within[-1] in _JSON:
                self._json_tail(index)
            form = forms.get(token.value)
            if form is not None:
                form(index)
            if token.value in RESERVED:
                self._keyword(index)
        return self._found

    def _text(self, index: int) -> str:
        """A keyword's or sign's text; '' for quoted names, constants and what is outside."""
        if not self._first <= index <= self._last:
            return ""
        token = self._lexed.tokens[index]
        return token.value if token.kind in (Kind.WORD, Kind.PUNCT, Kind.OP) else ""

    def _is_name(self, index: int) -> bool:
        return self._first <= index <= self._last and self._lexed.tokens[index].kind in _NAMES

    def _drop(self, first: int, last: int) -> None:
        self._found.spellings.update(dict.fromkeys(range(first, last + 1), ""))

    def _nest(self, at: int, sign: str) -> None:
        if sign in {"(", "["}:
            before = self._text(at - 1)
            # The columns of a JSON_TABLE end in the same clauses.
            inside = before == "columns" and self._within[-1:] == ["json_table"]
            self._within.append("json_table" if inside else before)
        elif sign in {")", "]"} and self._within:
            self._within.pop()

    def _json_tail(self, at: int) -> None:
        """ABSENT ON NULL and its like; RETURNING is with the others of its name."""
        if self._text(at - 1) in {"(", ",", "."}:
            return
        function, word = self._within[-1], self._text(at)
        if word == "default":
            self._json_default(at)
        elif word == "passing" and function in _PASSING:
            self._found.spellings[at] = ","
        elif word == "as" and self._is_name(at + 1) and function in _PASSING | {"json_table"}:
            self._drop(at, at + 1)  # what PASSING calls a value in the path, or a path's own name
            self._found.accounted.add(at + 1)
        elif word == "exists" and function == "json_table":
            self._drop(at, at)
        for words in _TAILS:
            if all(self._text(at + n) in word for n, word in enumerate(words)):
                self._drop(at, at + len(words) - 1)
                return

    def _json_default(self, at: int) -> None:
        """DEFAULT expression ON EMPTY or ERROR: it can hold no column (42804). What a function in it reads, its name has to account for."""
        end, depth = at + 1, 0
        while end <= self._last and depth >= 0:
            sign = self._text(end)
            depth += (sign in {"(", "["}) - (sign in {")", "]"})
            if depth == 0 and sign == "on" and self._text(end + 1) in {"empty", "error"}:
                self._drop(at, end + 1)
                return
            if depth == 0 and sign == ",":
                return
            end += 1

    def _returning(self, at: int) -> None:
        """RETURNING WITH (OLD AS o, NEW AS n) of a statement; RETURNING type of an SQL/JSON function."""
        if self._within and self._within[-1] in _JSON:
            end = type_end(self._lexed, at + 1)
            if end is not None and end <= self._last:
                self._drop(at, end)
            return
        names: dict[str, str] = {}
        end = at + 2
        while (
            self._text(end) in {"(", ","}
            and self._text(end + 1) in {"old", "new"}
            and self._text(end + 2) == "as"
            and self._is_name(end + 3)
        ):
            names[self._text(end + 1)] = self._lexed.tokens[end + 3].value
            end += 4
        if self._text(at + 1) == "with" and self._text(at + 2) == "(" and self._text(end) == ")" and names:
            self._drop(at + 1, end)
            self._found.accounted |= set(range(at + 1, end))
        else:
            names = {}
        self._found.returnings[at] = names

    def _overriding(self, at: int) -> None:
        """INSERT's OVERRIDING clause changes nothing that the analysis asks."""
        if (self._text(at + 1), self._text(at + 2)) in _OVERRIDING:
            self._drop(at, at + 2)

    def _current_of(self, at: int) -> None:
        """WHERE CURRENT OF cursor: which row that is hangs on no column."""
        behind = at + 2
        named = self._is_name(behind) or (behind <= self._last and self._lexed.tokens[behind].kind is Kind.PARAM)
        if self._text(at - 1) == "where" and self._text(at + 1) == "of" and named:
            self._drop(at, behind)
            self._found.spellings[at] = "true"
            self._found.accounted.add(behind)

    def _using(self, at: int) -> None:
        """ORDER BY ... USING operator orders as ORDER BY does; JOIN ... USING (columns) AS alias."""
        if at < self._last and self._lexed.tokens[at + 1].kind is Kind.OP:
            self._drop(at, at + 1)
        elif self._text(at + 1) == "operator" and self._text(at + 2) == "(":
            end = at + 3
            while self._is_name(end) and self._text(end + 1) == ".":
                end += 2
            if self._lexed.tokens[min(end, self._last)].kind is Kind.OP and self._text(end + 1) == ")":
                self._drop(at, end + 1)
        elif self._text(at + 1) == "(":
            end = at + 2
            while self._is_name(end) and self._text(end + 1) == ",":
                end += 2
            if (
                self._is_name(end)
                and self._text(end + 1) == ")"
                and self._text(end + 2) == "as"
                and self._is_name(end + 3)
            ):
                self._drop(end + 2, end + 3)
                self._found.join_aliases[at + 2] = end + 3

    def _only(self, at: int) -> None:
        """FROM ONLY (name)."""
        if self._text(at + 1) != "(" or not self._is_name(at + 2):
            return
        end = at + 2
        while self._text(end + 1) == "." and self._is_name(end + 2):
            end += 2
        if self._text(end + 1) == ")":
            self._drop(at + 1, at + 1)
            self._drop(end + 1, end + 1)

    def _collate(self, at: int) -> None:
        """COLLATE schema.name: the schema makes no difference to the analysis."""
        if self._is_name(at + 1) and self._text(at + 2) == "." and self._is_name(at + 3):
            self._drop(at + 1, at + 2)
            name = self._lexed.tokens[at + 3].value.replace('"', '""')
            self._found.spellings[at + 3] = f'"{name}"'
            self._found.accounted |= {at + 1, at + 3}

    def _keyword(self, at: int) -> None:
        """A keyword that is a column's name behind a dot, or a label behind AS."""
        behind = self._text(at + 1)
        is_field = self._text(at - 1) == "." and behind != "("
        is_label = self._text(at - 1) == "as" and (behind in _BEHIND_A_LABEL or at == self._last)
        if is_field or is_label:
            self._found.spellings[at] = f'"{self._lexed.tokens[at].value}"'

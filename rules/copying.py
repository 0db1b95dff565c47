"""COPY as written: what it copies, from or to where, and its options, new and old (PostgreSQL documentation, COPY; gram.y, copy.c).

Where it is not certain that the server reads it so there is None, and the statement is refused where anything sealed takes part.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from rules.copy_format import NO_COLUMNS, ColumnList, CopyForm, CopyFormat
from rules.lexer import Kind, LexError, literal_value

if TYPE_CHECKING:
    from rules.lexer import Lexed

_TRUE: Final = frozenset({"true", "on", "1"})
_FALSE: Final = frozenset({"false", "off", "0"})
# From this version on `\.` does not end csv data.
_CSV_WITHOUT_END: Final = 180_000
# Of a multi-byte character of these encodings a byte can look like a quote or a delimiter.
_EMBEDDING: Final = frozenset(
    {"sjis", "shiftjis", "mskanji", "win932", "windows932", "shiftjis2004", "big5", "win950", "windows950"}
) | {
    *("gbk", "win936", "windows936", "gb18030", "uhc", "win949", "windows949", "johab"),
}
_PARTS: Final = 3  # of a table's name
_TEXT_DELIMITERS_NOT: Final = frozenset("\\.abcdefghijklmnopqrstuvwxyz0123456789")


@dataclass(frozen=True, slots=True)
class CopyStatement:
    """A COPY. `first..last`: the tokens of the table's name, or of the query; `schema` and `name` are None for a query.

    `columns`: None where none are listed; `closing`: the last token of what is copied (a list's parenthesis). `direction`: FROM or TO. `streams`:
    it is STDIN or STDOUT. `known`: the options are understood as far as the shape of the text goes, and so `where`, the condition's tokens. `options`
    None: the server would refuse them, or their constants mean something that is not known here. `old`: forms that COPY (query) does not have
    (COPY BINARY, USING DELIMITERS).
    """

    first: int
    last: int
    schema: str | None
    name: str | None
    columns: tuple[str, ...] | None
    closing: int
    direction: int
    into: bool
    streams: bool
    known: bool = False
    options: CopyFormat | None = None
    where: tuple[int, int] | None = None
    old: bool = False

    @property
    def table(self) -> bool:
        """Whether a table is named, and no query."""
        return self.name is not None


def parse_copy(lexed: Lexed, first: int, last: int, *, server_version: int) -> CopyStatement | None:
    """The statement of tokens `first..last`; None where it is not understood."""
    try:
        return _Parser(lexed, first, last, server_version).parse()
    except _NotUnderstoodError:
        return None


class _NotUnderstoodError(Exception):
    """Never leaves this module."""


class _Parser:
    def __init__(self, lexed: Lexed, first: int, last: int, version: int) -> None:
        self._lexed = lexed
        self._at = first + 1
        self._last = last
        self._version = version
        self._found: dict[str, object] = {}

    # -- tokens

    def _word(self) -> str:
        """The keyword or sign here, "" for anything else."""
        if self._at > self._last:
            return ""
        token = self._lexed.tokens[self._at]
        return token.value if token.kind in (Kind.WORD, Kind.PUNCT, Kind.OP) else ""

    def _take(self, *words: str) -> bool:
        if self._word() in words and self._word():
            self._at += 1
            return True
        return False

    def _need(self, word: str) -> None:
        if not self._take(word):
            raise _NotUnderstoodError

    def _name(self) -> str:
        if self._at > self._last or self._lexed.tokens[self._at].kind not in (Kind.WORD, Kind.QUOTED):
            raise _NotUnderstoodError
        self._at += 1
        return self._lexed.tokens[self._at - 1].value

    def _string(self) -> str | None:
        """A constant's value; None for one that can't be read, which is for `_format` to mind."""
        if self._at > self._last or self._lexed.tokens[self._at].kind is not Kind.STRING:
            raise _NotUnderstoodError
        self._at += 1
        try:
            return literal_value(self._lexed, self._at - 1)
        except LexError:
            return None

    def _closing(self) -> int:
        """The parenthesis that closes the one here."""
        depth = 0
        for index in range(self._at, self._last + 1):
            token = self._lexed.tokens[index]
            depth += (token.value == "(") - (token.value == ")") if token.kind is Kind.PUNCT else 0
            if depth == 0:
                return index
        raise _NotUnderstoodError

    def _names(self) -> tuple[str, ...]:
        """Names in parentheses."""
        self._need("(")
        names = [self._name()]
        while self._take(","):
            names.append(self._name())
        self._need(")")
        return tuple(names)

    # -- the statement

    def parse(self) -> CopyStatement:
        old = False
        if self._word() == "(":
            first, last, names = self._at + 1, self._closing() - 1, None
            self._at = last + 2
            columns, closing = None, last + 1
        else:
            following = self._lexed.tokens[self._at + 1] if self._at < self._last else None
            if (
                self._word() == "binary"
                and following is not None
                and following.kind in (Kind.WORD, Kind.QUOTED)
                and following.value not in {"from", "to"}
            ):
                self._at += 1
                old = True
                self._set("format", "binary")
            first = self._at
            names = [self._name()]
            while self._take("."):
                names.append(self._name())
            last = closing = self._at - 1
            columns = None
            if self._word() == "(":
                columns = self._names()
                closing = self._at - 1
        direction = self._at
        into = self._take("from")
        if not into:
            self._need("to")
        streams = self._endpoint()
        if names is not None and len(names) > _PARTS:
            raise _NotUnderstoodError
        made = CopyStatement(
            first,
            last,
            names[-2] if names is not None and len(names) > 1 else None,
            names[-1] if names is not None else None,
            columns,
            closing,
            direction,
            into,
            streams,
            old=old,
        )
        try:
            old |= self._old_delimiters()
            where = self._options()
        except _NotUnderstoodError:
            return made
        return replace(made, known=True, options=self._format(into=into, table=made.table), where=where, old=old)

    def _endpoint(self) -> bool:
        """FROM and TO take STDIN and STDOUT alike."""
        if self._take("stdin", "stdout"):
            return True
        self._take("program")
        self._string()
        return False

    def _old_delimiters(self) -> bool:
        if self._word() not in {"using", "delimiters"}:
            return False
        self._take("using")
        self._need("delimiters")
        self._set("delimiter", self._string())
        return True

    def _options(self) -> tuple[int, int] | None:
        """Both kinds of options; where the condition behind them stands."""
        self._take("with")
        if self._take("("):
            self._generic()
            while self._take(","):
                self._generic()
            self._need(")")
        else:
            while self._at <= self._last and self._word() != "where":
                self._legacy()
        if self._take("where") and self._at <= self._last:
            return self._at, self._last
        if self._at <= self._last:
            raise _NotUnderstoodError
        return None

    def _set(self, name: str, value: object) -> None:
        if name in self._found:
            raise _NotUnderstoodError  # "conflicting or redundant options"
        self._found[name] = value

    def _legacy(self) -> None:
        word = self._name()
        if word in {"binary", "csv"}:
            self._set("format", word)
        elif word in {"header", "freeze"}:
            self._set(word, "true")
        elif word in {"delimiter", "null", "quote", "escape"}:
            self._take("as")
            self._set(word, self._string())
        elif word == "encoding":
            self._set(word, self._string())
        elif word == "force":
            which = "force_quote" if self._take("quote") else "force_not_null" if self._take("not") else "force_null"
            if which != "force_quote":
                self._need("null")
            self._set(which, self._columns_without_parentheses())
        else:
            raise _NotUnderstoodError

    def _columns_without_parentheses(self) -> ColumnList:
        if self._take("*"):
            return ColumnList(every=True)
        names = [self._name()]
        while self._take(","):
            names.append(self._name())
        return ColumnList(names=tuple(names))

    def _generic(self) -> None:
        name = self._name()
        if name in {"force_quote", "force_null", "force_not_null"}:
            self._set(name, ColumnList(every=True) if self._take("*") else ColumnList(names=self._names()))
            return
        value: str | None = None
        token = self._lexed.tokens[self._at] if self._at <= self._last else None
        if token is not None and token.kind is Kind.STRING:
            value = self._string()
        elif token is not None and token.kind in (Kind.WORD, Kind.QUOTED, Kind.NUMBER):
            value = token.value
            self._at += 1
        if name in _KNOWN:
            self._set(name, "true" if value is None and name in _SWITCHES else value)
        else:
            raise _NotUnderstoodError

    # -- what they mean together

    def _format(self, *, into: bool, table: bool) -> CopyFormat | None:
        """The options as a format; None where the server would refuse them, or means something that is not known here."""
        found = self._found
        if None in found.values() or found.get("format", "text") not in set(CopyForm):
            return None
        form = CopyForm(str(found.get("format", "text")))
        encoding = found.get("encoding")
        if not isinstance(encoding, str | None):
            return None
        csv = form is CopyForm.CSV
        header = _switch(found.get("header", "false"), also="match" if into else "")
        lenient = _choice(found.get("on_error", "stop"), {"stop": False, "ignore": True})
        if header is None or lenient is None or _switch(found.get("freeze", "false")) is None:
            return None
        texts = [found.get(n) for n in ("delimiter", "null", "quote", "escape", "default")]
        if not all(isinstance(t, str | None) for t in texts):
            return None
        delimiter, null, quote, escape, default = ("" if t is None else str(t) for t in texts)
        made = CopyFormat(
            form,
            delimiter=(delimiter or ("," if csv else "\t")).encode(),
            null=null.encode() if texts[1] is not None else b"" if csv else b"\\N",
            quote=(quote or '"').encode(),
            escape=(escape or quote or '"').encode(),
            header=header,
            default=default.encode() if texts[4] is not None else None,
            force_quote=self._listed("force_quote"),
            force_null=self._listed("force_null"),
            force_not_null=self._listed("force_not_null"),
            lenient=lenient,
            ends=not (csv and self._version >= _CSV_WITHOUT_END),
            encoding=encoding,
        )
        return made if self._allowed(made, into=into, table=table) else None

    def _listed(self, option: str) -> ColumnList:
        found = self._found.get(option)
        return found if isinstance(found, ColumnList) else NO_COLUMNS

    def _allowed(self, made: CopyFormat, *, into: bool, table: bool) -> bool:
        """Whether the server takes these options together, as far as reading the data depends on it."""
        found = self._found
        csv = made.form is CopyForm.CSV
        if not table and into:
            return False
        if made.form is CopyForm.BINARY:
            lines_only = _CSV_ONLY | {"delimiter", "null", "default", "quote", "escape"}
            return not found.keys() & lines_only and not made.header and not made.lenient
        if not csv and not found.keys().isdisjoint(_CSV_ONLY | {"quote", "escape"}):
            return False
        signs = (made.delimiter, *((made.quote, made.escape) if csv else ()))
        if any(len(sign) != 1 or sign in b"\r\n\0" or sign > b"\x7f" for sign in signs):
            return False
        if csv:
            if made.delimiter == made.quote or made.quote in made.null:
                return False
        elif made.delimiter.decode() in _TEXT_DELIMITERS_NOT:
            return False
        markers = [made.null] + ([made.default] if made.default is not None else [])
        if any(b"\r" in m or b"\n" in m or made.delimiter in m for m in markers):
            return False
        if made.default is not None and (not into or made.default == made.null or (csv and made.quote in made.default)):
            return False
        return (into or not found.keys() & {"force_null", "force_not_null", "on_error", "freeze"}) and not (
            into and "force_quote" in found
        )


_CSV_ONLY: Final = frozenset({"force_quote", "force_null", "force_not_null"})
_SWITCHES: Final = frozenset({"header", "freeze"})
_KNOWN: Final = _SWITCHES | {
    *(
        "format",
        "delimiter",
        "null",
        "quote",
        "escape",
        "encoding",
        "default",
        "on_error",
        "log_verbosity",
        "reject_limit",
    ),
}


def readable(form: CopyFormat, client_encoding: str) -> bool:
    """Whether rows of this format can be told apart in the data's encoding, and markers be compared with what is in them."""
    encoding = _plain_name(form.encoding or client_encoding)
    if form.form is CopyForm.BINARY:
        return True
    markers = form.null + (form.default or b"")
    return encoding not in _EMBEDDING and (markers.isascii() or encoding in {"utf8", "unicode"})


def _switch(value: object, also: str = "") -> bool | None:
    if not isinstance(value, str):
        return None
    word = value.lower()
    return True if word in _TRUE or (also and word == also) else False if word in _FALSE else None


def _choice(value: object, meanings: dict[str, bool]) -> bool | None:
    return meanings.get(value.lower()) if isinstance(value, str) else None


def _plain_name(encoding: str) -> str:
    return "".join(c for c in encoding.lower() if c.isalnum())

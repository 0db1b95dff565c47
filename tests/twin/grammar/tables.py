"""What the composed statements are about: the shop's tables and views, with the kinds of their columns."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final


class Kind(StrEnum):
    """What expressions a column fits into."""

    TEXT = "text"
    INT = "int"
    NUM = "numeric"
    FLOAT = "float8"
    DATE = "date"
    TIME = "timestamptz"
    BOOL = "boolean"
    UUID = "uuid"
    JSON = "jsonb"
    BYTES = "bytea"
    TEXTS = "text[]"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Column:
    """A column of something that stands in FROM."""

    name: str
    kind: Kind


@dataclass(slots=True)
class Item:
    """What FROM knows by a name. `table`: it is a base table, whole."""

    name: str
    columns: list[Column]
    table: bool = False


@dataclass(slots=True)
class Level:
    """A query level. `merged`: names that USING or NATURAL made one of two, which only a qualified reference tells apart."""

    outer: Level | None = None
    items: list[Item] = field(default_factory=list)
    merged: set[str] = field(default_factory=set)
    ctes: dict[str, list[Column]] = field(default_factory=dict)

    def all_ctes(self) -> dict[str, list[Column]]:
        """The common table expressions in sight."""
        return (self.outer.all_ctes() if self.outer is not None else {}) | self.ctes


_SHORT: Final = {
    "t": Kind.TEXT,
    "i": Kind.INT,
    "n": Kind.NUM,
    "f": Kind.FLOAT,
    "d": Kind.DATE,
    "z": Kind.TIME,
    "b": Kind.BOOL,
    "u": Kind.UUID,
    "j": Kind.JSON,
    "y": Kind.BYTES,
    "a": Kind.TEXTS,
    "o": Kind.OTHER,
}


def _columns(text: str) -> tuple[Column, ...]:
    return tuple(Column(name, _SHORT[kind]) for name, _, kind in (part.partition(":") for part in text.split()))


TABLES: Final = {
    "customers": _columns("id:i name:t phone:t email:t birth:d income:n id_number:t city:t vip:b notes:t"),
    "accounts": _columns("id:i customer_id:i number:t balance:n opened:d level:i currency:t"),
    "cards": _columns("id:i account_id:i pan:t cvv:t credit:i expires:d kind:t active:b"),
    "payments": _columns("id:i pan:t amount:n paid_at:z memo:t merchant:t"),
    "profiles": _columns(
        "customer_id:i device:u prefs:j score:i rating:f verified:b last_seen:z fingerprint:y answer:t standing:o"
    ),
    "products": _columns("id:i name:t price:n tags:a stock:i"),
    "orders": _columns("id:i customer_id:i product_id:i quantity:i unit_price:n total:n status:t ship_to:t placed:d"),
    "visits": _columns("id:i day:d guest:t token:t minutes:i"),
    "people": _columns("id:i nick:t badge:t"),
    "employees": _columns("id:i nick:t badge:t salary:i boss:i"),
    "archive": _columns("id:i id_number:t phone:t plain_note:t"),
    '"Gift List"': (Column('"Nr"', Kind.INT), Column('"For Whom"', Kind.TEXT), Column('"order"', Kind.TEXT)),
    "crm.customers": _columns("id:i name:t stage:t"),
    "v_cards": _columns("id:i account_id:i pan:t kind:t"),
    "v_active": _columns("id:i pan:t kind:t"),
    "v_people": _columns("id:i name:t city:t"),
    "m_pans": _columns("id:i pan:t"),
}
# Those that a statement may write, with the columns that it gives values.
WRITTEN: Final = {
    "customers": ("id", "name", "phone", "email", "birth", "income", "id_number", "city"),
    "accounts": ("id", "customer_id", "number", "balance", "opened", "level"),
    "cards": ("id", "account_id", "pan", "cvv", "credit", "expires", "kind"),
    "payments": ("pan", "amount", "memo", "merchant"),
    "profiles": ("customer_id", "device", "prefs", "score", "rating", "verified", "last_seen", "fingerprint", "answer"),
    "orders": ("id", "customer_id", "product_id", "quantity", "unit_price", "status", "ship_to"),
    "visits": ("id", "day", "guest", "token", "minutes"),
    "people": ("id", "nick", "badge"),
    "archive": ("id", "id_number", "phone", "plain_note"),
}
KEYS: Final = {"customers": "id", "accounts": "id", "cards": "id", "orders": "id", "people": "id", "archive": "id"}
# Pairs of columns by which people join.
JOINS: Final = frozenset(
    {
        ("id", "customer_id"),
        ("id", "account_id"),
        ("id", "product_id"),
        ("customer_id", "customer_id"),
        ("pan", "pan"),
        ("id_number", "id_number"),
        ("id", "id"),
        ("name", "name"),
    }
)
CONSTANTS: Final[dict[Kind, tuple[str, ...]]] = {
    Kind.TEXT: (
        "4929000011112101",
        "5555000022222303",
        "NL1984022900017",
        "Anna Verhoeven",
        "NL91ABNA0417164301",
        "tok-gerrit-51",
        "badge-juno-61",
        "Rex the dog",
        "121",
        "Delft",
        "tea",
        "credit",
        "A",
        "",
        "x_y%",
        "O'Connell",
    ),
    Kind.INT: ("0", "1", "2", "3", "11", "21", "41", "1500", "5000", "-1"),
    Kind.NUM: ("0", "1.5", "250.00", "15250.75", "38771.25", "-120.30"),
    Kind.FLOAT: ("0", "4.5", "3.25"),
    Kind.DATE: ("2010-05-01", "2027-05-31", "1984-02-29", "2026-02-02"),
    Kind.TIME: ("2026-02-14 20:15:00+00", "2026-01-06 00:00:00+00"),
    Kind.BOOL: ("true", "false"),
    Kind.UUID: ("6f9619ff-8b86-d011-b42d-00cf4fc96401",),
    Kind.JSON: ('{"lang": "nl"}', "[1, 2]", '{"news": true}'),
    Kind.BYTES: ("\\xdeadbeef00000101", "\\x00"),
    Kind.TEXTS: ("{drink,green}", "{}", "{tea,4929000011112101}"),
}
# Few names for many things, so that they meet.
ALIASES: Final = ("a", "b", "c", "customers", "cards", "pan", "id", '"Q"', "x", "y", "z")

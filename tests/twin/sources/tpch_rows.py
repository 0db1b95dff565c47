"""Rows for the TPC-H schema (specification, clause 4.2.3), small enough to load in seconds, made from a seed.

Shapes of values, keys and dates are the specification's. What its queries look for is rarer there than fits in so few rows, so it is put in more
often, and each query has an answer.
"""

from __future__ import annotations

import datetime as dt
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

Rows = list[tuple[Any, ...]]

SUPPLIERS: Final = 50  # two a nation
PARTS: Final = 600
CUSTOMERS: Final = 450
ORDERS: Final = 4500
SUPPLIERS_OF_A_PART: Final = 4
START: Final = dt.date(1992, 1, 1)
ORDER_DAYS: Final = 2406  # up to 151 days before the end of 1998
TODAY: Final = dt.date(1995, 6, 17)
_SEED: Final = 1992

REGIONS: Final = ("AFRICA", "AMERICA", "ASIA", "EUROPE", "MIDDLE EAST")
# With the region's key.
NATIONS: Final = (
    ("ALGERIA", 0),
    ("ARGENTINA", 1),
    ("BRAZIL", 1),
    ("CANADA", 1),
    ("EGYPT", 4),
    ("ETHIOPIA", 0),
    ("FRANCE", 3),
    ("GERMANY", 3),
    ("INDIA", 2),
    ("INDONESIA", 2),
    ("IRAN", 4),
    ("IRAQ", 4),
    ("JAPAN", 2),
    ("JORDAN", 4),
    ("KENYA", 0),
    ("MOROCCO", 0),
    ("MOZAMBIQUE", 0),
    ("PERU", 1),
    ("CHINA", 2),
    ("ROMANIA", 3),
    ("SAUDI ARABIA", 4),
    ("VIETNAM", 2),
    ("RUSSIA", 3),
    ("UNITED KINGDOM", 3),
    ("UNITED STATES", 1),
)
_COLOURS: Final = (
    "almond",
    "blush",
    "chocolate",
    "dim",
    "forest",
    "green",
    "ivory",
    "lemon",
    "navy",
    "plum",
    "sky",
    "tan",
)
_TYPES: Final = (
    ("STANDARD", "SMALL", "MEDIUM", "LARGE", "ECONOMY", "PROMO"),
    ("ANODIZED", "BURNISHED", "PLATED", "POLISHED", "BRUSHED"),
    ("TIN", "NICKEL", "BRASS", "STEEL", "COPPER"),
)
_CONTAINERS: Final = (("SM", "LG", "MED", "JUMBO", "WRAP"), ("CASE", "BOX", "BAG", "JAR", "PKG", "PACK", "CAN", "DRUM"))
_SEGMENTS: Final = ("AUTOMOBILE", "BUILDING", "FURNITURE", "MACHINERY", "HOUSEHOLD")
_PRIORITIES: Final = ("1-URGENT", "2-HIGH", "3-MEDIUM", "4-NOT SPECIFIED", "5-LOW")
_INSTRUCTIONS: Final = ("DELIVER IN PERSON", "COLLECT COD", "NONE", "TAKE BACK RETURN")
_MODES: Final = ("REG AIR", "AIR", "RAIL", "SHIP", "TRUCK", "MAIL", "FOB")
_WORDS: Final = (
    *("foxes", "ideas", "theodolites", "pinto beans", "accounts", "deposits", "packages", "platelets", "asymptotes"),
    *("sleep", "wake", "haggle", "nag", "cajole", "boost", "detect", "among the", "across the", "furiously", "slyly"),
    *("carefully", "blithely", "quickly", "ironic", "final", "bold", "regular", "even", "silent", "pending", "express"),
)
_LETTERS: Final = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 ,"

# What queries look for, one part in twenty of each: (container, size, brand), type (Q2, Q8, Q17, Q19).
_SOUGHT_PARTS: Final = (
    ("MED BOX", 7, "Brand#23"),
    ("SM CASE", 3, "Brand#12"),
    ("LG PACK", 12, "Brand#34"),
)
_SOUGHT_TYPES: Final = ("ECONOMY ANODIZED STEEL", "SMALL PLATED BRASS")
_EVERY: Final = 20
_LARGE_ORDERS: Final = 450  # one in so many is of large quantities only (Q18)


@dataclass(frozen=True)
class _Part:
    key: int
    cents: int
    suppliers: tuple[int, ...]


def tpch_rows() -> dict[str, Rows]:
    """All rows by table, in an order in which foreign keys hold."""
    chance = random.Random(_SEED)
    parts, part_rows, partsupp = _parts(chance)
    orders, lineitems = _orders(chance, parts)
    return {
        "region": [(i, name, _text(chance, 31, 115)) for i, name in enumerate(REGIONS)],
        "nation": [(i, name, region, _text(chance, 31, 114)) for i, (name, region) in enumerate(NATIONS)],
        "supplier": list(_suppliers(chance)),
        "part": part_rows,
        "partsupp": partsupp,
        "customer": list(_customers(chance)),
        "orders": orders,
        "lineitem": lineitems,
    }


def _money(cents: int) -> str:
    return f"{'-' if cents < 0 else ''}{abs(cents) // 100}.{abs(cents) % 100:02}"


def _text(chance: random.Random, shortest: int, longest: int, *, words: tuple[str, str] | None = None) -> str:
    """Text of words. `words`: two that are in it, in this order."""
    length = chance.randint(shortest, longest)
    found = [chance.choice(_WORDS)]
    while len(" ".join(found)) < length:
        found.append(chance.choice(_WORDS))
    text = " ".join(found)[:length].rstrip()
    if words is not None:
        text = f"{words[0]} {text[: length - len(' '.join(words)) - 2].strip()} {words[1]}"
    return text


def _address(chance: random.Random) -> str:
    return "".join(chance.choice(_LETTERS) for _ in range(chance.randint(10, 40))).strip() or "x"


def _phone(chance: random.Random, nation: int) -> str:
    return f"{nation + 10}-{chance.randint(100, 999)}-{chance.randint(100, 999)}-{chance.randint(1000, 9999)}"


def _balance(chance: random.Random) -> str:
    return _money(chance.randint(-99999, 999999))


def _suppliers(chance: random.Random) -> Iterator[tuple[Any, ...]]:
    for key in range(1, SUPPLIERS + 1):
        nation = key % len(NATIONS)
        words = {3: ("Customer", "Complaints"), 4: ("Customer", "Recommends")}.get(key % 10)
        comment = _text(chance, 25, 100, words=words)
        yield key, f"Supplier#{key:09}", _address(chance), nation, _phone(chance, nation), _balance(chance), comment


def _parts(chance: random.Random) -> tuple[list[_Part], Rows, Rows]:
    parts, rows, supplied = [], [], []
    for key in range(1, PARTS + 1):
        maker = chance.randint(1, 5)
        brand, size = f"Brand#{maker}{chance.randint(1, 5)}", chance.randint(1, 50)
        container = " ".join(chance.choice(words) for words in _CONTAINERS)
        type_ = " ".join(chance.choice(words) for words in _TYPES)
        if key % _EVERY < len(_SOUGHT_PARTS):
            container, size, brand = _SOUGHT_PARTS[key % _EVERY]
        elif key % _EVERY < len(_SOUGHT_PARTS) + len(_SOUGHT_TYPES):
            type_, size = _SOUGHT_TYPES[key % _EVERY - len(_SOUGHT_PARTS)], 15
        cents = 90000 + key // 10 % 20001 + 100 * (key % 1000)
        name = " ".join(chance.sample(_COLOURS, 5))
        maker_name = f"Manufacturer#{brand[6]}"
        rows.append((key, name, maker_name, brand, type_, size, container, _money(cents), _text(chance, 5, 22)))
        # Clause 4.2.3: a part's suppliers are spread over all of them.
        step = SUPPLIERS // SUPPLIERS_OF_A_PART + (key - 1) // SUPPLIERS
        suppliers = tuple((key + i * step) % SUPPLIERS + 1 for i in range(SUPPLIERS_OF_A_PART))
        parts.append(_Part(key, cents, suppliers))
        for supplier in suppliers:
            cost = _money(chance.randint(100, 100000))
            supplied.append((key, supplier, chance.randint(1, 9999), cost, _text(chance, 49, 198)))
    return parts, rows, supplied


def _customers(chance: random.Random) -> Iterator[tuple[Any, ...]]:
    for key in range(1, CUSTOMERS + 1):
        nation = chance.randrange(len(NATIONS))
        yield (
            key,
            f"Customer#{key:09}",
            _address(chance),
            nation,
            _phone(chance, nation),
            _balance(chance),
            chance.choice(_SEGMENTS),
            _text(chance, 29, 116),
        )


def _orders(chance: random.Random, parts: list[_Part]) -> tuple[Rows, Rows]:
    orders: Rows = []
    lineitems: Rows = []
    for number in range(ORDERS):
        # Clause 4.2.3: keys are sparse, and a third of the customers has no orders.
        key = number // 8 * 32 + number % 8 + 1
        customer = chance.randrange(1, CUSTOMERS + 1)
        while customer % 3 == 0:
            customer = chance.randrange(1, CUSTOMERS + 1)
        date = START + dt.timedelta(days=chance.randrange(ORDER_DAYS))
        large = number % _LARGE_ORDERS == 0
        lines = list(_lines(chance, parts, key, date, large=large))
        open_lines = sum(line[9] == "O" for line in lines)
        status = "F" if not open_lines else "O" if open_lines == len(lines) else "P"
        total = sum(_with_tax(line) for line in lines)
        words = ("special", "requests") if chance.randrange(10) == 0 else None
        orders.append(
            (
                key,
                customer,
                status,
                _money(total),
                date,
                chance.choice(_PRIORITIES),
                f"Clerk#{chance.randint(1, 10):09}",
                0,
                _text(chance, 19, 78, words=words),
            )
        )
        lineitems += lines
    return orders, lineitems


def _with_tax(line: tuple[Any, ...]) -> int:
    cents, discount, tax = (round(float(line[i]) * 100) for i in (5, 6, 7))
    return cents * (100 - discount) * (100 + tax) // 10000


def _lines(
    chance: random.Random, parts: list[_Part], order: int, date: dt.date, *, large: bool
) -> Iterator[tuple[Any, ...]]:
    for number in range(1, (7 if large else chance.randint(1, 7)) + 1):
        part = chance.choice(parts)
        quantity = chance.randint(45, 50) if large else chance.randint(1, 50)
        shipped = date + dt.timedelta(days=chance.randint(1, 121))
        committed = date + dt.timedelta(days=chance.randint(30, 90))
        received = shipped + dt.timedelta(days=chance.randint(1, 30))
        yield (
            order,
            part.key,
            chance.choice(part.suppliers),
            number,
            quantity,
            _money(quantity * part.cents),
            _money(chance.randint(0, 10)),
            _money(chance.randint(0, 8)),
            chance.choice("RA") if received <= TODAY else "N",
            "O" if shipped > TODAY else "F",
            shipped,
            committed,
            received,
            chance.choice(_INSTRUCTIONS),
            chance.choice(_MODES),
            _text(chance, 10, 43),
        )

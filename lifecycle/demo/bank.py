"""A retail bank's data for the demonstration, the tests and the benchmarks: Chinese and English customers, made from a seed.

Every protected value is unique over the whole database and occurs in no other value, protected or not, so a test may take any of them as a
canary: where it appears, that person's value has appeared. One exception on purpose: the number of a card stands again in the orders that
it paid, in the same key domain. (Birth dates are unique up to `MAX_UNIQUE_BIRTHS` customers.)

Nobody's data is in it: identity numbers have valid check digits and existing counties but made-up serials, cards use UnionPay-like ranges
that no bank was given, telephone numbers and e-mail domains are made up or reserved (RFC 2606).
"""

from __future__ import annotations

import datetime as dt
import random
from dataclasses import dataclass
from decimal import Decimal
from importlib import resources
from typing import TYPE_CHECKING, Any, Final

from lifecycle.demo.canaries import DigitStrings, Tails, identity_number, luhn_complete
from lifecycle.demo.wording import Wording

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

DEFAULT_SEED: Final = 20_000
DEFAULT_CUSTOMERS: Final = 20_000
MAX_CUSTOMERS: Final = 200_000

TABLES: Final = ("customers", "accounts", "cards", "orders", "reviews", "support_tickets")

FIRST_BIRTH: Final = dt.date(1944, 1, 1)
LAST_BIRTH: Final = dt.date(2006, 12, 31)
MAX_UNIQUE_BIRTHS: Final = (LAST_BIRTH - FIRST_BIRTH).days + 1

# The demonstration's present: data must not depend on the day it is made.
TODAY: Final = dt.date(2026, 1, 1)
_UTC: Final = dt.UTC

# Counties with codes that were valid for every birth year used here (GB/T 2260).
_COUNTIES: Final = (
    *("110101", "110102", "120101", "120102", "140121", "150121", "210122", "210224", "222401", "310101", "310104"),
    *("330122", "330127", "340121", "350121", "360121", "422822", "430121", "510121", "520201", "530122", "610322"),
)
# Issuer ranges by length of the number.
_ISSUERS: Final = (("620000", 16), ("400000", 16), ("621001", 17), ("622002", 18), ("628003", 19))
_MOBILE: Final = ("133", "135", "138", "139", "150", "158", "177", "186", "188", "199")

_ACCOUNT: Final = "70"

_ACCOUNTS_EACH: Final = (1, 1, 1, 2, 2)
_CARDS_EACH: Final = (0, 1, 1, 1, 2)
_ORDERS_EACH: Final = (0, 1, 2, 2, 3)


def schema_sql() -> str:
    """The CREATE TABLE statements, plain types, no roles."""
    return _resource("bank.schema.sql")


def roles_sql() -> str:
    """The posts' roles (app, teller, agent in call_centre, analyst, dba; no passwords) and their grants; may be run again."""
    return _resource("bank.roles.sql")


def rules_yaml() -> str:
    """The bank's rules file."""
    return _resource("bank.rules.yaml")


def _resource(name: str) -> str:
    return resources.files("lifecycle.demo").joinpath(name).read_text(encoding="utf-8")


@dataclass(frozen=True, slots=True)
class TableData:
    """One table column by column: `columns[i]` is called `names[i]`; all have the same length."""

    names: tuple[str, ...]
    columns: tuple[tuple[Any, ...], ...]

    def __len__(self) -> int:
        return len(self.columns[0])

    def column(self, name: str) -> tuple[Any, ...]:
        """The values of one column, in row order. ValueError for a name the table has not."""
        return self.columns[self.names.index(name)]


@dataclass(frozen=True, slots=True)
class Bank:
    """The whole database's content; the same for the same seed and number of customers."""

    seed: int
    tables: Mapping[str, TableData]

    def copy_rows(self, table: str) -> Iterator[tuple[Any, ...]]:
        """The rows of a table in primary key order, as asyncpg's copy_records_to_table takes them."""
        return zip(*self.tables[table].columns, strict=True)


def generate(seed: int = DEFAULT_SEED, customers: int = DEFAULT_CUSTOMERS) -> Bank:
    """A bank with `customers` customers (1 to MAX_CUSTOMERS; ValueError otherwise) and about 1.4 accounts, 1 card and 1.6 orders each."""
    if not 1 <= customers <= MAX_CUSTOMERS:
        raise ValueError(f"the demonstration bank has 1 to {MAX_CUSTOMERS} customers, not {customers}")
    return _Builder(seed, customers).build()


def _beginnings() -> dict[int, tuple[str, ...]]:
    found: dict[int, tuple[str, ...]] = {11: _MOBILE, 17: (_ACCOUNT,), 18: _COUNTIES}
    for issuer, length in _ISSUERS:
        found[length] = (*found.get(length, ()), issuer)
    return found


class _Builder:
    """The one pass that makes a bank. The order of the draws is part of what a seed means."""

    def __init__(self, seed: int, customers: int) -> None:
        self._seed = seed
        self._count = customers
        self._random = random.Random(seed)
        self._wording = Wording(seed)
        self._digits = DigitStrings(_beginnings())
        self._tails = Tails()

    def build(self) -> Bank:
        people = self._customers()
        opened = people.column("opened_on")
        accounts = self._accounts(opened)
        cards = self._cards(accounts)
        tables = {
            "customers": people,
            "accounts": accounts,
            "cards": cards,
            "orders": self._orders(cards),
            "reviews": self._reviews(people.column("locale")),
            "support_tickets": self._tickets(people.column("locale")),
        }
        return Bank(self._seed, tables)

    def _customers(self) -> TableData:
        chance, wording = self._random, self._wording
        locales = [("zh_CN", "en_US")[chance.random() < 0.4] for _ in range(self._count)]
        names = self._names(locales)
        births = self._births()
        rows = []
        for number, (locale, (name, gender), born) in enumerate(zip(locales, names, births, strict=True), start=1):
            serial = chance.randrange(1, 499) * 2 + (gender == "M")
            rows.append(
                (
                    number,
                    name,
                    gender,
                    self._phone(),
                    f"{wording.email_user(name, locale, chance)}{number}@{chance.choice(('example.com', 'example.net', 'example.org'))}",
                    wording.address(locale, chance),
                    born,
                    self._identity(born, serial),
                    chance.randbytes(32),
                    self._tails.money(chance, 30_000, 900_000),
                    locale,
                    wording.branch(chance),
                    *self._relation(),
                )
            )
        names_of = (
            "id",
            "name",
            "gender",
            "phone",
            "email",
            "address",
            "birth_date",
            "id_number",
            "fingerprint",
            "income",
        )
        return _table((*names_of, "locale", "branch", "opened_on", "closed_on"), rows)

    def _names(self, locales: Sequence[str]) -> list[tuple[str, str]]:
        made = {locale: self._wording.names(locale, self._random) for locale in ("zh_CN", "en_US")}
        return [next(made[locale]) for locale in locales]

    def _births(self) -> list[dt.date]:
        days = self._random.sample(range(MAX_UNIQUE_BIRTHS), min(self._count, MAX_UNIQUE_BIRTHS))
        days += self._random.choices(range(MAX_UNIQUE_BIRTHS), k=self._count - len(days))
        return [FIRST_BIRTH + dt.timedelta(days) for days in days]

    def _phone(self) -> str:
        return self._digits.fresh(lambda: f"{self._random.choice(_MOBILE)}{self._random.randrange(10**8):08d}")

    def _identity(self, born: dt.date, serial: int) -> str:
        return self._digits.fresh(lambda: identity_number(self._random.choice(_COUNTIES), born, serial))

    def _relation(self) -> tuple[dt.date, dt.date | None]:
        """When the business relation began and, for one customer in thirty, ended."""
        opened = TODAY - dt.timedelta(self._random.randrange(30, 4000))
        if self._random.randrange(30):
            return opened, None
        return opened, opened + dt.timedelta(self._random.randrange(1, (TODAY - opened).days))

    def _accounts(self, opened: Sequence[dt.date]) -> TableData:
        chance = self._random
        rows: list[tuple[Any, ...]] = []
        for customer, since in enumerate(opened, start=1):
            for kind in ("current", "savings")[: chance.choice(_ACCOUNTS_EACH)]:
                number = self._digits.fresh(lambda: f"{_ACCOUNT}{chance.randrange(10**15):015d}")
                balance = self._tails.money(chance, 10_000, 2_000_000)
                rows.append(
                    (len(rows) + 1, customer, number, kind, chance.choice(("CNY", "CNY", "USD")), balance, since)
                )
        return _table(("id", "customer_id", "number", "kind", "currency", "balance", "opened_on"), rows)

    def _cards(self, accounts: TableData) -> TableData:
        chance = self._random
        rows: list[tuple[Any, ...]] = []
        for account, customer in zip(accounts.column("id"), accounts.column("customer_id"), strict=True):
            for _ in range(chance.choice(_CARDS_EACH) if account > 1 else 1):
                expires = TODAY + dt.timedelta(chance.randrange(-300, 1500))
                status = "expired" if expires < TODAY else "blocked" if chance.randrange(40) == 0 else "active"
                rows.append((len(rows) + 1, customer, account, self._pan(), expires, status))
        return _table(("id", "customer_id", "account_id", "pan", "expires_on", "status"), rows)

    def _pan(self) -> str:
        issuer, length = self._random.choice(_ISSUERS)
        middle = length - len(issuer) - 1
        return self._digits.fresh(lambda: luhn_complete(f"{issuer}{self._random.randrange(10**middle):0{middle}d}"))

    def _orders(self, cards: TableData) -> TableData:
        chance, wording = self._random, self._wording
        rows: list[tuple[Any, ...]] = []
        cards_of: dict[int, list[str]] = {}
        for customer, pan in zip(cards.column("customer_id"), cards.column("pan"), strict=True):
            cards_of.setdefault(customer, []).append(pan)
        for customer in range(1, self._count + 1):
            own = cards_of.get(customer, [])
            for _ in range(chance.choice(_ORDERS_EACH) if customer > 1 else 2):
                category, thing = wording.product(chance)
                pan = chance.choice(own) if own and chance.random() < 0.8 else None
                # The reference makes what was bought unique.
                details = f"{thing}, ref. B{len(rows) + 1:07d}"
                amount = chance.randrange(500, 500_000) / 100
                rows.append((len(rows) + 1, customer, pan, details, category, _cents(amount), self._moment()))
        return _table(("id", "customer_id", "pan", "details", "category", "amount", "ordered_at"), rows)

    def _reviews(self, locales: Sequence[str]) -> TableData:
        chance = self._random
        rows: list[tuple[Any, ...]] = []
        for customer, locale in self._some(locales, 0.5):
            text = self._wording.sentences(locale, chance)
            rows.append((len(rows) + 1, customer, chance.choice((1, 2, 3, 4, 4, 5, 5, 5)), text, self._moment()))
        return _table(("id", "customer_id", "stars", "body", "written_at"), rows)

    def _tickets(self, locales: Sequence[str]) -> TableData:
        chance = self._random
        rows: list[tuple[Any, ...]] = []
        for customer, locale in self._some(locales, 0.3):
            subject, channel = self._wording.subject(locale, chance), chance.choice(("phone", "mail", "branch", "chat"))
            text, status = (
                self._wording.sentences(locale, chance),
                chance.choice(("open", "waiting", "closed", "closed")),
            )
            rows.append((len(rows) + 1, customer, channel, subject, text, status, self._moment()))
        return _table(("id", "customer_id", "channel", "subject", "body", "status", "created_at"), rows)

    def _some(self, locales: Sequence[str], share: float) -> Iterator[tuple[int, str]]:
        """A share of the customers, the first among them so that no table is ever empty."""
        for customer, locale in enumerate(locales, start=1):
            if customer == 1 or self._random.random() < share:
                yield customer, locale

    def _moment(self) -> dt.datetime:
        start = dt.datetime(2023, 1, 1, tzinfo=_UTC)
        return start + dt.timedelta(seconds=self._random.randrange(3 * 365 * 86_400))


def _cents(amount: float) -> Decimal:
    return Decimal(f"{amount:.2f}")


def _table(names: tuple[str, ...], rows: Sequence[tuple[Any, ...]]) -> TableData:
    return TableData(names, tuple(zip(*rows, strict=True)))

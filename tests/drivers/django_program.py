"""Django's checks, as a process: the target in the environment; prints a JSON object for each: check, ok, detail."""

from __future__ import annotations

import datetime as dt
import json
import os
import sys
from decimal import Decimal
from typing import Any

import django
from django.conf import settings

E = os.environ
SCHEMA = E["TARGET_SCHEMA"]
CLERK = E["TARGET_USER"] == "clerk"
OPTIONS: dict[str, Any] = {"sslmode": "verify-full", "sslrootcert": E["TARGET_ROOT"]}
COMMON = {
    "ENGINE": "django.db.backends.postgresql",
    "HOST": E["TARGET_HOST"],
    "PORT": E["TARGET_PORT"],
    "NAME": E["TARGET_DATABASE"],
    "USER": E["TARGET_USER"],
    "PASSWORD": E["TARGET_PASSWORD"],
}
PATH = {"options": f"-c search_path={SCHEMA}"}
settings.configure(
    USE_TZ=True,
    DATABASES={
        "default": {**COMMON, "OPTIONS": {**OPTIONS, **PATH}},
        "tls_off": {**COMMON, "OPTIONS": {"sslmode": "disable"}},
        "tls_require": {**COMMON, "OPTIONS": {"sslmode": "require"}},
        "scram": {**COMMON, "PASSWORD": "wrong"},
        "pool": {**COMMON, "OPTIONS": {**OPTIONS, **PATH, "pool": {"min_size": 1, "max_size": 3}}},
    },
)
django.setup()

from django.contrib.postgres.fields import ArrayField  # noqa: E402
from django.db import DatabaseError, connection, connections, models, transaction  # noqa: E402


class Person(models.Model):  # type: ignore[misc]
    id = models.BigAutoField(primary_key=True)
    name = models.TextField()
    phone = models.CharField(max_length=20, null=True)
    card = models.CharField(max_length=19, null=True, unique=True)
    credit = models.DecimalField(max_digits=12, decimal_places=2, null=True)
    born = models.DateField(null=True)
    seen = models.DateTimeField(null=True)
    score = models.FloatField(null=True)
    level = models.IntegerField(null=True)
    active = models.BooleanField(null=True)
    ref = models.UUIDField(null=True)
    photo = models.BinaryField(null=True)
    prefs = models.JSONField(null=True)
    tags = ArrayField(models.TextField(null=True), null=True)
    essay = models.TextField(null=True)
    note = models.TextField(null=True)

    class Meta:
        app_label = "drivers"
        db_table = "people"
        managed = False


class Order(models.Model):  # type: ignore[misc]
    id = models.IntegerField(primary_key=True)
    person = models.ForeignKey(Person, models.DO_NOTHING, db_column="person")
    amount = models.DecimalField(max_digits=10, decimal_places=2)

    class Meta:
        app_label = "drivers"
        db_table = "orders"
        managed = False


class Undo(Exception):  # noqa: N818 - it is none
    """Ends a block so that it is rolled back."""


FIELDS = [f.name for f in Person._meta.fields if f.name != "essay" or CLERK]
VALUES = {
    "name": "New",
    "phone": "13912345678",
    "card": "6222020000000009",
    "credit": Decimal("12.34"),
    "born": dt.date(1999, 12, 31),
    "seen": dt.datetime(2024, 5, 6, 7, 8, tzinfo=dt.UTC),
    "score": 0.5,
    "level": 7,
    "active": True,
    "photo": b"\0\xff",
    "prefs": {"a": [1, None]},
    "tags": ["x", None],
}


def who(alias: str) -> Any:
    with connections[alias].cursor() as cursor:
        cursor.execute("select current_user")
        return [cursor.fetchall(), connections[alias].pg_version // 10000]


def failing(run: Any) -> Any:
    try:
        with transaction.atomic():
            run()
    except DatabaseError as error:
        cause: Any = error.__cause__
        diag = cause.diag
        return [type(error).__name__, diag.sqlstate, diag.message_primary, diag.constraint_name, diag.table_name]
    return "no error"


def scram() -> Any:
    try:
        connections["scram"].ensure_connection()
    except DatabaseError as error:
        return [type(error).__name__, str(error).strip().rsplit("FATAL: ", 1)[-1]]
    return "no error"


def describe() -> Any:
    return list(Person.objects.filter(id__in=[1, 2, 3, 20]).order_by("id").values(*FIELDS))


def write() -> Any:
    made = Person.objects.create(id=9100, **VALUES)
    made.refresh_from_db()
    seen: list[Any] = [[getattr(made, f) for f in FIELDS]]
    made.card, made.level = "1", 8
    made.save()
    seen.append(list(Person.objects.filter(card="1").values_list("id", "level")))
    seen.append(Person.objects.filter(card="1").update(level=9, name="Changed"))
    again, created = Person.objects.update_or_create(card="1", defaults={"name": "Again"})
    seen.append([again.id, created])
    seen.append(Person.objects.filter(card="1").select_for_update().values_list("name", flat=True)[0])
    seen.append(Person.objects.filter(card__in=["1", "2"])._raw_delete("default"))
    return seen


def batch() -> Any:
    people = [Person(id=9200 + i, name=f"N{i}", card=f"63{i:014}") for i in range(60)]
    Person.objects.bulk_create(people, batch_size=25)
    for number, person in enumerate(people):
        person.note = f"note {number}"
    changed = Person.objects.bulk_update(people, ["note"])
    again = [Person(id=9200, name="Again", card="63")]
    Person.objects.bulk_create(again, update_conflicts=True, unique_fields=["id"], update_fields=["card", "name"])
    found = list(Person.objects.filter(id__gte=9200).order_by("id").values_list("id", "name", "card", "note"))
    return [changed, found]


def cursor() -> Any:
    rows = Person.objects.order_by("id").values_list("id", "name", "card").iterator(chunk_size=7)
    return list(rows)


def big() -> Any:
    text = "漢字 and some more, " * 20_000
    Person.objects.create(id=9500, name=text, essay=text)
    found = Person.objects.get(id=9500)
    return [found.name == text, found.essay == text]


def errors() -> Any:
    return [
        failing(lambda: Person(id=1, name="Again").save(force_insert=True)),
        failing(lambda: Person(id=9001, name="x", card="6200000000000001").save(force_insert=True)),
        failing(lambda: Person(id=9001, name="x", note="x" * 300).save(force_insert=True)),
        failing(lambda: Person(id=9001, name="x", card="12345678901234567890").save(force_insert=True)),
        failing(lambda: Person(id=9001, name=None).save(force_insert=True)),
    ]


def blocks() -> Any:
    seen: list[Any] = []
    with transaction.atomic():
        seen.append(failing(lambda: list(Person.objects.extra(where=["nosuch = 1"]))))
        seen.append(list(Person.objects.filter(id=3).values_list("name", "card")))
        with connection.cursor() as raw:
            raw.execute("set transaction read only")
        seen.append(failing(lambda: Person.objects.filter(id=3).update(level=1)) if CLERK else None)
    return seen


def pool() -> Any:
    seen = []
    for number in range(1, 8):
        seen.append(list(Person.objects.using("pool").filter(id=number).values_list("name", "card")))
        connections["pool"].close()
    connections["pool"].close_pool()
    return seen


def introspection() -> Any:
    """What `inspectdb` and migrations ask."""
    look = connection.introspection
    with connection.cursor() as raw:
        constraints = look.get_constraints(raw, "people")
        return [
            sorted(t.name for t in look.get_table_list(raw) if t.name in {"people", "orders"}),
            [
                (c.name, c.type_code, c.internal_size, c.precision, c.scale, c.null_ok, c.collation)
                # It selects every column, of which a masked login may not see one.
                for c in look.get_table_description(raw, "people" if CLERK else "orders")
                if c.name != "mood"  # an enum's number is its database's own
            ],
            look.get_relations(raw, "orders"),
            {n: [c["columns"], c["primary_key"], c["unique"], c["foreign_key"]] for n, c in constraints.items()},
            look.get_sequences(raw, "people"),
        ]


def orm() -> Any:
    """Joins, aggregates, annotations, Q, raw; a table made and changed by the schema editor."""
    q = Person.objects.filter(models.Q(card="6200000000000003") | models.Q(card__isnull=True)).order_by("id")
    seen: list[Any] = [list(q.values_list("id", "card"))]
    joined = Order.objects.select_related("person").filter(person__card="6200000000000003")
    seen.append([[o.id, o.person.name, o.person.card] for o in joined])
    seen.append(list(Person.objects.values("active").annotate(n=models.Count("id")).order_by("n", "active")))
    seen.append(Person.objects.filter(card__in=["6200000000000001", "x"]).count())
    seen.append(Person.objects.filter(card="6200000000000001").exists())
    seen.append([p.card for p in Person.objects.raw("select id, card from people where id < 4 order by id")])
    seen.append(Person.objects.aggregate(models.Max("id"), models.Count("card", distinct=True)))
    return seen


def undone(body: Any) -> Any:
    """What a check saw; what it wrote is rolled back."""
    seen: Any = None
    try:
        with transaction.atomic():
            seen = body()
            raise Undo  # noqa: TRY301
    except Undo:
        return seen


CHECKS: dict[str, Any] = {
    "tls_off": lambda: who("tls_off"),
    "tls_require": lambda: who("tls_require"),
    "tls_verify_full": lambda: who("default"),
    "scram": scram,
    "transaction": blocks,
    "pool": pool,
    **{f.__name__: lambda f=f: undone(f) for f in (describe, write, batch, cursor, big, errors, introspection, orm)},
}


def main() -> None:
    """Every check, or those that the arguments name."""
    for check, body in CHECKS.items():
        if sys.argv[1:] and check not in sys.argv[1:]:
            continue
        try:
            line = {"check": check, "ok": True, "detail": body()}
        except Exception as error:  # noqa: BLE001
            line = {"check": check, "ok": False, "detail": f"{type(error).__name__}: {error}"}
        print(json.dumps(line, default=lambda v: bytes(v).hex() if isinstance(v, memoryview) else repr(v)), flush=True)


if __name__ == "__main__":
    main()

"""Whole objects saved by Django, as a process: where to in the environment; prints a JSON object for each case."""

from __future__ import annotations

import datetime as dt
import json
import os
import sys
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import django
from django.conf import settings

if TYPE_CHECKING:
    from collections.abc import Callable

E = os.environ
BASE = int(E["ORM_BASE"])
COMMON = {
    "ENGINE": "django.db.backends.postgresql",
    "HOST": "127.0.0.1",
    "PORT": E["ORM_PORT"],
    "NAME": E["ORM_DATABASE"],
    "USER": E["ORM_USER"],
}
settings.configure(
    USE_TZ=True,
    DATABASES={
        "default": {**COMMON, "OPTIONS": {"sslmode": "disable"}},
        "server": {**COMMON, "OPTIONS": {"sslmode": "disable", "server_side_binding": True}},
    },
)
django.setup()

from django.db import models, transaction  # noqa: E402


class Client(models.Model):  # type: ignore[misc]
    id = models.BigAutoField(primary_key=True)
    name = models.CharField(max_length=80)
    phone = models.CharField(max_length=20, null=True)
    email = models.CharField(max_length=120, null=True, unique=True)
    birth_date = models.DateField(null=True)
    income = models.DecimalField(max_digits=12, decimal_places=2, null=True)
    notes = models.TextField(null=True)
    pan = models.CharField(max_length=19, null=True, unique=True)
    expires_on = models.DateField(null=True)
    credit = models.DecimalField(max_digits=12, decimal_places=2, null=True)
    city = models.TextField(null=True)
    version = models.IntegerField(default=0)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        app_label = "orms"
        db_table = "clients"
        managed = False


FIELDS = [f.name for f in Client._meta.concrete_fields if not f.primary_key]
Case = tuple[str, int, str]  # the city that is to be stored, the first row, the connection


def load(case: Case, number: int = 0) -> Any:
    found = Client.objects.using(case[2]).get(id=case[1] + number)
    found.city = case[0]
    return found


def several(case: Case) -> list[Any]:
    found = list(Client.objects.using(case[2]).filter(id__range=(case[1], case[1] + 3)).order_by("id"))
    for each in found:
        each.city = case[0]
    return found


def save(case: Case) -> None:
    load(case).save()


def save_twice(case: Case) -> None:
    found = load(case)
    found.city = "first"
    found.save()
    found.city = case[0]
    found.save(force_update=True)


def save_fields(case: Case) -> None:
    load(case).save(update_fields=FIELDS)


def save_in_transaction(case: Case) -> None:
    with transaction.atomic(using=case[2]):
        found = Client.objects.using(case[2]).select_for_update().get(id=case[1])
        found.city = case[0]
        with transaction.atomic(using=case[2]):
            found.save()


def refresh(case: Case) -> None:
    found = load(case)
    before = [getattr(found, name) for name in FIELDS[:-3]]
    found.save()
    found.refresh_from_db()
    assert [getattr(found, name) for name in FIELDS[:-3]] == before
    assert found.city == case[0]


def bulk_update(case: Case) -> None:
    assert Client.objects.using(case[2]).bulk_update(several(case), FIELDS) == 4


def bulk_update_in_batches(case: Case) -> None:
    Client.objects.using(case[2]).bulk_update(several(case), ["name", "pan", "credit", "city"], batch_size=2)


def update_or_create(case: Case) -> None:
    found, created = Client.objects.using(case[2]).update_or_create(id=case[1], defaults={"city": case[0]})
    assert not created
    found.save()


def update_or_create_whole(case: Case) -> None:
    found = load(case)
    values = {name: getattr(found, name) for name in FIELDS}
    assert not Client.objects.using(case[2]).update_or_create(id=case[1], defaults=values)[1]


def get_or_create(case: Case) -> None:
    found, created = Client.objects.using(case[2]).get_or_create(id=case[1], defaults={"name": "nobody"})
    assert not created
    found.city = case[0]
    found.save()


def update(case: Case) -> None:
    found = load(case)
    values = {name: getattr(found, name) for name in FIELDS}
    assert Client.objects.using(case[2]).filter(id=case[1], version=0).update(**values) == 1


def upsert(case: Case) -> None:
    Client.objects.using(case[2]).bulk_create(
        several(case), update_conflicts=True, unique_fields=["id"], update_fields=FIELDS
    )


def new_phone(case: Case) -> None:
    found = load(case)
    found.phone = "13811119999"
    found.save()


def new_pan(case: Case) -> None:
    found = load(case)
    found.pan, found.expires_on = "4929000011119999", dt.date(2035, 1, 1)
    found.save()


def new_credit_of_one(case: Case) -> None:
    found = several(case)
    found[2].credit = Decimal(77)
    Client.objects.using(case[2]).bulk_update(found, FIELDS)


CASES: list[Callable[[Case], None]] = [
    *(save, save_twice, save_fields, save_in_transaction, refresh, bulk_update, bulk_update_in_batches),
    *(update_or_create, update_or_create_whole, get_or_create, update, upsert, new_phone, new_pan, new_credit_of_one),
]

number = BASE
for connection in ("default", "server"):
    for case in CASES:
        name = f"{case.__name__} {connection}"
        error = None
        try:
            case((name, number, connection))
        except Exception as raised:  # noqa: BLE001 - whatever it is, it is what Django did
            error = f"{type(raised).__name__}: {raised}"
        print(json.dumps({"case": name, "row": number, "error": error}))
        number += 10
sys.exit(0)

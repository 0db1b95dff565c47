"""Whole objects saved by SQLAlchemy, as a process: where to in the environment; prints a JSON object for each case."""

from __future__ import annotations

import datetime as dt  # noqa: TC003 - SQLAlchemy reads the annotations
import json
import os
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, make_transient, make_transient_to_detached, mapped_column
from sqlalchemy.orm.attributes import flag_modified

if TYPE_CHECKING:
    from collections.abc import Callable

E = os.environ
BASE = int(E["ORM_BASE"])


class Base(DeclarativeBase):
    pass


class Client(Base):
    __tablename__ = "clients"
    id: Mapped[int] = mapped_column(sa.BigInteger, primary_key=True)
    name: Mapped[str] = mapped_column(sa.String(80))
    phone: Mapped[str | None] = mapped_column(sa.String(20))
    email: Mapped[str | None] = mapped_column(sa.String(120))
    birth_date: Mapped[dt.date | None]
    income: Mapped[Decimal | None] = mapped_column(sa.Numeric(12, 2))
    notes: Mapped[str | None] = mapped_column(sa.Text)
    pan: Mapped[str | None] = mapped_column(sa.String(19))
    expires_on: Mapped[dt.date | None]
    credit: Mapped[Decimal | None] = mapped_column(sa.Numeric(12, 2))
    city: Mapped[str | None] = mapped_column(sa.Text)
    version: Mapped[int] = mapped_column(sa.Integer)
    updated_at: Mapped[dt.datetime | None] = mapped_column(
        sa.DateTime(timezone=True), server_default=sa.func.now(), onupdate=sa.func.now()
    )
    __mapper_args__ = {"version_id_col": version, "eager_defaults": True}  # noqa: RUF012 - SQLAlchemy's


ATTRIBUTES = ["name", "phone", "email", "birth_date", "income", "notes", "pan", "expires_on", "credit", "city"]
Case = tuple[str, int]


def whole(found: Client, city: str) -> None:
    found.city = city
    for name in ATTRIBUTES:
        flag_modified(found, name)


def values(found: Client, city: str, **more: Any) -> dict[str, Any]:
    return {name: getattr(found, name) for name in ATTRIBUTES} | {"id": found.id, "city": city} | more


def get(session: Session, case: Case) -> Client:
    return session.get_one(Client, case[1])


def several(session: Session, case: Case) -> list[Client]:
    return list(session.scalars(sa.select(Client).where(Client.id.between(case[1], case[1] + 3)).order_by(Client.id)))


def save(session: Session, case: Case) -> None:
    get(session, case).city = case[0]


def save_whole(session: Session, case: Case) -> None:
    found = get(session, case)
    whole(found, "first")
    session.commit()
    whole(found, case[0])


def save_in_savepoint(session: Session, case: Case) -> None:
    found = session.get_one(Client, case[1], with_for_update=True)
    with session.begin_nested():
        whole(found, case[0])


def save_all(session: Session, case: Case) -> None:
    for found in several(session, case):
        whole(found, case[0])


def merge(session: Session, case: Case) -> None:
    found = get(session, case)
    session.expunge(found)
    make_transient(found)
    make_transient_to_detached(found)
    merged = session.merge(Client(**values(found, case[0], version=found.version)))
    whole(merged, case[0])


def refresh(session: Session, case: Case) -> None:
    found = get(session, case)
    before = values(found, case[0])
    whole(found, case[0])
    session.flush()
    session.refresh(found)
    assert values(found, case[0]) == before


def bulk_update(session: Session, case: Case) -> None:
    session.execute(sa.update(Client), [values(f, case[0], version=f.version) for f in several(session, case)])


def bulk_save(session: Session, case: Case) -> None:
    found = several(session, case)
    for each in found:
        session.expunge(each)
        whole(each, case[0])
    session.bulk_save_objects(found, update_changed_only=False)


def update(session: Session, case: Case) -> None:
    given = values(get(session, case), case[0])
    del given["id"]
    session.execute(sa.update(Client).where(Client.id == case[1]).values(**given))


def update_returning(session: Session, case: Case) -> None:
    found = get(session, case)
    given = values(found, case[0])
    del given["id"]
    asked = sa.update(Client).where(Client.id == case[1]).values(**given).returning(Client.pan, Client.phone)
    assert session.execute(asked).one() == (found.pan, found.phone)


def upsert(session: Session, case: Case) -> None:
    asked = insert(Client).values([values(f, case[0], version=f.version) for f in several(session, case)])
    excluded = {name: asked.excluded[name] for name in ATTRIBUTES}
    session.execute(asked.on_conflict_do_update(index_elements=["id"], set_=excluded))


def new_phone(session: Session, case: Case) -> None:
    found = get(session, case)
    whole(found, case[0])
    found.phone = "13811119999"


def new_pan(session: Session, case: Case) -> None:
    found = get(session, case)
    found.city, found.pan = case[0], "4929000011119999"


def new_credit_of_one(session: Session, case: Case) -> None:
    found = several(session, case)
    for each in found:
        whole(each, case[0])
    found[2].credit = Decimal(77)


CASES: list[Callable[[Session, Case], None]] = [
    *(save, save_whole, save_in_savepoint, save_all, merge, refresh, bulk_update, bulk_save, update, update_returning),
    *(upsert, new_phone, new_pan, new_credit_of_one),
]

number = BASE
for driver in ("psycopg", "psycopg2"):
    url = sa.URL.create(f"postgresql+{driver}", E["ORM_USER"], None, "127.0.0.1", int(E["ORM_PORT"]), E["ORM_DATABASE"])
    engine = sa.create_engine(url, connect_args={"sslmode": "disable"})
    for case in CASES:
        name = f"{case.__name__} {driver}"
        error = None
        try:
            with Session(engine, expire_on_commit=False) as session:
                case(session, (name, number))
                session.commit()
        except Exception as raised:  # noqa: BLE001 - whatever it is, it is what SQLAlchemy did
            error = f"{type(raised).__name__}: {raised}"
        print(json.dumps({"case": name, "row": number, "error": error}))
        number += 10
    engine.dispose()

"""Changes of tables with sealed columns that PostgreSQL would take and that can't work, or destroy (F1.2, F4.15, F11.12); and those that go on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from proxy.session.gate import Admit, Pass, Refuse
from tests.proxy import golden

if TYPE_CHECKING:
    from proxy.decisions import Gate

TYPE = (
    *("alter table cards alter column pan type varchar(18) using pan::varchar(19)", "ALTER TABLE Cards ALTER Pan TYPE text"),
    *('alter table public."cards" alter column "pan" set data type char(19)', "alter table only cards alter cvv type char(3) using upper(cvv)::char(3)"),
    *("alter table if exists only public.cards * add x int, alter pan type varchar(40)", "/* a */ alter table cards -- b\n alter pan type text"),
    *("alter table cards add column y numeric(12, 2), alter column credit type numeric(14, 2)", 'alter table cards alter U&"p\\0061n" type text'),
    *("alter table cards alter pan type pgveil_x, drop column kind", 'alter table payments alter column pan type varchar(19) collate "C"'),
)  # fmt: skip
DEFAULT = (
    *("alter table cards alter column pan set default '4929'", "alter table cards alter pan set default md5('x')"),
    *("alter table cards alter kind set default 'a', alter credit set default 0", "alter table only public.cards alter cvv set default $$123$$"),
)  # fmt: skip
DROP = (
    "alter table cards drop column pan",
    "alter table cards drop pan restrict",
    "alter table cards drop column if exists cvv, drop kind cascade",
)
COMPUTE = (
    *("alter table cards add check (pan <> 'x')", "alter table cards add constraint c check (length(pan) = 16) not valid"),
    *("alter table customers add check (id_number ~ '^1' or name is null)", "alter table cards add check (((cvv)) in ('1'))"),
    *("alter table cards add constraint pan check (cards.credit > 0)", 'alter table cards add check ("pan" like $$4%$$)'),
    *("alter table cards add column last4 text generated always as (right(pan, 4)) stored", "alter table cards add exclude using gist (pan with =)"),
    *("alter table cards add check (pan is not null and pan > '4')", "alter table cards add x int check (credit > 5)"),
    *("create unique index on cards (kind) where pan = 'x'", "create index i on cards (id) include (kind) where lower(pan) = 'a'"),
    *("create policy p on cards using (pan = current_user)", "create policy p on cards for insert with check (credit > 0)"),
    *("create trigger t before update on cards for each row when (new.pan like '4%') execute function f('pan')",),
    *("create trigger t before update on cards for each row when (old.pan is distinct from new.cvv) execute function f()",),
    *("create statistics s on (lower(pan)), id from cards", "create statistics s (ndistinct) on (extract(year from credit)), id from public.cards"),
)  # fmt: skip
INDEX = (
    *("create index on cards (lower(pan))", "create unique index if not exists i on only public.cards using btree (upper(pan), id)"),
    *("create index concurrently i on cards (pan text_pattern_ops)", "create index on cards using gin (pan gin_trgm_ops)"),
    *("create index on cards (id, pan varchar_pattern_ops desc)", "create index on cards using gist (pan)", 'create index on cards (pan collate "de")'),
    *("create index on cards using brin (pan)", "create index on cards ((pan || kind))"),
)  # fmt: skip
UNIQUE = (
    *("create unique index on cards (cvv)", "alter table cards add unique (id, cvv)", "alter table cards add constraint u primary key (cvv)"),
    "alter table cards add constraint k unique nulls not distinct (cvv)",
)  # fmt: skip
GOES_ON = (
    *("alter table cards alter column kind type varchar(20)", "alter table cards alter pan set not null", "alter table cards alter pan drop default"),
    *("alter table cards alter pan set default null", "alter table cards drop column pan cascade", "alter table cards drop constraint pan"),
    *("alter table cards rename pan to number", "alter table cards add column pan2 text", "alter table cards add check (pan is not null)"),
    *("alter table cards add constraint c check (pan is null or id > '5')", "alter table cards add unique (pan)", "alter table cards add primary key (id)"),
    *("alter table cards add constraint pan check (kind <> 'x')", "alter table cards add constraint cvv unique (id)", "alter table cards alter pan set statistics 5"),
    *("alter table cards add foreign key (pan) references payments (pan)", "create index on cards (pan)", "create unique index concurrently i on cards using btree (pan desc nulls last)"),
    *("create index on cards using hash (cvv)", "create index on cards (id) where pan is not null", "create index pan on cards (kind text_pattern_ops)"),
    *("create index on cards (lower(kind)) where kind = 'pan'", "create policy p on cards using (pan is null)", "create statistics s on id, kind from cards"),
    *("create trigger t before update of pan on cards for each row execute function pan('pan')",),
    *("create trigger t after update on cards for each row when (old.pan is distinct from new.pan and new.kind = 'x') execute function f()",),
    *("create trigger t after update on cards for each row when (new.cvv is distinct from old.cvv) execute function f()",),
    *("alter table visits alter day type date using day::date", "create index on visits (lower(day))", "alter table cards enable row level security"),
    *("create table cards_2 (pan text check (pan <> ''))", "alter table cards_2 alter pan type text", "alter index pan rename to cards"),
)  # fmt: skip


SAID = {
    "another type would cut the stored values of": TYPE,
    "the database can't seal a default for": DEFAULT,
    "this would destroy the values of": DROP,
    "the database can't compute with": COMPUTE,
    "an index of this kind can't serve": INDEX,
    "equal values are stored unlike in": UNIQUE,
}


@pytest.fixture(scope="module")
def gate() -> Gate:
    return golden.gate()


def decided(gate: Gate, sql: str) -> object:
    return gate.decide(sql.encode(), gate.principal("teller"), golden.SETTINGS, extended=False)


@pytest.mark.parametrize(("said", "sql"), [(said, sql) for said, each in SAID.items() for sql in each])
def test_refused_with_the_column_and_the_way(gate: Gate, said: str, sql: str) -> None:
    found = decided(gate, sql)
    assert isinstance(found, Refuse)
    assert found.refusal.message.startswith(said)
    assert found.refusal.message.endswith(", which is sealed")
    assert (found.refusal.sqlstate, found.refusal.hint is not None, found.refusal.column is not None) == (
        "0AP01",
        True,
        True,
    )
    # In any company, and any spelling of what stands around.
    for around in (f"select 1; {sql}", f"begin; {sql}; commit", f"/* x */ {sql};"):
        assert isinstance(decided(gate, around), Refuse)


@pytest.mark.parametrize("sql", GOES_ON)
def test_the_rest_goes_on(gate: Gate, sql: str) -> None:
    assert isinstance(decided(gate, sql), Admit | Pass)


def test_a_table_of_another_schema_is_another_one(gate: Gate) -> None:
    assert isinstance(decided(gate, "alter table other.cards alter pan type text"), Admit | Pass)


UNNEEDED = (
    (
        'ALTER TABLE "cards" ALTER COLUMN "pan" TYPE varchar(19) USING "pan"::varchar(19)',
        'ALTER TABLE "cards" SET WITHOUT OIDS',
    ),
    (
        "alter table public.cards alter pan set data type character varying(19)",
        "alter table public.cards SET WITHOUT OIDS",
    ),
    (
        "alter table cards add x int, alter credit type decimal(12, 2) using credit, drop kind",
        "alter table cards add x int, SET WITHOUT OIDS, drop kind",
    ),
    (
        "alter table only cards * alter cvv type character(3) using cast(cvv as char(3))",
        "alter table only cards * SET WITHOUT OIDS",
    ),
)


@pytest.mark.parametrize(("sql", "runs"), UNNEEDED)
def test_the_type_that_clients_see_already_is_no_change(gate: Gate, sql: str, runs: str) -> None:
    """GORM's AutoMigrate sends it at each start. Another number in it is another statement, which the plan cache must not take for it."""
    found = decided(gate, sql)
    assert isinstance(found, Admit)
    assert found.text.decode() == runs
    for other in (sql.replace("19", "25"), sql.replace("12, 2", "14, 2"), sql.replace("(3)", "(4)")):
        assert other == sql or isinstance(decided(gate, other), Refuse)
    assert isinstance(decided(gate, sql), Admit)

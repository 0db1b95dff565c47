"""The kinds of change: what is done to the schema, the roles or the settings while somebody is in the middle of something."""

from __future__ import annotations

from dataclasses import dataclass

from tests.ddl.stage import BOSS, INSIDER, MASKER

Q = chr(39)


@dataclass(frozen=True, slots=True)
class Change:
    """One kind. `statements` run in one transaction; `own` those that somebody can run for their own session only.

    `remains`: what may be found before pgveil has read the catalog again; docs/leaks.md says it too, under "the schema changes".
    """

    statements: tuple[str, ...]
    own: bool = False
    remains: str = ""
    applies: bool = False


def swap(one: str, other: str) -> tuple[str, ...]:
    """Two tables exchange their names."""
    return (
        f"ALTER TABLE public.{one} RENAME TO between",
        f"ALTER TABLE public.{other} RENAME TO {one}",
        f"ALTER TABLE public.between RENAME TO {other}",
    )


_NO_VIEWS = (
    (
        "DO $$ DECLARE v text; BEGIN FOR v IN SELECT format('%I.%I', schemaname, viewname) FROM pg_views "
        "WHERE schemaname LIKE 'pgveil\\_%' OR viewname LIKE 'guard\\_%' LOOP EXECUTE 'DROP VIEW ' || v; END LOOP; END $$"
    ),
)
_TOLD = "CREATE OR REPLACE FUNCTION public.told(wanted int) RETURNS text LANGUAGE sql STABLE SECURITY DEFINER AS "

CHANGES: dict[str, Change] = {
    "renamed": Change(("ALTER TABLE public.customers RENAME TO gone",)),
    "renamed to a plain table's name": Change(
        ("ALTER TABLE public.plain RENAME TO gone", "ALTER TABLE public.customers RENAME TO plain")
    ),
    "swapped with a plain table": Change(swap("customers", "plain")),
    "swapped with another protected table": Change(swap("customers", "accounts")),
    "swapped with a table protected the other way round": Change(swap("customers", "twins")),
    "moved to another schema, another one in its place": Change(
        (
            "ALTER TABLE elsewhere.customers RENAME TO between",
            "ALTER TABLE elsewhere.between SET SCHEMA public",
            "ALTER TABLE public.customers SET SCHEMA elsewhere",
            "ALTER TABLE public.between RENAME TO customers",
        )
    ),
    "replaced by a view": Change(
        (
            "ALTER TABLE public.plain RENAME TO gone",
            "CREATE VIEW public.plain AS SELECT * FROM public.customers",
            "GRANT SELECT ON public.plain TO PUBLIC",
        ),
        # Of what is computed no description tells, and the table was a plain one.
        remains=r"by SELECT p, upper",
    ),
    "column added": Change(
        (
            "ALTER TABLE public.plain ADD COLUMN more text",
            "ALTER TABLE public.customers ADD COLUMN more text",
            "UPDATE public.customers SET more = phone",
        )
    ),
    "column dropped": Change(("ALTER TABLE public.customers DROP COLUMN note CASCADE",)),
    "column dropped and made anew": Change(
        (
            "ALTER TABLE public.customers DROP COLUMN note CASCADE",
            "ALTER TABLE public.customers ADD COLUMN note text",
            "UPDATE public.customers SET note = phone",
        )
    ),
    "sealed column dropped and made anew plain": Change(
        ("ALTER TABLE public.customers DROP COLUMN pan CASCADE", "ALTER TABLE public.customers ADD COLUMN pan text")
    ),
    "masked column swapped with a plain one": Change(
        (
            "ALTER TABLE public.customers RENAME COLUMN phone TO between",
            "ALTER TABLE public.customers RENAME COLUMN note TO phone",
            "ALTER TABLE public.customers RENAME COLUMN between TO note",
        )
    ),
    "sealed column swapped with a plain one": Change(
        (
            "ALTER TABLE public.customers RENAME COLUMN pan TO between",
            "ALTER TABLE public.customers RENAME COLUMN note TO pan",
            "ALTER TABLE public.customers RENAME COLUMN between TO note",
        )
    ),
    "sealed column swapped with a masked one": Change(
        (
            "ALTER TABLE public.customers RENAME COLUMN pan TO between",
            "ALTER TABLE public.customers RENAME COLUMN phone TO pan",
            "ALTER TABLE public.customers RENAME COLUMN between TO phone",
        )
    ),
    "column retyped": Change(
        (
            *_NO_VIEWS,
            "DROP VIEW public.shown",
            "ALTER TABLE public.customers ALTER COLUMN note TYPE varchar(200)",
            "ALTER TABLE public.plain ALTER COLUMN note TYPE varchar(200)",
        )
    ),
    "sealed column retyped": Change(
        (*_NO_VIEWS, "ALTER TABLE public.customers ALTER COLUMN pan TYPE text"),
        remains="sealed value written to public.customers.pan",
    ),
    "view redefined": Change(
        (
            'CREATE OR REPLACE VIEW public.shown AS SELECT id, pan::text COLLATE "default" AS pan, phone, note FROM public.customers',
        ),
    ),
    "view redefined, computed": Change(
        (
            "CREATE OR REPLACE VIEW public.shown AS SELECT id, (pan || '') COLLATE \"default\" AS pan, phone || '' AS phone, note FROM public.customers",
        ),
    ),
    "partition attached": Change(
        (
            "ALTER TABLE public.loose ALTER COLUMN pan TYPE pgveil.sealed USING NULL, ADD PRIMARY KEY (id)",
            "ALTER TABLE public.parts ATTACH PARTITION public.loose FOR VALUES FROM (100) TO (200)",
        )
    ),
    "partition detached": Change(("ALTER TABLE public.parts DETACH PARTITION public.parts_1",)),
    "partition detached, in a plain table's place": Change(
        (
            "ALTER TABLE public.parts DETACH PARTITION public.parts_1",
            "ALTER TABLE public.plain RENAME TO gone",
            "ALTER TABLE public.parts_1 RENAME TO plain",
        )
    ),
    "function redefined": Change((f"{_TOLD}{Q}SELECT phone FROM public.customers WHERE id = wanted{Q}",)),
    "function moved in front": Change(
        (
            (
                "CREATE FUNCTION elsewhere.told(wanted int) RETURNS text LANGUAGE sql STABLE SECURITY DEFINER "
                f"AS {Q}SELECT phone FROM public.customers WHERE id = wanted{Q}"
            ),
            "ALTER FUNCTION public.told(int) RENAME TO gone",
            "ALTER FUNCTION elsewhere.told(int) SET SCHEMA public",
        ),
    ),
    "search_path of the role": Change(("ALTER ROLE masker SET search_path = elsewhere, public",)),
    "search_path of the database": Change(
        (
            "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET search_path = elsewhere, public', current_database()); END $$",
        )
    ),
    "search_path set": Change(("SET search_path = elsewhere, public",), own=True),
    "search_path set locally": Change(("SET LOCAL search_path = elsewhere, public",), own=True),
    "search_path set in a function": Change(("SELECT moved('elsewhere, public')",), own=True),
    "search_path set in a block": Change(
        ("DO $$ BEGIN PERFORM set_config('search' || '_path', 'elsewhere, public', false); END $$",), own=True
    ),
    "shadowed by a temporary table": Change(
        ("DO $$ BEGIN EXECUTE 'CREATE TEMP TABLE cust' || 'omers (LIKE public.plain)'; END $$",), own=True
    ),
    "plain one shadowed by a temporary table": Change(("CREATE TEMP TABLE plain (LIKE public.loose)",), own=True),
    "member of a role that sees": Change((f"GRANT insiders TO {MASKER}",)),
    "no longer a member of a role that sees": Change((f"REVOKE insiders FROM {INSIDER}",), remains="^insider got"),
    "owner of the table": Change((f"ALTER TABLE public.customers OWNER TO {MASKER}",)),
    "a superuser now": Change((f"ALTER ROLE {MASKER} SUPERUSER",)),
    "column granted": Change((f"GRANT SELECT ON public.customers TO {MASKER}",)),
    "masking views dropped": Change(_NO_VIEWS),
    "masking views dropped and applied again": Change(_NO_VIEWS, applies=True),
    "moved in, and applied again": Change(swap("customers", "parts_1"), applies=True),
}
# Roles and databases outlive the copy of a database: what takes these changes back.
AFTERWARDS = (
    "ALTER ROLE masker RESET search_path",
    f"REVOKE insiders FROM {MASKER}",
    f"GRANT insiders TO {INSIDER}",
    f"ALTER ROLE {MASKER} NOSUPERUSER",
    f"ALTER ROLE {BOSS} SUPERUSER",
)

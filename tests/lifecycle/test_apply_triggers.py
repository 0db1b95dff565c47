"""What apply says of triggers: by their text, and held against what a server does with the same ones (F1.1, F6.5)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from lifecycle.apply.triggers import Does, TriggerFunction, does

if TYPE_CHECKING:
    from lifecycle.apply import ApplyPlan
    from tests.lifecycle.conftest import Place

COLUMNS = frozenset({"mail", "note"})
BOTH = "mail, note"
A, R, N, U = Does.ASSIGNS, Does.READS, Does.NOTHING, Does.UNKNOWN

# Body of a BEFORE ROW trigger, what it does, with which columns.
BODIES = (
    ("begin new.mail := lower(new.mail); return new; end", A, "mail"),
    ("BEGIN NEW.Mail = trim(NEW.mail); RETURN NEW; END", A, "mail"),
    ('begin new."mail" := left(new.mail, 9); return new; end', A, "mail"),
    ("begin if new.city = 'x' then new.note = upper(new.note); end if; return new; end", A, "note"),
    ("begin select lower(new.mail) into new.mail; return new; end", A, "mail"),
    ("declare x text; begin select 'a', reverse(new.note) into strict x, new.note; return new; end", A, "note"),
    ("begin execute 'select lower($1)' into new.mail using new.mail; return new; end", A, "mail"),
    ("begin execute format('select %L', new.city) into new.mail; return new; end", A, "mail"),
    ("begin new := jsonb_populate_record(new, jsonb_build_object('mail', 'x')); return new; end", A, BOTH),
    ("begin select * into new from u where id = 1; new.mail := null; return new; end", A, BOTH),
    ("declare r u; begin r := new; r.mail := lower(r.mail); return r; end", A, BOTH),
    ("begin return row(new.id, 'x', new.note, new.city); end", A, BOTH),
    ("declare n alias for new; begin n.mail := lower(n.mail); return n; end", A, "mail"),
    ("begin new.mail := new.note; return new; end", A, "mail"),
    ("<<b>> begin for new.mail in select 'x' loop null; end loop; return new; end", A, "mail"),
    ("begin new.mail /* := */ := -- x\n lower(new.mail); return new; end", A, "mail"),
    ("begin new.city := lower(new.city); return new; end", N, ""),
    ("begin new.city := 'new.mail := lower(new.mail)'; return new; end", N, ""),
    ("begin /* new.mail := lower(new.mail); */ new.city = now()::text; return new; end", N, ""),
    ("begin new.mail := old.mail; return new; end", R, "mail"),
    ("begin new.mail := new.mail; new := old; new.city := 'x'; return new; end", R, BOTH),
    ("begin if new.mail = old.mail and new.note is null then new.city := 'same'; end if; return new; end", R, BOTH),
    ("begin if new.mail is distinct from old.mail then new.city = 'changed'; end if; return new; end", R, "mail"),
    ("begin perform 1 from u where note = new.note; return coalesce(new, old); end", R, "note"),
    ("begin new.city := to_jsonb(new)::text; return new; end", R, BOTH),
    ("begin new.city := (select count(*)::text from u where u.* = new.*); return new; end", R, BOTH),
    ("begin if tg_op = 'DELETE' then return old; end if; return null; end", N, ""),
    ("begin new.city := initcap(new.city); return new; exception when others then return null; end", N, ""),
    ("begin execute 'select 1'; new.city = 'x'; return new; end", N, ""),
    ("begin execute 'update u set mail = lower(mail) where false'; return new; end", U, BOTH),
)


def of(body: str, language: str = "plpgsql", *arguments: str, before: bool = True) -> tuple[Does, str]:
    what, which = does(TriggerFunction(language, body, before, arguments), COLUMNS)
    return what, ", ".join(sorted(which))


@pytest.mark.parametrize(("body", "what", "which"), BODIES)
def test_by_their_text(body: str, what: Does, which: str) -> None:
    assert of(body) == (what, which)
    # What an AFTER trigger gives to its row is stored nowhere.
    after, _ = of(body, before=False)
    assert after in {N, R, U}


@pytest.mark.parametrize(
    ("language", "source", "arguments", "expected"),
    [
        ("c", "tsvector_update_trigger_byid", ("tsv", "pg_catalog.english", "mail"), (R, "mail")),
        ("c", "tsvector_update_trigger_byid", ("mail", "pg_catalog.english", "city"), (A, "mail")),
        ("internal", "suppress_redundant_updates_trigger", (), (N, "")),
        ("c", "moddatetime", ("changed",), (N, "")),
        ("c", "moddatetime", ("note",), (A, "note")),
        ("c", "autoinc", ("id", "ids", "mail", "mails"), (A, "mail")),
        ("c", "something", (), (U, BOTH)),
        ("plpython3u", "TD['new']['mail'] = 'x'; return 'MODIFY'", (), (U, BOTH)),
        ("plperl", "return;", (), (U, BOTH)),
        ("plpgsql", "begin 'unfinished", (), (U, BOTH)),
    ],
)
def test_other_languages(language: str, source: str, arguments: tuple[str, ...], expected: tuple[Does, str]) -> None:
    assert of(source, language, *arguments) == expected


RULES = """
version: 1
tables:
  public.u:
    columns:
      mail: {level: core, mode: deterministic, type: text}
      note: {level: core, mode: randomized, type: text}
roles:
  r: {logins: [ap_app], levels: {core: clear}}
"""


async def test_as_the_server_has_it(place: Place) -> None:
    """Whatever the server refuses to store, or stores otherwise, was said to assign; the rest was not in the way."""
    await place.admin.execute(
        "CREATE TABLE u (id int PRIMARY KEY, mail text, note text, city text); INSERT INTO u VALUES (1, 'Ann@x', 'N', 'Aa'), (2, 'B', 'M', 'Bb')"
    )
    await place.apply(RULES)
    before = await place.admin.fetch("SELECT id, mail, note FROM u ORDER BY id")
    for body, what, _ in BODIES:
        transaction = place.admin.transaction()
        await transaction.start()
        await place.admin.execute(f"CREATE FUNCTION t() RETURNS trigger LANGUAGE plpgsql AS $f$ {body} $f$")
        await place.admin.execute("CREATE TRIGGER t BEFORE UPDATE ON u FOR EACH ROW EXECUTE FUNCTION t()")
        state = await place.sqlstate_inside("UPDATE u SET city = 'q'")
        kept = state == "" and await place.admin.fetch("SELECT id, mail, note FROM u ORDER BY id") == before
        await transaction.rollback()
        assert kept or what is A, (state, body)


def told(plan: ApplyPlan) -> tuple[str, ...]:
    return tuple(w for w in plan.warnings if "trigger" in w)


async def test_in_the_plan(place: Place) -> None:
    """Obstacles before anything is sealed and afterwards; warnings as long as there is something to warn of."""
    await place.admin.execute(
        """
        CREATE TABLE u (id int PRIMARY KEY, mail text, note text, city text);
        CREATE TABLE heirs () INHERITS (u);
        CREATE FUNCTION low() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN new.mail := lower(new.mail); RETURN new; END $$;
        CREATE FUNCTION seen() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE '%', new.mail; RETURN new; END $$;
        CREATE FUNCTION city() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN new.city := lower(new.city); RETURN new; END $$;
        CREATE FUNCTION hidden() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN EXECUTE 'select 1 AS note'; RETURN new; END $$;
        CREATE TRIGGER a BEFORE INSERT OR UPDATE ON heirs FOR EACH ROW EXECUTE FUNCTION low();
        CREATE TRIGGER b BEFORE UPDATE ON u FOR EACH ROW EXECUTE FUNCTION seen();
        CREATE TRIGGER c BEFORE UPDATE ON u FOR EACH ROW EXECUTE FUNCTION city();
        CREATE TRIGGER d BEFORE UPDATE ON u FOR EACH ROW EXECUTE FUNCTION hidden();
        CREATE TRIGGER e AFTER UPDATE ON u FOR EACH ROW EXECUTE FUNCTION low();
        CREATE TRIGGER f BEFORE UPDATE ON u FOR EACH ROW EXECUTE FUNCTION low();
        ALTER TABLE u DISABLE TRIGGER f;
        """
    )
    obstacle = (
        "public.heirs",
        "trigger a (function public.low) assigns to mail: a sealed text that it changes can't be stored",
    )
    warnings = (
        "public.u: trigger b (function public.seen) sees the sealed values of mail",
        "public.u: trigger d (function public.hidden) can't be read: see that it leaves mail, note alone",
        "public.u: trigger e (function public.low) sees the sealed values of mail",
    )
    plan = await place.plan(RULES)
    assert ([(o.object, o.problem) for o in plan.obstacles], told(plan)) == ([obstacle], warnings)
    await place.admin.execute("ALTER TABLE heirs DISABLE TRIGGER a")
    await place.apply(RULES)
    again = await place.plan(RULES)
    assert (again.empty, told(again)) == (True, warnings)
    await place.admin.execute("ALTER TABLE heirs ENABLE TRIGGER a")
    assert [(o.object, o.problem) for o in (await place.plan(RULES)).obstacles] == [obstacle]

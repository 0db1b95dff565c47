"""The story's first chapters: a bank as it is, rules for it, and what applying them changes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from lifecycle.demo.disk import look
from lifecycle.demo.leaks import Secrets
from lifecycle.demo.people import ANALYST, APP, AUDIENCE, Seat
from lifecycle.demo.plot import Hero, Story
from lifecycle.demo.stage import CATALOG_LOGIN, DATABASE, Stage, StageError
from rules.load import load_rules

if TYPE_CHECKING:
    import asyncpg

    from lifecycle.demo.bank import Bank, TableData
    from lifecycle.demo.telling import Teller

_PLAN_LINES: Final = 14
_SHORT: Final = 52


async def the_bank(stage: Stage, teller: Teller, bank: Bank, admin: asyncpg.Connection[Any]) -> Story:
    teller.chapter("A bank, before")
    counts = ", ".join(f"{len(table):,} {name.replace('_', ' ')}" for name, table in bank.tables.items())
    teller.say(
        f"PostgreSQL {stage.postgres.version} runs in {stage.home}, with {counts}. Nobody of them exists; their check digits are right."
    )
    rules = load_rules(stage.write_rules())
    heroes = (_hero(bank, "zh_CN"), _hero(bank, "en_US"))
    pan = str(heroes[0].card["pan"])
    teller.say("An analyst wants to know what people buy. What the analyst can read:")
    cards = ", ".join(str(hero.card["id"]) for hero in heroes)
    sql = f"SELECT c.name, c.phone, c.id_number, k.pan\n  FROM customers c JOIN cards k ON k.customer_id = c.id\n WHERE k.id IN ({cards}) ORDER BY k.id"
    analyst = await Seat.take(stage.dsn(ANALYST.login, direct=True))
    answer = await analyst.ask(sql)
    await analyst.leave()
    teller.code(sql)
    teller.table(answer.names, [tuple(row.values()) for row in answer.rows])
    teller.claim(
        answer.column("pan") == tuple(str(hero.card["pan"]) for hero in heroes),
        "The analyst reads names, telephone numbers, identity numbers and card numbers.",
    )
    before = await look(admin, stage.postgres.data, "public.cards", pan)
    teller.say("So does whoever gets hold of the disk, or of a backup of it:")
    teller.grep(pan, before)
    teller.claim(
        before.in_table > 0, "The card number is in the table's file, as plain text. It is in an index's file too."
    )
    teller.check(before.found > before.in_table, "the number is in the index on it")
    story = Story(stage, teller, bank, admin, Secrets(rules, bank), heroes, before)
    for person in (*AUDIENCE, APP):
        roles = await admin.fetch(
            "SELECT r.rolname FROM pg_roles r WHERE pg_has_role($1, r.oid, 'member')", person.login
        )
        story.classes[person] = rules.principal(person.login, [r[0] for r in roles]).policy
    return story


def _hero(bank: Bank, locale: str) -> Hero:
    """The first customer of a language who has a card."""
    people, cards = bank.tables["customers"], bank.tables["cards"]
    holders = cards.column("customer_id")
    for at, customer in enumerate(people.column("id")):
        if people.column("locale")[at] == locale and customer in holders:
            return Hero(_row(people, at), _row(cards, holders.index(customer)))
    raise StageError("so small a bank has no such customer: give more --customers")


def _row(data: TableData, at: int) -> dict[str, Any]:
    return {name: values[at] for name, values in zip(data.names, data.columns, strict=True)}


def the_rules(story: Story) -> None:
    teller = story.teller
    teller.chapter("The rules")
    teller.say("One file says what is protected, and from whom. A part of it:")
    lines = (story.stage.home / "rules.yaml").read_text(encoding="utf-8").splitlines()
    cards = lines.index("  public.cards:")
    centre = lines.index("  call_centre:")
    teller.code("\n".join(["tables:", *lines[cards : cards + 4], "roles:", *lines[centre : centre + 7]]), "yaml")
    teller.say(
        "`sealed` columns are ciphertext in the database, and pgveil has the keys. `masked` columns stay as they are, and",
        "PostgreSQL itself shows masks of them to those who may not see more.",
    )
    checked = story.stage.pgveil(
        "check", "rules.yaml", "--database", story.stage.dsn(CATALOG_LOGIN, direct=True), "--json"
    )
    teller.check(checked.returncode == 0, "pgveil check says that rules and database agree")
    document = json.loads(checked.stdout)
    verdicts = {entry["login"]: entry["verdicts"] for entry in document["logins"]}
    columns = sorted(verdicts[ANALYST.login])
    teller.say("`pgveil check rules.yaml --database ...` compares the file with the database, and shows who sees what:")
    teller.table(
        ("column", *(person.title for person in AUDIENCE)),
        [(c.removeprefix("public."), *(verdicts[person.login][c] for person in AUDIENCE)) for c in columns],
    )
    teller.claim(document["errors"] == 0, "Rules and database agree.")
    missing = [p for p in document["problems"] if "not classified" in p["message"]]
    teller.claim(not missing, "No column that looks like customer information is missing from the rules.")


async def the_plan(story: Story) -> None:
    teller, stage = story.teller, story.stage
    teller.chapter("Keys, and a plan")
    made = stage.pgveil("keys", "init", "keys")
    teller.command("pgveil keys init keys", made.stdout, code=made.returncode)
    teller.check(made.returncode == 0, "pgveil keys init makes a key directory")
    arguments = ("apply", "--rules", "rules.yaml", "--keys", "keys", "--database", stage.postgres.dsn(DATABASE))
    planned = stage.pgveil(*arguments, "--plan", "--json")
    teller.check(planned.returncode == 1, "pgveil apply --plan says that there is something to do")
    changes = json.loads(planned.stdout)["changes"]
    teller.say("`pgveil apply --plan` looks, and changes nothing. What it would do, shortened:")
    shown = _shortened(changes)
    teller.table(("change", "object", "what", "rows"), shown)
    teller.claim(await _stored(story) == story.pan, "The plan alone changed nothing: the card number is still plain.")
    applied = stage.pgveil(*arguments, "--yes")
    teller.say("`pgveil apply` does it, in one transaction: all or nothing.")
    teller.command(
        "pgveil apply --rules rules.yaml --keys keys --database ... --yes",
        applied.stdout.splitlines()[-1],
        code=applied.returncode,
    )
    teller.check(applied.returncode == 0, "pgveil apply does what it planned")
    again = stage.pgveil(*arguments, "--plan", "--json")
    teller.claim(
        again.returncode == 0 and not json.loads(again.stdout)["changes"], "Asked again, it finds nothing left to do."
    )


def _shortened(changes: list[dict[str, Any]]) -> list[tuple[str, str, str, str]]:
    """The first changes of each kind, and how many more there are."""
    kinds = list(dict.fromkeys(change["kind"] for change in changes))
    each = max(1, _PLAN_LINES // len(kinds))
    rows: list[tuple[str, str, str, str]] = []
    for kind in kinds:
        of_kind = [c for c in changes if c["kind"] == kind]
        for change in of_kind[:each]:
            count = "" if change["rows"] is None else f"{change['rows']:,}"
            rows.append((kind, _short(change["object"]), _short(change["what"]), count))
        if len(of_kind) > each:
            rows.append((kind, f"... and {len(of_kind) - each} more", "", ""))
    return rows


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _SHORT else text[: _SHORT - 3] + "..."


async def _stored(story: Story) -> str:
    """The first card's number as the database has it."""
    return str(await story.admin.fetchval("SELECT pan FROM cards WHERE id = $1", story.heroes[0].card["id"]))


async def the_disk(story: Story) -> None:
    teller = story.teller
    teller.chapter("What the disk holds now")
    after = await look(story.admin, story.stage.postgres.data, "public.cards", story.pan)
    teller.grep(story.pan, after)
    teller.claim(after.found == 0, f"The number is in none of the {after.size:,} bytes of the table and its indexes.")
    stored = await _stored(story)
    teller.say("What a superuser reads in its place:")
    teller.table(("id", "pan"), [(str(story.heroes[0].card["id"]), stored)])
    teller.claim(stored.startswith("~"), "The database holds AES-256-SIV ciphertext. The keys are not in the database.")
    joined = await story.admin.fetchval("SELECT count(*) FROM cards k JOIN orders o ON o.pan = k.pan")
    paid = sum(pan is not None for pan in story.bank.tables["orders"].column("pan"))
    teller.claim(
        joined == paid,
        "Equal numbers seal equal here, because the rules say so: orders still join the cards that paid them.",
    )
    teller.say(
        "What was written before stays as it was: older backups, the write-ahead log until it is recycled, old statistics until",
        "the next VACUUM. Whoever keeps those must destroy them.",
    )


async def the_gate(story: Story) -> None:
    teller, stage = story.teller, story.stage
    teller.chapter("pgveil in front")
    stage.write("pgveil.yaml", stage.configuration())
    teller.code(stage.configuration(), "yaml")
    stage.start_proxy()
    teller.say("`pgveil run` is ready. An application changes one thing, the port:")
    teller.code(f"before  {stage.dsn(APP.login, direct=True)}\nafter   {stage.dsn(APP.login)}", "text")
    for person in (*AUDIENCE, APP):
        story.seats[person] = await Seat.take(stage.dsn(person.login))
    names = ("id", "name", "phone", "id_number", "birth_date")
    answer = await story.seats[APP].ask(
        f"SELECT {', '.join(names)} FROM customers WHERE id IN ({story.customer_ids}) ORDER BY id"
    )
    teller.claim(
        list(answer.rows) == [hero.text(*names) for hero in story.heroes],
        "The bank's application reads through it what it read before, clear.",
    )

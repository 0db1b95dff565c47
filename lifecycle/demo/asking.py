"""The story's middle: what people ask through pgveil, past it, and what they get."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from lifecycle.demo.canaries import luhn_complete
from lifecycle.demo.people import AGENT, ANALYST, APP, DBA, TELLER, Seat

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lifecycle.demo.people import Person
    from lifecycle.demo.plot import Story

# SQLSTATEs (PostgreSQL, appendix A).
DENIED: Final = "42501"
UNSUPPORTED: Final = "0AP01"
CHECK_VIOLATION: Final = "23514"
UNIQUE_VIOLATION: Final = "23505"
TOO_LONG: Final = "22001"

# A number in the bank's own range that no customer has: the bank's numbers are drawn, this one counts.
NEW_CARD: Final = luhn_complete("622002" + "0" * 10 + "1")


async def four_people(story: Story) -> None:
    story.teller.chapter("The same statements, four people")
    await _they_read(story)
    await _they_read_cards(story)
    await _they_search(story)
    await _they_count(story)


async def _they_read(story: Story) -> None:
    teller, names = story.teller, ("name", "phone", "email", "birth_date")
    sql = f"SELECT {', '.join(names)}\n  FROM customers WHERE id IN ({story.customer_ids}) ORDER BY id"
    answers = await story.ask_all(sql)
    teller.seen(sql, answers)
    teller.claim(
        list(answers[TELLER].rows) == [hero.text(*names) for hero in story.heroes],
        "The teller sees the customers as the bank knows them.",
    )
    called = tuple(hero.customer["name"] for hero in story.heroes)
    masked = all("*" in value for name in ("phone", "email") for value in answers[AGENT].column(name))
    teller.claim(
        answers[AGENT].column("name") == called and masked,
        "The agent greets the caller by name, and sees masks of the rest.",
    )
    years = tuple(f"{hero.customer['birth_date'].year}-01-01" for hero in story.heroes)
    teller.claim(answers[ANALYST].column("birth_date") == years, "The analyst sees years, not birthdays.")
    teller.claim(answers[DBA].sqlstate == DENIED, "The DBA keeps the database running, and needs no names for it.")


async def _they_read_cards(story: Story) -> None:
    teller = story.teller
    sql = f"SELECT k.pan, k.status, a.balance\n  FROM cards k JOIN accounts a ON a.id = k.account_id\n WHERE k.id IN ({story.card_ids}) ORDER BY k.id"
    answers = await story.ask_all(sql)
    teller.seen(sql, answers)
    pans = tuple(str(hero.card["pan"]) for hero in story.heroes)
    teller.claim(
        answers[TELLER].column("pan") == pans, "Sealed numbers are opened for the teller, by pgveil, on their way out."
    )
    last = [(shown[-4:], "*" in shown) for person in (AGENT, DBA) for shown in answers[person].column("pan")]
    teller.claim(
        last == [(pan[-4:], True) for _ in range(2) for pan in pans],
        "The agent and the DBA get their last four digits, and the balance rounded down to a hundred thousand.",
    )
    teller.check(
        all(float(v) % 100_000 == 0 for p in (AGENT, DBA) for v in answers[p].column("balance")), "balances are masked"
    )
    teller.claim(answers[ANALYST].sqlstate == DENIED, "The analyst has no business with card numbers.")


async def _they_search(story: Story) -> None:
    teller, hero = story.teller, story.heroes[0]
    sql = f"SELECT count(*) FROM customers WHERE phone = '{hero.customer['phone']}'"
    answers = await story.ask_all(sql)
    teller.seen(sql, answers)
    teller.claim(
        [answers[p].column("count") for p in (TELLER, AGENT, ANALYST)] == [("1",), ("0",), ("0",)],
        "Even the right guess at a masked value never hits: those who see masks search masks.",
    )
    sql = f"SELECT customer_id FROM cards WHERE pan = '{story.pan}'"
    answers = await story.ask_all(sql)
    teller.seen(sql, answers)
    teller.claim(
        answers[TELLER].column("customer_id") == (str(hero.customer["id"]),),
        "The teller finds a customer by the card; the database compares ciphertext, and never learns the number.",
    )
    teller.claim([answers[p].sqlstate for p in (AGENT, ANALYST, DBA)] == [DENIED] * 3, "Nobody else may search by it.")


async def _they_count(story: Story) -> None:
    teller = story.teller
    sql = "SELECT category, count(*), round(avg(amount), 2) AS average\n  FROM orders GROUP BY category ORDER BY 2 DESC, 1 LIMIT 3"
    answers = await story.ask_all(sql)
    teller.code(sql)
    teller.table(answers[TELLER].names, [tuple(row.values()) for row in answers[TELLER].rows])
    same = all(answer.rows and answer.rows == answers[TELLER].rows for answer in answers.values())
    teller.claim(same, "What touches nothing protected is the same for all four.")


async def curiosity(story: Story) -> None:
    """What an analyst tries who wants to see more."""
    teller, hero = story.teller, story.heroes[0].customer
    teller.chapter("A curious analyst")
    teller.say(
        f"The analyst wants the telephone number of customer {hero['id']}, knows SQL, and has heard a number to try."
    )
    rows = []
    for sql in _attempts(hero):
        answer = await story.seats[ANALYST].ask(sql)
        story.check_no_leak(ANALYST, answer.text)
        got = (
            answer.refusal.message
            if answer.refusal is not None
            else "; ".join(v for r in answer.rows for v in r.values())
        )
        rows.append((sql, got or "nothing"))
    teller.table(("tried", "got"), rows)
    teller.claim(
        len(rows) > 1,
        f"{len(rows)} attempts, and no clear value: each answer was searched for all {story.secrets.count:,} protected values of the bank.",
    )


def _attempts(hero: Mapping[str, Any]) -> tuple[str, ...]:
    mine = f"FROM customers WHERE id = {hero['id']}"
    return (
        f"SELECT substr(phone, 4, 4) {mine}",
        "SELECT max(phone) FROM customers",
        f"SELECT phone::bigint {mine}",
        f"SELECT 1 / (phone = '{hero['phone']}')::int {mine}",
        f"SELECT to_json(c) FROM customers c WHERE id = {hero['id']}",
        "SELECT most_common_vals::text FROM pg_stats WHERE attname = 'phone'",
        f"DO $$ BEGIN RAISE EXCEPTION '%', (SELECT phone {mine}); END $$",
        f"SELECT query_to_xml('SELECT phone {mine}', true, true, '')",
        "SET ROLE teller",
    )


async def refusals(story: Story) -> None:
    teller = story.teller
    teller.chapter("A refusal says what to do instead")
    teller.say(
        "What pgveil cannot protect, it refuses. The error is an ordinary one, with a hint, and the connection goes on."
    )
    hero = story.heroes[0].customer["id"]
    plain = f"SELECT pan FROM cards WHERE customer_id = {hero}"
    sizes = f"SELECT pg_column_size(pan) FROM cards WHERE customer_id = {hero}"
    await _refused(story, ANALYST, f"SELECT id, pan FROM cards WHERE customer_id = {hero}", DENIED)
    await _refused(story, TELLER, sizes, UNSUPPORTED)
    hinted = await story.seats[ANALYST].ask(f"SELECT id FROM cards WHERE customer_id = {hero}")
    other = await story.seats[TELLER].ask(plain)
    teller.claim(
        bool(hinted.rows and other.rows),
        "Both work as the hints say: without the column, and with the column as it is.",
    )
    teller.say(
        "Developers need not wait for the refusal. `pgveil explain` says beforehand what becomes of a statement:"
    )
    told = story.stage.pgveil("explain", plain, "--as", AGENT.login)
    teller.command(f'pgveil explain "{plain}" --as {AGENT.login}', told.stdout, code=told.returncode, lines=24)
    teller.check(told.returncode == 0, "pgveil explain explains")


async def _refused(story: Story, person: Person, sql: str, sqlstate: str) -> None:
    answer = await story.seats[person].ask(sql)
    story.check_no_leak(person, answer.text)
    story.teller.check(answer.sqlstate == sqlstate, f"the {person.title} is refused with {sqlstate}")
    assert answer.refusal is not None
    story.teller.check(bool(answer.refusal.hint), "a refusal has a hint")
    story.teller.code(f"-- as {person.title}\n{sql}")
    story.teller.error(answer.refusal)


async def writing(story: Story) -> None:
    teller, seat, card = story.teller, story.seats[APP], story.heroes[0].card
    teller.chapter("Writing")
    sql = (
        "INSERT INTO cards (customer_id, account_id, pan, expires_on, status)\n"
        f"VALUES ({card['customer_id']}, {card['account_id']}, $1, '2029-12-31', 'active') RETURNING id, pan"
    )
    teller.say(f"The application gives a customer a new card, {NEW_CARD}. The statement is the one it always was.")
    teller.code(sql)
    answer = await seat.ask(sql, NEW_CARD)
    teller.claim(answer.column("pan") == (NEW_CARD,), "The application gets its number back.")
    stored = await story.admin.fetchval("SELECT pan FROM cards WHERE id = $1", int(answer.column("id")[0]))
    teller.claim(str(stored).startswith("~"), "The database got ciphertext.")
    long = await seat.ask("UPDATE cards SET pan = $1 WHERE id = $2", "6" * 20, card["id"])
    teller.claim(
        long.sqlstate == TOO_LONG, "A number too long for varchar(19) gets the error that PostgreSQL gave before."
    )
    again = await seat.ask(sql, NEW_CARD)
    teller.claim(again.sqlstate == UNIQUE_VIOLATION, "The same number twice meets the UNIQUE constraint, as ever.")


async def around(story: Story) -> None:
    teller, stage = story.teller, story.stage
    hero, card = story.heroes[0].customer, story.heroes[0].card
    teller.chapter("Around pgveil")
    teller.say("Somebody finds the database's own port. pgveil was only the door; PostgreSQL is the wall.")
    read_phone, read_pan = (
        f"SELECT phone FROM customers WHERE id = {hero['id']}",
        f"SELECT pan FROM cards WHERE id = {card['id']}",
    )
    write_pan = f"UPDATE cards SET pan = '{NEW_CARD}' WHERE id = {card['id']}"
    analyst, app = (
        await Seat.take(stage.dsn(ANALYST.login, direct=True)),
        await Seat.take(stage.dsn(APP.login, direct=True)),
    )
    phone, pan, plain = await analyst.ask(read_phone), await analyst.ask(read_pan), await app.ask(write_pan)
    await analyst.leave()
    await app.leave()
    teller.table(
        ("who", "past pgveil", "got"),
        [
            (ANALYST.title, read_phone, phone.text),
            (ANALYST.title, read_pan, pan.text),
            (APP.title, write_pan, plain.text),
        ],
    )
    teller.claim(phone.sqlstate == DENIED, "The analyst's login has no privilege on the masked column any more.")
    story.check_no_leak(ANALYST, pan.text)
    teller.claim(pan.text.startswith("~"), "A sealed column shows ciphertext.")
    teller.claim(
        plain.sqlstate == CHECK_VIOLATION, "A plain number cannot be stored there: the column takes sealed values only."
    )
    owner = await story.admin.fetchrow(
        "SELECT (SELECT phone FROM customers WHERE id = $1), (SELECT pan FROM cards WHERE id = $2)",
        hero["id"],
        card["id"],
    )
    teller.claim(
        owner is not None and owner[0] == hero["phone"] and owner[1] == pan.text,
        "The limit: a superuser, or a table's owner, reads masked columns plain past pgveil. Sealed ones stay sealed for them too.",
    )

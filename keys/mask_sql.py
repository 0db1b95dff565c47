"""The masks as SQL functions: the twin of `keys.mask_text`, from the same patterns.

Bodies are of the SQL-standard form (RETURN), which the server resolves when the function is made: no search_path can shadow a name in them
later, and the planner can inline them into a masking view. Names are qualified all the same, for the moment of making. COLLATE "C" because
a column may have a collation that regular expressions refuse.
"""

from __future__ import annotations

from keys import mask_text as t
from keys.lookup import MAC_SIZE, TICKET_SECONDS, TIME_SIZE
from keys.mask_forms import private_schema, quote_constant, quote_ident

_C = 'COLLATE pg_catalog."C"'
_REFUSED = "a value for this column must come through pgveil"
_WHY = f"Each is good for one login and {TICKET_SECONDS // 60} minutes: see to it that the clocks of pgveil and the server agree."
_HEAD = "IMMUTABLE PARALLEL SAFE LANGUAGE sql"


def install_sql(schema: str = "pgveil") -> str:
    """SQL that makes the masks' functions in `schema` and the pseudonym's in its private one. Running it again changes nothing.

    Run it as pgveil's own role in one transaction. It gives nobody USAGE on either schema: a view calls functions without it, and
    for the private one nobody must ever have it. Then set the key with `pseudonym_key_sql`; until then pseudonyms are NULL.
    """
    public, private = quote_ident(schema), quote_ident(private_schema(schema))
    return "\n".join(part.replace("@S@", public).replace("@P@", private) for part in (*_functions(), *_PRIVATE))


def pseudonym_key_sql(schema: str = "pgveil") -> str:
    """The statement that sets the pseudonym's key; its one parameter, $1, is the key (bytea, 16 bytes or more).

    Send the key as a parameter, never in the text, with log_statement and log_parameter_max_length such that it is not logged.
    """
    return _key_sql(schema, "pseudonym_key")


def lookup_key_sql(schema: str = "pgveil") -> str:
    """As `pseudonym_key_sql`, for the key of look-up tickets."""
    return _key_sql(schema, "lookup_key")


def _key_sql(schema: str, table: str) -> str:
    private = quote_ident(private_schema(schema))
    return (
        f"INSERT INTO {private}.{table} (inner_pad, outer_pad)\n"
        f"SELECT {private}.hmac_pad(k.v, 54), {private}.hmac_pad(k.v, 92)\n"
        "FROM (SELECT $1::pg_catalog.bytea AS v) k WHERE pg_catalog.octet_length(k.v) OPERATOR(pg_catalog.>=) 16\n"
        "ON CONFLICT (id) DO UPDATE SET inner_pad = EXCLUDED.inner_pad, outer_pad = EXCLUDED.outer_pad"
    )


def _function(name: str, arguments: str, returns: str, body: str) -> str:
    return f"CREATE OR REPLACE FUNCTION @S@.{name}({arguments}) RETURNS pg_catalog.{returns}\n{_HEAD}\nRETURN {_qualify(body)};\n"


_OPERATORS = ("||", "<=", ">=", "!~", "<", ">", "=", "+", "-", "~", "/", "*")


def _qualify(body: str) -> str:
    """`{op}` as an operator that no search_path can shadow, `pg.f` as a function of pg_catalog, `{C}` as the C collation.

    All operators spelled so have one precedence, from left to right: bodies put parentheses where that is not what is meant.
    """
    for operator in _OPERATORS:
        body = body.replace("{" + operator + "}", f"OPERATOR(pg_catalog.{operator})")
    return body.replace("pg.", "pg_catalog.").replace("{C}", _C)


def _re(pattern: str) -> str:
    return quote_constant(pattern)


def _replace(value: str, pattern: str) -> str:
    return f"pg.regexp_replace({value} {{C}}, {_re(pattern)}, '*', 'g')"


def _functions() -> tuple[str, ...]:
    return (
        "CREATE SCHEMA IF NOT EXISTS @S@;\n",
        _stars(),
        *_keep(),
        _name(),
        *_digits(),
        *_email(),
        *_years(),
        *_ranges(),
    )


def _stars() -> str:
    body = f"""CASE
    WHEN pg.octet_length(v) {{=}} pg.length(v) THEN pg.repeat('*', pg.length(v))
    ELSE {_replace("v", t.SEEN)} END"""
    return _function("mask_stars", "v pg_catalog.text", "text", body)


def _keep() -> tuple[str, ...]:
    """Without marks, left() and right() are the answer; with them, patterns that count seen characters."""
    plain = """CASE
    WHEN pg.length(v) {<=} (head {+} tail) OR pg.length(v) {<} lowest THEN pg.repeat('*', pg.length(v))
    ELSE pg."left"(v, head) {||} pg.repeat('*', pg.length(v) {-} head {-} tail)
        {||} CASE WHEN tail {=} 0 THEN '' ELSE pg."right"(v, tail) END END"""
    first = f"{_re(f'^{t.SEEN}(?:{t.BASE}){{')} {{||}} (head {{-}} 1)::pg_catalog.text {{||}} '}}'"
    last = f"{_re(f'(?:{t.BASE}){{')} {{||}} tail::pg_catalog.text {{||}} '}}$'"
    marked = f"""CASE
    WHEN pg.length(s) {{<=}} (head {{+}} tail) OR pg.length(s) {{<}} lowest THEN s
    ELSE CASE WHEN head {{=}} 0 THEN '' ELSE pg."substring"(v {{C}}, {first}) END
        {{||}} pg.repeat('*', pg.length(s) {{-}} head {{-}} tail)
        {{||}} CASE WHEN tail {{=}} 0 THEN '' ELSE pg."substring"(v {{C}}, {last}) END END"""
    either = f"""CASE
    WHEN pg.octet_length(v) {{=}} pg.length(v) OR v {{C}} {{!~}} {_re(t.ANY_MARK)} THEN {plain}
    ELSE @S@.mask_keep_marked(v, @S@.mask_stars(v), head, tail, lowest) END"""
    numbers = "head pg_catalog.int4, tail pg_catalog.int4, lowest pg_catalog.int4"
    return (
        _function("mask_keep_marked", f"v pg_catalog.text, s pg_catalog.text, {numbers}", "text", marked),
        _function("mask_keep", f"v pg_catalog.text, {numbers}", "text", either),
    )


def _name() -> str:
    return _function("mask_name", "v pg_catalog.text", "text", _replace(_replace("v", t.NAME_REST), t.NAME_ALONE))


def _digits() -> tuple[str, ...]:
    """Numbers without separators, which most are, need one pattern only."""
    first = f"{_re('^(?:[^0-9]*[0-9]){')} {{||}} head::pg_catalog.text {{||}} '}}'"
    last = f"{_re('(?:[0-9][^0-9]*){')} {{||}} tail::pg_catalog.text {{||}} '}}$'"
    parts = f"""@S@.mask_digits_parts(v,
    CASE WHEN head {{=}} 0 THEN '' ELSE pg."substring"(v {{C}}, {first}) END,
    CASE WHEN tail {{=}} 0 THEN '' ELSE pg."substring"(v {{C}}, {last}) END)"""
    middle = 'pg."substring"(v, pg.length(a) {+} 1, pg.length(v) {-} pg.length(a) {-} pg.length(z))'
    joined = (
        f"{_replace('a', t.END_HIDDEN)} {{||}} {_replace(middle, t.MIDDLE_HIDDEN)} {{||}} {_replace('z', t.END_HIDDEN)}"
    )
    count = f"pg.length(pg.regexp_replace(v {{C}}, {_re('[^0-9]')}, '', 'g'))"
    bare = "pg.repeat('*', pg.length(v) {-} @shown@) {||} pg.\"right\"(v, 4)"
    bare_phone, bare_card = bare.replace("@shown@", "7"), bare.replace("@shown@", "4")
    phone = f"""CASE
    WHEN v {{C}} {{~}} {_re(f"^[0-9]{{{t.PHONE_LONG},}}$")} THEN pg."left"(v, 3) {{||}} {bare_phone}
    WHEN {count} {{>=}} {t.PHONE_LONG} THEN @S@.mask_digits(v, 3, 4)
    WHEN {count} {{>=}} {t.PHONE_SHORT} THEN @S@.mask_digits(v, 0, 4)
    ELSE @S@.mask_digits(v, 0, 0) END"""
    card = f"""CASE
    WHEN v {{C}} {{~}} {_re(f"^[0-9]{{{t.CARD_SHORTEST},}}$")} THEN {bare_card}
    WHEN {count} {{>=}} {t.CARD_SHORTEST} THEN @S@.mask_digits(v, 0, 4)
    ELSE @S@.mask_digits(v, 0, 0) END"""
    text = "v pg_catalog.text"
    return (
        _function("mask_digits_parts", f"{text}, a pg_catalog.text, z pg_catalog.text", "text", joined),
        _function("mask_digits", f"{text}, head pg_catalog.int4, tail pg_catalog.int4", "text", parts),
        _function("mask_phone", text, "text", phone),
        _function("mask_bank_card", text, "text", card),
    )


def _email() -> tuple[str, ...]:
    """`n` is the length of the domain with its @, 0 without one."""
    local = 'pg."left"(v, pg.length(v) {-} n)'
    body = f"""CASE
    WHEN NOT (n {{<}} pg.length(v) AND pg."right"(v, n) {{C}} {{~}} {_re(t.EMAIL_DOMAIN)}) THEN @S@.mask_stars(v)
    WHEN pg.octet_length(v) {{=}} pg.length(v) OR v {{C}} {{!~}} {_re(t.ANY_MARK)}
    THEN CASE WHEN pg.length(v) {{=}} (n {{+}} 1) THEN '*'
        ELSE pg."left"(v, 1) {{||}} pg.repeat('*', pg.length(v) {{-}} n {{-}} 1) END {{||}} pg."right"(v, n)
    ELSE @S@.mask_keep_marked({local}, @S@.mask_stars({local}), 1, 0, 0) {{||}} pg."right"(v, n) END"""
    text = "v pg_catalog.text"
    return (
        _function("mask_email_at", f"{text}, n pg_catalog.int4", "text", body),
        _function("mask_email", text, "text", "@S@.mask_email_at(v, pg.strpos(pg.reverse(v) {C}, '@'))"),
    )


def _years() -> tuple[str, ...]:
    text = f'CASE WHEN v {{C}} {{~}} {_re(t.YEAR)} THEN pg."left"(v, 4) ELSE @S@.mask_stars(v) END'
    # 4714 BC began before the server's calendar does.
    date = """CASE
    WHEN NOT pg.isfinite(v) THEN v
    WHEN v {<} '4713-01-01 BC'::pg_catalog.date THEN '-infinity'::pg_catalog.date
    ELSE pg.make_date(pg."extract"('year', v)::pg_catalog.int4, 1, 1) END"""
    stamp = """CASE
    WHEN NOT pg.isfinite(v) THEN v
    WHEN v {<} '4713-01-01 00:00:00 BC'::pg_catalog.timestamp THEN '-infinity'::pg_catalog.timestamp
    ELSE pg.date_trunc('year', v) END"""
    zoned = "pg.timezone('UTC', @S@.mask_year(pg.timezone('UTC', v)))"
    return (
        _function("mask_year", "v pg_catalog.text", "text", text),
        _function("mask_year", "v pg_catalog.date", "date", date),
        _function("mask_year", "v pg_catalog.timestamp", "timestamp", stamp),
        _function("mask_year", "v pg_catalog.timestamptz", "timestamptz", zoned),
    )


def _ranges() -> tuple[str, ...]:
    floor = (
        "pg.trunc(v {-} pg.mod(v, width) {-} CASE WHEN pg.mod(v, width) {<} 0::pg_catalog.numeric "
        "THEN width ELSE 0::pg_catalog.numeric END)"
    )
    special = " OR ".join(f"v {{=}} '{name}'::pg_catalog.numeric" for name in ("NaN", "Infinity", "-Infinity"))
    # GREATEST leaves NULL out: the bound would be shown in its place.
    number = f"CASE WHEN v IS NULL OR {special} THEN v ELSE GREATEST({floor}, lowest) END"
    # Next to zero the division would underflow, which the server makes an error.
    real = """CASE
    WHEN v {=} 'NaN'::pg_catalog.float8 THEN v
    WHEN v {>=} huge THEN 'Infinity'::pg_catalog.float8
    WHEN v {<=} ({-} huge) THEN '-Infinity'::pg_catalog.float8
    WHEN v {>=} 0::pg_catalog.float8 AND v {<} width THEN 0::pg_catalog.float8
    WHEN v {<} 0::pg_catalog.float8 AND v {>=} ({-} width) THEN {-} width
    ELSE pg.floor(v {/} width) {*} width {+} 0::pg_catalog.float8 END"""
    low = "@S@.mask_range(v::pg_catalog.numeric, width, NULL)"
    text = f"""CASE
    WHEN v {{C}} {{~}} {_re(t.NUMBER)} AND (room IS NULL OR pg.length(@S@.mask_range_label({low}, width)) {{<=}} room)
    THEN @S@.mask_range_label({low}, width)
    ELSE @S@.mask_stars(v) END"""
    label = "low::pg_catalog.text {||} '-' {||} (low {+} width {-} 1::pg_catalog.numeric)::pg_catalog.text"
    width = "width pg_catalog.numeric"
    return (
        _function("mask_range", f"v pg_catalog.numeric, {width}, lowest pg_catalog.numeric", "numeric", number),
        _function("mask_range", "v pg_catalog.float8, width pg_catalog.float8, huge pg_catalog.float8", "float8", real),
        _function("mask_range_label", f"low pg_catalog.numeric, {width}", "text", label),
        _function("mask_range", f"v pg_catalog.text, {width}, room pg_catalog.int4", "text", text),
    )


# HMAC-SHA-256 (RFC 2104) from the server's own sha256. The key is kept as the two padded keys that the digest starts from; who reads them
# can make pseudonyms, so the table has no grants and the function that reads it runs as its owner.
_PRIVATE = (
    """CREATE SCHEMA IF NOT EXISTS @P@;
REVOKE ALL ON SCHEMA @P@ FROM PUBLIC;
CREATE TABLE IF NOT EXISTS @P@.pseudonym_key (
    id pg_catalog.bool PRIMARY KEY DEFAULT true CHECK (id),
    inner_pad pg_catalog.bytea NOT NULL,
    outer_pad pg_catalog.bytea NOT NULL
);
REVOKE ALL ON TABLE @P@.pseudonym_key FROM PUBLIC;
CREATE TABLE IF NOT EXISTS @P@.lookup_key (
    id pg_catalog.bool PRIMARY KEY DEFAULT true CHECK (id),
    inner_pad pg_catalog.bytea NOT NULL,
    outer_pad pg_catalog.bytea NOT NULL
);
REVOKE ALL ON TABLE @P@.lookup_key FROM PUBLIC;
""",
    _qualify("""CREATE OR REPLACE FUNCTION @P@.hmac_pad(key pg_catalog.bytea, pad pg_catalog.int4) RETURNS pg_catalog.bytea
IMMUTABLE PARALLEL SAFE LANGUAGE sql
RETURN (
    SELECT pg.string_agg(pg.set_byte(E'\\\\x00'::pg_catalog.bytea, 0,
        CASE WHEN i {<} pg.octet_length(k) THEN pg.get_byte(k, i) ELSE 0 END OPERATOR(pg_catalog.#) pad),
        E'\\\\x'::pg_catalog.bytea ORDER BY i)
    FROM pg.generate_series(0, 63) i,
        (SELECT CASE WHEN pg.octet_length(key) {>} 64 THEN pg.sha256(key) ELSE key END AS k) short
);
"""),
    _qualify("""CREATE OR REPLACE FUNCTION @P@.hmac_sha256(inner_pad pg_catalog.bytea, outer_pad pg_catalog.bytea, message pg_catalog.bytea)
RETURNS pg_catalog.bytea IMMUTABLE PARALLEL SAFE LANGUAGE sql
RETURN pg.sha256(outer_pad {||} pg.sha256(inner_pad {||} message));
"""),
    _qualify("""CREATE OR REPLACE FUNCTION @P@.pseudonym(v pg_catalog.text, scope pg_catalog.text, digits pg_catalog.int4)
RETURNS pg_catalog.text STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp LANGUAGE sql
RETURN (
    SELECT 'p_' {||} pg."left"(pg.encode(@P@.hmac_sha256(k.inner_pad, k.outer_pad,
        pg.convert_to(scope, 'UTF8') {||} E'\\\\x00'::pg_catalog.bytea {||} pg.convert_to(v, 'UTF8')), 'hex'), digits)
    FROM @P@.pseudonym_key k
);
"""),
    # What a ticket of keys.lookup says, if it was made with the key, for this column, for this login and just now; NULL for any other.
    _qualify(f"""CREATE OR REPLACE FUNCTION @P@.ticket_value(ticket pg_catalog.text, name pg_catalog.text)
RETURNS pg_catalog.text STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp LANGUAGE sql
RETURN (
    SELECT CASE WHEN @P@.hmac_sha256(k.inner_pad, k.outer_pad,
        pg.convert_to(name, 'UTF8') {{||}} E'\\\\x00'::pg_catalog.bytea {{||}}
        pg.convert_to(session_user::pg_catalog.text, 'UTF8') {{||}} E'\\\\x00'::pg_catalog.bytea {{||}}
        pg.substr(t.raw, {MAC_SIZE + 1})) {{=}} pg.substr(t.raw, 1, {MAC_SIZE})
        AND pg.abs(EXTRACT(epoch FROM pg.statement_timestamp()) {{-}}
        ('x' {{||}} pg.encode(pg.substr(t.raw, {MAC_SIZE + 1}, {TIME_SIZE}), 'hex'))::pg_catalog.bit(64)::pg_catalog.int8) {{<=}} {TICKET_SECONDS}
        THEN pg.convert_from(pg.substr(t.raw, {MAC_SIZE + TIME_SIZE + 1}), 'UTF8') END
    FROM @P@.lookup_key k, (SELECT pg.decode(ticket, 'base64') AS raw) t
);
"""),  # noqa: S608 - of the module's own
    # The same for who must have a good one; NULL for the ticket of a value that no column can hold.
    f"""CREATE OR REPLACE FUNCTION @P@.lookup_value(ticket pg_catalog.text, name pg_catalog.text)
RETURNS pg_catalog.text STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp LANGUAGE plpgsql AS $$
DECLARE
    value text := @P@.ticket_value(ticket, name);
BEGIN
    IF value IS NULL AND ticket <> '' THEN
        RAISE EXCEPTION USING ERRCODE = '42501', MESSAGE = {quote_constant(_REFUSED)}, HINT = {quote_constant(_WHY)};
    END IF;
    RETURN value;
END $$;
""",
)

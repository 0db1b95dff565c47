// The checks by node-postgres. The target comes by the environment; each check's result goes out as one line of JSON: check, ok, detail.
import { readFileSync } from 'node:fs';
import { Readable } from 'node:stream';
import { pipeline as flow } from 'node:stream/promises';
import pg from 'pg';
import Cursor from 'pg-cursor';
import { from as copyFrom, to as copyTo } from 'pg-copy-streams';

const E = process.env;
const S = E.TARGET_SCHEMA;
const CLERK = E.TARGET_USER === 'clerk';
const authority = readFileSync(E.TARGET_ROOT, 'utf8');
const COLUMNS = ('id, name, phone, card, credit, born, seen, score, level, active, ref, photo, prefs, tags, mood'
  + (CLERK ? ', essay' : '') + ', note').split(', ');
const SOME = `from ${S}.people where id in (1, 2, 3, 20) order by id`;

function options(more = {}) {
  return {
    host: E.TARGET_HOST, port: Number(E.TARGET_PORT), database: E.TARGET_DATABASE, user: E.TARGET_USER,
    password: E.TARGET_PASSWORD, ssl: { ca: authority }, connectionTimeoutMillis: 20000, ...more,
  };
}

async function connected(body, more) {
  const client = new pg.Client(options(more));
  await client.connect();
  try {
    return await body(client);
  } finally {
    await client.end();
  }
}

// Whatever it does, it is undone.
const undone = (body) => connected(async (client) => {
  await client.query('begin');
  try {
    return await body(client);
  } finally {
    await client.query('rollback');
  }
});

async function failure(promise) {
  try {
    await promise;
  } catch (e) {
    return Object.fromEntries(['severity', 'code', 'message', 'detail', 'hint', 'position', 'schema', 'table', 'column',
      'dataType', 'constraint', 'where'].map((field) => [field, e[field] ?? null]));
  }
  return 'no error';
}

const who = (more) => connected(async (c) => (await c.query('select current_user')).rows, more);
const all = async (c, text, values) => (await c.query({ text, values, rowMode: 'array' })).rows;

const VALUES = ['New', '13912345678', '6222020000000009', '12.34', '1999-12-31', new Date('2024-05-06T07:08:09Z'), 0.5, 7, true,
  '00000000-0000-4000-8000-00000000ffff', Buffer.from([0, 1, 255]), { a: [1, null] }, ['x', null, 'é'], 'happy'];
const WRITTEN = COLUMNS.slice(1, VALUES.length + 1).join(', ');

const FAILING = {
  syntax: 'selec 1',
  no_column: `select id, nosuch from ${S}.people`,
  not_null: `insert into ${S}.people (id, name) values (9001, null)`,
  key: `insert into ${S}.people (id, name) values (1, 'Again')`,
  unique: `insert into ${S}.people (id, name, card) values (9001, 'Again', '6200000000000001')`,
  check: `insert into ${S}.people (id, name, note) values (9001, 'Long', repeat('x', 300))`,
  foreign: `insert into ${S}.orders (id, person, amount) values (9001, 999999, 1)`,
  too_long: `insert into ${S}.people (id, name, card) values (9001, 'Long', '12345678901234567890')`,
  bad_date: `insert into ${S}.people (id, name, born) values (9001, 'Bad', 'no date')`,
  division: 'select 1 / 0',
  own: "do $$ begin raise exception 'own words' using errcode = 'P0042', detail = 'a detail', hint = 'a hint',"
    + " column = 'c', table = 't', constraint = 'k', datatype = 'd', schema = 's'; end $$",
};

async function copiedOut(client, text) {
  const parts = [];
  for await (const part of client.query(copyTo(text))) parts.push(part);
  return Buffer.concat(parts).toString('hex');
}

async function binaryHeld(client, text, values) {
  // The values' own bytes: node-postgres has parsers for few binary types.
  const raw = (value) => value;
  const types = { getTypeParser: () => raw };
  const found = await client.query({ text, values, rowMode: 'array', binary: true, types });
  return found.rows.map((row) => row.map((v) => (v === null ? null : Buffer.from(v).toString('hex'))));
}

const CHECKS = {
  tls_off: () => who({ ssl: false }),
  tls_require: () => who({ ssl: { rejectUnauthorized: false } }),
  tls_verify_full: () => who(),
  tls_wrong_authority: async () => {
    try {
      await who({ ssl: { ca: readFileSync(E.TARGET_ROOT.replace('authority.crt', 'other.crt'), 'utf8') } });
    } catch (e) {
      return e.code;
    }
    return 'no error';
  },
  tls_direct: () => who(E.TARGET_DIRECT_TLS ? { sslnegotiation: 'direct', ssl: { ca: authority, ALPNProtocols: ['postgresql'] } } : {}),
  scram: () => failure(who({ password: 'wrong' })),
  channel_binding: () => who({ enableChannelBinding: true }),
  simple: () => connected(async (c) => {
    const several = await c.query(`select name, card from ${S}.people where id = 3; select 1 as one; select 2 as two`);
    return several.map((r) => [r.command, r.rowCount, r.rows]);
  }),
  prepared: () => connected(async (c) => {
    const seen = [];
    for (const id of [1, 2, 3, 20]) {
      const found = await c.query({ name: 'person', text: `select name, card, credit, born from ${S}.people where id = $1`, values: [id] });
      seen.push([found.rows, found.fields.map((f) => [f.name, f.dataTypeID, f.dataTypeSize, f.dataTypeModifier, f.format])]);
    }
    if (CLERK) {
      for (const card of ['6200000000000001', '6200000000000002', 'none']) {
        seen.push((await c.query({ name: 'card', text: `select id from ${S}.people where card = $1`, values: [card] })).rows);
      }
      const cards = ['6200000000000001', '6200000000000009'];
      seen.push(await all(c, `select id from ${S}.people where card = any($1) order by id`, [cards]));
    }
    return seen;
  }),
  text: () => connected((c) => all(c, `select ${COLUMNS.join(', ')} ${SOME}`)),
  binary: () => connected((c) => binaryHeld(c, `select ${COLUMNS.join(', ')} from ${S}.people where id = any($1) order by id`, [[1, 2, 20]])),
  describe: () => connected(async (c) => (await c.query(`select ${COLUMNS.join(', ')}, 1 as one from ${S}.people limit 0`)).fields
    .map((f) => [f.name, f.dataTypeID >= 16384 ? 'its own' : f.dataTypeID, f.dataTypeSize, f.dataTypeModifier, f.format])),
  write: () => undone(async (c) => {
    const marks = VALUES.map((_, i) => `$${i + 1}`).join(', ');
    return [
      await all(c, `insert into ${S}.people (id, ${WRITTEN}) values (9100, ${marks}) returning ${WRITTEN}`, VALUES),
      await all(c, `update ${S}.people set card = $1, level = $2 where card = $3 returning card, level`, ['1', -3, VALUES[2]]),
      await all(c, `delete from ${S}.people where card = $1 returning id, name`, ['1']),
    ];
  }),
  batch: () => undone(async (c) => {
    const rows = [...Array(30).keys()].map((i) => [9200 + i, `B${i}`, `63${String(i).padStart(14, '0')}`]);
    const marks = rows.map((_, i) => `($${3 * i + 1}, $${3 * i + 2}, $${3 * i + 3})`).join(', ');
    return all(c, `insert into ${S}.people (id, name, card) values ${marks} returning id, card`, rows.flat());
  }),
  pipeline: () => connected(async (c) => {
    // Queries that are queued; in pipeline mode they go out before their answers come.
    const asked = [1, 2, 3].map((id) => all(c, `select name, card from ${S}.people where id = $1`, [id]));
    const bad = failure(c.query(`select nosuch from ${S}.people`));
    const after = all(c, `select card from ${S}.people where id = 4`);
    return [await Promise.all(asked), await bad, await after];
  }, { pipeline: true }),
  cursor: () => connected(async (c) => {
    const seen = [];
    const cursor = c.query(new Cursor(`select id, name, card from ${S}.people where id <= $1 order by id`, [30]));
    seen.push(await cursor.read(3), await cursor.read(5), (await cursor.read(100)).length, await cursor.read(5));
    await cursor.close();
    const early = c.query(new Cursor(`select id, born from ${S}.people order by id`));
    seen.push(await early.read(2));
    await early.close();
    seen.push(await all(c, `select card from ${S}.people where id = 1`));
    return seen;
  }),
  copy_out: () => connected(async (c) => {
    const source = `(select id, name, phone, card, credit, born, note from ${S}.people order by id)`;
    const seen = [];
    for (const form of ['text', 'csv, header', 'binary']) seen.push(await copiedOut(c, `copy ${source} to stdout (format ${form})`));
    return seen;
  }),
  copy_in: () => undone(async (c) => {
    const lines = [...Array(200).keys()].map((i) => `${9300 + i}\tC${i}\t64${String(i).padStart(14, '0')}\t2000-01-01\n`);
    const stream = c.query(copyFrom(`copy ${S}.people (id, name, card, born) from stdin`));
    await flow(Readable.from(lines), stream);
    const seen = [stream.rowCount, await all(c, `select id, name, card, born from ${S}.people where id >= 9300 order by id`)];
    const bad = c.query(copyFrom(`copy ${S}.people (id, name, born) from stdin`));
    seen.push(await failure(flow(Readable.from(['9800\tbad\tnever\n']), bad)));
    return seen;
  }),
  notify: () => connected(async (c) => {
    const got = [];
    const two = new Promise((done) => { c.on('notification', (n) => { if (got.push([n.channel, n.payload]) === 2) done(); }); });
    await c.query('listen news');
    await connected(async (other) => { await other.query("select pg_notify('news', $1)", ['é']); await other.query("notify news, 'second'"); });
    await two;
    return got;
  }),
  notice: () => connected(async (c) => {
    const got = [];
    c.on('notice', (n) => got.push([n.severity, n.code, n.message, n.hint ?? null]));
    await c.query("do $$ begin raise notice 'n %', 1 using hint = 'h'; raise warning 'w'; end $$");
    return got;
  }),
  cancel: () => connected(async (c) => {
    const { processID } = c;
    const asked = failure(c.query('select pg_sleep(60)'));
    await connected(async (watch) => {
      while ((await all(watch, "select 1 from pg_stat_activity where pid = $1 and wait_event = 'PgSleep'", [processID])).length === 0);
    });
    // The protocol's own way: a cancel request on a connection of its own.
    const canceller = new pg.Client(options({ ssl: false }));
    canceller.processID = null;
    // It is over when its connection ends; what came later would meet the next statement.
    const over = new Promise((resolve) => {
      canceller.connection.on('end', resolve);
      canceller.connection.on('error', resolve);
    });
    canceller.connection.connect(Number(E.TARGET_PORT), E.TARGET_HOST);
    canceller.connection.once('connect', () => canceller.connection.cancel(processID, c.secretKey));
    const told = await asked;
    await over;
    return [told, await all(c, `select name from ${S}.people where id = 1`)];
  }),
  large_object: () => undone(async (c) => {
    const data = Buffer.alloc(1 << 20, 'x\0y');
    const [[oid]] = await all(c, 'select lo_from_bytea(0, $1)', [data]);
    return all(c, 'select lo_get($1) = $2, length(lo_get($1)), lo_unlink($1)', [oid, data]);
  }),
  big: () => undone(async (c) => {
    const text = '漢字 and some more, '.repeat(150000);
    await c.query(`insert into ${S}.people (id, name, essay) values (9500, $1, $2)`, [text, text]);
    const [[name, essay]] = await all(c, `select name, essay from ${S}.people where id = 9500`);
    return [name === text, essay === text];
  }),
  errors: () => connected(async (c) => {
    const seen = {};
    for (const [name, text] of Object.entries(FAILING)) {
      seen[name] = await failure(c.query(text));
      seen[`${name} extended`] = await failure(c.query({ text, queryMode: 'extended' }));
    }
    return seen;
  }),
  transaction: () => connected(async (c) => {
    const seen = [];
    await c.query('begin');
    seen.push(await all(c, `select card from ${S}.people where id = 2`));
    await c.query('savepoint a');
    seen.push((await failure(c.query(`select nosuch from ${S}.people`))).code);
    seen.push((await failure(c.query(`select name from ${S}.people`))).code);
    await c.query('rollback to a');
    seen.push(await all(c, `select card from ${S}.people where id = 3`));
    seen.push((await failure(c.query(`select 1 / (id - id) from ${S}.people`))).code);
    seen.push((await c.query('commit')).command);
    seen.push(await all(c, `select phone from ${S}.people where id = 3`));
    return seen;
  }),
  pool: async () => {
    const pool = new pg.Pool(options({ max: 3 }));
    const seen = await Promise.all([...Array(15).keys()].map(async (i) => {
      const client = await pool.connect();
      try {
        await client.query('set search_path = pg_catalog');
        return await all(client, `select name, card from ${S}.people where id = $1`, [i + 1]);
      } finally {
        await client.query('discard all');
        client.release();
      }
    }));
    await pool.end();
    return seen;
  },
};

const shown = (value) => JSON.stringify(value, (_, v) => (v instanceof Uint8Array ? Buffer.from(v).toString('hex') : v));
for (const [check, body] of Object.entries(CHECKS)) {
  let line;
  try {
    const expired = new Promise((_, fail) => { setTimeout(() => fail(new Error('it did not end')), 30000).unref(); });
    line = { check, ok: true, detail: await Promise.race([body(), expired]) };
  } catch (e) {
    line = { check, ok: false, detail: `${e.name}: ${e.message}` };
  }
  process.stdout.write(`${shown(line)}\n`);
}
process.exit(0);

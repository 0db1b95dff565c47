// Named statements in a pool until the standard input ends. One line of JSON: how many rounds ran, and each error.
import pg from 'pg';

const pool = new pg.Pool({ connectionString: process.env.LOAD_DSN, max: 3 });
const errors = {};
let done = 0;
let over = false;

const run = (name, text, values) => pool.query({ name, text, values });

async function work() {
  while (!over) {
    try {
      await run('person', 'select id, name, phone from people where id = $1', [3]);
      await run('item', 'select item from orders where id = $1', [3]);
      await run('pan', 'select pan from cards where person = $1', [3]);
      await run('update', 'update people set seen = seen + 1 where id = $1', [7]);
      done += 1;
    } catch (error) {
      const text = `${error.code} ${error.message}`;
      errors[text] = (errors[text] ?? 0) + 1;
      await new Promise((later) => setTimeout(later, 10));
    }
  }
}

process.stdin.resume();
process.stdin.on('end', () => { over = true; });
await Promise.all([work(), work(), work()]);
await pool.end();
console.log(JSON.stringify({ done, errors }));

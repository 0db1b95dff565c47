// Whole objects saved by TypeORM and Sequelize: where to in the environment; prints a JSON object for each case.
import "reflect-metadata";
import { DataSource, EntitySchema } from "typeorm";
import Sequelize from "sequelize";

const { DataTypes } = Sequelize;
const E = process.env;
const COMMON = { host: "127.0.0.1", port: Number(E.ORM_PORT), database: E.ORM_DATABASE };
let row = Number(E.ORM_BASE);

async function run(orm, cases) {
  for (const [name, work] of Object.entries(cases)) {
    const city = `${name} ${orm}`;
    let error = null;
    try {
      await work(city, row);
    } catch (raised) {
      const hint = raised.hint ?? raised.original?.hint ?? raised.driverError?.hint;
      error = `${raised.name}: ${raised.message} HINT: ${hint}`;
    }
    console.log(JSON.stringify({ case: city, row, error }));
    row += 10;
  }
}

function same(found, wanted) {
  if (JSON.stringify(found) !== JSON.stringify(wanted)) {
    throw new Error(`${JSON.stringify(found)} is not ${JSON.stringify(wanted)}`);
  }
}

const WHOLE = ["name", "phone", "email", "birth_date", "income", "notes", "pan", "expires_on", "credit", "city"];
const values = (found) => Object.fromEntries(WHOLE.map((name) => [name, found[name]]));

// -- TypeORM ------------------------------------------------------------------------------------------------------------------------

const text = (length) => ({ type: "varchar", length, nullable: true });
const money = { type: "numeric", precision: 12, scale: 2, nullable: true };
const Client = new EntitySchema({
  name: "Client",
  tableName: "clients",
  columns: {
    id: { type: "bigint", primary: true },
    name: { type: "varchar", length: 80 },
    phone: text(20),
    email: text(120),
    birth_date: { type: "date", nullable: true },
    income: money,
    notes: { type: "text", nullable: true },
    pan: text(19),
    expires_on: { type: "date", nullable: true },
    credit: money,
    city: { type: "text", nullable: true },
    version: { type: "int", version: true },
    updated_at: { type: "timestamptz", updateDate: true },
  },
});
const source = new DataSource({
  type: "postgres",
  ...COMMON,
  username: E.ORM_USER,
  entities: [Client],
  extra: { ssl: false },
  installExtensions: false,
});
await source.initialize();
const clients = source.getRepository(Client);
const one = (id) => clients.findOneByOrFail({ id: String(id) });
const some = (id) => clients.createQueryBuilder("c").where("c.id BETWEEN :a AND :b", { a: id, b: id + 3 }).orderBy("c.id").getMany();

await run("typeorm", {
  save: async (city, id) => {
    const found = await one(id);
    found.city = city;
    await clients.save(found);
  },
  save_plain_object: async (city, id) => {
    const { version, updated_at, ...found } = await one(id);
    await clients.save({ ...found, city });
  },
  save_many: async (city, id) => {
    await clients.save((await some(id)).map((found) => ({ ...found, city })), { chunk: 2 });
  },
  update: async (city, id) => {
    const done = await clients.update({ id: String(id) }, { ...values(await one(id)), city });
    same(done.affected, 1);
  },
  query_builder: async (city, id) => {
    const found = await one(id);
    const done = await clients.createQueryBuilder().update().set({ ...values(found), city }).whereEntity(found).returning(["pan", "phone"]).execute();
    same([done.raw[0].phone, done.raw[0].pan], [found.phone, found.pan]);
  },
  in_transaction: async (city, id) => {
    await source.transaction(async (manager) => {
      const found = await manager.findOneOrFail(Client, { where: { id: String(id) }, lock: { mode: "pessimistic_write" } });
      await manager.update(Client, { id: String(id) }, { ...values(found), city });
      const again = await manager.findOneByOrFail(Client, { id: String(id) });
      same(values(again), { ...values(found), city });
    });
  },
  upsert: async (city, id) => {
    await clients.upsert((await some(id)).map((found) => ({ ...values(found), id: found.id, city })), ["id"]);
  },
  new_phone: async (city, id) => {
    const found = await one(id);
    await clients.save(Object.assign(found, { city, phone: "13811119999" }));
  },
  new_pan: async (city, id) => {
    const found = await one(id);
    await clients.update({ id: String(id) }, { ...values(found), city, pan: "4929000011119999" });
  },
});
await source.destroy();

// -- Sequelize ----------------------------------------------------------------------------------------------------------------------

const sequelize = new Sequelize(COMMON.database, E.ORM_USER, undefined, { ...COMMON, dialect: "postgres", logging: false });
const nullable = (type) => ({ type, allowNull: true });
const Person = sequelize.define(
  "Person",
  {
    id: { type: DataTypes.BIGINT, primaryKey: true },
    name: DataTypes.STRING(80),
    phone: nullable(DataTypes.STRING(20)),
    email: nullable(DataTypes.STRING(120)),
    birth_date: nullable(DataTypes.DATEONLY),
    income: nullable(DataTypes.DECIMAL(12, 2)),
    notes: nullable(DataTypes.TEXT),
    pan: nullable(DataTypes.STRING(19)),
    expires_on: nullable(DataTypes.DATEONLY),
    credit: nullable(DataTypes.DECIMAL(12, 2)),
    city: nullable(DataTypes.TEXT),
  },
  { tableName: "clients", timestamps: true, createdAt: false, updatedAt: "updated_at", version: true },
);
const between = (id) => ({ where: { id: { [Sequelize.Op.between]: [id, id + 3] } }, order: [["id", "ASC"]] });
const touched = (found, more) => {
  Object.assign(found, more);
  for (const name of WHOLE) found.changed(name, true);
  return found;
};

await run("sequelize", {
  save: async (city, id) => {
    const found = await Person.findByPk(id);
    found.city = city;
    await found.save();
  },
  save_all_fields: async (city, id) => {
    const found = touched(await Person.findByPk(id), { city });
    await found.save({ fields: WHOLE });
  },
  save_twice_and_reload: async (city, id) => {
    const found = touched(await Person.findByPk(id), { city: "first" });
    await found.save();
    await touched(found, { city }).save({ returning: true });
    const before = values(found);
    await found.reload();
    same(values(found), before);
  },
  update: async (city, id) => {
    const found = await Person.findByPk(id);
    const [count] = await Person.update({ ...values(found), city }, { where: { id } });
    same(count, 1);
  },
  update_returning: async (city, id) => {
    const found = await Person.findByPk(id);
    const [, changed] = await Person.update({ ...values(found), city }, { where: { id }, returning: true });
    same(changed[0].pan, found.pan);
  },
  in_transaction: async (city, id) => {
    await sequelize.transaction(async (transaction) => {
      const found = await Person.findByPk(id, { transaction, lock: true });
      await touched(found, { city }).save({ transaction });
    });
  },
  find_or_create: async (city, id) => {
    const [found, created] = await Person.findOrCreate({ where: { id }, defaults: { name: "nobody" } });
    same(created, false);
    await touched(found, { city }).save();
  },
  upsert: async (city, id) => {
    const found = await Person.findByPk(id);
    await Person.upsert({ ...values(found), id, city });
  },
  bulk_create: async (city, id) => {
    const found = await Person.findAll(between(id));
    await Person.bulkCreate(found.map((f) => ({ ...values(f), id: f.id, city })), { updateOnDuplicate: WHOLE });
  },
  new_phone: async (city, id) => {
    const found = await Person.findByPk(id);
    await touched(found, { city, phone: "13811119999" }).save();
  },
  new_pan: async (city, id) => {
    const found = await Person.findByPk(id);
    found.city = city;
    found.pan = "4929000011119999";
    await found.save();
  },
});
await sequelize.close();

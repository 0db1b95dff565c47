"""What tools ask of the catalogs, as they write it: drivers, ORMs, BI tools, psql. Without the numbers of objects, which differ."""

from __future__ import annotations

from typing import Final

# Each in the shape in which its tool sends it: joins, qualifications, stars, sublinks and unusual names matter, the select list less.
OF_TOOLS: Final = {
    "psql-dn": """SELECT n.nspname AS "Name", pg_catalog.pg_get_userbyid(n.nspowner) AS "Owner"
        FROM pg_catalog.pg_namespace n WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' ORDER BY 1;""",
    "psql-d": """SELECT n.nspname as "Schema", c.relname as "Name",
        CASE c.relkind WHEN 'r' THEN 'table' WHEN 'v' THEN 'view' WHEN 'S' THEN 'sequence' END as "Type",
        pg_catalog.pg_get_userbyid(c.relowner) as "Owner"
        FROM pg_catalog.pg_class c LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        LEFT JOIN pg_catalog.pg_am am ON am.oid = c.relam
        WHERE c.relkind IN ('r','p','v','m','S','f','') AND n.nspname <> 'pg_catalog' AND n.nspname !~ '^pg_toast'
        AND n.nspname <> 'information_schema' ORDER BY 1,2;""",
    "psql-d-table": """SELECT a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod),
        (SELECT pg_catalog.pg_get_expr(d.adbin, d.adrelid, true) FROM pg_catalog.pg_attrdef d
          WHERE d.adrelid = a.attrelid AND d.adnum = a.attnum AND a.atthasdef), a.attnotnull,
        (SELECT c.collname FROM pg_catalog.pg_collation c, pg_catalog.pg_type t
          WHERE c.oid = a.attcollation AND t.oid = a.attcollation AND a.attcollation <> t.typcollation) AS attcollation,
        a.attidentity, a.attgenerated, a.attstorage, pg_catalog.col_description(a.attrelid, a.attnum)
        FROM pg_catalog.pg_attribute a WHERE a.attrelid = 'public.cards'::regclass AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum;""",
    "psql-indexes": """SELECT c2.relname, i.indisprimary, i.indisunique, pg_catalog.pg_get_indexdef(i.indexrelid, 0, true)
        FROM pg_catalog.pg_class c, pg_catalog.pg_class c2, pg_catalog.pg_index i
        LEFT JOIN pg_catalog.pg_constraint con ON (conrelid = i.indrelid AND conindid = i.indexrelid AND contype IN ('p','u','x'))
        WHERE c.oid = 'cards'::regclass AND c.oid = i.indrelid AND i.indexrelid = c2.oid ORDER BY i.indisprimary DESC, c2.relname;""",
    "psql-index-columns": """SELECT c.relname, a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod)
        FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
        WHERE c.relkind = 'i' AND c.relnamespace = 'public'::regnamespace""",
    "psql-completion": """SELECT pg_catalog.quote_ident(c.relname) FROM pg_catalog.pg_class c WHERE c.relkind IN ('r', 'v')
        AND (pg_catalog.quote_ident(c.relname)) LIKE 'c%' AND pg_catalog.pg_table_is_visible(c.oid)
        UNION ALL SELECT NULL::pg_catalog.text WHERE false
        UNION SELECT pg_catalog.quote_ident(n.nspname) || '.' FROM pg_catalog.pg_namespace n
        WHERE pg_catalog.quote_ident(n.nspname) || '.' LIKE 'p%' LIMIT 1000""",
    "psql-df": """SELECT n.nspname, p.proname, pg_catalog.pg_get_function_result(p.oid)
        FROM pg_catalog.pg_proc p LEFT JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
        WHERE n.nspname <> 'pg_catalog' AND n.nspname <> 'information_schema'""",
    "psql-dT": """SELECT n.nspname, pg_catalog.format_type(t.oid, NULL) AS "Name", pg_catalog.obj_description(t.oid, 'pg_type')
        FROM pg_catalog.pg_type t LEFT JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
        WHERE (t.typrelid = 0 OR (SELECT c.relkind = 'c' FROM pg_catalog.pg_class c WHERE c.oid = t.typrelid))
        AND NOT EXISTS(SELECT 1 FROM pg_catalog.pg_type el WHERE el.oid = t.typelem AND el.typarray = t.oid)
        AND n.nspname <> 'pg_catalog' AND n.nspname <> 'information_schema'""",
    "psql-dD": """SELECT n.nspname, t.typname FROM pg_catalog.pg_type t LEFT JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
        WHERE t.typtype = 'd' AND n.nspname <> 'pg_catalog' AND n.nspname <> 'information_schema'""",
    "psql-triggers": """SELECT t.tgname, pg_catalog.pg_get_triggerdef(t.oid, true), t.tgenabled FROM pg_catalog.pg_trigger t
        WHERE (NOT t.tgisinternal OR (t.tgisinternal AND t.tgenabled = 'D'))""",
    "jdbc-tables": """SELECT current_database() AS "TABLE_CAT", n.nspname AS "TABLE_SCHEM", c.relname AS "TABLE_NAME", d.description AS "REMARKS"
        FROM pg_catalog.pg_namespace n, pg_catalog.pg_class c
        LEFT JOIN pg_catalog.pg_description d ON (c.oid = d.objoid AND d.objsubid = 0 and d.classoid = 'pg_class'::regclass)
        WHERE c.relnamespace = n.oid AND n.nspname NOT LIKE 'pg_toast%' AND c.relkind IN ('r', 'v', 'p') ORDER BY 2, 3""",
    "jdbc-columns": """SELECT * FROM (SELECT current_database() AS current_database, n.nspname, c.relname, a.attname,
        a.atttypid::regtype::text AS type, a.attnotnull OR (t.typtype = 'd' AND t.typnotnull) AS attnotnull, a.atttypmod, a.attlen, t.typtypmod,
        row_number() OVER (PARTITION BY a.attrelid ORDER BY a.attnum) AS attnum, nullif(a.attidentity, '') as attidentity,
        pg_catalog.pg_get_expr(def.adbin, def.adrelid) AS adsrc, dsc.description, t.typbasetype::regtype::text AS base, t.typtype
        FROM pg_catalog.pg_namespace n JOIN pg_catalog.pg_class c ON (c.relnamespace = n.oid)
        JOIN pg_catalog.pg_attribute a ON (a.attrelid = c.oid) JOIN pg_catalog.pg_type t ON (a.atttypid = t.oid)
        LEFT JOIN pg_catalog.pg_attrdef def ON (a.attrelid = def.adrelid AND a.attnum = def.adnum)
        LEFT JOIN pg_catalog.pg_description dsc ON (c.oid = dsc.objoid AND a.attnum = dsc.objsubid)
        LEFT JOIN pg_catalog.pg_class dc ON (dc.oid = dsc.classoid AND dc.relname = 'pg_class')
        LEFT JOIN pg_catalog.pg_namespace dn ON (dc.relnamespace = dn.oid AND dn.nspname = 'pg_catalog')
        WHERE c.relkind in ('r','p','v','f','m') and a.attnum > 0 AND NOT a.attisdropped AND n.nspname LIKE 'public') c
        WHERE true ORDER BY nspname, c.relname, attnum""",
    "jdbc-keys": """SELECT result."TABLE_NAME", result."COLUMN_NAME", result."KEY_SEQ", result."PK_NAME" FROM
        (SELECT n.nspname AS "TABLE_SCHEM", ct.relname AS "TABLE_NAME", a.attname AS "COLUMN_NAME",
        (information_schema._pg_expandarray(i.indkey)).n AS "KEY_SEQ", ci.relname AS "PK_NAME",
        information_schema._pg_expandarray(i.indkey) AS "KEYS", a.attnum AS "A_ATTNUM"
        FROM pg_catalog.pg_class ct JOIN pg_catalog.pg_attribute a ON (ct.oid = a.attrelid)
        JOIN pg_catalog.pg_namespace n ON (ct.relnamespace = n.oid)
        JOIN pg_catalog.pg_index i ON ( a.attrelid = i.indrelid) JOIN pg_catalog.pg_class ci ON (ci.oid = i.indexrelid)
        WHERE true AND i.indisprimary ) result where result."A_ATTNUM" = (result."KEYS").x AND result."TABLE_SCHEM" = 'public'""",
    "npgsql-types": """SELECT ns.nspname, t.typname, t.typtype, t.typnotnull, t.elemtypoid::regtype::text FROM (
        SELECT typ.oid, typ.typnamespace, typ.typname, typ.typtype, typ.typrelid, typ.typnotnull, typ.relkind,
        CASE WHEN elemproc.proname='array_recv' THEN typ.typelem WHEN typ.typtype='d' THEN typ.typbasetype END AS elemtypoid
        FROM (SELECT typ.oid, typnamespace, typname, typrelid, typnotnull, relkind, typelem, typreceive, typbasetype,
              CASE WHEN proc.proname='array_recv' THEN 'a' ELSE typ.typtype END AS typtype
              FROM pg_type AS typ LEFT JOIN pg_class AS cls ON (cls.oid = typ.typrelid)
              LEFT JOIN pg_proc AS proc ON proc.oid = typ.typreceive) AS typ
        LEFT JOIN pg_proc AS elemproc ON elemproc.oid = typ.typreceive) AS t
        JOIN pg_namespace AS ns ON (ns.oid = t.typnamespace) WHERE t.typtype IN ('b', 'r', 'e', 'd', 'a')""",
    "npgsql-fields": """SELECT att.attname, format_type(att.atttypid, att.atttypmod) FROM pg_type AS typ
        JOIN pg_namespace AS ns ON (ns.oid = typ.typnamespace) JOIN pg_class AS cls ON (cls.oid = typ.typrelid)
        JOIN pg_attribute AS att ON (att.attrelid = typ.typrelid)
        WHERE (typ.typtype = 'c' AND cls.relkind='r') AND attnum > 0 AND NOT attisdropped AND ns.nspname = 'public'""",
    "sqlalchemy-columns": """SELECT pg_catalog.pg_attribute.attname AS name,
        pg_catalog.format_type(pg_catalog.pg_attribute.atttypid, pg_catalog.pg_attribute.atttypmod) AS format_type,
        (SELECT pg_catalog.pg_get_expr(pg_catalog.pg_attrdef.adbin, pg_catalog.pg_attrdef.adrelid) AS pg_get_expr_1
         FROM pg_catalog.pg_attrdef WHERE pg_catalog.pg_attrdef.adrelid = pg_catalog.pg_attribute.attrelid
         AND pg_catalog.pg_attrdef.adnum = pg_catalog.pg_attribute.attnum AND pg_catalog.pg_attribute.atthasdef) AS "default",
        pg_catalog.pg_attribute.attnotnull AS not_null, pg_catalog.pg_class.relname AS table_name
        FROM pg_catalog.pg_class LEFT OUTER JOIN pg_catalog.pg_attribute
        ON pg_catalog.pg_class.oid = pg_catalog.pg_attribute.attrelid AND pg_catalog.pg_attribute.attnum > 0
        AND NOT pg_catalog.pg_attribute.attisdropped
        JOIN pg_catalog.pg_namespace ON pg_catalog.pg_namespace.oid = pg_catalog.pg_class.relnamespace
        WHERE pg_catalog.pg_class.relkind = ANY (ARRAY['r', 'p', 'f', 'v', 'm'])
        AND pg_catalog.pg_table_is_visible(pg_catalog.pg_class.oid) AND pg_catalog.pg_namespace.nspname != 'pg_catalog'
        ORDER BY pg_catalog.pg_class.relname, pg_catalog.pg_attribute.attnum""",
    "sqlalchemy-domains": """SELECT t.typname AS name, pg_catalog.format_type(t.typbasetype, t.typtypmod) AS attype, n.nspname
        FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
        LEFT OUTER JOIN (SELECT pg_catalog.pg_constraint.contypid AS contypid, array_agg(pg_catalog.pg_constraint.conname) AS condefs
         FROM pg_catalog.pg_constraint WHERE pg_catalog.pg_constraint.contypid != 0 GROUP BY pg_catalog.pg_constraint.contypid) AS d
        ON t.oid = d.contypid WHERE t.typtype = 'd' AND n.nspname != 'information_schema'""",
    "django-tables": """SELECT c.relname, CASE WHEN c.relispartition THEN 'p' WHEN c.relkind IN ('m', 'v') THEN 'v' ELSE 't' END,
        obj_description(c.oid, 'pg_class') FROM pg_catalog.pg_class c LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind IN ('f', 'm', 'p', 'r', 'v') AND n.nspname NOT IN ('pg_catalog', 'pg_toast') AND pg_catalog.pg_table_is_visible(c.oid)""",
    "django-columns": """SELECT a.attname AS column_name, NOT (a.attnotnull OR (t.typtype = 'd' AND t.typnotnull)) AS is_nullable,
        pg_get_expr(ad.adbin, ad.adrelid) AS column_default, CASE WHEN collname = 'default' THEN NULL ELSE collname END AS collation,
        a.attidentity != '' AS is_autofield, col_description(a.attrelid, a.attnum) AS column_comment
        FROM pg_attribute a LEFT JOIN pg_attrdef ad ON a.attrelid = ad.adrelid AND a.attnum = ad.adnum
        LEFT JOIN pg_collation co ON a.attcollation = co.oid JOIN pg_type t ON a.atttypid = t.oid JOIN pg_class c ON a.attrelid = c.oid
        JOIN pg_namespace n ON c.relnamespace = n.oid
        WHERE c.relkind IN ('f', 'm', 'p', 'r', 'v') AND c.relname = 'cards' AND n.nspname NOT IN ('pg_catalog', 'pg_toast')
        AND pg_catalog.pg_table_is_visible(c.oid)""",
    "rails-columns": """SELECT a.attname, format_type(a.atttypid, a.atttypmod), pg_get_expr(d.adbin, d.adrelid), a.attnotnull, a.atttypid::regtype::text,
        a.atttypmod, c.collname, col_description(a.attrelid, a.attnum) AS comment, attidentity AS identity, attgenerated as attgenerated
        FROM pg_attribute a LEFT JOIN pg_attrdef d ON a.attrelid = d.adrelid AND a.attnum = d.adnum
        LEFT JOIN pg_type t ON a.atttypid = t.oid LEFT JOIN pg_collation c ON a.attcollation = c.oid AND a.attcollation <> t.typcollation
        WHERE a.attrelid = '"accounts"'::regclass AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum""",
    "hibernate-columns": """select * from information_schema.columns where table_schema = 'public' order by table_name, column_name, ordinal_position""",
    "directus-columns": """SELECT c.table_name, c.column_name, c.column_default, c.data_type, c.character_maximum_length, c.is_generated, c.generation_expression,
        c.numeric_precision, c.numeric_scale, c.is_nullable, c.table_schema, pg.indisunique
        FROM information_schema.columns c LEFT JOIN LATERAL (SELECT i.indisunique FROM pg_index i
        WHERE i.indrelid = format('%I.%I', c.table_schema, c.table_name)::regclass AND i.indisprimary) pg ON true WHERE c.table_schema IN ('public')""",
    "typeorm-columns": """SELECT columns.*, pg_catalog.col_description(('"' || table_catalog || '"."' || table_schema || '"."' || table_name || '"')::regclass::oid,
        ordinal_position) AS description, ('"' || "udt_schema" || '"."' || "udt_name" || '"')::"regtype" AS "regtype",
        pg_catalog.format_type("col_attr"."atttypid", "col_attr"."atttypmod") AS "format_type"
        FROM "information_schema"."columns" LEFT JOIN "pg_catalog"."pg_attribute" AS "col_attr" ON "col_attr"."attname" = "columns"."column_name"
        AND "col_attr"."attrelid" = (SELECT "cls"."oid" FROM "pg_catalog"."pg_class" AS "cls"
        LEFT JOIN "pg_catalog"."pg_namespace" AS "ns" ON "ns"."oid" = "cls"."relnamespace"
        WHERE "cls"."relname" = "columns"."table_name" AND "ns"."nspname" = "columns"."table_schema")
        WHERE ("table_schema" = 'public' AND "table_name" = 'cards')""",
    "prisma-columns": """SELECT oid.namespace, info.table_name, info.column_name, format_type(att.atttypid, att.atttypmod) as formatted_type,
        info.numeric_precision, info.numeric_scale, info.datetime_precision, info.data_type, info.udt_name as full_data_type, info.is_nullable
        FROM information_schema.columns info JOIN pg_attribute att ON att.attname = info.column_name
        JOIN (SELECT pg_class.oid, relname, pg_namespace.nspname as namespace FROM pg_class
              JOIN pg_namespace on pg_namespace.oid = pg_class.relnamespace AND pg_namespace.nspname = ANY (ARRAY['public'])
              WHERE reltype > 0) as oid
        ON oid.oid = att.attrelid AND relname = info.table_name AND namespace = info.table_schema""",
    "sequelize-tables": """SELECT table_name FROM information_schema.tables WHERE table_schema = 'public' AND table_type LIKE '%TABLE'
        AND table_name != 'spatial_ref_sys'""",
    "sequelize-describe": """SELECT pk.constraint_type as "Constraint", c.column_name as "Field", c.column_default as "Default", c.is_nullable as "Null",
        (CASE WHEN c.udt_name = 'hstore' THEN c.udt_name ELSE c.data_type END)
        || (CASE WHEN c.character_maximum_length IS NOT NULL THEN '(' || c.character_maximum_length || ')' ELSE '' END) as "Type",
        (SELECT array_agg(e.enumlabel) FROM pg_catalog.pg_type t JOIN pg_catalog.pg_enum e ON t.oid=e.enumtypid WHERE t.typname=c.udt_name) AS "special"
        FROM information_schema.columns c LEFT JOIN (SELECT tc.table_schema, tc.table_name, cu.column_name, tc.constraint_type
        FROM information_schema.TABLE_CONSTRAINTS tc JOIN information_schema.KEY_COLUMN_USAGE cu
        ON tc.table_schema=cu.table_schema and tc.table_name=cu.table_name and tc.constraint_name=cu.constraint_name
        and tc.constraint_type='PRIMARY KEY') pk ON pk.table_schema=c.table_schema AND pk.table_name=c.table_name
        AND pk.column_name=c.column_name WHERE c.table_name = 'accounts' AND c.table_schema = 'public'""",
    "metabase-tables": """with table_privileges as (select NULL as role, t.schemaname as schema, t.objectname as table,
        pg_catalog.has_any_column_privilege(current_user, '"' || t.schemaname || '"."' || t.objectname || '"', 'SELECT') as select
        from (select schemaname, tablename as objectname from pg_catalog.pg_tables
              union select schemaname, viewname as objectname from pg_catalog.pg_views
              union select schemaname, matviewname as objectname from pg_catalog.pg_matviews) t
        where t.schemaname !~ '^pg_' and t.schemaname <> 'information_schema' and pg_catalog.has_schema_privilege(current_user, t.schemaname, 'USAGE'))
        select t.* from table_privileges t""",
    "metabase-fields": """SELECT c.column_name AS name, c.udt_name AS "database-type", c.ordinal_position - 1 AS "database-position", c.table_schema, c.table_name,
        pk.column_name IS NOT NULL AS "pk?", col_description(CAST(CAST(format('%I.%I', CAST(c.table_schema AS text), CAST(c.table_name AS text)) AS regclass) AS oid),
        c.ordinal_position) AS "field-comment", c.is_nullable <> 'NO' AS nullable
        FROM information_schema.columns AS c LEFT JOIN (SELECT tc.table_schema, tc.table_name, kc.column_name
         FROM information_schema.table_constraints AS tc INNER JOIN information_schema.key_column_usage AS kc
         ON (tc.constraint_name = kc.constraint_name) AND (tc.table_schema = kc.table_schema) AND (tc.table_name = kc.table_name)
         WHERE tc.constraint_type = 'PRIMARY KEY') AS pk
        ON (c.table_schema = pk.table_schema) AND (c.table_name = pk.table_name) AND (c.column_name = pk.column_name)
        WHERE c.table_schema !~ '^information_schema|catalog_history|pg_'
        UNION ALL SELECT pa.attname, pg_catalog.format_type(pa.atttypid, pa.atttypmod), pa.attnum - 1, pn.nspname, pc.relname, FALSE, NULL, NOT pa.attnotnull
        FROM pg_catalog.pg_class AS pc INNER JOIN pg_catalog.pg_namespace AS pn ON pn.oid = pc.relnamespace
        INNER JOIN pg_catalog.pg_attribute AS pa ON pa.attrelid = pc.oid WHERE (pc.relkind = 'm') AND (pa.attnum >= 1)""",
    "dbeaver-schemas": """SELECT n.nspname, n.nspacl, d.description FROM pg_catalog.pg_namespace n
        LEFT OUTER JOIN pg_catalog.pg_description d ON d.objoid=n.oid AND d.objsubid=0 AND d.classoid='pg_namespace'::regclass
        WHERE n.nspname <> 'public' ORDER BY nspname""",
    "dbeaver-columns": """SELECT c.relname,a.attname,a.atttypmod,format_type(a.atttypid, a.atttypmod),pg_catalog.pg_get_expr(ad.adbin, ad.adrelid, true) as def_value,
        dsc.description FROM pg_catalog.pg_attribute a INNER JOIN pg_catalog.pg_class c ON (a.attrelid=c.oid)
        LEFT OUTER JOIN pg_catalog.pg_attrdef ad ON (a.attrelid=ad.adrelid AND a.attnum = ad.adnum)
        LEFT OUTER JOIN pg_catalog.pg_description dsc ON (c.oid=dsc.objoid AND a.attnum = dsc.objsubid)
        WHERE NOT a.attisdropped AND c.relkind not in ('i','I','c') AND c.relnamespace='public'::regnamespace ORDER BY a.attnum""",
    "datagrip-columns": """with T as ( select distinct T.oid as table_id, T.relname from pg_catalog.pg_class T
        where T.relnamespace = 'public'::regnamespace and T.relkind in ('r', 'm', 'v', 'f', 'p') )
        select T.relname, C.attnum as column_position, C.attname as column_name, C.xmin is null as column_state_number, C.atttypmod as type_mod,
        C.attndims as dimensions_number, pg_catalog.format_type(C.atttypid, C.atttypmod) as type_spec, C.attnotnull as mandatory
        from T join pg_catalog.pg_attribute C on T.table_id = C.attrelid where attnum > 0 order by table_id, attnum""",
    "datagrip-schemas": """select N.xmin is null as state_number, nspname as name, D.description, pg_catalog.pg_get_userbyid(N.nspowner) as "owner"
        from pg_catalog.pg_namespace N left join pg_catalog.pg_description D on N.oid = D.objoid order by nspname""",
    "postgraphile-introspection": """with namespaces as (select pg_namespace.oid as _id, pg_namespace.* from pg_catalog.pg_namespace
         where nspname <> 'information_schema' and nspname not like 'pg\\_%'),
        classes as (select pg_class.oid as _id, pg_class.* from pg_catalog.pg_class where relnamespace in (select namespaces._id from namespaces)),
        attributes as (select pg_attribute.* from pg_catalog.pg_attribute where attrelid in (select classes._id from classes) and attnum > 0),
        types as (select pg_type.oid as _id, pg_type.* from pg_catalog.pg_type where typnamespace in (select namespaces._id from namespaces))
        select (select json_agg(nspname order by nspname) from namespaces)::text, (select json_agg(relname order by relname) from classes)::text,
        (select json_agg(json_build_array(relname, attname, format_type(atttypid, atttypmod)) order by relname, attnum)
           from attributes join classes on classes._id = attrelid)::text, (select json_agg(typname order by typname) from types)::text""",
    "asyncpg-types": """WITH RECURSIVE typeinfo_tree(oid, name, kind, depth) AS (
        SELECT t.oid, t.typname, t.typtype, 0 FROM pg_catalog.pg_type AS t INNER JOIN pg_catalog.pg_namespace ns ON (ns.oid = t.typnamespace)
        WHERE ns.nspname = 'public' UNION ALL SELECT t.oid, t.typname, t.typtype, tt.depth + 1 FROM pg_catalog.pg_type t, typeinfo_tree tt
        WHERE t.oid = tt.oid AND tt.depth < 1) SELECT DISTINCT name, kind, depth FROM typeinfo_tree ORDER BY depth DESC""",
    "knex-has-column": """select column_name from information_schema.columns where table_name = 'customers' and table_schema = current_schema()
        and column_name = 'phone'""",
    "flyway-empty": """SELECT EXISTS ( SELECT c.oid FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        LEFT JOIN pg_catalog.pg_depend d ON d.objid = c.oid AND d.deptype = 'e' WHERE n.nspname = 'pgveil' AND d.objid IS NULL
        AND c.relkind IN ('r', 'v', 'S', 't') UNION ALL SELECT t.oid FROM pg_catalog.pg_type t
        JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace WHERE n.nspname = 'pgveil')""",
    "ef-core-columns": """SELECT nspname, cls.relname, attname, description, format_type(typ.oid, atttypmod) AS formatted_typname,
        format_type(basetyp.oid, typ.typtypmod) AS formatted_basetypname, attisdropped, attidentity::text
        FROM pg_class AS cls JOIN pg_namespace AS ns ON ns.oid = cls.relnamespace LEFT JOIN pg_attribute AS attr ON attrelid = cls.oid
        LEFT JOIN pg_type AS typ ON attr.atttypid = typ.oid LEFT JOIN pg_proc ON pg_proc.oid = typ.typreceive
        LEFT JOIN pg_type AS elemtyp ON (elemtyp.oid = typ.typelem) LEFT JOIN pg_type AS basetyp ON (basetyp.oid = typ.typbasetype)
        LEFT JOIN pg_description AS des ON des.objoid = cls.oid AND des.objsubid = attnum LEFT JOIN pg_attrdef AS def ON adrelid = cls.oid AND adnum = attnum
        WHERE relkind IN ('r', 'v', 'm', 'f') AND nspname NOT IN ('pg_catalog', 'information_schema') AND attnum > 0
        AND NOT EXISTS (SELECT 1 FROM pg_depend WHERE classid = 'pg_class'::regclass AND objid = cls.oid AND deptype IN ('e', 'x'))""",
}

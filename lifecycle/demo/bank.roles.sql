-- The bank's posts as ordinary PostgreSQL roles, with ordinary grants. Roles belong to the whole server, so they may be there already.
DO $$
DECLARE
    login text;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'call_centre') THEN
        CREATE ROLE call_centre NOLOGIN;
    END IF;
    FOREACH login IN ARRAY ARRAY['app', 'teller', 'agent', 'analyst', 'dba'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = login) THEN
            EXECUTE format('CREATE ROLE %I LOGIN', login);
        END IF;
    END LOOP;
END
$$;
GRANT call_centre TO agent;

GRANT USAGE ON SCHEMA public TO app, teller, call_centre, analyst, dba;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO app, dba;
GRANT SELECT, INSERT, UPDATE ON public.customers, public.accounts, public.cards TO teller;
GRANT SELECT ON public.orders, public.reviews, public.support_tickets TO teller;
GRANT SELECT ON public.customers, public.accounts, public.cards, public.orders, public.reviews TO call_centre;
GRANT SELECT, INSERT, UPDATE ON public.support_tickets TO call_centre;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO analyst;
GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO app, teller, call_centre, dba;

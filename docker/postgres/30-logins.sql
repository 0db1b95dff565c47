-- Run once by the image's entry point, after the bank's tables and roles. Passwords come from the environment, never from a file here.
\getenv catalog_password PGVEIL_CATALOG_PASSWORD
\getenv app_password APP_PASSWORD
\getenv staff_password STAFF_PASSWORD

CREATE ROLE pgveil LOGIN PASSWORD :'catalog_password';
ALTER ROLE app PASSWORD :'app_password';
ALTER ROLE teller PASSWORD :'staff_password';
ALTER ROLE agent PASSWORD :'staff_password';
ALTER ROLE analyst PASSWORD :'staff_password';
ALTER ROLE dba PASSWORD :'staff_password';

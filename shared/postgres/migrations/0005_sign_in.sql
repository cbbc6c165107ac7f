-- Ways to say who one is beside API keys: personal tokens, sessions after a password, and tokens of an
-- identity provider. Whatever has a secret of ours is a row of api_keys, so that one look-up, one
-- check of open streams and one revocation serve all kinds.

alter table api_keys
    add column token_type text not null default 'api_key'
        check (token_type in ('api_key', 'pat', 'session')),
    add column last_used_at timestamptz;
-- A user's own list, newest first; ids rise with time.
create index api_keys_by_user on api_keys (tenant_id, user_id, id desc);

-- A disabled tenant or user keeps everything and may do nothing.
alter table tenants
    add column slug text,
    add column disabled_at timestamptz;
update tenants t
set slug = case
    when count_of_slug.n = 1 and base.slug <> '' then base.slug
    else concat_ws('-', nullif(base.slug, ''), right(t.id::text, 12))
end
from
    (
        select id, left(trim(both '-' from regexp_replace(lower(name), '[^a-z0-9]+', '-', 'g')), 48) as slug
        from tenants
    ) base
    join (
        select
            left(trim(both '-' from regexp_replace(lower(name), '[^a-z0-9]+', '-', 'g')), 48) as slug,
            count(*) as n
        from tenants
        group by 1
    ) count_of_slug on count_of_slug.slug = base.slug
where base.id = t.id;
alter table tenants
    alter column slug set not null,
    -- who makes a tenant by hand need not find a free name
    alter column slug set default gen_random_uuid()::text,
    add constraint tenants_slug unique (slug);

alter table users
    add column password_hash text,
    add column subject text,
    add column locale text,
    add column disabled_at timestamptz;
create index users_by_email on users (lower(email));
-- Who an identity provider means by a subject, in one tenant.
create unique index users_by_subject on users (tenant_id, subject) where subject is not null;

-- Attempts to sign in that did not succeed, by a keyed hash of the address they named: an account that
-- does not exist counts like one that does. Of no tenant; the tenants' role cannot even read it.
create table login_attempts (
    account bytea primary key,
    attempts integer not null,
    until timestamptz not null
);
create index login_attempts_over on login_attempts (until);
grant select, insert, update, delete on login_attempts to turnkeep_engine;

-- Users and credentials are shown to the user alone, as threads are.
alter policy own_rows on users using ((
    tenant_id = (select nullif(current_setting('app.tenant', true), '')::uuid)
    and id = (select nullif(current_setting('app.user', true), '')::uuid)
) is true);
alter policy own_rows on api_keys using ((
    tenant_id = (select nullif(current_setting('app.tenant', true), '')::uuid)
    and user_id = (select nullif(current_setting('app.user', true), '')::uuid)
) is true);

grant select (id, name, slug) on tenants to turnkeep_tenant;
grant select (id, tenant_id, email, name, timezone, locale, created_at) on users to turnkeep_tenant;
grant update (name, timezone, locale) on users to turnkeep_tenant;
grant select (user_id, prefix, name, token_type, created_at, last_used_at) on api_keys to turnkeep_tenant;
grant insert (
    id, tenant_id, user_id, key_hash, prefix, name, token_type, expires_at
) on api_keys to turnkeep_tenant;
grant update (revoked_at) on api_keys to turnkeep_tenant;

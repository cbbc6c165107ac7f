-- name: add_tenant :one engine
-- Makes a tenant, under its short name or, when that is taken, one with an ending of its own.
-- $1 id  $2 name  $3 short name   -- scope: system
insert into tenants (id, name, slug)
values (
    $1, $2,
    case
        when $3 <> '' and not exists (select from tenants n where n.slug = $3 and n.id <> $1) then $3
        else concat_ws('-', nullif($3, ''), right($1::text, 12))
    end
)
on conflict (id) do update set name = excluded.name
returning id, slug;

-- name: lock_tenant :one engine
-- Lets nobody else make this tenant until the commit: of two at once, one would meet the other's short
-- name before its id. $1 tenant   -- scope: system
select pg_advisory_xact_lock(hashtextextended('tenant:' || $1::uuid::text, 0)) is null as locked;

-- name: find_tenant :one engine
-- A tenant by its short name or its id; the short name goes first. $1 short name  $2 id?
-- -- scope: system
select n.id, n.name, n.slug, n.disabled_at
from tenants n
where n.slug = $1 or n.id = $2::uuid
order by n.slug = $1 desc
limit 1;

-- name: list_tenants :many engine
-- All tenants, newest first.   -- scope: system
select n.id, n.name, n.slug, n.created_at, n.disabled_at
from tenants n
order by n.id desc;

-- name: set_tenant_disabled :one engine
-- Keeps a tenant out, or lets it in again. $1 tenant  $2 keep out   -- scope: system
update tenants n
set disabled_at = case when $2::boolean then coalesce(n.disabled_at, now()) end
where n.id = $1
returning n.id;

-- name: add_user :one engine
-- Makes a user; the same address again is the same user. The first of a tenant is its administrator.
-- $1 id  $2 tenant  $3 address  $4 name
insert into users (id, tenant_id, email, name, is_admin)
values ($1, $2, $3, $4, not exists (select from users u where u.tenant_id = $2))
on conflict (tenant_id, email) do update set name = excluded.name
returning id;

-- name: find_user :one engine
-- A user by address, however its letters are written; the exact one first. $1 tenant  $2 address
select u.id, u.email, u.disabled_at
from users u
where u.tenant_id = $1 and lower(u.email) = lower($2)
order by u.email = $2 desc
limit 1;

-- name: list_users :many engine
-- Users of one tenant, newest first. $1 tenant
select
    u.id, u.email, u.name, u.subject, u.is_admin, u.created_at, u.disabled_at,
    u.password_hash is not null as has_password
from users u
where u.tenant_id = $1
order by u.id desc;

-- name: set_user_disabled :one engine
-- Keeps a user out, or lets them in again. $1 user  $2 keep out   -- scope: system
update users u
set disabled_at = case when $2::boolean then coalesce(u.disabled_at, now()) end
where u.id = $1
returning u.id;

-- name: set_admin :one engine
-- Makes a user an administrator of their tenant, or takes that away. $1 user  $2 is one
-- scope: system
update users u
set is_admin = $2::boolean
where u.id = $1
returning u.id;

-- name: is_admin :one tenant
-- Whether a user is an administrator of their tenant. $1 tenant  $2 user
select u.is_admin
from users u
where u.id = $2 and u.tenant_id = $1;

-- name: set_subject :one engine
-- Whom a provider means by a subject; null: nobody. $1 user  $2 subject?   -- scope: system
update users u
set subject = $2
where u.id = $1
returning u.id;

-- name: set_password :one engine
-- A user's new password. $1 user  $2 hash   -- scope: system
update users u
set password_hash = $2
where u.id = $1
returning u.id;

-- name: end_sessions :one engine
-- Ends every session of a user; how many. After `set_password` in its transaction, and no part of it:
-- a session that begins meanwhile is seen by a later statement only. $1 user   -- scope: system
with ended as (
    update api_keys k
    set revoked_at = now()
    where k.user_id = $1 and k.token_type = 'session' and k.revoked_at is null
        and k.tenant_id = (select u.tenant_id from users u where u.id = $1)
    returning k.id
)
select count(*) as ended from ended;

-- name: set_limit :one engine
-- How many turns of a concurrency key may run at once. $1 tenant  $2 key  $3 most
insert into concurrency_limits (tenant_id, concurrency_key, max_running)
values ($1, $2, $3)
on conflict (tenant_id, concurrency_key) do update set max_running = excluded.max_running
returning max_running;

-- name: list_limits :many engine
-- A tenant's limits. $1 tenant
select l.concurrency_key, l.max_running
from concurrency_limits l
where l.tenant_id = $1
order by l.concurrency_key;

-- name: remove_limit :one engine
-- Back to one turn at a time; no row = there was no limit. $1 tenant  $2 key
delete from concurrency_limits l
where l.tenant_id = $1 and l.concurrency_key = $2
returning l.max_running;

-- name: get_me :one tenant
-- A user, their tenant, and the kind of the credential they used (null: a provider's token).
-- $1 tenant  $2 user  $3 credential
select
    u.id, u.email, u.name, u.timezone, u.locale, u.created_at,
    n.id as organization_id, n.name as organization_name, n.slug as organization_slug,
    (select k.token_type from api_keys k where k.id = $3 and (k.tenant_id = u.tenant_id) is true)
        as token_type
from users u
join tenants n on n.id = u.tenant_id
where u.id = $2 and (u.tenant_id = $1) is true;

-- name: update_user :one tenant
-- Changes what the flags name. $1 tenant  $2 user  $3/$4 name  $5/$6 time zone  $7/$8 locale
update users u
set name = case when $3::boolean then $4 else u.name end,
    timezone = case when $5::boolean then $6 else u.timezone end,
    locale = case when $7::boolean then $8 else u.locale end
where u.id = $2 and (u.tenant_id = $1) is true
returning u.id, u.email, u.name, u.timezone, u.locale, u.created_at;

-- name: list_user_names :many engine
-- Names of users of a tenant, for colleagues who see what they share. $1 tenant  $2 users
select u.id, u.name
from users u
where u.id = any($2::uuid[]) and (u.tenant_id = $1) is true;

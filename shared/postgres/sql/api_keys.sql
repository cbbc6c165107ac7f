-- name: find_api_key :one engine
-- The key a credential's hash stands for, with what may make it invalid. $1 hash   -- scope: system
select k.id, k.tenant_id, k.user_id, k.key_hash
from api_keys k
where k.key_hash = $1
    and k.revoked_at is null
    and (k.expires_at is null or k.expires_at > now());

-- name: is_api_key_valid :one tenant
-- Whether a key may still be used; asked after a long wait. $1 key  $2 tenant
select k.id
from api_keys k
where k.id = $1 and k.tenant_id = $2
    and k.revoked_at is null
    and (k.expires_at is null or k.expires_at > now());

-- name: list_valid_api_keys :many engine
-- Which of these keys may still be used; one question for all open streams. $1 keys
-- -- scope: system
select k.id
from api_keys k
where k.id = any($1::uuid[])
    and k.revoked_at is null
    and (k.expires_at is null or k.expires_at > now());

-- name: add_api_key :one engine
-- Writes a key down, or makes the same user's same secret valid again; no row = another user's.
-- $1 key  $2 tenant  $3 user  $4 hash  $5 first characters  $6 name
insert into api_keys (id, tenant_id, user_id, key_hash, prefix, name)
values ($1, $2, $3, $4, $5, $6)
on conflict (key_hash) do update set revoked_at = null, name = excluded.name
    where api_keys.tenant_id = excluded.tenant_id and api_keys.user_id = excluded.user_id
returning id;

-- name: revoke_api_key :one engine
-- Makes a key useless for good; no row = no such key. $1 key   -- scope: system
update api_keys k
set revoked_at = coalesce(k.revoked_at, now())
where k.id = $1
returning k.id;

-- name: list_api_keys :many engine
-- Keys of everybody or of one tenant, newest first. $1 tenant?
select
    k.id, k.tenant_id, k.prefix, k.name, k.created_at, k.expires_at, k.revoked_at,
    u.email, n.name as tenant
from api_keys k
join users u on u.id = k.user_id
join tenants n on n.id = k.tenant_id
where $1::uuid is null or k.tenant_id = $1
order by k.id desc;

-- name: find_user :one engine
-- A user by address. $1 tenant  $2 address
select u.id
from users u
where u.tenant_id = $1 and u.email = $2;

-- name: revoke_other_keys :many engine
-- Revokes the keys of one name but for one secret: the development key was changed.
-- $1 tenant  $2 name  $3 hash that stays
update api_keys k
set revoked_at = now()
where k.tenant_id = $1 and k.name = $2 and k.key_hash <> $3 and k.revoked_at is null
returning k.id;

-- name: add_tenant :one engine
-- Makes a tenant. $1 id  $2 name   -- scope: system
insert into tenants (id, name)
values ($1, $2)
on conflict (id) do update set name = excluded.name
returning id;

-- name: add_user :one engine
-- Makes a user; the same address again is the same user. $1 id  $2 tenant  $3 address  $4 name
insert into users (id, tenant_id, email, name)
values ($1, $2, $3, $4)
on conflict (tenant_id, email) do update set name = excluded.name
returning id;

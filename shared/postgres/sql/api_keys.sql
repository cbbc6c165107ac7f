-- name: find_api_key :one
-- The key a credential's hash stands for, with what may make it invalid. $1 hash   -- scope: system
select k.id, k.tenant_id, k.user_id, k.key_hash
from api_keys k
where k.key_hash = $1
    and k.revoked_at is null
    and (k.expires_at is null or k.expires_at > now());

-- name: is_api_key_valid :one
-- Whether a key may still be used; asked for open streams. $1 key  $2 tenant
select k.id
from api_keys k
where k.id = $1 and k.tenant_id = $2
    and k.revoked_at is null
    and (k.expires_at is null or k.expires_at > now());

-- name: add_api_key :one
-- Writes a key down, or makes the same user's same secret valid again; no row = another user's.
-- $1 key  $2 tenant  $3 user  $4 hash  $5 first characters  $6 name
insert into api_keys (id, tenant_id, user_id, key_hash, prefix, name)
values ($1, $2, $3, $4, $5, $6)
on conflict (key_hash) do update set revoked_at = null, name = excluded.name
    where api_keys.tenant_id = excluded.tenant_id and api_keys.user_id = excluded.user_id
returning id;

-- name: revoke_other_keys :many
-- Revokes the keys of one name but for one secret: the development key was changed.
-- $1 tenant  $2 name  $3 hash that stays
update api_keys k
set revoked_at = now()
where k.tenant_id = $1 and k.name = $2 and k.key_hash <> $3 and k.revoked_at is null
returning k.id;

-- name: add_tenant :one
-- Makes a tenant. $1 id  $2 name   -- scope: system
insert into tenants (id, name)
values ($1, $2)
on conflict (id) do update set name = excluded.name
returning id;

-- name: add_user :one
-- Makes a user; the same address again is the same user. $1 id  $2 tenant  $3 address  $4 name
insert into users (id, tenant_id, email, name)
values ($1, $2, $3, $4)
on conflict (tenant_id, email) do update set name = excluded.name
returning id;

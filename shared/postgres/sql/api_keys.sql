-- name: find_api_key :one engine
-- The credential a hash stands for; no row where anything makes it, or the one it was made with,
-- invalid. $1 hash   -- scope: system
select k.id, k.tenant_id, k.user_id, k.key_hash, k.token_type,
    k.token_type in ('pat', 'session') as is_self_made,
    k.workspaces, k.namespaces, k.permissions
from api_keys k
join users u on u.id = k.user_id
join tenants n on n.id = k.tenant_id
where k.key_hash = $1
    and k.revoked_at is null
    and (k.expires_at is null or k.expires_at > now())
    and (
        select p.revoked_at is null and (p.expires_at is null or p.expires_at > now())
        from api_keys p
        where p.id = k.parent_id
    ) is not false
    and u.disabled_at is null and n.disabled_at is null;

-- name: list_valid_credentials :many engine
-- Which of these may still be used: credentials of ours, and users by a provider's subject.
-- One question for all that a process has open. $1 credentials   -- scope: system
select k.id
from api_keys k
left join api_keys p on p.id = k.parent_id
join users u on u.id = k.user_id
join tenants n on n.id = k.tenant_id
where k.id = any($1::uuid[])
    and k.revoked_at is null
    and (k.expires_at is null or k.expires_at > now())
    and p.revoked_at is null
    and (p.expires_at is null or p.expires_at > now())
    and u.disabled_at is null and n.disabled_at is null
union all
select u.subject_id
from users u
join tenants n on n.id = u.tenant_id
where u.subject_id = any($1::uuid[])
    and u.disabled_at is null and n.disabled_at is null;

-- name: note_key_uses :exec engine
-- Writes down that these were used, to the minute. Rows that another process writes at this moment
-- are left to it: nobody waits, nobody deadlocks. $1 credentials   -- scope: system
update api_keys k
set last_used_at = now()
where k.id in (
    select u.id
    from api_keys u
    where u.id = any($1::uuid[])
        and coalesce(u.last_used_at, '-infinity') < now() - interval '50 s'
    for no key update skip locked
);

-- name: add_api_key :one engine
-- Writes a key down, or makes the same user's same secret valid again; no row = another user's.
-- $1 key  $2 tenant  $3 user  $4 hash  $5 first characters  $6 name  $7 kind
-- $8 workspaces, $9 namespaces, $10 permissions that it is restricted to, null: to none
insert into api_keys (
    id, tenant_id, user_id, key_hash, prefix, name, token_type, workspaces, namespaces, permissions
)
values ($1, $2, $3, $4, $5, $6, $7, $8::text[], $9::text[], $10::text[])
on conflict (key_hash) do update
    set revoked_at = null,
        name = excluded.name,
        workspaces = excluded.workspaces,
        namespaces = excluded.namespaces,
        permissions = excluded.permissions
    where api_keys.tenant_id = excluded.tenant_id
        and api_keys.user_id = excluded.user_id
        and api_keys.token_type = excluded.token_type
returning id;

-- name: revoke_api_key :one engine
-- Makes a key useless for good; no row = no such key. $1 key   -- scope: system
update api_keys k
set revoked_at = coalesce(k.revoked_at, now())
where k.id = $1
returning k.id;

-- name: list_api_keys :many engine
-- Credentials of everybody or of one tenant, newest first, without sessions. $1 tenant?
select
    k.id, k.tenant_id, k.prefix, k.name, k.token_type, k.created_at,
    least(
        k.expires_at, (select p.expires_at from api_keys p where p.id = k.parent_id)
    ) as expires_at,
    coalesce(
        k.revoked_at, (select p.revoked_at from api_keys p where p.id = k.parent_id)
    ) as revoked_at,
    k.last_used_at, u.email, n.slug as tenant, k.workspaces, k.namespaces, k.permissions
from api_keys k
join users u on u.id = k.user_id
join tenants n on n.id = k.tenant_id
where ($1::uuid is null or k.tenant_id = $1) and k.token_type <> 'session'
order by k.id desc;

-- name: revoke_other_keys :many engine
-- Revokes the keys of one name but for one secret: the development key was changed.
-- $1 tenant  $2 name  $3 hash that stays
update api_keys k
set revoked_at = now()
where k.tenant_id = $1 and k.name = $2 and k.key_hash <> $3 and k.revoked_at is null
returning k.id;

-- name: add_access_token :one tenant
-- A personal token, unless its user has as many valid ones as one may; no row then. $1 id  $2 tenant
-- $3 user  $4 hash  $5 first characters  $6 name  $7 days  $8 most  $9 key it ends with?
insert into api_keys (
    id, tenant_id, user_id, key_hash, prefix, name, token_type, expires_at, parent_id
)
select
    $1, $2, $3, $4, $5, $6, 'pat',
    least(
        now() + make_interval(days => $7), (select p.expires_at from api_keys p where p.id = $9)
    ),
    $9
where (
    select count(*)
    from api_keys k
    where k.tenant_id = $2 and k.user_id = $3 and k.token_type = 'pat'
        and k.revoked_at is null and k.expires_at > now()
        and (
            select p.revoked_at is null and (p.expires_at is null or p.expires_at > now())
            from api_keys p
            where p.id = k.parent_id
        ) is not false
) < $8::integer
returning id, name, prefix, token_type, created_at, expires_at, last_used_at, revoked_at;

-- name: list_access_tokens :many tenant
-- A user's keys and tokens, newest first, behind a place. $1 tenant  $2 user  $3 id?  $4 most
select
    k.id, k.name, k.prefix, k.token_type, k.created_at, k.last_used_at,
    least(
        k.expires_at, (select p.expires_at from api_keys p where p.id = k.parent_id)
    ) as expires_at,
    coalesce(
        k.revoked_at, (select p.revoked_at from api_keys p where p.id = k.parent_id)
    ) as revoked_at
from api_keys k
where k.tenant_id = $1 and k.user_id = $2 and k.token_type in ('api_key', 'pat')
    and k.id < coalesce($3::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
order by k.id desc
limit $4;

-- name: revoke_access_token :one tenant
-- Ends one of a user's own keys or tokens for good; no row = there is none. $1 id  $2 tenant  $3 user
update api_keys k
set revoked_at = coalesce(k.revoked_at, now())
where k.id = $1 and k.tenant_id = $2 and k.user_id = $3 and k.token_type in ('api_key', 'pat')
returning k.id;

-- name: purge_credentials :one engine
-- Forgets personal tokens and sessions that were revoked, or expired, long enough ago. Keys stay: an
-- operator lists them. $1 kept for s  $2 most   -- scope: system
with gone as (
    delete from api_keys k
    where k.id in (
        select o.id
        from api_keys o
        where o.token_type in ('pat', 'session')
            and least(o.revoked_at, o.expires_at) < now() - make_interval(secs => $1)
        order by least(o.revoked_at, o.expires_at)
        limit $2
        for update skip locked
    )
    returning 1
)
select count(*) as purged from gone;

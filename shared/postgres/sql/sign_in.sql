-- name: find_sign_in :many engine
-- Who may sign in under an address: at most two, for one more than one is already too many. Only A to
-- Z may be written as a to z: attempts are counted by that form, and each account has one of it. The
-- first condition is there for its index. $1 address  $2 short name of the tenant?   -- scope: system
select u.id, u.tenant_id, u.password_hash
from users u
join tenants n on n.id = u.tenant_id
where lower(u.email) = lower($1)
    and lower(u.email collate "C") = lower($1 collate "C") and u.password_hash is not null
    and ($2::text is null or n.slug = $2)
    and u.disabled_at is null and n.disabled_at is null
limit 2;

-- name: count_login_attempt :one engine
-- Counts an attempt before it is looked at, so that many at once are many. Windows that are over are
-- forgotten on the way. $1 hash of the account  $2 seconds of a window   -- scope: system
with forgotten as (
    delete from login_attempts
    where account in (
        select a.account
        from login_attempts a
        where a.until < now() and a.account <> $1
        order by a.until
        limit 10
        for update skip locked
    )
)
insert into login_attempts as a (account, attempts, until)
values ($1, 1, now() + make_interval(secs => $2))
on conflict (account) do update
    set attempts = case when a.until < now() then 1 else a.attempts + 1 end,
        until = case when a.until < now() then excluded.until else a.until end
returning attempts, extract(epoch from until - now())::double precision as left_s;

-- name: forget_login_attempts :exec engine
-- After a success. $1 hash of the account   -- scope: system
delete from login_attempts a
where a.account = $1;

-- name: add_session :one engine
-- A session, in place of the one the browser had. Sessions of the user that are long over go, and of
-- too many the oldest. $1 id $2 tenant $3 user $4 hash $5 shown $6 seconds $7 hash of the old $8 most
-- $9 hash of the password that was checked; no row = the user has another one by now. The lock makes
-- whoever changes it (`set_password`) wait, and see this session among those to end.
with known as materialized (
    select u.id
    from users u
    where u.id = $3 and (u.tenant_id = $2 and u.password_hash = $9) is true
    for share
),
gone as (
    delete from api_keys k
    where k.tenant_id = $2 and k.user_id = $3 and k.token_type = 'session'
        and (
            k.expires_at < now() - interval '1 day'
            or k.revoked_at < now() - interval '1 day'
            or k.id < (
                select s.id
                from api_keys s
                where s.tenant_id = $2 and s.user_id = $3 and s.token_type = 'session'
                order by s.id desc
                offset $8::integer - 2
                limit 1
            )
        )
),
-- whoever's it was: another user of the same browser has left it
replaced as (
    update api_keys k
    set revoked_at = now()
    where k.key_hash = $7 and k.token_type = 'session' and k.revoked_at is null
        and exists (select from known)
)
insert into api_keys (id, tenant_id, user_id, key_hash, prefix, name, token_type, expires_at)
select $1, $2, n.id, $4, $5, 'Sign-in', 'session', now() + make_interval(secs => $6)
from known n
returning id, expires_at;

-- name: end_session :one engine
-- Signs out. $1 session   -- scope: system
update api_keys k
set revoked_at = coalesce(k.revoked_at, now())
where k.id = $1 and k.token_type = 'session'
returning k.id;

-- name: find_subject :one engine
-- Whom a provider's token names. $1 short name of the tenant  $2 its id?  $3 subject
-- -- scope: system
-- Two halves, each with an index; the short name goes first.
select n.id as tenant_id, u.id, u.subject_id, u.disabled_at is not null as is_disabled
from (
    (
        select named.id, true as is_named
        from tenants named
        where named.slug = $1 and (named.disabled_at is null) is true
    )
    union all
    (
        select meant.id, false
        from tenants meant
        where meant.id = $2::uuid and (meant.disabled_at is null) is true
    )
) n
left join users u on u.tenant_id = n.id and u.subject = $3
order by n.is_named desc
limit 1;

-- name: add_subject :one engine
-- A user whom a provider vouches for; no row = the address is another user's.
-- $1 id  $2 tenant  $3 address  $4 name  $5 subject
insert into users (id, tenant_id, email, name, subject)
select $1, $2, $3, $4, $5
where not exists (
    select from users u where u.tenant_id = $2 and lower(u.email) = lower($3)
)
on conflict do nothing
returning id;

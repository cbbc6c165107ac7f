-- name: list_waiting_turns :many engine
-- Pages through everything Redis should know, to rebuild it after a loss: what waits, and what holds a
-- slot. $1 after seq  $2 most
-- -- scope: system
select t.id, t.tenant_id, t.concurrency_key, t.max_running, t.accept_seq, t.running
from (
    (
        select w.id, w.tenant_id, w.concurrency_key, w.max_running, w.accept_seq, false as running
        from turns w
        where w.status in ({sources:claim}) and w.accept_seq > $1
        order by w.accept_seq
        limit $2
    )
    union all
    (
        select r.id, r.tenant_id, r.concurrency_key, r.max_running, r.accept_seq, true as running
        from turns r
        where r.slot is not null and (r.accept_seq > $1) is true
        order by r.accept_seq
        limit $2
    )
) t
order by t.accept_seq
limit $2;

-- name: list_stalled_heads :many engine
-- Pending turns that could run now and have waited: Redis may have forgotten them. Looks at so many
-- and tells in every row how far that was; the only row may have no turn.
-- $1 after seq  $2 most looked at  $3 waited s   -- scope: system
with page as materialized (
    select
        t.id, t.tenant_id, t.concurrency_key, t.max_running, t.accept_seq, t.updated_at,
        t.expires_at, t.started_at
    from turns t
    where t.status in ({sources:claim}) and t.accept_seq > $1
    order by t.accept_seq
    limit $2
),
looked as (
    select count(*) as looked_at, max(p.accept_seq) as looked_to
    from page p
),
stalled as (
    select
        p.id, p.tenant_id, p.concurrency_key, p.max_running, p.accept_seq,
        array(
            select busy.id
            from turns busy
            where busy.tenant_id = p.tenant_id
                and busy.concurrency_key = p.concurrency_key
                and busy.slot is not null
            order by busy.slot
        ) as running_ids
    from page p
    where p.updated_at < now() - make_interval(secs => $3)
        and (p.expires_at > now() or p.started_at is not null)
        and p.id = (
            select head.id
            from turns head
            where head.tenant_id = p.tenant_id
                and head.concurrency_key = p.concurrency_key
                and head.status in ({active})
                and (head.status in ({sources:claim})) is true
            order by head.accept_seq
            limit 1
        )
        and p.max_running > (
            select count(*)
            from turns busy
            where busy.tenant_id = p.tenant_id
                and busy.concurrency_key = p.concurrency_key
                and busy.slot is not null
        )
)
select s.*, l.looked_at, l.looked_to
from looked l
left join stalled s on true
order by s.accept_seq;

-- name: list_claimable_heads :many engine
-- What a worker claims from Postgres while Redis is away: oldest heads of keys with a free
-- slot. $1 most
-- -- scope: system
select t.id
from turns t
where t.status in ({sources:claim})
    and (t.expires_at > now() or t.started_at is not null)
    and t.id = (
        select head.id
        from turns head
        where head.tenant_id = t.tenant_id
            and head.concurrency_key = t.concurrency_key
            and head.status in ({active})
            and (head.status in ({sources:claim})) is true
        order by head.accept_seq
        limit 1
    )
    and t.max_running > (
        select count(*)
        from turns busy
        where busy.tenant_id = t.tenant_id
            and busy.concurrency_key = t.concurrency_key
            and busy.slot is not null
    )
order by t.accept_seq
limit $1;

-- name: expire_turns :many engine
-- Ends turns that never started within their queue time. $1 most   -- scope: system
-- What a regenerating turn had hidden comes back (`settle_replacement`), which writes to its thread:
-- those are locked before, by id, as accepts do.
with due as materialized (
    select d.id, d.thread_id, d.replaced_turn_id
    from turns d
    where d.status in ({sources:expire}) and d.expires_at <= now() and d.started_at is null
    order by d.expires_at
    limit $1
    for update skip locked
),
held as materialized (
    select th.id
    from threads th
    where th.id = any(array(select due.thread_id from due where due.replaced_turn_id is not null))
    order by th.id
    for no key update
)
update turns t
set status = {target:expire},
    attempt = t.attempt + 1,
    last_seq = 1,
    error_code = 'queue_ttl',
    error_message = 'The turn was not started within its queue time',
    ended_at = now(),
    updated_at = now()
from due
where t.id = due.id and (select count(*) from held) >= 0
returning t.*;

-- name: purge_idempotency_keys :one engine
-- Forgets keys whose turn ended so long ago. $1 s  $2 most   -- scope: system
with old as (
    select i.tenant_id, i.scope, i.key
    from idempotency_keys i
    join turns t on t.id = i.turn_id
    where t.ended_at < now() - make_interval(secs => $1)
    limit $2
),
gone as (
    delete from idempotency_keys i
    using old
    where i.tenant_id = old.tenant_id and i.scope = old.scope and i.key = old.key
    returning 1
)
select count(*) as purged from gone;

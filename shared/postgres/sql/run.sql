-- name: claim_turn :one
-- Postgres decides: pending, first of its key, a free slot, in time. No row = drop the claim.
-- $1 turn  $2 worker  $3 lease in s   -- scope: system
with head as (
    select t.id, t.tenant_id, t.concurrency_key, t.max_running
    from turns t
    where t.id = $1
        and (t.status in ({sources:claim})) is true
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
),
free as (
    select h.id, candidate.slot
    from head h
    cross join lateral (
        select place.slot
        from generate_series(1, h.max_running) as place (slot)
        where not exists (
            select 1
            from turns busy
            where busy.tenant_id = h.tenant_id
                and busy.concurrency_key = h.concurrency_key
                and busy.status = {target:claim}
                and busy.slot = place.slot
        )
        order by place.slot
        limit 1
    ) candidate
)
update turns t
set status = {target:claim},
    attempt = t.attempt + 1,
    slot = free.slot,
    worker_id = $2,
    lease_until = now() + make_interval(secs => $3),
    started_at = coalesce(t.started_at, now()),
    updated_at = now()
from free
where t.id = free.id and (t.status in ({sources:claim})) is true
returning
    t.id, t.tenant_id, t.user_id, t.thread_id, t.attempt, t.accept_seq, t.crash_count,
    t.concurrency_key, t.max_running, t.model_id, t.settings, t.system_prompt, t.input_message_id,
    t.planned_output_message_id as output_message_id,
    (select th.system_prompt from threads th where th.id = t.thread_id) as thread_system_prompt,
    extract(epoch from now() - t.created_at)::double precision as waited_s;

-- name: explain_refused_claims :many
-- Why claims changed no row, so that Redis can be put right. $1 turns   -- scope: system
select
    t.id,
    t.tenant_id,
    t.concurrency_key,
    t.max_running,
    t.accept_seq,
    t.status in ({sources:claim}) as waits,
    t.expires_at <= now() and t.started_at is null as too_late,
    head.id as head_id,
    head.accept_seq as head_seq,
    array(
        select busy.id
        from turns busy
        where busy.tenant_id = t.tenant_id
            and busy.concurrency_key = t.concurrency_key
            and busy.status = {target:claim}
    ) as running_ids
from turns t
left join lateral (
    select h.id, h.accept_seq
    from turns h
    where h.tenant_id = t.tenant_id
        and h.concurrency_key = t.concurrency_key
        and h.status in ({active})
        and (h.status in ({sources:claim})) is true
    order by h.accept_seq
    limit 1
) head on true
where t.id = any($1::uuid[]);

-- name: list_thread_history :many
-- Messages a turn may see: those of earlier turns of its thread and its own input, in turn order.
-- $1 tenant  $2 thread  $3 accept_seq of the turn  $4 its input message  $5 most rows
select m.id, m.role, m.content, m.format, m.raw_data
from (
    select m.id, m.role, m.content, m.format, m.raw_data, m.turn_seq, m.seq
    from messages m
    where m.tenant_id = $1
        and m.thread_id = $2
        and m.superseded_at is null
        and (m.turn_seq is null or m.turn_seq < $3 or m.id = $4)
    order by coalesce(m.turn_seq, 0) desc, m.seq desc
    limit $5
) m
order by coalesce(m.turn_seq, 0), m.seq;

-- name: renew_leases :many
-- Heartbeat of one worker process for all its turns; a turn not returned is no longer its own.
-- $1 worker  $2 turns  $3 attempts  $4 lease in s   -- scope: system
-- Locks in the order of a group commit of endings, by thread, so that the two never deadlock.
with kept as (
    select t.id
    from turns t
    join unnest($2::uuid[], $3::integer[]) as held (id, attempt)
        on t.id = held.id and t.attempt = held.attempt
    where (t.worker_id = $1 and t.status = {target:claim}) is true
    order by t.thread_id, t.id
    for no key update of t
)
update turns t
set lease_until = now() + make_interval(secs => $4)
from kept
where t.id = kept.id
returning t.id, t.attempt, t.cancel_requested_at is not null as cancel_requested;

-- name: validate_attempts :many
-- Which (turn, attempt) pairs still run; asked before a lost log is opened again.
-- $1 turns  $2 attempts   -- scope: system
select t.id
from turns t
join unnest($1::uuid[], $2::integer[]) as held (id, attempt)
    on t.id = held.id and t.attempt = held.attempt
where (t.status = {target:claim}) is true;

-- name: end_turn :one
-- Compare-and-set to a terminal status with messages and usage, one commit. No row = fenced.
-- $1 turn  $2 tenant  $3 attempt  $4 status  $5 error code  $6 error message  $7 usage  $8 last seq
-- $9 output message  $10 messages  $11 preview
with ended as (
    update turns t
    set status = $4::turn_status,
        slot = null,
        worker_id = null,
        lease_until = null,
        error_code = $5,
        error_message = $6,
        usage = $7::jsonb,
        last_seq = $8,
        output_message_id = $9,
        ended_at = now(),
        updated_at = now()
    where t.id = $1
        and (t.tenant_id = $2 and t.attempt = $3 and t.status = {target:claim}) is true
    returning *
),
written as (
    insert into messages (
        id, tenant_id, thread_id, turn_id, turn_seq, role, content, format, raw_data
    )
    select
        m.id, e.tenant_id, e.thread_id, e.id, e.accept_seq, m.role, m.content,
        case when m.raw_data is null then 'text' else 'pydantic_ai' end, m.raw_data
    from ended e
    cross join rows from (
        jsonb_to_recordset($10::jsonb) as (id uuid, role text, content text, raw_data jsonb)
    ) with ordinality as m (id, role, content, raw_data, place)
    order by m.place
    returning id
),
billed as (
    insert into usage (
        turn_id, tenant_id, model_id, input_tokens, output_tokens, cached_input_tokens, total_cost
    )
    select
        e.id, e.tenant_id, e.model_id,
        coalesce((e.usage ->> 'inputTokens')::bigint, 0),
        coalesce((e.usage ->> 'outputTokens')::bigint, 0),
        coalesce((e.usage ->> 'cachedInputTokens')::bigint, 0),
        (e.usage ->> 'totalCost')::numeric
    from ended e
    where e.usage is not null
    returning turn_id
),
touched as (
    update threads t
    set updated_at = now(),
        last_message_at = case when $9::uuid is null then t.last_message_at else now() end,
        last_message_preview = coalesce($11, t.last_message_preview)
    from ended e
    where t.id = e.thread_id
    returning t.id
)
select e.*
from ended e
left join touched on true
left join (select count(*) as messages from written) w on true
left join (select count(*) as bills from billed) b on true;

-- name: hand_back_turns :many
-- A draining worker returns its turns; the crash budget is not touched.
-- $1 worker  $2 turns  $3 attempts   -- scope: system
with handed as (
    select t.id
    from turns t
    join unnest($2::uuid[], $3::integer[]) as held (id, attempt)
        on t.id = held.id and t.attempt = held.attempt
    where (t.worker_id = $1 and t.status in ({sources:hand_back})) is true
    order by t.thread_id, t.id
    for no key update of t
)
update turns t
set status = {target:hand_back},
    slot = null,
    worker_id = null,
    lease_until = null,
    updated_at = now()
from handed
where t.id = handed.id
returning t.id, t.tenant_id, t.concurrency_key, t.max_running, t.accept_seq;

-- name: release_unheld_turns :many
-- Returns what was claimed in this worker's name without its knowing: the reply of a claim was
-- lost. Nobody has run it, so the crash budget is not touched.
-- $1 worker  $2 turns it holds   -- scope: system
update turns t
set status = {target:hand_back},
    slot = null,
    worker_id = null,
    lease_until = null,
    updated_at = now()
where t.worker_id = $1
    and t.status in ({sources:hand_back})
    and t.id <> all($2::uuid[])
returning t.id, t.tenant_id, t.concurrency_key, t.max_running, t.accept_seq;

-- name: list_lost_turns :many
-- Running turns whose lease lapsed or whose worker is known to be gone. $1 workers gone  $2 most
-- -- scope: system
select t.id, t.tenant_id, t.attempt, t.worker_id, t.lease_until < now() as lapsed
from turns t
where t.status in ({sources:lose_worker})
    and (t.lease_until < now() or t.worker_id = any($1::text[]))
order by t.lease_until
limit $2;

-- name: reap_turn :one
-- Takes a lost turn from its worker: pending again, or terminal when cancelled or out of budget.
-- $1 turn  $2 attempt  $3 crash budget  $4 workers gone   -- scope: system
update turns t
set status = case
        when t.cancel_requested_at is not null then {target:cancel}
        when t.crash_count + 1 >= $3 then {target:fail}
        else {target:lose_worker}
    end,
    crash_count = t.crash_count + 1,
    error_code = case
        when t.cancel_requested_at is null and t.crash_count + 1 >= $3 then 'poison'
    end,
    error_message = case
        when t.cancel_requested_at is null and t.crash_count + 1 >= $3
            then 'The workers that ran this turn were lost ' || (t.crash_count + 1) || ' times'
    end,
    ended_at = case
        when t.cancel_requested_at is not null or t.crash_count + 1 >= $3 then now()
    end,
    attempt = case
        when t.cancel_requested_at is not null or t.crash_count + 1 >= $3 then t.attempt + 1
        else t.attempt
    end,
    last_seq = case
        when t.cancel_requested_at is not null or t.crash_count + 1 >= $3 then 1
        else 0
    end,
    usage = case
        when t.cancel_requested_at is not null or t.crash_count + 1 >= $3
            then '{"inputTokens": 0, "outputTokens": 0, "cachedInputTokens": 0}'::jsonb
    end,
    slot = null,
    worker_id = null,
    lease_until = null,
    updated_at = now()
where t.id = $1
    and (
        t.attempt = $2
        and t.status in ({sources:lose_worker})
        and (t.lease_until < now() or t.worker_id = any($4::text[]))
    ) is true
returning t.*;

-- name: claim_turns :many engine
-- Postgres decides: pending, first of its key, a free slot, in time. No row = drop the claim.
-- $1 turns  $2 worker  $3 lease in s   -- scope: system
-- Of one key, turns that stand next to each other at the head of its line take the lowest free
-- slots in that order; who stands behind a turn that is not claimed with it is refused. A slot is held
-- by a turn that runs, and by one that is parked until its tool calls are approved.
with wanted as materialized (
    select t.tenant_id, t.concurrency_key, t.max_running
    from turns t
    where t.id = any($1::uuid[]) and (t.status in ({sources:claim})) is true
),
asked as (
    select w.tenant_id, w.concurrency_key, count(*) as turns, max(w.max_running) as places
    from wanted w
    group by w.tenant_id, w.concurrency_key
),
line as (
    select
        a.tenant_id,
        a.concurrency_key,
        head.id,
        head.place,
        free.slots[head.place] <= head.max_running
        and (head.expires_at > now() or head.started_at is not null)
        and head.id = any($1::uuid[]) as may_run,
        free.slots[head.place] as slot
    from asked a
    cross join lateral (
        select
            array(
                select place.slot
                from generate_series(1, a.places) as place (slot)
                where place.slot <> all (
                    array(
                        select busy.slot
                        from turns busy
                        where busy.tenant_id = a.tenant_id
                            and busy.concurrency_key = a.concurrency_key
                            and busy.slot is not null
                        order by busy.slot
                    )
                )
                limit a.turns
            ) as slots
        limit 1
    ) free
    cross join lateral (
        select
            h.id, h.max_running, h.expires_at, h.started_at,
            row_number() over (order by h.accept_seq) as place
        from turns h
        where h.tenant_id = a.tenant_id
            and h.concurrency_key = a.concurrency_key
            and h.status in ({active})
            and (h.status in ({sources:claim})) is true
        order by h.accept_seq
        limit a.turns
    ) head
),
claimable as materialized (
    select l.id, l.slot
    from (
        select
            line.id,
            line.slot,
            bool_and(coalesce(line.may_run, false)) over (
                partition by line.tenant_id, line.concurrency_key order by line.place
            ) as is_next
        from line
    ) l
    where l.is_next
    order by l.id
)
update turns t
set status = {target:claim},
    attempt = t.attempt + 1,
    slot = c.slot,
    worker_id = $2,
    lease_until = now() + make_interval(secs => $3),
    started_at = coalesce(t.started_at, now()),
    updated_at = now()
from claimable c
where t.id = any($1::uuid[]) and t.id = c.id and (t.status in ({sources:claim})) is true
returning
    t.id, t.tenant_id, t.user_id, t.thread_id, t.attempt, t.accept_seq, t.crash_count,
    t.concurrency_key, t.max_running, t.model_id, t.settings, t.system_prompt,
    t.agent_spec_id, t.agent_spec_version,
    t.planned_output_message_id as output_message_id,
    t.input_message_id,
    t.parked_count,
    case when t.parked_count > 0 then t.usage end as earlier_usage,
    (
        select row(th.system_prompt, th.attachment_count > 0)
        from threads th
        where th.id = t.thread_id
    ) as thread,
    coalesce(
        (
            select m.content
            from messages m
            where m.id = t.input_message_id and (m.superseded_at is null) is true
        ),
        ''
    ) as prompt,
    exists (
        select 1
        from messages m
        where m.thread_id = t.thread_id
            and m.superseded_at is null
            and m.turn_seq < t.accept_seq
    ) or (
        select true
        from messages m
        where m.thread_id = t.thread_id and m.superseded_at is null and m.turn_seq is null
        order by m.turn_seq desc, m.seq desc
        limit 1
    ) is true as has_history,
    extract(epoch from now() - t.created_at)::double precision as waited_s;

-- name: explain_refused_claims :many engine
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
            and busy.slot is not null
        order by busy.slot
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

-- name: list_histories :many engine
-- What turns may see of their threads: the newest messages of earlier turns, in turn order. What no
-- turn has said stands behind the turns that had been accepted by then.
-- One array per column: $1 turns  $2 tenants  $3 threads  $4 accept_seqs.
-- $5 most rows of a turn  $6 bytes of a turn after which no more are read
select h.turn_id, h.role, h.content, h.raw_data
from (
    select
        asked.turn_id, m.role, m.content, m.raw_data, m.place, m.is_aside, m.seq,
        sum(
            greatest(
                octet_length(m.content),
                case
                    -- a user's is the content once more, unless it brings other messages along
                    when m.role <> 'user'
                        or pg_column_size(m.raw_data) > octet_length(m.content) + 1024
                        then pg_column_size(m.raw_data)
                end
            )
        ) over (
            partition by asked.turn_id
            order by m.place desc, m.is_aside desc, m.seq desc
            rows between unbounded preceding and 1 preceding
        ) as newer_bytes
    from unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::bigint[])
        as asked (turn_id, tenant_id, thread_id, accept_seq)
    cross join lateral (
        select placed.*
        from (
            select
                both_kinds.role, both_kinds.content, both_kinds.raw_data, both_kinds.seq,
                both_kinds.turn_seq is null as is_aside,
                coalesce(
                    both_kinds.turn_seq,
                    max(both_kinds.turn_seq) over (order by both_kinds.seq),
                    0
                ) as place
            from (
                (
                    select own.role, own.content, own.raw_data, own.turn_seq, own.seq
                    from messages own
                    where own.thread_id = asked.thread_id
                        and (own.tenant_id = asked.tenant_id) is true
                        and own.superseded_at is null
                        and own.turn_seq < asked.accept_seq
                    order by own.turn_seq desc, own.seq desc
                    limit $5
                )
                union all
                (
                    select own.role, own.content, own.raw_data, own.turn_seq, own.seq
                    from messages own
                    where own.thread_id = asked.thread_id
                        and (own.tenant_id = asked.tenant_id) is true
                        and own.superseded_at is null
                        and own.turn_seq is null
                    order by own.turn_seq desc, own.seq desc
                    limit $5
                )
            ) both_kinds
        ) placed
        order by placed.place desc, placed.is_aside desc, placed.seq desc
        limit $5
    ) m
) h
where coalesce(h.newer_bytes, 0) < $6
order by h.turn_id, h.place, h.is_aside, h.seq;

-- name: renew_leases :many engine
-- Heartbeat of one worker process for all its turns; a turn not returned is no longer its own.
-- $1 worker  $2 turns  $3 attempts  $4 lease in s   -- scope: system
-- Locks by id like a commit of endings, so that the two never deadlock.
with kept as (
    select t.id
    from turns t
    join unnest($2::uuid[], $3::integer[]) as held (id, attempt)
        on t.id = held.id and t.attempt = held.attempt
    where t.id = any($2::uuid[]) and (t.worker_id = $1 and t.status = {target:claim}) is true
    order by t.id
    for no key update of t
)
update turns t
set lease_until = now() + make_interval(secs => $4)
from kept
where t.id = any($2::uuid[]) and t.id = kept.id
returning t.id, t.attempt, t.cancel_requested_at is not null as cancel_requested;

-- name: validate_attempts :many engine
-- Which (turn, attempt) pairs still run, or were parked or ended by that very attempt: whoever else
-- ends a turn raises the attempt. Asked before a lost log is opened again.
-- $1 turns  $2 attempts   -- scope: system
select t.id
from turns t
join unnest($1::uuid[], $2::integer[]) as held (id, attempt)
    on t.id = held.id and t.attempt = held.attempt
where t.id = any($1::uuid[])
    and (t.status = {target:claim} or t.status = {target:park} or t.ended_at is not null) is true;

-- name: end_turns :many engine
-- Compare-and-set of turns to a terminal status with messages and usage. No row = fenced.
-- What the caller knows already is not told again.
-- One array per column, one element per turn:
-- $1 turns  $2 tenants  $3 attempts  $4 statuses  $5 error codes  $6 error messages  $7 usages
-- $8 last seqs  $9 output messages  $10 messages, a JSON array each  $11 previews  $12 threads
-- Locks turns by id, then threads by id.
with asked as materialized (
    select *
    from unnest(
        $1::uuid[], $2::uuid[], $3::integer[], $4::text[], $5::text[], $6::text[], $7::text[],
        $8::integer[], $9::uuid[], $10::text[], $11::text[]
    ) as asked (
        id, tenant_id, attempt, status, error_code, error_message, usage, last_seq,
        output_message_id, messages, preview
    )
    order by id
),
ended as (
    update turns t
    set status = a.status::turn_status,
        slot = null,
        worker_id = null,
        lease_until = null,
        error_code = a.error_code,
        error_message = a.error_message,
        usage = a.usage::jsonb,
        last_seq = a.last_seq,
        output_message_id = case
            when a.output_message_id is null and t.parked_count > 0
                and a.status::turn_status = {target:cancel}
                then said_when_parked(t.thread_id, t.accept_seq)
            else a.output_message_id
        end,
        ended_at = now(),
        updated_at = now()
    from asked a
    where t.id = any($1::uuid[])
        and t.id = a.id
        and (t.tenant_id = a.tenant_id and t.attempt = a.attempt and t.status = {target:claim})
        is true
    returning
        t.id, t.tenant_id, t.thread_id, t.accept_seq, t.model_id, t.usage, t.output_message_id,
        t.started_at, t.ended_at
),
written as (
    insert into messages (
        id, tenant_id, thread_id, turn_id, turn_seq, role, content, format, raw_data
    )
    select
        m.id, e.tenant_id, e.thread_id, e.id, e.accept_seq, m.role, m.content,
        case when m.raw_data is null then 'text' else 'pydantic_ai' end, m.raw_data
    from ended e
    join asked a on a.id = e.id
    cross join rows from (
        jsonb_to_recordset(a.messages::jsonb) as (
            id uuid, role text, content text, raw_data jsonb
        )
    ) with ordinality as m (id, role, content, raw_data, place)
    order by e.accept_seq, m.place
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
),
touched as (
    update threads t
    set updated_at = now(),
        last_message_at = case when news.spoke then now() else t.last_message_at end,
        last_message_preview = coalesce(news.preview, t.last_message_preview)
    from (
        select
            e.thread_id,
            bool_or(e.output_message_id is not null) as spoke,
            (
                array_agg(a.preview order by e.accept_seq desc) filter (where a.preview is not null)
            )[1] as preview
        from ended e
        join asked a on a.id = e.id
        group by e.thread_id
        order by e.thread_id
    ) news
    where t.id = any($12::uuid[]) and t.id = news.thread_id
)
select e.id, e.started_at, e.ended_at, e.output_message_id
from ended e;

-- name: hand_back_turns :many engine
-- A draining worker returns its turns; the crash budget is not touched.
-- $1 worker  $2 turns  $3 attempts   -- scope: system
with handed as (
    select t.id
    from turns t
    join unnest($2::uuid[], $3::integer[]) as held (id, attempt)
        on t.id = held.id and t.attempt = held.attempt
    where t.id = any($2::uuid[]) and (t.worker_id = $1 and t.status in ({sources:hand_back})) is true
    order by t.id
    for no key update of t
)
update turns t
set status = {target:hand_back},
    slot = null,
    worker_id = null,
    lease_until = null,
    updated_at = now()
from handed
where t.id = any($2::uuid[]) and t.id = handed.id
returning t.id, t.tenant_id, t.concurrency_key, t.max_running, t.accept_seq;

-- name: release_unheld_turns :many engine
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

-- name: list_lost_turns :many engine
-- Running turns whose lease lapsed or whose worker is known to be gone. $1 workers gone  $2 most
-- -- scope: system
select t.id, t.tenant_id, t.attempt, t.worker_id, t.lease_until < now() as lapsed
from turns t
where t.status in ({sources:lose_worker})
    and (t.lease_until < now() or t.worker_id = any($1::text[]))
order by t.lease_until
limit $2;

-- name: reap_turn :one engine
-- Takes a lost turn from its worker: pending again, or terminal when cancelled or out of budget.
-- What it had used before it was parked is kept, and billed with its end.
-- $1 turn  $2 attempt  $3 crash budget  $4 workers gone   -- scope: system
with reaped as (
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
            when t.parked_count > 0 then t.usage
            when t.cancel_requested_at is not null or t.crash_count + 1 >= $3
                then '{"inputTokens": 0, "outputTokens": 0, "cachedInputTokens": 0}'::jsonb
        end,
        output_message_id = case
            when t.cancel_requested_at is not null and t.parked_count > 0
                then said_when_parked(t.thread_id, t.accept_seq)
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
    returning t.*
),
billed as (
    insert into usage (
        turn_id, tenant_id, model_id, input_tokens, output_tokens, cached_input_tokens, total_cost
    )
    select
        r.id, r.tenant_id, r.model_id,
        coalesce((r.usage ->> 'inputTokens')::bigint, 0),
        coalesce((r.usage ->> 'outputTokens')::bigint, 0),
        coalesce((r.usage ->> 'cachedInputTokens')::bigint, 0),
        (r.usage ->> 'totalCost')::numeric
    from reaped r
    where r.parked_count > 0 and r.ended_at is not null
)
select r.* from reaped r;

-- name: park_turn :one engine
-- Puts a turn away that wants tool calls approved, with what it has said; its slot stays taken.
-- No row = fenced, or somebody wants it cancelled.
-- $1 turn  $2 tenant  $3 attempt  $4 usage  $5 last seq  $6 messages  $7 preview  $8 open calls
-- $9 time to decide in s  $10 thread
with parked as (
    update turns t
    set status = {target:park},
        worker_id = null,
        lease_until = null,
        parked_count = t.parked_count + 1,
        usage = $4::jsonb,
        last_seq = $5,
        expires_at = now() + make_interval(secs => $9),
        updated_at = now()
    where t.id = $1
        and (
            t.tenant_id = $2
            and t.attempt = $3
            and t.status in ({sources:park})
            and t.cancel_requested_at is null
        ) is true
    returning *
),
written as (
    insert into messages (
        id, tenant_id, thread_id, turn_id, turn_seq, role, content, format, raw_data
    )
    select
        m.id, p.tenant_id, p.thread_id, p.id, p.accept_seq, m.role, m.content, 'pydantic_ai',
        m.raw_data
    from parked p
    cross join rows from (
        jsonb_to_recordset($6::jsonb) as (id uuid, role text, content text, raw_data jsonb)
    ) with ordinality as m (id, role, content, raw_data, place)
    order by m.place
),
asked as (
    insert into turn_approvals (turn_id, tenant_id, round, place, tool_call_id, tool_name, args)
    select p.id, p.tenant_id, p.parked_count, c.place, c.tool_call_id, c.tool_name, c.args
    from parked p
    cross join rows from (
        jsonb_to_recordset($8::jsonb) as (tool_call_id text, tool_name text, args jsonb)
    ) with ordinality as c (tool_call_id, tool_name, args, place)
),
touched as (
    update threads th
    set updated_at = now(),
        last_message_at = now(),
        last_message_preview = coalesce($7, th.last_message_preview)
    from parked p
    where th.id = $10 and th.id = p.thread_id
)
select p.* from parked p;

-- name: record_outcome :one engine
-- Notes what an approved call gave, so that no later attempt makes it again. No row = fenced.
-- $1 turn  $2 tenant  $3 attempt  $4 tool call  $5 outcome
update turn_approvals a
set outcome = $5::jsonb
from turns t
where t.id = $1
    and (t.tenant_id = $2 and t.attempt = $3 and t.status = {target:claim}) is true
    and a.turn_id = $1
    and (a.round = t.parked_count and a.tool_call_id = $4 and a.approved) is true
returning a.turn_id;

-- name: lock_turn :one tenant
-- One turn of one user, held until the commit: of two who decide, one is the second.
-- $1 turn  $2 tenant  $3 user
select t.*
from turns t
where t.id = $1
    and (t.tenant_id = $2 and t.user_id = $3) is true
    and (select th.deleted_at is null from threads th where th.id = t.thread_id)
for no key update of t;

-- name: list_approvals :many tenant
-- Every tool call of a turn that was to be approved, in the order of asking. $1 tenant  $2 turn
select a.*
from turn_approvals a
where a.turn_id = $2 and (a.tenant_id = $1) is true
order by a.round, a.place;

-- name: find_turn_of_calls :one tenant
-- The newest turn of a thread in which one of these tool calls was to be approved.
-- $1 tenant  $2 user  $3 thread  $4 tool calls
select t.id
from turns t
where t.thread_id = $3
    and (t.tenant_id = $1 and t.user_id = $2 and t.parked_count > 0) is true
    and (select th.deleted_at is null from threads th where th.id = t.thread_id)
    and (
        select true
        from turn_approvals a
        where a.turn_id = t.id and (a.tool_call_id = any($4::text[])) is true
        limit 1
    )
order by t.accept_seq desc
limit 1;

-- name: decide_approvals :many tenant
-- Writes a person's decisions down. $1 tenant  $2 turn  $3 round  $4 user  $5 tool calls
-- $6 approved  $7 reasons
update turn_approvals a
set approved = d.approved, reason = d.reason, decided_by = $4, decided_at = now()
from unnest($5::text[], $6::boolean[], $7::text[]) as d (tool_call_id, approved, reason)
where a.turn_id = $2
    and (a.tenant_id = $1 and a.round = $3 and a.decided_at is null) is true
    and a.tool_call_id = d.tool_call_id
returning a.tool_call_id;

-- name: resume_turn :one tenant
-- A parked turn that has been decided waits for a worker again, where it stood in its line.
-- $1 turn  $2 tenant
update turns t
set status = {target:resume}, slot = null, last_seq = 0, updated_at = now()
where t.id = $1 and (t.tenant_id = $2 and t.status in ({sources:resume})) is true
returning t.*;

-- name: deny_expired_approvals :many engine
-- Decides for whoever did not in time: denied, and the turn goes on. $1 most  $2 reason
-- -- scope: system
with due as materialized (
    select d.id, d.parked_count
    from turns d
    where d.status in ({sources:resume}) and d.expires_at <= now()
    order by d.expires_at
    limit $1
    for no key update skip locked
),
denied as (
    update turn_approvals a
    set approved = false, reason = $2, decided_at = now()
    from due
    where a.turn_id = due.id and (a.round = due.parked_count and a.decided_at is null) is true
)
update turns t
set status = {target:resume}, slot = null, last_seq = 0, updated_at = now()
from due
where t.id = due.id
returning t.*;

-- name: cancel_expired_approvals :many engine
-- Ends parked turns on whose tool calls nobody has decided in time. $1 most  $2 error message
-- -- scope: system
-- Threads of regenerating turns are locked first, by id, as in `expire_turns`.
with due as materialized (
    select d.id, d.thread_id, d.replaced_turn_id
    from turns d
    where d.status in ({sources:resume}) and d.expires_at <= now()
    order by d.expires_at
    limit $1
    for no key update skip locked
),
held as materialized (
    select th.id
    from threads th
    where th.id = any(array(select due.thread_id from due where due.replaced_turn_id is not null))
    order by th.id
    for no key update
),
cancelled as (
    update turns t
    set status = {target:cancel},
        attempt = t.attempt + 1,
        last_seq = 1,
        slot = null,
        error_code = 'approval_expired',
        error_message = $2,
        output_message_id = said_when_parked(t.thread_id, t.accept_seq),
        ended_at = now(),
        updated_at = now()
    from due
    where t.id = due.id and (select count(*) from held) >= 0
    returning t.*
),
billed as (
    insert into usage (
        turn_id, tenant_id, model_id, input_tokens, output_tokens, cached_input_tokens, total_cost
    )
    select
        c.id, c.tenant_id, c.model_id,
        coalesce((c.usage ->> 'inputTokens')::bigint, 0),
        coalesce((c.usage ->> 'outputTokens')::bigint, 0),
        coalesce((c.usage ->> 'cachedInputTokens')::bigint, 0),
        (c.usage ->> 'totalCost')::numeric
    from cancelled c
)
select c.* from cancelled c;

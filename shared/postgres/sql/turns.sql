-- A row is found by its key alone. What merely checks the row is written `(…) is true`, which no index
-- can serve: with young statistics "all turns of the tenant" would look as cheap as the primary key,
-- and stay the plan of the connection while the table grows. tests/integration/postgres/test_plans.py
-- For the same reason `t.id = any($1)` stands beside a join by id: on a table known to be nearly empty
-- the join alone would go through the whole index.

-- name: get_turn :one tenant
-- One turn of one user. $1 turn  $2 tenant  $3 user
select
    t.*,
    case
        when t.status = {target:park} then open_approvals(t.id, t.parked_count, t.expires_at)
    end as approvals
from turns t
where t.id = $1
    and (t.tenant_id = $2 and t.user_id = $3) is true
    and (select th.deleted_at is null from threads th where th.id = t.thread_id);

-- name: get_turn_versions :many engine
-- How far turns are, each asked for by its user; no row = not theirs to see.
-- $1 turns  $2 tenants  $3 users
select t.id, t.tenant_id, t.user_id, t.attempt, t.status, t.updated_at
from unnest($1::uuid[], $2::uuid[], $3::uuid[]) as asked (turn_id, tenant_id, user_id)
cross join lateral (
    select own.id, own.tenant_id, own.user_id, own.attempt, own.status, own.updated_at
    from turns own
    where own.id = asked.turn_id
        and (own.tenant_id = asked.tenant_id and own.user_id = asked.user_id) is true
        and (select th.deleted_at is null from threads th where th.id = own.thread_id)
    limit 1
) t;

-- name: get_turn_of_tenant :one tenant
-- One turn, for code that has already checked who asks. $1 turn  $2 tenant
select
    t.*,
    case
        when t.status = {target:park} then open_approvals(t.id, t.parked_count, t.expires_at)
    end as approvals
from turns t
where t.id = $1 and (t.tenant_id = $2) is true;

-- name: list_silent_turns :many engine
-- Which of the followed turns have ended or are parked, so that nobody speaks; one question for all
-- streams of a process. $1 turns   -- scope: system
select t.id, t.attempt, t.last_seq, t.status in ({terminal}) as has_ended
from turns t
where t.id = any($1::uuid[]) and (t.status in ({terminal}) or t.status = {target:park}) is true;

-- name: list_turns :many tenant
-- A user's turns, newest first. $1 tenant $2 user $3 thread? $4 status? $5 concurrency key?
-- $6 before accept_seq?  $7 most
-- Two halves, of which one is empty: each has an index that gives its order.
select
    t.*,
    case
        when t.status = {target:park} then open_approvals(t.id, t.parked_count, t.expires_at)
    end as approvals
from (
    (
        select own.*
        from turns own
        where $3::uuid is null
            and own.tenant_id = $1
            and own.user_id = $2
            and ($4::turn_status is null or own.status = $4)
            and ($5::text is null or own.concurrency_key = $5)
            and ($6::bigint is null or own.accept_seq < $6)
            and (
                select th.deleted_at is null and not th.is_transient
                from threads th
                where th.id = own.thread_id
            )
        order by own.accept_seq desc
        limit $7
    )
    union all
    (
        select own.*
        from turns own
        where own.thread_id = $3
            and (own.tenant_id = $1 and own.user_id = $2) is true
            and ($4::turn_status is null or own.status = $4)
            and ($5::text is null or own.concurrency_key = $5)
            and ($6::bigint is null or own.accept_seq < $6)
            and (select th.deleted_at is null from threads th where th.id = own.thread_id)
        order by own.accept_seq desc
        limit $7
    )
) t
order by t.accept_seq desc
limit $7;

-- name: find_active_turn_of_thread :one tenant
-- The turn of a thread that runs, or else the first that waits. $1 tenant  $2 user  $3 thread
select t.*
from turns t
where t.thread_id = $3
    and (t.tenant_id = $1 and t.user_id = $2 and t.status in ({active})) is true
    and (select th.deleted_at is null from threads th where th.id = t.thread_id)
order by (t.status in ({sources:claim})), t.accept_seq
limit 1;

-- name: count_turns_ahead :one tenant
-- Turns of the same key that go first, counted to 100. $1 tenant  $2 key  $3 accept_seq
select count(*) as position
from (
    select 1
    from turns t
    where t.tenant_id = $1 and t.concurrency_key = $2 and t.status in ({active})
        and t.accept_seq < $3
    limit 100
) counted;

-- name: request_cancel :one tenant
-- Notes the wish; a turn that no worker holds is cancelled by the same statement. If it was ever
-- parked, what it said until then is its answer, and what it used is billed.
-- $1 turn  $2 tenant  $3 user
with asked as (
    update turns t
    set cancel_requested_at = coalesce(t.cancel_requested_at, now()),
        status = case when t.status = {target:claim} then t.status else {target:cancel} end,
        attempt = case when t.status = {target:claim} then t.attempt else t.attempt + 1 end,
        last_seq = case when t.status = {target:claim} then t.last_seq else 1 end,
        slot = case when t.status = {target:claim} then t.slot end,
        output_message_id = case
            when t.status <> {target:claim} and t.parked_count > 0
                then said_when_parked(t.thread_id, t.accept_seq)
        end,
        ended_at = case when t.status = {target:claim} then null else now() end,
        updated_at = now()
    where t.id = $1
        and (t.tenant_id = $2 and t.user_id = $3 and t.status in ({sources:cancel})) is true
    returning *
),
billed as (
    insert into usage (
        turn_id, tenant_id, model_id, input_tokens, output_tokens, cached_input_tokens, total_cost
    )
    select
        a.id, a.tenant_id, a.model_id,
        coalesce((a.usage ->> 'inputTokens')::bigint, 0),
        coalesce((a.usage ->> 'outputTokens')::bigint, 0),
        coalesce((a.usage ->> 'cachedInputTokens')::bigint, 0),
        (a.usage ->> 'totalCost')::numeric
    from asked a
    where a.parked_count > 0 and a.ended_at is not null
)
select a.* from asked a;

-- name: force_cancel :one tenant
-- Ends a turn whose worker did not answer the cancel; attempt + 1 fences that worker.
-- $1 turn  $2 tenant  $3 attempt  $4 output message?  $5 partial text  $6 raw message  $7 usage
-- $8 preview
with ended as (
    update turns t
    set status = {target:cancel},
        attempt = t.attempt + 1,
        last_seq = 1,
        slot = null,
        worker_id = null,
        lease_until = null,
        usage = $7::jsonb,
        output_message_id = case
            when $4::uuid is null and t.parked_count > 0
                then said_when_parked(t.thread_id, t.accept_seq)
            else $4
        end,
        ended_at = now(),
        updated_at = now()
    where t.id = $1
        and (
            t.tenant_id = $2
            and t.attempt = $3
            and t.status = {target:claim}
            and t.cancel_requested_at is not null
        ) is true
    returning *
),
written as (
    insert into messages (
        id, tenant_id, thread_id, turn_id, turn_seq, role, content, format, raw_data
    )
    select $4, e.tenant_id, e.thread_id, e.id, e.accept_seq, 'assistant', $5, 'pydantic_ai', $6::jsonb
    from ended e
    where $4::uuid is not null
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
),
touched as (
    update threads th
    set updated_at = now(),
        last_message_at = case when $4::uuid is null then th.last_message_at else now() end,
        last_message_preview = coalesce($8, th.last_message_preview)
    from ended e
    where th.id = e.thread_id
)
select e.* from ended e;

-- name: replace_partial_text :one tenant
-- Puts the client's own partial text in place of the one the server gathered.
-- $1 tenant  $2 turn  $3 text  $4 raw message  $5 preview
with changed as (
    update messages m
    set content = $3, raw_data = $4::jsonb, updated_at = now()
    from turns t
    where t.id = $2
        and (t.tenant_id = $1 and t.status = {target:cancel}) is true
        and m.id = t.output_message_id
        and (m.tenant_id = $1 and m.superseded_at is null) is true
    returning m.id, m.thread_id, m.seq
)
update threads th
set last_message_preview = case
        when exists (
            select from messages later
            where later.thread_id = c.thread_id
                and later.seq > c.seq
                and later.superseded_at is null
                and (later.role in ('user', 'assistant')) is true
        ) then th.last_message_preview
        else coalesce($5, th.last_message_preview)
    end,
    updated_at = now()
from changed c
where th.id = c.thread_id and (th.tenant_id = $1) is true
returning c.id;

-- name: add_partial_text :one tenant
-- Gives a cancelled turn, which said nothing since it was claimed, the text its reader saw. Its
-- thread is locked by now: no other turn takes its place meanwhile, and of one that has, nothing
-- is to stand behind it.
-- $1 tenant  $2 turn  $3 text  $4 raw message  $5 preview
with cancelled as (
    update turns t
    set output_message_id = t.planned_output_message_id, updated_at = now()
    where t.id = $2
        and (
            t.tenant_id = $1
            and t.status = {target:cancel}
            and t.output_message_id is distinct from t.planned_output_message_id
        ) is true
        and not exists (
            select from turns later
            where later.thread_id = t.thread_id
                and later.accept_seq > t.accept_seq
                and (later.replaced_turn_id = t.id) is true
        )
    returning t.*
),
written as (
    insert into messages (
        id, tenant_id, thread_id, turn_id, turn_seq, role, content, format, raw_data
    )
    select
        c.planned_output_message_id, c.tenant_id, c.thread_id, c.id, c.accept_seq, 'assistant', $3,
        'pydantic_ai', $4::jsonb
    from cancelled c
    returning thread_id, turn_id, id
)
update threads th
set last_message_preview = case
        when th.last_turn_id = w.turn_id then coalesce($5, th.last_message_preview)
        else th.last_message_preview
    end,
    last_message_at = now(),
    updated_at = now()
from written w
where th.id = w.thread_id and (th.tenant_id = $1) is true
returning w.id;

-- name: find_silent_cancel :one tenant
-- The last turn of a thread, if it was cancelled lately and said nothing. One that was ever parked
-- has said what it asked for, and takes no text.
-- $1 thread  $2 tenant  $3 user  $4 lately in s
select t.*
from threads th
join turns t on t.id = th.last_turn_id
where th.id = $1
    and (
        th.tenant_id = $2 and th.user_id = $3 and th.deleted_at is null
        and t.tenant_id = $2
        and t.status = {target:cancel}
        and t.output_message_id is null
        and t.parked_count = 0
        and t.ended_at > now() - make_interval(secs => $4)
    ) is true;

-- name: list_output_messages :many tenant
-- What a finished turn said, in order; the source of a replay without a log. Of a turn that was
-- regenerated only the answer, which no list shows any more. $1 tenant  $2 turn
select said.id, said.role, said.content, said.raw_data
from (
    select m.id, m.role, m.content, m.raw_data, m.seq
    from messages m
    where m.thread_id = (select t.thread_id from turns t where t.id = $2 and (t.tenant_id = $1) is true)
        and m.turn_seq = (select t.accept_seq from turns t where t.id = $2 and (t.tenant_id = $1) is true)
        and m.superseded_at is null
        and (m.tenant_id = $1 and m.role <> 'user') is true
    union all
    select m.id, m.role, m.content, m.raw_data, m.seq
    from messages m
    where m.id = (
            select t.output_message_id from turns t where t.id = $2 and (t.tenant_id = $1) is true
        )
        and (m.tenant_id = $1 and m.superseded_at is not null) is true
) said
order by said.seq;

-- name: accept_turn :one
-- Writes the idempotency row, the turn and the user's message in one statement; no row = refused.
-- $1 turn  $2 tenant  $3 user  $4 thread  $5 input message  $6 output message  $7 text  $8 raw message
-- $9 model  $10 settings  $11 system prompt  $12 concurrency key  $13 idempotency scope
-- $14 idempotency key  $15 fingerprint  $16 show the key  $17 queue time in s  $18 preview  $19 title
with thread as materialized (
    select t.id
    from threads t
    where t.id = $4
        and (t.tenant_id = $2 and t.user_id = $3 and t.deleted_at is null) is true
    for no key update
),
fresh as (
    insert into idempotency_keys (tenant_id, scope, key, fingerprint, turn_id)
    select $2, $13, $14, $15, $1 from thread
    on conflict do nothing
    returning turn_id
),
accepted as (
    insert into turns (
        id, tenant_id, user_id, thread_id, concurrency_key, input_message_id,
        planned_output_message_id, model_id, settings, system_prompt, idempotency_key, expires_at,
        max_running
    )
    select
        $1, $2, $3, $4, $12, $5, $6, $9, $10::jsonb, $11,
        case when $16::boolean then $14 end, now() + make_interval(secs => $17),
        coalesce(
            (
                select l.max_running
                from concurrency_limits l
                where l.tenant_id = $2 and l.concurrency_key = $12
            ),
            1
        )
    from fresh
    returning *
),
message as (
    insert into messages (
        id, tenant_id, thread_id, turn_id, turn_seq, role, content, format, raw_data, created_by
    )
    select $5, $2, $4, $1, a.accept_seq, 'user', $7, 'pydantic_ai', $8::jsonb, $3
    from accepted a
    returning created_at
),
touched as (
    update threads t
    set last_message_at = m.created_at,
        last_message_preview = $18,
        last_turn_id = $1,
        title = coalesce(t.title, $19),
        updated_at = m.created_at
    from message m
    where t.id = $4 and (t.tenant_id = $2) is true
    returning t.id
)
select
    a.*,
    (
        select count(*)
        from (
            select 1
            from turns ahead
            where ahead.tenant_id = $2
                and ahead.concurrency_key = $12
                and ahead.status in ({active})
                and ahead.accept_seq < a.accept_seq
            limit 100
        ) counted
    ) as position
from accepted a, touched;

-- name: lock_concurrency_key :one
-- Serialises accepts that must not both find the key idle; held until the commit.
-- $1 tenant  $2 key   -- scope: system
select pg_advisory_xact_lock(hashtextextended($1::uuid::text || ':' || $2, 0)) is null as locked;

-- name: find_active_turn_of_key :one
-- The turn that is first on a concurrency key, and whose. $1 tenant  $2 concurrency key
select t.id, t.user_id
from turns t
where t.tenant_id = $1 and t.concurrency_key = $2 and t.status in ({active})
order by t.accept_seq
limit 1;

-- name: find_idempotent_turn :one
-- What an idempotency key was used for before. $1 tenant  $2 scope  $3 key
select i.fingerprint, i.turn_id
from idempotency_keys i
where i.tenant_id = $1 and i.scope = $2 and i.key = $3;

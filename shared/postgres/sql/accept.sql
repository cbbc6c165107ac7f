-- name: accept_turns :many engine
-- Writes idempotency rows, turns and users' messages of many requests; no row = refused.
-- One array per column, one element per request, in the order of accepting:
-- $1 turns  $2 tenants  $3 users  $4 threads  $5 input messages  $6 output messages  $7 texts
-- $8 raw messages  $9 models  $10 settings  $11 system prompts  $12 concurrency keys
-- $13 idempotency scopes  $14 idempotency keys  $15 fingerprints  $16 show the keys
-- $17 queue times in s  $18 previews  $19 titles  $20 whether the request named the model
-- A turn is given its thread's agent spec in the version of this moment; where the thread names none,
-- or one that was deleted, the tenant's default. The spec's model goes before the deployment's.
-- What the caller knows already is not told again.
-- Locks threads by id, then idempotency keys in order: batches of two processes never deadlock.
with asked as materialized (
    select *
    from unnest(
        $1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::uuid[], $6::uuid[], $7::text[],
        $8::text[], $9::text[], $10::text[], $11::text[], $12::text[], $13::text[], $14::text[],
        $15::bytea[], $16::boolean[], $17::double precision[], $18::text[], $19::text[],
        $20::boolean[]
    ) with ordinality as asked (
        id, tenant_id, user_id, thread_id, input_message_id, output_message_id, content,
        raw_message, model_id, settings, system_prompt, concurrency_key, scope, key,
        fingerprint, show_key, queue_time_s, preview, title, names_model, place
    )
),
thread as materialized (
    select t.id, t.tenant_id, t.user_id, t.agent_spec_id
    from threads t
    where t.id = any($4::uuid[]) and (t.deleted_at is null) is true
    order by t.id
    for no key update
),
fresh as (
    insert into idempotency_keys (tenant_id, scope, key, fingerprint, turn_id)
    select a.tenant_id, a.scope, a.key, a.fingerprint, a.id
    from asked a
    join thread t on t.id = a.thread_id and t.tenant_id = a.tenant_id and t.user_id = a.user_id
    order by a.tenant_id, a.scope, a.key, a.place
    on conflict do nothing
    returning turn_id
),
accepted as (
    insert into turns (
        id, tenant_id, user_id, thread_id, concurrency_key, input_message_id,
        planned_output_message_id, model_id, settings, system_prompt, idempotency_key, expires_at,
        agent_spec_id, agent_spec_version, max_running
    )
    select
        a.id, a.tenant_id, a.user_id, a.thread_id, a.concurrency_key, a.input_message_id,
        a.output_message_id,
        case
            when a.names_model then a.model_id
            else coalesce(named.model_id, standard.model_id, a.model_id)
        end,
        a.settings::jsonb, a.system_prompt,
        case when a.show_key then a.key end, now() + make_interval(secs => a.queue_time_s),
        coalesce(named.id, standard.id), coalesce(named.version, standard.version),
        coalesce(
            (
                select l.max_running
                from concurrency_limits l
                where l.tenant_id = a.tenant_id and l.concurrency_key = a.concurrency_key
            ),
            1
        )
    from asked a
    join fresh f on f.turn_id = a.id
    join thread t on t.id = a.thread_id
    left join lateral (
        select s.id, s.version, s.model_id
        from agent_specs s
        where s.id = t.agent_spec_id
            and (s.tenant_id = a.tenant_id and s.deleted_at is null) is true
        limit 1
    ) named on true
    left join lateral (
        select s.id, s.version, s.model_id
        from agent_specs s
        where s.tenant_id = a.tenant_id and s.is_default and named.id is null
        limit 1
    ) standard on true
    order by a.place
    returning
        id, tenant_id, user_id, thread_id, concurrency_key, input_message_id, accept_seq,
        max_running, model_id, agent_spec_id, agent_spec_version, created_at
),
message as (
    insert into messages (
        id, tenant_id, thread_id, turn_id, turn_seq, role, content, format, raw_data, created_by
    )
    select
        n.input_message_id, n.tenant_id, n.thread_id, n.id, n.accept_seq, 'user', a.content,
        'pydantic_ai', a.raw_message::jsonb, n.user_id
    from accepted n
    join asked a on a.id = n.id
    order by n.accept_seq
),
touched as (
    update threads t
    set last_message_at = now(),
        last_message_preview = news.preview,
        last_turn_id = news.turn_id,
        title = coalesce(t.title, news.title),
        updated_at = now()
    from (
        select
            n.thread_id,
            (array_agg(n.id order by n.accept_seq desc))[1] as turn_id,
            (array_agg(a.preview order by n.accept_seq desc))[1] as preview,
            (array_agg(a.title order by n.accept_seq) filter (where a.title is not null))[1] as title
        from accepted n
        join asked a on a.id = n.id
        group by n.thread_id
        order by n.thread_id
    ) news
    where t.id = any($4::uuid[]) and t.id = news.thread_id
)
select
    n.id, n.accept_seq, n.max_running, n.model_id, n.agent_spec_id, n.agent_spec_version,
    n.created_at,
    least(
        100,
        row_number() over (partition by n.tenant_id, n.concurrency_key order by n.accept_seq) - 1
        + (
            select count(*)
            from (
                select 1
                from turns ahead
                where ahead.tenant_id = n.tenant_id
                    and ahead.concurrency_key = n.concurrency_key
                    and ahead.status in ({active})
                    and ahead.accept_seq < n.accept_seq
                limit 100
            ) counted
        )
    ) as position
from accepted n;

-- name: lock_concurrency_key :one tenant
-- Serialises accepts that must not both find the key idle; held until the commit.
-- $1 tenant  $2 key   -- scope: system
select pg_advisory_xact_lock(hashtextextended($1::uuid::text || ':' || $2, 0)) is null as locked;

-- name: find_active_turn_of_key :one tenant
-- The turn that is first on a concurrency key, and whose. $1 tenant  $2 concurrency key
select t.id, t.user_id
from turns t
where t.tenant_id = $1 and t.concurrency_key = $2 and t.status in ({active})
order by t.accept_seq
limit 1;

-- name: find_idempotent_turn :one tenant
-- What an idempotency key was used for before. $1 tenant  $2 scope  $3 key
select i.fingerprint, i.turn_id
from idempotency_keys i
where i.tenant_id = $1 and i.scope = $2 and i.key = $3;

-- name: attach_message_artifacts :many engine
-- Attaches artifacts to a message that has just been accepted: those that its thread's user may see.
-- $1 tenant  $2 user  $3 thread  $4 message  $5 attachments  $6 artifacts, one for each
with held as materialized (
    select a.id, asked.attachment_id
    from unnest($5::uuid[], $6::uuid[]) as asked (attachment_id, artifact_id)
    join artifacts a on a.id = asked.artifact_id
    where a.id = any($6::uuid[])
        and (
            a.tenant_id = $1 and (not a.is_private or a.created_by = $2) and a.deleted_at is null
        ) is true
    for share of a
),
attached as (
    insert into attachments (id, tenant_id, thread_id, artifact_id, message_id, created_by)
    select h.attachment_id, $1, $3, h.id, $4, $2
    from held h
    returning id
),
counted as (
    update threads th
    set attachment_count = th.attachment_count + (select count(*) from held)
    where th.id = $3 and (th.tenant_id = $1) is true
)
select at.id
from attached at;

-- name: name_author :one engine
-- Writes down who has said a message that was just accepted, where it is not its thread's user.
-- $1 message  $2 tenant  $3 who
update messages m
set created_by = $3
where m.id = $1 and (m.tenant_id = $2) is true
returning m.id;

-- name: give_turn_agent :one engine
-- Lets another agent spec than its thread's serve a turn that has just been accepted; no row = it is
-- gone. $1 turn  $2 tenant  $3 agent spec  $4 the model where the spec names none
update turns t
set agent_spec_id = s.id,
    agent_spec_version = s.version,
    model_id = coalesce(s.model_id, $4)
from agent_specs s
where t.id = $1
    and s.id = $3
    and (t.tenant_id = $2 and s.tenant_id = $2 and s.deleted_at is null) is true
returning t.model_id, t.agent_spec_id, t.agent_spec_version;

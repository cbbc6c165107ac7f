-- name: find_newest_message :one tenant
-- The last message of a thread in the order of turns. $1 tenant  $2 thread
select m.id
from messages m
where m.thread_id = $2
    and m.superseded_at is null
    and m.turn_seq is not null
    and (m.tenant_id = $1) is true
order by m.turn_seq desc, m.seq desc
limit 1;

-- name: find_exchange :one tenant
-- Which exchange a message belongs to: the turn that answered last, and the user's message it
-- answered; and whether that brought others along. $1 tenant  $2 thread  $3 message
select m.turn_id, t.input_message_id, i.content, t.settings -> 'preceded' is not null as is_preceded
from messages m
join turns t on t.id = m.turn_id
join messages i on i.id = t.input_message_id
where m.id = $3
    and (
        m.tenant_id = $1
        and m.thread_id = $2
        and m.superseded_at is null
        and t.tenant_id = $1
        and i.superseded_at is null
    ) is true;

-- name: accept_regenerated_turn :one engine
-- Writes a turn that answers a user's message anew, and hides what was said after that message.
-- Its thread is locked by now and has no active turn. No row = the idempotency key is taken.
-- $1 turn  $2 tenant  $3 user  $4 thread  $5 replaced turn  $6 output message  $7 model
-- $8 settings  $9 system prompt  $10 concurrency key  $11 idempotency scope  $12 idempotency key
-- $13 fingerprint  $14 show the key  $15 queue time in s  $16 preview  $17 input message
-- $18 whether the request named the model
-- Agent spec and model as in `accept_turns`.
with replaced as (
    select t.id, t.accept_seq, t.input_message_id, i.seq as input_seq, th.agent_spec_id
    from turns t
    join threads th on th.id = t.thread_id
    join messages i on i.id = $17
    where t.id = $5
        and (
            t.input_message_id = $17
            and t.tenant_id = $2 and t.user_id = $3 and t.thread_id = $4
            and th.tenant_id = $2 and th.user_id = $3 and th.deleted_at is null
        ) is true
),
fresh as (
    insert into idempotency_keys (tenant_id, scope, key, fingerprint, turn_id)
    select $2, $11, $12, $13, $1
    from replaced
    on conflict do nothing
    returning turn_id
),
accepted as (
    insert into turns (
        id, tenant_id, user_id, thread_id, concurrency_key, input_message_id,
        planned_output_message_id, model_id, settings, system_prompt, idempotency_key, expires_at,
        max_running, replaced_turn_id, agent_spec_id, agent_spec_version
    )
    select
        f.turn_id, $2, $3, $4, $10, r.input_message_id, $6,
        case
            when $18::boolean then $7
            else coalesce(named.model_id, standard.model_id, $7)
        end,
        $8::jsonb, $9,
        case when $14 then $12 end, now() + make_interval(secs => $15),
        coalesce(
            (
                select l.max_running
                from concurrency_limits l
                where l.tenant_id = $2 and l.concurrency_key = $10
            ),
            1
        ),
        r.id, coalesce(named.id, standard.id), coalesce(named.version, standard.version)
    from fresh f
    cross join replaced r
    left join lateral (
        select s.id, s.version, s.model_id
        from agent_specs s
        where s.id = r.agent_spec_id
            and (s.tenant_id = $2 and s.deleted_at is null) is true
        limit 1
    ) named on true
    left join lateral (
        select s.id, s.version, s.model_id
        from agent_specs s
        where s.tenant_id = $2 and s.is_default and named.id is null
        limit 1
    ) standard on true
    returning
        id, accept_seq, max_running, model_id, agent_spec_id, agent_spec_version, created_at,
        input_message_id
),
hidden as (
    update messages m
    set superseded_at = now()
    from replaced r
    where exists (select from accepted)
        and m.thread_id = $4
        and m.superseded_at is null
        and (
            case
                when m.turn_seq is null then m.seq > r.input_seq
                else m.turn_seq >= r.accept_seq and m.id <> r.input_message_id
            end
        ) is true
    returning m.id
),
noted as (
    insert into replaced_messages (turn_id, message_id, tenant_id)
    select $1, h.id, $2
    from hidden h
),
moved as (
    update messages m
    set turn_id = a.id, turn_seq = a.accept_seq
    from accepted a
    where m.id = $17 and (m.tenant_id = $2) is true
),
touched as (
    update threads th
    set last_message_at = now(),
        last_message_preview = $16,
        last_turn_id = a.id,
        updated_at = now()
    from accepted a
    where th.id = $4 and (th.tenant_id = $2) is true
)
select
    a.id, a.accept_seq, a.max_running, a.model_id, a.agent_spec_id, a.agent_spec_version,
    a.created_at, a.input_message_id,
    (
        select count(*)
        from (
            select 1
            from turns ahead
            where ahead.tenant_id = $2
                and ahead.concurrency_key = $10
                and ahead.status in ({active})
            limit 100
        ) counted
    ) as position
from accepted a;

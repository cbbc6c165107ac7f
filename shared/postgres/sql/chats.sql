-- Chats of a team: shared threads that have an agent, and those of one user. A secret key reaches all of
-- them, a publishable one only what was made with it. A thread without an agent has the tenant's
-- default, which is what answers in it.

-- name: create_chat :one tenant
-- A new chat, shared with the tenant. $1 id  $2 tenant  $3 user  $4 agent  $5 for whom?  $6 metadata
-- $7 publishable key it is made with?
insert into threads (
    id, tenant_id, user_id, agent_spec_id, end_user, metadata, made_with, visibility
)
values ($1, $2, $3, $4, $5, $6::jsonb, $7, 'shared')
returning
    id, user_id, agent_spec_id as agent_id, end_user, metadata, last_turn_id, created_at, updated_at,
    null::bigint as untold_seq;

-- name: get_chat :one tenant
-- One chat that a key reaches. $1 thread  $2 tenant  $3 user  $4 publishable key, null: a secret one
select
    th.id, th.user_id, th.end_user, th.metadata, th.last_turn_id, th.created_at, th.updated_at,
    (
        select t.accept_seq
        from turns t
        where t.id = th.last_turn_id
            and (
                t.tenant_id = $2
                and t.status in ({terminal})
                and t.accept_seq > (case when th.told_seq is null then 0 else th.told_seq end)
            ) is true
    ) as untold_seq,
    case
        when th.agent_spec_id is null then (
            select s.id
            from agent_specs s
            where s.tenant_id = $2 and s.is_default
        )
        else th.agent_spec_id
    end as agent_id
from threads th
where th.id = $1
    and (
        th.tenant_id = $2
        and case
            when $4::uuid is null then
                th.user_id = $3 or (th.visibility = 'shared' and th.agent_spec_id is not null)
            else th.made_with = $4
        end
        and th.deleted_at is null
        and not th.is_transient
    ) is true;

-- name: list_chats :many tenant
-- Chats that a secret key reaches, newest activity first. $1 tenant  $2 user  $3 agents, null: any
-- $4 whether threads without an agent are meant, too  $5 most
with shared as materialized (
    select
        th.id, th.agent_spec_id, th.end_user, th.created_at,
        case when th.last_message_at is null then th.created_at else th.last_message_at end as active_at
    from threads th
    where th.tenant_id = $1 and th.visibility = 'shared' and th.deleted_at is null
        and (
            th.agent_spec_id is not null
            and not th.is_transient
            and ($3::uuid[] is null or th.agent_spec_id = any($3))
        ) is true
    order by
        case when th.last_message_at is null then th.created_at else th.last_message_at end desc,
        th.id desc
    limit $5
),
own as materialized (
    select
        th.id, th.agent_spec_id, th.end_user, th.created_at,
        case when th.last_message_at is null then th.created_at else th.last_message_at end as active_at
    from threads th
    where th.tenant_id = $1 and th.user_id = $2 and th.deleted_at is null
        and (
            not th.is_transient
            and (
                $3::uuid[] is null
                or case when th.agent_spec_id is null then $4 else th.agent_spec_id = any($3) end
            )
        ) is true
    order by
        case when th.last_message_at is null then th.created_at else th.last_message_at end desc,
        th.id desc
    limit $5
)
select id, agent_spec_id as agent_id, end_user, created_at, active_at from shared
union
select id, agent_spec_id as agent_id, end_user, created_at, active_at from own
order by active_at desc, id desc
limit $5;

-- name: list_chats_of_key :many tenant
-- Chats that were made with a publishable key, newest activity first. $1 tenant  $2 key
-- $3 agents, null: any  $4 most
select th.id, th.agent_spec_id as agent_id, th.end_user, th.created_at
from threads th
where th.tenant_id = $1 and th.made_with = $2 and th.deleted_at is null
    and ($3::uuid[] is null or th.agent_spec_id = any($3)) is true
order by
    case when th.last_message_at is null then th.created_at else th.last_message_at end desc,
    th.id desc
limit $4;

-- name: list_chats_of_end_user :many tenant
-- Chats for one end user that a key reaches, newest activity first. $1 tenant  $2 user
-- $3 publishable key, null: a secret one  $4 for whom  $5 agents, null: any  $6 most
select th.id, th.agent_spec_id as agent_id, th.end_user, th.created_at
from threads th
where th.tenant_id = $1 and th.end_user = $4 and th.deleted_at is null
    and (
        case
            when $3::uuid is null then
                th.user_id = $2 or (th.visibility = 'shared' and th.agent_spec_id is not null)
            else th.made_with = $3
        end
        and not th.is_transient
        and ($5::uuid[] is null or th.agent_spec_id = any($5))
    ) is true
order by
    case when th.last_message_at is null then th.created_at else th.last_message_at end desc,
    th.id desc
limit $6;

-- name: list_chat_messages :many tenant
-- What user and agent said last, oldest first; what holds tool calls alone says nothing.
-- $1 tenant  $2 thread  $3 most  $4 most bytes
select said.id, said.role, said.content, said.created_at
from (
    select
        newest.*, sum(octet_length(newest.content)) over (order by newest.seq desc) as bytes
    from (
        select m.id, m.role, m.content, m.created_at, m.seq
        from messages m
        where m.thread_id = $2 and m.superseded_at is null
            and (m.tenant_id = $1 and m.role in ('user', 'assistant') and m.content <> '') is true
        order by m.seq desc
        limit $3
    ) newest
) said
where said.bytes <= $4::bigint
order by said.seq;

-- name: find_same_question :one tenant
-- The newest turn of a thread, if it was asked just this and goes on, or has ended and was asked by a
-- stranger who was not told; no row = it is not so. $1 thread  $2 tenant  $3 user  $4 text
select newest.id
from threads th
cross join lateral (
    select t.id, t.input_message_id
    from turns t
    where t.id = th.last_turn_id
        and (
            t.tenant_id = $2
            and (
                t.status in ({active})
                or (
                    t.settings ->> 'isAnonymous' = 'true'
                    and t.accept_seq > (case when th.told_seq is null then 0 else th.told_seq end)
                )
            )
        ) is true
    limit 1
) newest
cross join lateral (
    select true
    from messages m
    where m.id = newest.input_message_id and (m.tenant_id = $2 and m.content = $4) is true
    limit 1
) asked
where th.id = $1 and (th.tenant_id = $2 and th.user_id = $3 and th.deleted_at is null) is true;

-- name: note_told :one tenant
-- The end of a turn is told, and so of those before it. $1 thread  $2 tenant  $3 user  $4 accept_seq
update threads th
set told_seq = $4
where th.id = $1
    and (
        th.tenant_id = $2 and th.user_id = $3 and (th.told_seq is null or th.told_seq < $4)
    ) is true
returning th.id;

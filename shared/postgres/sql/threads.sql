-- is_crystallizable: a completed turn of the thread holds the result of a tool call, and none of its
-- turns is active, as far as its own concurrency key and its last turn tell. Who crystallizes looks
-- closer.

-- name: create_thread :one tenant
-- A new thread of one user.
-- $1 id  $2 tenant  $3 user  $4 title  $5 system prompt  $6 metadata  $7 agent spec
with made as (
    insert into threads (id, tenant_id, user_id, title, system_prompt, metadata, agent_spec_id)
    values ($1, $2, $3, $4, $5, $6::jsonb, $7)
    returning *
)
select
    m.*, null::turn_status as last_turn_status, m.updated_at as changed_at, false as is_crystallizable
from made m;

-- name: get_thread :one tenant
-- One thread of one user, with the status of its newest turn; that turn's transitions change the
-- thread as well. $1 thread  $2 tenant  $3 user
select
    th.*,
    last_turn.status as last_turn_status,
    greatest(th.updated_at, last_turn.updated_at) as changed_at,
    (last_turn.status in ({terminal})) is true and (
        select true
        from messages m
        where m.thread_id = th.id and m.role = 'tool' and m.superseded_at is null
            and holds_action(m.raw_data)
            and (m.tenant_id = th.tenant_id) is true
            and (select d.status = {target:complete} from turns d where d.id = m.turn_id)
        limit 1
    ) is true and (
        select true
        from turns line
        where line.tenant_id = th.tenant_id
            and line.concurrency_key = 'thread:' || th.id
            and line.status in ({active})
        order by line.accept_seq
        limit 1
    ) is null as is_crystallizable
from threads th
left join lateral (
    select t.status, t.updated_at
    from turns t
    where t.id = th.last_turn_id and (t.tenant_id = th.tenant_id) is true
    limit 1
) last_turn on true
where th.id = $1
    and (th.tenant_id = $2 and th.user_id = $3 and th.deleted_at is null) is true;

-- name: list_threads :many tenant
-- A user's threads, newest activity first, behind a place. $1 tenant $2 user $3 at? $4 id? $5 most
select
    th.*,
    last_turn.status as last_turn_status,
    greatest(th.updated_at, last_turn.updated_at) as changed_at,
    (last_turn.status in ({terminal})) is true and (
        select true
        from messages m
        where m.thread_id = th.id and m.role = 'tool' and m.superseded_at is null
            and holds_action(m.raw_data)
            and (m.tenant_id = th.tenant_id) is true
            and (select d.status = {target:complete} from turns d where d.id = m.turn_id)
        limit 1
    ) is true and (
        select true
        from turns line
        where line.tenant_id = th.tenant_id
            and line.concurrency_key = 'thread:' || th.id
            and line.status in ({active})
        order by line.accept_seq
        limit 1
    ) is null as is_crystallizable
from threads th
left join lateral (
    select t.status, t.updated_at
    from turns t
    where t.id = th.last_turn_id and (t.tenant_id = th.tenant_id) is true
    limit 1
) last_turn on true
where th.tenant_id = $1 and th.user_id = $2 and th.deleted_at is null
    and (not th.is_transient) is true
    and (
        case when th.last_message_at is null then th.created_at else th.last_message_at end,
        th.id
    ) < (
        coalesce($3::timestamptz, 'infinity'),
        coalesce($4::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
    )
order by
    case when th.last_message_at is null then th.created_at else th.last_message_at end desc,
    th.id desc
limit $5;

-- name: update_thread :one tenant
-- Changes what the flags name. $1 thread  $2 tenant  $3 user
-- $4/$5 title  $6/$7 prompt  $8/$9 metadata  $10/$11 agent spec
with changed as (
    update threads th
    set title = case when $4::boolean then $5 else th.title end,
        system_prompt = case when $6::boolean then $7 else th.system_prompt end,
        metadata = case when $8::boolean then $9::jsonb else th.metadata end,
        agent_spec_id = case when $10::boolean then $11::uuid else th.agent_spec_id end,
        updated_at = case
            when $4::boolean or $6::boolean or $8::boolean or $10::boolean then now()
            else th.updated_at
        end
    where th.id = $1
    and (th.tenant_id = $2 and th.user_id = $3 and th.deleted_at is null) is true
    returning *
)
select
    c.*,
    last_turn.status as last_turn_status,
    greatest(c.updated_at, last_turn.updated_at) as changed_at,
    (last_turn.status in ({terminal})) is true and (
        select true
        from messages m
        where m.thread_id = c.id and m.role = 'tool' and m.superseded_at is null
            and holds_action(m.raw_data)
            and (m.tenant_id = c.tenant_id) is true
            and (select d.status = {target:complete} from turns d where d.id = m.turn_id)
        limit 1
    ) is true and (
        select true
        from turns line
        where line.tenant_id = c.tenant_id
            and line.concurrency_key = 'thread:' || c.id
            and line.status in ({active})
        order by line.accept_seq
        limit 1
    ) is null as is_crystallizable
from changed c
left join lateral (
    select t.status, t.updated_at
    from turns t
    where t.id = c.last_turn_id and (t.tenant_id = c.tenant_id) is true
    limit 1
) last_turn on true;

-- name: lock_thread :one tenant
-- Lets no turn be accepted in a thread until the commit. $1 thread  $2 tenant  $3 user
select th.id, th.attachment_count, th.last_turn_id
from threads th
where th.id = $1
    and (th.tenant_id = $2 and th.user_id = $3 and th.deleted_at is null) is true
for update;

-- name: delete_thread :one tenant
-- Hides a thread and all that hangs on it. $1 thread  $2 tenant  $3 user
update threads th
set deleted_at = now(), updated_at = now()
where th.id = $1
    and (th.tenant_id = $2 and th.user_id = $3 and th.deleted_at is null) is true
returning th.id;

-- name: list_thread_ids :many tenant
-- Threads of one user, least active first, behind a place, that there were at a time.
-- $1 tenant  $2 user  $3 at?  $4 id?  $5 time, null: now  $6 most
select
    th.id, coalesce(th.last_message_at, th.created_at) as active_at,
    coalesce($5::timestamptz, now()) as began_at
from threads th
where th.tenant_id = $1 and th.user_id = $2 and th.deleted_at is null
    and (not th.is_transient) is true
    and (
        case when th.last_message_at is null then th.created_at else th.last_message_at end,
        th.id
    ) > (
        coalesce($3::timestamptz, '-infinity'),
        coalesce($4::uuid, '00000000-0000-0000-0000-000000000000')
    )
    and (th.created_at <= coalesce($5::timestamptz, now())) is true
order by
    case when th.last_message_at is null then th.created_at else th.last_message_at end,
    th.id
limit $6;

-- name: lock_threads :one tenant
-- Lets no turn be accepted in these threads until the commit; those that are not the user's are left
-- out. Locks by id, as accepts do. $1 tenant  $2 user  $3 threads
with locked as materialized (
    select th.id
    from threads th
    where th.id = any($3::uuid[])
        and (th.tenant_id = $1 and th.user_id = $2 and th.deleted_at is null) is true
    order by th.id
    for update
)
select count(*) as threads from locked having count(*) > 0;

-- name: find_active_turns_of_user :many tenant
-- Turns that are not over in these threads, newest first. $1 tenant  $2 user
-- $3 threads, null: all of the user  $4 whether they wait, null: either  $5 before accept_seq  $6 most
select t.id, t.accept_seq
from turns t
where t.tenant_id = $1 and t.status in ({active})
    and (
        t.user_id = $2
        and t.accept_seq < $5
        and ($3::uuid[] is null or t.thread_id = any($3))
        and ($4::boolean is null or (t.status in ({sources:claim})) = $4)
    ) is true
    and (
        select th.deleted_at is null and ($3::uuid[] is not null or not th.is_transient)
        from threads th
        where th.id = t.thread_id
    )
order by t.accept_seq desc
limit $6;

-- name: delete_threads :one tenant
-- Hides threads and all that hangs on them; how many, no row = none. $1 tenant  $2 user  $3 threads
with gone as (
    update threads th
    set deleted_at = now(), updated_at = now()
    where th.id = any($3::uuid[])
        and (th.tenant_id = $1 and th.user_id = $2 and th.deleted_at is null) is true
    returning th.id
)
select count(*) as deleted from gone having count(*) > 0;

-- name: list_messages :many tenant
-- A thread's messages in the order they came, behind a place. $1 tenant  $2 thread  $3 after  $4 most
-- The place is never null: with `coalesce` no index could find it under row-level security, and each
-- page would read all pages before it.
select m.*
from messages m
where m.tenant_id = $1 and m.thread_id = $2 and m.superseded_at is null
    and m.seq > $3
order by m.seq
limit $4;

-- name: list_messages_backwards :many tenant
-- The same, newest first. $1 tenant  $2 thread  $3 before  $4 most
select m.*
from messages m
where m.tenant_id = $1 and m.thread_id = $2 and m.superseded_at is null
    and m.seq < $3
order by m.seq desc
limit $4;

-- name: create_thread_once :one tenant
-- A thread under an id that follows from who asks for it; no row = it was made before.
-- $1 id  $2 tenant  $3 user
insert into threads (id, tenant_id, user_id)
values ($1, $2, $3)
on conflict (id) do nothing
returning id;

-- Threads that a surface shares among the users of a tenant, and messages that no turn has made.

-- name: find_thread_owner :one tenant
-- Whose a thread is that a user may use: their own, or one that is shared. $1 thread  $2 tenant
-- $3 user
select th.user_id
from threads th
where th.id = $1
    and (
        th.tenant_id = $2
        and (th.user_id = $3 or th.visibility = 'shared')
        and th.deleted_at is null
        and not th.is_transient
    ) is true;

-- name: append_message :one tenant
-- A message that no turn has made; no row = no such thread. $1 id  $2 tenant  $3 thread  $4 owner
-- $5 role  $6 content  $7 format  $8 raw data  $9 details  $10 preview, null: not told of  $11 who says it?
with thread as materialized (
    select th.id
    from threads th
    where th.id = $3 and (th.tenant_id = $2 and th.user_id = $4 and th.deleted_at is null) is true
    for no key update
),
added as (
    insert into messages (
        id, tenant_id, thread_id, role, content, format, raw_data, details, created_by
    )
    select $1, $2, t.id, $5, $6, $7, $8::jsonb, $9::jsonb, $11
    from thread t
    returning *
),
touched as (
    update threads th
    set last_message_at = case when $10::text is null then th.last_message_at else a.created_at end,
        last_message_preview = coalesce($10, th.last_message_preview),
        updated_at = now()
    from added a
    where th.id = $3 and a.thread_id = th.id
)
select * from added;

-- name: hide_message :one tenant
-- Makes a message disappear; no row = there is none. $1 message  $2 tenant  $3 thread
update messages m
set superseded_at = now(), updated_at = now()
where m.id = $1 and (m.tenant_id = $2 and m.thread_id = $3 and m.superseded_at is null) is true
returning m.id;

-- name: hide_messages :one tenant
-- Makes all messages of a thread disappear; how many, no row = none. $1 tenant  $2 thread
with gone as (
    update messages m
    set superseded_at = now(), updated_at = now()
    where m.tenant_id = $1 and m.thread_id = $2 and m.superseded_at is null
    returning m.id
)
select count(*) as hidden from gone having count(*) > 0;

-- name: count_messages :one tenant
-- Messages of a thread, without hidden ones. $1 tenant  $2 thread
select count(*) as total
from messages m
where m.tenant_id = $1 and m.thread_id = $2 and m.superseded_at is null;

-- name: get_message :one tenant
-- One message of a thread. $1 message  $2 tenant  $3 thread
select m.*
from messages m
where m.id = $1 and (m.tenant_id = $2 and m.thread_id = $3 and m.superseded_at is null) is true;

-- Threads under names that callers choose, each name in its workspace and namespace.

-- name: find_named_thread :one tenant
-- The thread of a name, if the user may use it: their own, or one that is shared. $1 tenant
-- $2 workspace  $3 namespace  $4 name  $5 user
select nt.app, nt.thread_id, th.user_id
from named_threads nt
join lateral (
    select t.user_id
    from threads t
    where t.id = nt.thread_id
        and (
            t.tenant_id = $1
            and (t.user_id = $5 or t.visibility = 'shared')
            and t.deleted_at is null
            and not t.is_transient
        ) is true
    limit 1
) th on true
where nt.tenant_id = $1 and nt.workspace = $2 and nt.namespace = $3 and nt.name = $4;

-- name: find_name_of_thread :one tenant
-- Whether a thread has a name; no row = none. $1 thread  $2 tenant
select nt.name
from named_threads nt
where nt.thread_id = $1 and (nt.tenant_id = $2) is true;

-- name: create_thread_for_name :one tenant
-- A thread that all users of the tenant share. $1 id  $2 tenant  $3 user  $4 title?
insert into threads (id, tenant_id, user_id, title, metadata, visibility)
values ($1, $2, $3, $4, '{}', 'shared')
returning id;

-- name: name_thread :one tenant
-- Gives a thread a name that is free, or whose thread was deleted; no row = it is neither.
-- $1 tenant  $2 workspace  $3 namespace  $4 name  $5 app?  $6 thread  $7 details
insert into named_threads (tenant_id, workspace, namespace, name, app, thread_id, details)
values ($1, $2, $3, $4, $5, $6, $7::jsonb)
on conflict (tenant_id, workspace, namespace, name) do update
    set app = excluded.app,
        thread_id = excluded.thread_id,
        details = excluded.details,
        created_at = now(),
        updated_at = now()
    where (
        select th.deleted_at is not null
        from threads th
        where th.id = named_threads.thread_id
    )
returning *;

-- name: list_named_threads :many tenant
-- Named threads of a namespace that a user may use, newest first, behind a place that is never null.
-- $1 tenant  $2 user  $3 scope  $4 workspace  $5 namespace  $6 app, null: of all  $7 created at
-- $8 thread  $9 most
select
    nt.name, nt.app, nt.thread_id, nt.details, nt.created_at, th.title,
    greatest(nt.updated_at, th.updated_at) as updated_at
from named_threads nt
join lateral (
    select t.title, t.updated_at
    from threads t
    where t.id = nt.thread_id
        and (
            t.tenant_id = $1
            and (t.user_id = $2 or t.visibility = 'shared')
            and t.deleted_at is null
            and not t.is_transient
        ) is true
    limit 1
) th on true
where nt.scope = $3
    and (nt.created_at, nt.thread_id) < ($7::timestamptz, $8::uuid)
    and (
        nt.tenant_id = $1 and nt.workspace = $4 and nt.namespace = $5
        and ($6::text is null or nt.app = $6)
    ) is true
order by nt.created_at desc, nt.thread_id desc
limit $9;

-- name: count_named_threads :one tenant
-- How many there are. $1 tenant  $2 user  $3 scope  $4 workspace  $5 namespace
-- $6 app, null: of all
select count(*) as total
from named_threads nt
join lateral (
    select t.id
    from threads t
    where t.id = nt.thread_id
        and (
            t.tenant_id = $1
            and (t.user_id = $2 or t.visibility = 'shared')
            and t.deleted_at is null
            and not t.is_transient
        ) is true
    limit 1
) th on true
where nt.scope = $3
    and (
        nt.tenant_id = $1 and nt.workspace = $4 and nt.namespace = $5
        and ($6::text is null or nt.app = $6)
    ) is true;

-- name: list_newest_messages :many tenant
-- The newest messages of some roles, oldest first, and how many of them were found at all. No more
-- are read once there are so many bytes. $1 tenant  $2 thread  $3 roles  $4 most  $5 bytes
select n.*
from (
    select
        f.*,
        count(*) over () as found,
        coalesce(
            sum(
                octet_length(f.content) + coalesce(pg_column_size(f.raw_data), 0)
                + coalesce(pg_column_size(f.details), 0)
            ) over (
                order by f.seq desc
                rows between unbounded preceding and 1 preceding
            ),
            0
        ) as newer_bytes
    from (
        select m.id, m.seq, m.role, m.content, m.raw_data, m.details
        from messages m
        where m.tenant_id = $1 and m.thread_id = $2 and m.superseded_at is null
            and (m.role = any($3::text[])) is true
        order by m.seq desc
        limit $4
    ) f
) n
where n.newer_bytes < $5
order by n.seq;

-- name: find_turns_of_messages :many tenant
-- What turns used, for the messages they made. $1 tenant  $2 turns
select t.id, t.model_id, t.usage, t.output_message_id
from turns t
where t.id = any($2::uuid[]) and (t.tenant_id = $1) is true;

-- name: list_artifacts_of_messages :many tenant
-- Artifacts that are attached to messages of a thread. $1 tenant  $2 thread  $3 messages  $4 most
select
    at.message_id, at.artifact_id, a.mime_type, a.file_name, a.size_bytes
from attachments at
join lateral (
    select f.mime_type, coalesce(f.original_filename, f.title) as file_name, f.size_bytes
    from artifacts f
    where f.id = at.artifact_id
    limit 1
) a on true
where at.thread_id = $2 and at.deleted_at is null
    and (at.tenant_id = $1 and at.message_id = any($3::uuid[])) is true
order by at.created_at, at.id
limit $4;

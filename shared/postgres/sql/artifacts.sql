-- name: create_inline_artifact :one tenant
-- A JSON value or a text, kept in the row. $1 id  $2 tenant  $3 action run  $4 kind  $5 title
-- $6 type  $7 size in bytes  $8 text  $9 user
insert into artifacts (
    id, tenant_id, action_run_id, kind, title, mime_type, size_bytes, inline_text, created_by
)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
returning *, null::text as object_key;

-- name: lock_storage_use :one tenant
-- What a tenant stores; until the commit nobody changes it. $1 tenant
insert into storage_use as u (tenant_id)
values ($1)
on conflict (tenant_id) do update set artifact_count = u.artifact_count
returning artifact_count, size_bytes;

-- name: find_stored_file :one tenant
-- Whether the tenant has stored this content already. It counts as stored now: whoever asks is about
-- to name it, and what was stored lately is not purged. $1 tenant  $2 sha256
update stored_files f
set stored_at = now()
where f.tenant_id = $1 and f.sha256 = $2
returning f.object_key;

-- name: create_file_artifact :one tenant
-- An artifact of stored content; `object_key` is the one that counts, of whoever stored it first.
-- $1 id  $2 tenant  $3 title  $4 file name  $5 type  $6 size in bytes  $7 sha256  $8 object key
-- $9 reader  $10 user  $11 project?  $12 properties?  $13 its user's alone
with stored as (
    insert into stored_files (tenant_id, sha256, object_key, size_bytes, reader)
    values ($2, $7, $8, $6, $9)
    on conflict (tenant_id, sha256) do update set stored_at = now()
    returning object_key
),
made as (
    insert into artifacts (
        id, tenant_id, kind, title, original_filename, mime_type, size_bytes, sha256, created_by,
        project_id, props, is_private
    )
    values ($1, $2, 'file', $3, $4, $5, $6, $7, $10, $11, $12::jsonb, $13)
    returning *
)
select m.*, s.object_key
from made m
cross join stored s;

-- name: get_artifact :one tenant
-- One artifact that a user may see, and where its bytes lie: the tenant's, and of those that are
-- private their own. $1 artifact  $2 tenant  $3 user
select a.*, f.object_key
from artifacts a
left join stored_files f on f.tenant_id = a.tenant_id and f.sha256 = a.sha256
where a.id = $1
    and (
        a.tenant_id = $2 and (not a.is_private or a.created_by = $3) and a.deleted_at is null
    ) is true;

-- name: lock_artifact :one tenant
-- One artifact that a user may see; nobody deletes it until the commit. $1 artifact  $2 tenant
-- $3 user
select a.id
from artifacts a
where a.id = $1
    and (
        a.tenant_id = $2 and (not a.is_private or a.created_by = $3) and a.deleted_at is null
    ) is true
for share;

-- name: delete_artifact :one tenant
-- Hides an artifact that a user has made. $1 artifact  $2 tenant  $3 user
update artifacts a
set deleted_at = now(), updated_at = now()
where a.id = $1 and (a.tenant_id = $2 and a.created_by = $3 and a.deleted_at is null) is true
returning a.id;

-- name: detach_artifact :many engine
-- Takes an artifact that has just been hidden from all threads, whosoever, and counts it no more
-- there. $1 artifact  $2 tenant
with threads_of as materialized (
    select th.id
    from threads th
    where th.id = any(array(
        select at.thread_id
        from attachments at
        where at.artifact_id = $1 and (at.tenant_id = $2 and at.deleted_at is null) is true
    ))
    order by th.id
    for no key update
),
gone as (
    update attachments at
    set deleted_at = now(), updated_at = now()
    from threads_of o
    where at.artifact_id = $1 and (at.thread_id = o.id and at.deleted_at is null) is true
    returning at.thread_id
)
update threads th
set attachment_count = th.attachment_count - (
        select count(*) from gone g where g.thread_id = th.id
    )
where th.id = any(array(select g.thread_id from gone g))
returning th.id;

-- name: list_deleted_artifacts :many engine
-- What may be purged, longest hidden first: nothing whose content was stored again lately.
-- $1 s  $2 most   -- scope: system
select a.tenant_id, a.id
from artifacts a
left join stored_files f on f.tenant_id = a.tenant_id and f.sha256 = a.sha256
where a.deleted_at < now() - make_interval(secs => $1)
    and (f.stored_at is null or f.stored_at < now() - make_interval(secs => $1))
order by a.deleted_at
limit $2;

-- name: lock_storage_use_of :many engine
-- Until the commit nobody of the tenant makes artifacts. $1 tenant
select u.tenant_id
from storage_use u
where u.tenant_id = $1
for update;

-- name: purge_artifacts :many engine
-- Removes hidden artifacts, and of their contents those that nothing names any more: their keys.
-- $1 tenant  $2 artifacts  $3 s, as of `list_deleted_artifacts`
with files as materialized (
    select f.sha256
    from stored_files f
    where f.tenant_id = $1
        and f.sha256 in (
            select a.sha256
            from artifacts a
            where a.id = any($2::uuid[]) and (a.tenant_id = $1) is true
        )
        and (f.stored_at < now() - make_interval(secs => $3)) is true
    order by f.sha256
    for update
),
gone as materialized (
    delete from artifacts a
    where a.id = any($2::uuid[])
        and (
            a.tenant_id = $1 and a.deleted_at is not null
            and (a.sha256 is null or a.sha256 in (select f.sha256 from files f))
        ) is true
    returning a.id
),
detached as (
    delete from attachments at
    where at.artifact_id in (select g.id from gone g)
)
delete from stored_files s
where s.tenant_id = $1
    and s.sha256 in (select f.sha256 from files f)
    and not exists (
        select
        from artifacts a
        where a.tenant_id = $1 and a.sha256 = s.sha256 and a.id not in (select g.id from gone g)
    )
returning s.object_key;

-- name: list_artifacts :many tenant
-- A page of the artifacts that a user may see, newest first; a long text is left out. Of the three
-- ways to find them the arguments choose one, and the others are never run.
-- $1 tenant  $2 action run?  $3 kind?  $4 offset  $5 most  $6 bytes of a long text  $7 user
select
    a.id, a.tenant_id, a.action_run_id, a.kind, a.title, a.original_filename, a.mime_type,
    a.size_bytes, a.sha256, a.created_by, a.created_at, a.updated_at, f.object_key,
    case when a.size_bytes <= $6 then a.inline_text end as inline_text
from (
    (
        select k.id, k.created_at
        from artifacts k
        where $2::uuid is null and $3::text is null and k.tenant_id = $1
            and (k.deleted_at is null and (not k.is_private or k.created_by = $7)) is true
        order by k.created_at desc, k.id desc
        offset $4
        limit $5
    )
    union all
    (
        select k.id, k.created_at
        from artifacts k
        where $2::uuid is null and k.tenant_id = $1 and k.kind = $3
            and (k.deleted_at is null and (not k.is_private or k.created_by = $7)) is true
        order by k.created_at desc, k.id desc
        offset $4
        limit $5
    )
    union all
    (
        select k.id, k.created_at
        from artifacts k
        where k.tenant_id = $1 and k.action_run_id = $2 and ($3::text is null or k.kind = $3) is true
            and (k.deleted_at is null and (not k.is_private or k.created_by = $7)) is true
        order by k.created_at desc, k.id desc
        offset $4
        limit $5
    )
) page
join artifacts a on a.id = page.id
left join stored_files f on f.tenant_id = a.tenant_id and f.sha256 = a.sha256
order by page.created_at desc, page.id desc;

-- name: count_artifacts :one tenant
-- How many there are of what `list_artifacts` pages through: the tenant's were counted, the user's own
-- private ones and those of a run are counted now. $1 tenant  $2 action run?  $3 kind?  $4 user
select
    case
        when $2::uuid is null then (
            select coalesce(sum(c.total), 0)
            from artifact_counts c
            where c.tenant_id = $1 and ($3::text is null or c.kind = $3) is true
        ) + (
            select count(*)
            from artifacts k
            where k.tenant_id = $1 and k.created_by = $4 and k.is_private
                and (k.deleted_at is null and ($3::text is null or k.kind = $3)) is true
        )
        else (
            select count(*)
            from artifacts k
            where k.tenant_id = $1 and k.action_run_id = $2
                and ($3::text is null or k.kind = $3) is true
                and (k.deleted_at is null and (not k.is_private or k.created_by = $4)) is true
        )
    end::bigint as total;

-- name: find_unnamed_objects :many engine
-- Which of these objects of our tenants no file names: where several deployments, or others, share a
-- place, theirs are left alone. $1 object keys, each `tenant/…`   -- scope: system
select asked.object_key
from unnest($1::text[]) as asked (object_key)
where exists (select 1 from tenants n where n.id = split_part(asked.object_key, '/', 1)::uuid)
    and not exists (select 1 from stored_files f where f.object_key = asked.object_key);

-- name: find_message_of_thread :one tenant
-- Whether a thread holds a message that was not superseded. $1 message  $2 tenant  $3 thread
select m.id
from messages m
where m.id = $1 and (m.tenant_id = $2 and m.thread_id = $3 and m.superseded_at is null) is true;

-- name: create_attachment :one tenant
-- Attaches an artifact and counts it; no row: it is attached already. Either way its text is read, if
-- it was not yet, or was given up for no fault of the file's. The caller holds the thread's lock. $1 id  $2 tenant  $3 thread  $4 artifact  $5 message?  $6 user
with made as (
    insert into attachments (id, tenant_id, thread_id, artifact_id, message_id, created_by)
    values ($1, $2, $3, $4, $5, $6)
    on conflict do nothing
    returning id, artifact_id
),
counted as (
    update threads th
    set attachment_count = th.attachment_count + 1
    from made m
    where th.id = $3 and (th.tenant_id = $2) is true
),
begun as (
    update stored_files f
    set ingestion_status = {ingestion:pending},
        ingestion_attempt = 0,
        ingestion_due_at = now(),
        ingestion_reason = null,
        ingestion_changed_at = now()
    from artifacts a
    where a.id = $4
        and f.tenant_id = $2 and f.sha256 = a.sha256
        and (
            f.reader is not null
            and (
                f.ingestion_status = {ingestion:none}
                or f.ingestion_status = {ingestion:failed} and f.ingestion_reason in ({retried})
            )
        ) is true
)
select m.id
from made m;

-- name: find_attachment :one tenant
-- The attachment of an artifact to a thread or to one of its messages.
-- $1 tenant  $2 thread  $3 artifact  $4 message?
select at.id
from attachments at
where at.thread_id = $2 and at.artifact_id = $3
    and coalesce(at.message_id, '00000000-0000-0000-0000-000000000000')
        = coalesce($4::uuid, '00000000-0000-0000-0000-000000000000')
    and at.deleted_at is null
    and (at.tenant_id = $1) is true;

-- name: get_attachment :one tenant
-- One attachment of one user's thread. $1 attachment  $2 tenant  $3 user
select
    at.id, at.thread_id, at.artifact_id, at.message_id, at.created_by, at.created_at,
    greatest(at.updated_at, f.ingestion_changed_at) as updated_at,
    a.mime_type, coalesce(a.original_filename, a.title) as file_name, a.size_bytes,
    case when a.kind = 'file' then f.ingestion_status else {ingestion:completed} end as ingestion_status
from attachments at
join artifacts a on a.id = at.artifact_id
left join stored_files f on f.tenant_id = a.tenant_id and f.sha256 = a.sha256
where at.id = $1
    and (at.tenant_id = $2 and at.deleted_at is null) is true
    and (
        select th.user_id = $3 and th.deleted_at is null
        from threads th
        where th.id = at.thread_id
    ) is true;

-- name: list_attachments :many tenant
-- A page of a thread's attachments, oldest first. $1 tenant  $2 user  $3 thread  $4 offset  $5 most
select
    at.id, at.thread_id, at.artifact_id, at.message_id, at.created_by, at.created_at,
    greatest(at.updated_at, f.ingestion_changed_at) as updated_at,
    a.mime_type, coalesce(a.original_filename, a.title) as file_name, a.size_bytes,
    case when a.kind = 'file' then f.ingestion_status else {ingestion:completed} end as ingestion_status
from attachments at
join threads th on th.id = at.thread_id
join artifacts a on a.id = at.artifact_id
left join stored_files f on f.tenant_id = a.tenant_id and f.sha256 = a.sha256
where at.thread_id = $3 and at.deleted_at is null
    and (at.tenant_id = $1 and th.user_id = $2 and th.deleted_at is null) is true
order by at.created_at, at.id
offset $4
limit $5;

-- name: delete_attachment :one tenant
-- Hides an attachment, and counts it no more. $1 attachment  $2 tenant  $3 user
-- Locks the thread first, then the attachment, as whoever attaches.
with held as materialized (
    select th.id
    from threads th
    where th.id = (
            select at.thread_id
            from attachments at
            where at.id = $1 and (at.tenant_id = $2 and at.deleted_at is null) is true
        )
        and (th.tenant_id = $2 and th.user_id = $3 and th.deleted_at is null) is true
    for no key update
),
gone as (
    update attachments at
    set deleted_at = now(), updated_at = now()
    from held
    where at.id = $1
        and (at.thread_id = held.id and at.tenant_id = $2 and at.deleted_at is null) is true
    returning at.id, at.thread_id
),
counted as (
    update threads th
    set attachment_count = th.attachment_count - 1
    where th.id = (select g.thread_id from gone g) and (th.tenant_id = $2) is true
)
select g.id
from gone g;

-- name: find_awaited_text :one tenant
-- Whether a text is still to be read of those that `list_attached_texts` tells, and the least time
-- that such a one has been attached, in s; for one of the turn's own message that is none. No text is
-- touched. $1 tenant  $2 user  $3 thread  $4 message  $5 most attachments
select
    min(
        case when seen.message_id is null then extract(epoch from now() - seen.created_at) else 0 end
    )::double precision as attached_for_s
from (
    select at.artifact_id, at.message_id, at.created_at
    from attachments at
    join threads th on th.id = at.thread_id
    where at.thread_id = $3 and at.deleted_at is null
        and (
            at.tenant_id = $1 and th.user_id = $2 and (at.message_id is null or at.message_id = $4)
        ) is true
    order by at.message_id is null, at.created_at, at.id
    limit $5
) seen
join artifacts a on a.id = seen.artifact_id
join stored_files f on f.tenant_id = a.tenant_id and f.sha256 = a.sha256
where (f.ingestion_status in ({ingestion:pending}, {ingestion:processing})) is true
having count(*) > 0;

-- name: list_attached_texts :many tenant
-- What a turn's model may read: of the thread, and of the turn's own message, whose come first.
-- $1 tenant  $2 user  $3 thread  $4 message  $5 most characters of a text  $6 most attachments
select
    at.id, a.mime_type, coalesce(a.original_filename, a.title, a.kind) as name,
    coalesce(left(whole.text, $5), '') as text,
    coalesce(f.is_cut, false)
    or coalesce(octet_length(whole.text) > octet_length(left(whole.text, $5)), false) as is_cut
from attachments at
join threads th on th.id = at.thread_id
join artifacts a on a.id = at.artifact_id
left join stored_files f on f.tenant_id = a.tenant_id and f.sha256 = a.sha256
cross join lateral (select coalesce(a.inline_text, f.extracted_text) as text) whole
where at.thread_id = $3 and at.deleted_at is null
    and (
        at.tenant_id = $1 and th.user_id = $2 and (at.message_id is null or at.message_id = $4)
    ) is true
order by at.message_id is null, at.created_at, at.id
limit $6;

-- name: find_living_attachments :many tenant
-- Which of these attachments of a thread were not removed. $1 tenant  $2 thread  $3 attachments
select at.id
from attachments at
where at.id = any($3::uuid[])
    and (at.tenant_id = $1 and at.thread_id = $2 and at.deleted_at is null) is true;

-- name: list_attached_names :many tenant
-- What a turn's tools may read, in the order of `list_attached_texts`; no text is touched, the size of
-- one is known without. $1 tenant  $2 user  $3 thread  $4 message  $5 only this id or name?
-- $6 most attachments
select
    at.id, coalesce(a.original_filename, a.title, a.kind) as name,
    coalesce(octet_length(coalesce(a.inline_text, f.extracted_text)), 0) as size_bytes
from attachments at
join threads th on th.id = at.thread_id
join artifacts a on a.id = at.artifact_id
left join stored_files f on f.tenant_id = a.tenant_id and f.sha256 = a.sha256
where at.thread_id = $3 and at.deleted_at is null
    and (
        at.tenant_id = $1 and th.user_id = $2 and (at.message_id is null or at.message_id = $4)
        and (
            $5::text is null
            or at.id::text = $5
            or coalesce(a.original_filename, a.title, a.kind) = $5
        )
    ) is true
order by at.message_id is null, at.created_at, at.id
limit $6;

-- name: read_attached_text :one tenant
-- A part of one text that a turn's tools may read, and how many characters it has in all.
-- $1 tenant  $2 user  $3 thread  $4 message  $5 attachment  $6 first character, from 0
-- $7 most characters
select
    coalesce(substr(whole.text, $6::integer + 1, $7), '') as text,
    coalesce(length(whole.text), 0) as total_chars,
    coalesce(f.is_cut, false) as is_cut
from attachments at
join threads th on th.id = at.thread_id
join artifacts a on a.id = at.artifact_id
left join stored_files f on f.tenant_id = a.tenant_id and f.sha256 = a.sha256
cross join lateral (select coalesce(a.inline_text, f.extracted_text) as text) whole
where at.id = $5
    and th.id = $3
    and (
        at.tenant_id = $1 and th.user_id = $2 and at.deleted_at is null
        and (at.message_id is null or at.message_id = $4)
    ) is true;

-- name: attach_message_files :many engine
-- The files of a message that has just been accepted: stored content, artifacts, attachments. As
-- private as the message.
-- $1 tenant  $2 user  $3 thread  $4 message; one array per column, one element per file:
-- $5 artifacts  $6 attachments  $7 sha256s  $8 object keys  $9 sizes  $10 readers  $11 names
-- $12 types
with asked as materialized (
    select *
    from unnest(
        $5::uuid[], $6::uuid[], $7::bytea[], $8::text[], $9::bigint[], $10::text[], $11::text[],
        $12::text[]
    ) as asked (
        artifact_id, attachment_id, sha256, object_key, size_bytes, reader, name, mime_type
    )
),
stored as (
    insert into stored_files as f (
        tenant_id, sha256, object_key, size_bytes, reader, ingestion_status, ingestion_due_at
    )
    select distinct on (a.sha256)
        $1::uuid, a.sha256, a.object_key, a.size_bytes, a.reader,
        case when a.reader is null then {ingestion:none} else {ingestion:pending} end,
        case when a.reader is not null then now() end
    from asked a
    order by a.sha256
    on conflict (tenant_id, sha256) do update
    set stored_at = now(),
        reader = coalesce(f.reader, excluded.reader),
        (
            ingestion_status, ingestion_attempt, ingestion_due_at, ingestion_reason,
            ingestion_changed_at
        ) = (
            select
                case when anew.it_is then {ingestion:pending} else f.ingestion_status end,
                case when anew.it_is then 0 else f.ingestion_attempt end,
                case when anew.it_is then now() else f.ingestion_due_at end,
                case when not anew.it_is then f.ingestion_reason end,
                case when anew.it_is then now() else f.ingestion_changed_at end
            from (
                select
                    coalesce(f.reader, excluded.reader) is not null
                    and (
                        f.ingestion_status = {ingestion:none}
                        or (
                            f.ingestion_status = {ingestion:failed}
                            and f.ingestion_reason in ({retried})
                        ) is true
                    ) as it_is
            ) anew
        )
),
made as (
    insert into artifacts (
        id, tenant_id, kind, original_filename, mime_type, size_bytes, sha256, created_by, is_private
    )
    select a.artifact_id, $1, 'file', a.name, a.mime_type, a.size_bytes, a.sha256, $2::uuid, true
    from asked a
),
attached as (
    insert into attachments (id, tenant_id, thread_id, artifact_id, message_id, created_by)
    select a.attachment_id, $1, $3::uuid, a.artifact_id, $4::uuid, $2
    from asked a
    returning id
),
counted as (
    update threads th
    set attachment_count = th.attachment_count + (select count(*) from asked)
    where th.id = $3 and (th.tenant_id = $1) is true
)
select at.id
from attached at;

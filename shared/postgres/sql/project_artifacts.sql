-- Artifacts of projects, and how far those that a message names were read.
-- A list is read in either direction behind a place; who lists backwards turns the page around.

-- name: begin_ingestion :one tenant
-- Has the text of an artifact's file read, if anybody can and nobody has. $1 artifact  $2 tenant
update stored_files f
set ingestion_status = {ingestion:pending},
    ingestion_attempt = 0,
    ingestion_due_at = now(),
    ingestion_reason = null,
    ingestion_changed_at = now()
from artifacts a
where a.id = $1
    and f.tenant_id = $2 and f.sha256 = a.sha256
    and (
        f.reader is not null
        and (
            f.ingestion_status = {ingestion:none}
            or f.ingestion_status = {ingestion:failed} and f.ingestion_reason in ({retried})
        )
    ) is true
returning a.id;

-- name: get_project_artifact :one tenant
-- An artifact of a project that a user may see, and how far its text was read. $1 artifact  $2 tenant
-- $3 user
select a.*, f.reader, f.ingestion_status
from artifacts a
left join stored_files f on f.tenant_id = a.tenant_id and f.sha256 = a.sha256
where a.id = $1
    and (
        a.tenant_id = $2 and (not a.is_private or a.created_by = $3) and a.deleted_at is null
        and a.project_id is not null
    ) is true;

-- name: list_project_artifacts :many tenant
-- A page of the artifacts of a project that the caller may see. $1 tenant  $2 user  $3 project
-- $4 behind this time?  $5 and this id?  $6 newest first  $7 skipped  $8 most
select a.*, f.reader, f.ingestion_status
from (
    select k.id, k.created_at
    from artifacts k
    where k.project_id = $3
        and (
            k.tenant_id = $1 and (not k.is_private or k.created_by = $2) and k.deleted_at is null
        ) is true
        and (
            $4::timestamptz is null
            or case
                when $6::boolean then (k.created_at, k.id) < ($4, $5::uuid)
                else (k.created_at, k.id) > ($4, $5)
            end
        )
    order by
        case when $6 then k.created_at end desc, case when $6 then k.id end desc, k.created_at, k.id
    offset $7
    limit $8
) page
join artifacts a on a.id = page.id
left join stored_files f on f.tenant_id = a.tenant_id and f.sha256 = a.sha256
order by
    case when $6 then page.created_at end desc, case when $6 then page.id end desc,
    page.created_at, page.id;

-- name: count_project_artifacts :one tenant
-- How many artifacts `list_project_artifacts` pages through. $1 tenant  $2 user  $3 project
select count(*) as total
from artifacts k
where k.project_id = $3
    and (
        k.tenant_id = $1 and (not k.is_private or k.created_by = $2) and k.deleted_at is null
    ) is true;

-- name: find_named_artifacts :many tenant
-- Which of these artifacts a user may see, and how far their texts were read. $1 tenant  $2 user
-- $3 artifacts
select a.id, a.kind, f.reader, f.ingestion_status
from artifacts a
left join stored_files f on f.tenant_id = a.tenant_id and f.sha256 = a.sha256
where a.id = any($3::uuid[])
    and (
        a.tenant_id = $1 and (not a.is_private or a.created_by = $2) and a.deleted_at is null
    ) is true;

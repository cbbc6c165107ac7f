-- name: claim_ingestion :one engine
-- Takes a file whose text is to be read: of a tenant drawn by lot, the one that has waited longest, so
-- that a flood of one tenant delays the others little. One that was tried too often fails here.
-- $1 lease in s  $2 most tries   -- scope: system
with recursive tenant (id) as (
    (
        select f.tenant_id
        from stored_files f
        where f.ingestion_status in ({ingestion:pending}, {ingestion:processing})
        order by f.tenant_id
        limit 1
    )
    union all
    select (
        select f.tenant_id
        from stored_files f
        where f.ingestion_status in ({ingestion:pending}, {ingestion:processing}) and f.tenant_id > t.id
        order by f.tenant_id
        limit 1
    )
    from tenant t
    where t.id is not null
),
chosen as materialized (
    select due.tenant_id, due.sha256
    from (select t.id from tenant t where t.id is not null limit 1000) waiting
    cross join lateral (
        select f.tenant_id, f.sha256
        from stored_files f
        where f.tenant_id = waiting.id
            and f.ingestion_status in ({ingestion:pending}, {ingestion:processing})
            and f.ingestion_due_at <= now()
        order by f.ingestion_due_at
        limit 1
    ) due
    order by random()
    limit 1
),
next as (
    select f.tenant_id, f.sha256
    from stored_files f
    join chosen c on c.tenant_id = f.tenant_id and c.sha256 = f.sha256
    where (
        f.ingestion_status in ({ingestion:pending}, {ingestion:processing})
        and f.ingestion_due_at <= now()
    ) is true
    for update of f skip locked
)
update stored_files f
set ingestion_status = case
        when f.ingestion_attempt >= $2 then {ingestion:failed} else {ingestion:processing}
    end,
    ingestion_attempt = f.ingestion_attempt + 1,
    ingestion_due_at = case
        when f.ingestion_attempt < $2 then now() + make_interval(secs => $1)
    end,
    ingestion_reason = case when f.ingestion_attempt >= $2 then 'poison' end,
    ingestion_changed_at = now()
from next n
where f.tenant_id = n.tenant_id and f.sha256 = n.sha256
returning
    f.tenant_id, f.sha256, f.object_key, f.size_bytes, f.reader, f.ingestion_attempt,
    f.ingestion_status;

-- name: finish_ingestion :one engine
-- What came of it, unless another attempt has begun. $1 tenant  $2 sha256  $3 attempt  $4 status
-- $5 reason  $6 text  $7 whether the text is only the beginning
update stored_files f
set ingestion_status = $4::text::ingestion_status,
    ingestion_due_at = null,
    ingestion_reason = $5,
    ingestion_changed_at = now(),
    extracted_text = $6,
    is_cut = $7
where f.tenant_id = $1 and f.sha256 = $2
    and (f.ingestion_attempt = $3 and f.ingestion_status = {ingestion:processing}) is true
returning f.ingestion_status;

-- name: postpone_ingestion :one engine
-- Gives a file back, to be tried again later. $1 tenant  $2 sha256  $3 attempt  $4 not before, in s
-- $5 whether the attempt does not count  $6 reason
update stored_files f
set ingestion_status = {ingestion:pending},
    ingestion_due_at = now() + make_interval(secs => $4),
    ingestion_attempt = f.ingestion_attempt - $5::boolean::integer,
    ingestion_reason = $6,
    ingestion_changed_at = now()
where f.tenant_id = $1 and f.sha256 = $2
    and (f.ingestion_attempt = $3 and f.ingestion_status = {ingestion:processing}) is true
returning f.ingestion_status;

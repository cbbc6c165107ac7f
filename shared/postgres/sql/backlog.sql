-- name: read_backlog :many engine
-- How many turns wait: of all, then of each tenant and each key with at least so many. The first
-- row has no tenant, but the newest accept_seq that waits, how many tenants wait, for how many keys
-- a worker is all that is missing (none of their turns holds a slot), and how long Postgres took for this.
-- $1 least of a tenant  $2 least of a key   -- scope: system
with keys as materialized (
    select t.tenant_id, t.concurrency_key, count(*) as waiting, max(t.accept_seq) as newest
    from turns t
    where t.status in ({sources:claim})
    group by t.tenant_id, t.concurrency_key
),
tenants as materialized (
    select k.tenant_id, sum(k.waiting)::bigint as waiting, max(k.newest) as newest
    from keys k
    group by k.tenant_id
)
select
    null::uuid as tenant_id, null::text as concurrency_key,
    coalesce(sum(n.waiting), 0)::bigint as waiting, max(n.newest) as newest, count(*) as tenants,
    (
        select count(*)
        from keys k
        where not exists (
            select
            from turns r
            where r.tenant_id = k.tenant_id and r.concurrency_key = k.concurrency_key
                and r.slot is not null
        )
    ) as claimable,
    extract(epoch from clock_timestamp() - statement_timestamp())::float8 as took_s
from tenants n
union all
select n.tenant_id, null, n.waiting, null, null, null, null
from tenants n
where n.waiting >= $1::bigint
union all
select k.tenant_id, k.concurrency_key, k.waiting, null, null, null, null
from keys k
where k.waiting >= $2::bigint;

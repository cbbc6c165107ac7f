-- Threads of projects. One without a project belongs to the default one.
-- A list is read in either direction behind a place; who lists backwards turns the page around.

-- name: create_project_thread :one tenant
-- A thread of a project. What is shared in a private project is shared in it alone.
-- $1 id  $2 tenant  $3 user  $4 title  $5 visibility  $6 project, null: default
insert into threads (id, tenant_id, user_id, title, visibility, project_id)
values (
    $1, $2, $3, $4,
    case
        when $5 = 'shared' and (
            select p.visibility = 'private'
            from projects p
            where p.id = $6 and (p.tenant_id = $2) is true
        ) then 'project'
        else $5
    end,
    $6
)
returning *;

-- name: find_project_thread :one tenant
-- A thread that a user may use, in a project that they may see. $1 thread  $2 tenant  $3 user
select th.*
from threads th
where th.id = $1
    and (
        th.tenant_id = $2
        and (th.user_id = $3 or th.visibility = 'shared')
        and th.deleted_at is null
        and not th.is_transient
    ) is true
    and (
        th.project_id is null
        or (
            select (p.visibility = 'shared' or p.created_by = $3) and p.deleted_at is null
            from projects p
            where p.id = th.project_id and (p.tenant_id = $2) is true
        )
    ) is true;

-- name: update_project_thread :one tenant
-- Changes what is given. $1 thread  $2 tenant  $3 owner  $4 title?  $5 visibility?
update threads th
set title = coalesce($4, th.title),
    visibility = case
        when $5 = 'shared' and (
            select p.visibility = 'private'
            from projects p
            where p.id = th.project_id and (p.tenant_id = $2) is true
        ) then 'project'
        else coalesce($5, th.visibility)
    end,
    updated_at = now()
where th.id = $1 and (th.tenant_id = $2 and th.user_id = $3 and th.deleted_at is null) is true
returning th.id;

-- name: list_project_threads :many tenant
-- A page of a project's threads: a user's own, and what others share. $1 tenant  $2 user
-- $3 project, null: default  $4 behind this time?  $5 and this id?  $6 newest first  $7 skipped  $8 most
select th.*
from (
    select f.id, f.created_at
    from (
        select own.id, own.created_at
        from threads own
        where own.tenant_id = $1 and own.user_id = $2 and own.deleted_at is null
            and (own.project_id is not distinct from $3::uuid and not own.is_transient) is true
        union all
        select others.id, others.created_at
        from threads others
        where others.tenant_id = $1
            and case
                when others.project_id is null then '00000000-0000-0000-0000-000000000000'
                else others.project_id
            end = coalesce($3, '00000000-0000-0000-0000-000000000000')
            and others.visibility = 'shared'
            and others.deleted_at is null
            and not others.is_transient
            and (others.user_id <> $2) is true
    ) f
    where $4::timestamptz is null
        or case
            when $6::boolean then (f.created_at, f.id) < ($4, $5::uuid)
            else (f.created_at, f.id) > ($4, $5)
        end
    order by
        case when $6 then f.created_at end desc, case when $6 then f.id end desc, f.created_at, f.id
    offset $7
    limit $8
) page
join lateral (select own.* from threads own where own.id = page.id limit 1) th on true
order by
    case when $6 then page.created_at end desc, case when $6 then page.id end desc,
    page.created_at, page.id;

-- name: count_project_threads :one tenant
-- How many threads `list_project_threads` pages through. $1 tenant  $2 user  $3 project, null: default
select
    (
        select count(*)
        from threads own
        where own.tenant_id = $1 and own.user_id = $2 and own.deleted_at is null
            and (own.project_id is not distinct from $3::uuid and not own.is_transient) is true
    ) + (
        select count(*)
        from threads others
        where others.tenant_id = $1
            and case
                when others.project_id is null then '00000000-0000-0000-0000-000000000000'
                else others.project_id
            end = coalesce($3, '00000000-0000-0000-0000-000000000000')
            and others.visibility = 'shared'
            and others.deleted_at is null
            and not others.is_transient
            and (others.user_id <> $2) is true
    ) as total;

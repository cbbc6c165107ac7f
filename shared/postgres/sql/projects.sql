-- name: add_default_project :one engine
-- A tenant's default project, made the first time somebody asks for it; no row = it is there.
-- $1 id  $2 tenant  $3 user
insert into projects (id, tenant_id, name, is_default, created_by)
values ($1, $2, 'Default', true, $3)
on conflict (tenant_id) where is_default and deleted_at is null do nothing
returning id;

-- name: find_default_project :one engine
-- A tenant's default project. $1 tenant
select p.id
from projects p
where p.tenant_id = $1 and p.is_default and p.deleted_at is null;

-- name: create_project :one tenant
-- A project. $1 id  $2 tenant  $3 user  $4 name  $5 goal?  $6 deadline?  $7 visibility
insert into projects (id, tenant_id, created_by, name, goal, deadline, visibility)
values ($1, $2, $3, $4, $5, $6, $7)
returning *;

-- name: get_project :one tenant
-- A project that a user may see: shared, or their own. $1 project  $2 tenant  $3 user
select p.*
from projects p
where p.id = $1
    and (
        p.tenant_id = $2
        and (p.visibility = 'shared' or p.created_by = $3)
        and p.deleted_at is null
    ) is true;

-- name: list_projects :many tenant
-- A page of the projects that a user may see. $1 tenant  $2 user  $3 behind this time?  $4 and this id?
-- $5 newest first  $6 skipped  $7 most
select p.*
from projects p
where p.tenant_id = $1 and p.deleted_at is null
    and (p.visibility = 'shared' or p.created_by = $2) is true
    and (
        $3::timestamptz is null
        or case
            when $5::boolean then (p.created_at, p.id) < ($3, $4::uuid)
            else (p.created_at, p.id) > ($3, $4)
        end
    )
order by
    case when $5 then p.created_at end desc, case when $5 then p.id end desc, p.created_at, p.id
offset $6
limit $7;

-- name: count_projects :one tenant
-- How many projects a user may see. $1 tenant  $2 user
select count(*) as total
from projects p
where p.tenant_id = $1 and p.deleted_at is null
    and (p.visibility = 'shared' or p.created_by = $2) is true;

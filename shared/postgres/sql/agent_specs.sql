-- name: list_agent_specs :many tenant
-- A tenant's living specs by slug, with their newest version. $1 tenant  $2 mode?  $3 most  $4 skipped
select
    s.id, s.version, s.is_default, s.created_at, s.created_by, s.updated_at, s.updated_by,
    v.markdown, v.frontmatter
from agent_specs s
join agent_spec_versions v on v.spec_id = s.id and v.version = s.version
where s.tenant_id = $1 and s.deleted_at is null and (s.mode = $2 or $2 is null)
order by s.slug
limit $3 offset $4;

-- name: count_agent_specs :one tenant
-- How many living specs a tenant has. $1 tenant  $2 mode?
select count(*) as total
from agent_specs s
where s.tenant_id = $1 and s.deleted_at is null and (s.mode = $2 or $2 is null);

-- name: get_agent_spec :one tenant
-- One living spec with its newest version. $1 spec  $2 tenant
select
    s.id, s.version, s.is_default, s.created_at, s.created_by, s.updated_at, s.updated_by,
    v.markdown, v.frontmatter
from agent_specs s
join agent_spec_versions v on v.spec_id = s.id and v.version = s.version
where s.id = $1 and (s.tenant_id = $2 and s.deleted_at is null) is true;

-- name: find_agent_spec_mode :one tenant
-- What a thread may be given as its agent. $1 spec  $2 tenant
select s.id, s.mode
from agent_specs s
where s.id = $1 and (s.tenant_id = $2 and s.deleted_at is null) is true;

-- name: find_agent_slugs :many tenant
-- Which of these slugs are living specs, and of what mode. $1 tenant  $2 slugs
select s.slug, s.mode
from agent_specs s
where s.tenant_id = $1 and s.slug = any($2::text[]) and s.deleted_at is null;

-- name: find_agent_by_slug :one tenant
-- The living spec with a slug. $1 tenant  $2 slug
select s.id, s.mode
from agent_specs s
where s.tenant_id = $1 and s.slug = $2 and s.deleted_at is null;

-- name: find_agents_of_type :many tenant
-- Living specs whose head names this type, or whose mode it is where the head names none.
-- $1 tenant  $2 type
select s.id, s.is_default
from agent_specs s
join agent_spec_versions v on v.spec_id = s.id and v.version = s.version
where s.tenant_id = $1 and s.deleted_at is null
    and (coalesce(v.frontmatter ->> 'type', s.mode) = $2) is true;

-- name: get_agent_markdown :one tenant
-- A version of a living spec as it was written. $1 spec  $2 tenant  $3 version
select v.markdown
from agent_spec_versions v
where v.spec_id = $1 and v.version = $3 and (v.tenant_id = $2) is true;

-- name: find_default_agent :one tenant
-- The tenant's default spec. $1 tenant
select s.id
from agent_specs s
where s.tenant_id = $1 and s.is_default;

-- name: lock_agent_spec :one tenant
-- One living spec; nobody else changes it until the commit. $1 spec  $2 tenant
select s.id, s.version, s.is_default, s.created_by
from agent_specs s
where s.id = $1 and (s.tenant_id = $2 and s.deleted_at is null) is true
for update;

-- name: lock_agent_specs :one tenant
-- Serialises changes of a tenant's default, and of its first specs. $1 tenant   -- scope: system
select pg_advisory_xact_lock(hashtextextended('agent specs:' || $1::uuid::text, 0)) is null as locked;

-- name: add_agent_spec :one tenant
-- Writes a spec and its first version down.
-- $1 id  $2 tenant  $3 slug  $4 mode  $5 model?  $6 is default  $7 user?  $8 markdown
-- $9 frontmatter  $10 instructions
with made as (
    insert into agent_specs (
        id, tenant_id, slug, mode, model_id, is_default, created_by, updated_by
    )
    values ($1, $2, $3, $4, $5, $6, $7, $7)
    returning *
),
written as (
    insert into agent_spec_versions (
        spec_id, version, tenant_id, markdown, frontmatter, instructions, created_by
    )
    select m.id, m.version, m.tenant_id, $8, $9::jsonb, $10, m.created_by
    from made m
    returning markdown, frontmatter
)
select
    m.id, m.version, m.is_default, m.created_at, m.created_by, m.updated_at, m.updated_by,
    w.markdown, w.frontmatter
from made m
cross join written w;

-- name: add_agent_spec_version :one tenant
-- Writes the next version of a spec. $1 spec  $2 tenant  $3 slug  $4 mode  $5 model?  $6 user
-- $7 markdown  $8 frontmatter  $9 instructions
with changed as (
    update agent_specs s
    set version = s.version + 1,
        slug = $3,
        mode = $4,
        model_id = $5,
        updated_at = now(),
        updated_by = $6
    where s.id = $1 and (s.tenant_id = $2 and s.deleted_at is null) is true
    returning *
)
insert into agent_spec_versions (
    spec_id, version, tenant_id, markdown, frontmatter, instructions, created_by
)
select c.id, c.version, c.tenant_id, $7, $8::jsonb, $9, c.updated_by
from changed c
returning spec_id;

-- name: clear_default_agent :many tenant
-- Takes the mark of the default from whoever has it. $1 tenant
update agent_specs s
set is_default = false, updated_at = now()
where s.tenant_id = $1 and s.is_default
returning s.id;

-- name: set_default_agent :one tenant
-- Marks a spec as the tenant's default. $1 spec  $2 tenant  $3 user
update agent_specs s
set is_default = true, updated_at = now(), updated_by = $3
where s.id = $1 and (s.tenant_id = $2 and s.deleted_at is null) is true
returning s.id;

-- name: delete_agent_spec :one tenant
-- Hides a spec; its versions stay for the turns that were accepted with them. $1 spec $2 tenant $3 user
update agent_specs s
set deleted_at = now(), updated_at = now(), updated_by = $3
where s.id = $1 and (s.tenant_id = $2 and s.deleted_at is null and not s.is_default) is true
returning s.id;

-- name: get_agent_spec_version :one engine
-- The version that a turn was accepted with, whether its spec still lives or not.
-- $1 spec  $2 version  $3 tenant
select v.frontmatter, v.instructions
from agent_spec_versions v
where v.spec_id = $1 and v.version = $2 and (v.tenant_id = $3) is true;

-- name: get_profile :one engine
-- Who asks: what a model is told of a user. $1 user  $2 tenant
select u.name, u.email, u.timezone, n.name as organization
from users u
join tenants n on n.id = u.tenant_id
where u.id = $1 and (u.tenant_id = $2) is true;

-- name: add_mcp_server :one engine
-- Adds a server to a tenant; no row: it has one of this name.
-- $1 tenant  $2 name  $3 URL  $4 sealed token?  $5 tool prefix  $6 tools?  $7 requires approval
-- $8 tools that do not
insert into mcp_servers (
    tenant_id, name, url, sealed_token, tool_prefix, tools, requires_approval, unattended_tools
)
values ($1, $2, $3, $4, $5, $6, $7, $8)
on conflict do nothing
returning name;

-- name: list_mcp_servers :many engine
-- A tenant's servers by name, without their tokens. $1 tenant
select
    s.name, s.url, s.tool_prefix, s.tools, s.requires_approval, s.unattended_tools, s.created_at,
    s.sealed_token is not null as has_token
from mcp_servers s
where s.tenant_id = $1
order by s.name;

-- name: remove_mcp_server :one engine
-- Forgets a server and its token. $1 tenant  $2 name
delete from mcp_servers s
where s.tenant_id = $1 and s.name = $2
returning s.name;

-- name: find_mcp_servers :many engine
-- What a run needs of the servers that its agent names. $1 tenant  $2 names
select
    s.name, s.url, s.sealed_token, s.tool_prefix, s.tools, s.requires_approval, s.unattended_tools
from mcp_servers s
where s.tenant_id = $1 and s.name = any($2::text[])
order by s.name;

-- name: find_mcp_server_names :many tenant
-- Which of these names are servers of the tenant. $1 tenant  $2 names
select s.name
from mcp_servers s
where s.tenant_id = $1 and s.name = any($2::text[]);

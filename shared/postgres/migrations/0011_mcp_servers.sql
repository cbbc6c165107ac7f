-- Servers of the Model Context Protocol whose tools a tenant's agents may call. The operator adds
-- them; the tenant's own statements learn which names there are, and nothing else of them.

create table mcp_servers (
    tenant_id uuid not null references tenants (id),
    name text not null check (name ~ '^[a-z0-9]+(-[a-z0-9]+)*$' and char_length(name) <= 32),
    url text not null check (char_length(url) <= 2048),
    -- by shared/service/sealing.py; null: the server asks for none
    sealed_token bytea,
    tool_prefix text not null check (tool_prefix ~ '^[A-Za-z0-9_-]{0,32}$'),
    -- null: every tool that the server lists
    tools text[],
    requires_approval boolean not null default true,
    -- called without an approval although the server's tools require one
    unattended_tools text[] not null default '{}',
    created_at timestamptz not null default now(),
    primary key (tenant_id, name)
);

alter table mcp_servers enable row level security;
create policy all_rows on mcp_servers to turnkeep_engine using (true);
create policy own_rows on mcp_servers to turnkeep_tenant using (
    (tenant_id = (select nullif(current_setting('app.tenant', true), '')::uuid)) is true
);
grant select, insert, update, delete on mcp_servers to turnkeep_engine;
grant select (tenant_id, name) on mcp_servers to turnkeep_tenant;

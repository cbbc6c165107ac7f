-- Agent specs: what an agent is told, which tools, model and limits it has. A tenant's, not a user's.
-- What was written is never changed: each change is a version, and a turn keeps the one it was
-- accepted with.

create table agent_specs (
    id uuid primary key,
    tenant_id uuid not null references tenants (id),
    -- of the newest version, so that lists and accepts read this table alone
    version integer not null default 1 check (version > 0),
    slug text not null,
    mode text not null check (mode in ('primary', 'subagent')),
    model_id text,
    is_default boolean not null default false,
    created_at timestamptz not null default now(),
    created_by uuid,
    updated_at timestamptz not null default now(),
    updated_by uuid,
    deleted_at timestamptz,
    check (not is_default or (mode = 'primary' and deleted_at is null))
);
create unique index agent_specs_by_slug on agent_specs (tenant_id, slug) where deleted_at is null;
-- At most one default per tenant; the one lookup that an accept makes for a thread without a spec.
create unique index agent_specs_default on agent_specs (tenant_id) where is_default;

create table agent_spec_versions (
    spec_id uuid not null references agent_specs (id),
    version integer not null,
    tenant_id uuid not null,
    markdown text not null,
    frontmatter jsonb not null,
    instructions text not null,
    created_at timestamptz not null default now(),
    created_by uuid,
    primary key (spec_id, version)
);

-- As in 0004: short attempts, so that nobody waits long behind this one for the table.
do $$
begin
    for attempt in 1..60 loop
        begin
            set local lock_timeout = '200ms';
            lock table turns in access exclusive mode;
            exit;
        exception
            when lock_not_available then
                if attempt = 60 then
                    raise;
                end if;
                perform pg_sleep(0.1);
        end;
    end loop;
end
$$;
-- Null: accepted before the tenant had a default; the worker's built-in agent runs it.
alter table turns
add column agent_spec_id uuid,
add column agent_spec_version integer;

do $$
declare
    name text;
begin
    foreach name in array array['agent_specs', 'agent_spec_versions'] loop
        execute format('alter table %I enable row level security', name);
        execute format('create policy all_rows on %I to turnkeep_engine using (true)', name);
        execute format('grant select, insert, update, delete on %I to turnkeep_engine', name);
        execute format(
            'create policy own_rows on %I to turnkeep_tenant using (('
            'tenant_id = (select nullif(current_setting(''app.tenant'', true), '''')::uuid)'
            ') is true)',
            name
        );
    end loop;
end
$$;

grant select on agent_specs, agent_spec_versions to turnkeep_tenant;
grant insert (
    id, tenant_id, slug, mode, model_id, is_default, created_by, updated_by
) on agent_specs to turnkeep_tenant;
grant update (
    version, slug, mode, model_id, is_default, updated_at, updated_by, deleted_at
) on agent_specs to turnkeep_tenant;
grant insert (
    spec_id, version, tenant_id, markdown, frontmatter, instructions, created_by
) on agent_spec_versions to turnkeep_tenant;
grant insert (agent_spec_id), update (agent_spec_id) on threads to turnkeep_tenant;

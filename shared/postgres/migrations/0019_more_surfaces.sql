-- What other surfaces know of the same threads: who shares them, under which names and projects, and
-- credentials of their own kinds. A thread stays its user's; a shared one is found by colleagues, who
-- then act with its owner's rights.

-- As in 0004: short attempts, so that nobody waits long behind this one for the tables.
do $$
begin
    for attempt in 1..60 loop
        begin
            set local lock_timeout = '200ms';
            lock table api_keys, threads, messages, artifacts in access exclusive mode;
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

-- `not valid`: rows that are there have the defaults, so nothing has to be read to know.
alter table api_keys
    drop constraint api_keys_token_type_check,
    add constraint api_keys_token_type_check check (
        token_type in (
            'api_key', 'pat', 'session', 'mechamental', 'kodey_secret', 'kodey_publishable', 'zylon'
        )
    ) not valid,
    -- null: not restricted
    add column workspaces text[],
    add column namespaces text[],
    add column permissions text[];

alter table threads
    add column visibility text not null default 'private',
    -- project: shared with whoever sees its project, which is nobody but its user by now
    add constraint threads_visibility_check check (
        visibility in ('private', 'shared', 'project')
    ) not valid,
    add column project_id uuid,
    -- for whom a team's backend talks: any text of theirs
    add column end_user text,
    -- the credential it was made with, where that decides who may use it
    add column made_with uuid,
    -- up to which of its turns somebody who waited was told the end; null: of none
    add column told_seq bigint,
    -- a chat that is gone when its one turn has ended; in no list
    add column is_transient boolean not null default false;

-- Lists that are not one user's: what colleagues share, what was made with one credential, and for
-- whom. Ordered as 0018 has it.
create index threads_shared on threads (
    tenant_id,
    (case when last_message_at is null then created_at else last_message_at end) desc,
    id desc
)
where visibility = 'shared' and deleted_at is null;
create index threads_by_credential on threads (
    tenant_id,
    made_with,
    (case when last_message_at is null then created_at else last_message_at end) desc,
    id desc
)
where made_with is not null and deleted_at is null;
create index threads_by_end_user on threads (
    tenant_id,
    end_user,
    (case when last_message_at is null then created_at else last_message_at end) desc,
    id desc
)
where end_user is not null and deleted_at is null;

-- Lists of a project: a user's own threads are found by their activity; what is shared, here. Neither
-- costs the threads of the other surfaces anything. No project is the default one.
create index threads_by_project on threads (
    tenant_id,
    (case when project_id is null then '00000000-0000-0000-0000-000000000000' else project_id end),
    created_at,
    id
)
where visibility = 'shared' and deleted_at is null and not is_transient;
create index threads_transient on threads (created_at) where is_transient and deleted_at is null;

-- the project it was uploaded to; null: none
alter table artifacts add column project_id uuid, add column props jsonb;
create index artifacts_by_project on artifacts (project_id, created_at, id) where project_id is not null;

-- what a surface keeps of a message beside its text
alter table messages add column details jsonb;

create table projects (
    id uuid primary key,
    tenant_id uuid not null references tenants (id),
    name text not null check (char_length(name) between 1 and 255),
    goal text,
    deadline timestamptz,
    visibility text not null default 'shared' check (visibility in ('private', 'shared')),
    is_default boolean not null default false,
    created_by uuid not null references users (id),
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    deleted_at timestamptz
);
create index projects_by_time on projects (tenant_id, created_at, id) where deleted_at is null;
create unique index projects_default on projects (tenant_id) where is_default and deleted_at is null;

-- Threads that callers name, each name in a scope of its own.
create table named_threads (
    tenant_id uuid not null references tenants (id),
    workspace text not null check (char_length(workspace) between 1 and 255),
    namespace text not null check (char_length(namespace) between 1 and 255),
    name text not null check (char_length(name) between 1 and 255),
    app text check (char_length(app) between 1 and 255),
    thread_id uuid not null unique references threads (id),
    details jsonb not null default '{}',
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    -- of tenant, workspace and namespace: with these themselves in the second index, a plan that is
    -- made on an empty table would look for a name in it
    scope text not null generated always as (
        md5(tenant_id::text || octet_length(workspace)::text || ':' || workspace || namespace)
    ) stored,
    primary key (tenant_id, workspace, namespace, name)
);
create index named_threads_by_time on named_threads (scope, created_at, thread_id);

do $$
declare
    name text;
begin
    foreach name in array array['projects', 'named_threads'] loop
        execute format('alter table %I enable row level security', name);
        execute format('create policy all_rows on %I to turnkeep_engine using (true)', name);
        execute format('grant select, insert, update, delete on %I to turnkeep_engine', name);
        execute format(
            'create policy own_rows on %I to turnkeep_tenant using ('
            '(tenant_id = (select nullif(current_setting(''app.tenant'', true), '''')::uuid)) is true'
            ')',
            name
        );
    end loop;
end
$$;

-- A private project is its maker's, and each is made by who says so.
alter policy own_rows on projects
using ((
    tenant_id = (select nullif(current_setting('app.tenant', true), '')::uuid)
    and (
        visibility = 'shared'
        or created_by = (select nullif(current_setting('app.user', true), '')::uuid)
    )
) is true)
with check ((
    tenant_id = (select nullif(current_setting('app.tenant', true), '')::uuid)
    and created_by = (select nullif(current_setting('app.user', true), '')::uuid)
) is true);

-- What the tenant statements do, and nothing more.
grant select on projects, named_threads to turnkeep_tenant;
grant insert (
    id, tenant_id, created_by, name, goal, deadline, visibility
) on projects to turnkeep_tenant;
grant insert (
    tenant_id, workspace, namespace, name, app, thread_id, details
) on named_threads to turnkeep_tenant;
grant update (app, thread_id, details, created_at, updated_at) on named_threads to turnkeep_tenant;

-- Seen: one's own and what is shared. Written: one's own.
alter policy own_rows on threads
using ((
    tenant_id = (select nullif(current_setting('app.tenant', true), '')::uuid)
    and (
        user_id = (select nullif(current_setting('app.user', true), '')::uuid)
        or visibility = 'shared'
    )
) is true)
with check ((
    tenant_id = (select nullif(current_setting('app.tenant', true), '')::uuid)
    and user_id = (select nullif(current_setting('app.user', true), '')::uuid)
) is true);

grant select (workspaces, namespaces, permissions) on api_keys to turnkeep_tenant;
grant insert (visibility, project_id, end_user, made_with, is_transient) on threads to turnkeep_tenant;
grant update (visibility, project_id, told_seq) on threads to turnkeep_tenant;
grant update (last_turn_id) on threads to turnkeep_tenant;
grant insert (details, created_by) on messages to turnkeep_tenant;
grant insert (project_id, props, is_private) on artifacts to turnkeep_tenant;

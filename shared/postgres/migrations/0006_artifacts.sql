-- Artifacts, the files behind them, and their attachments to threads. An artifact never changes. The
-- bytes of a file lie in the object store, once per tenant and content; what was read from them for
-- models lies here.

create type ingestion_status as enum ('none', 'pending', 'processing', 'completed', 'failed');

-- As in 0004: short attempts, so that nobody waits long behind this one for the table.
do $$
begin
    for attempt in 1..60 loop
        begin
            set local lock_timeout = '200ms';
            lock table threads in access exclusive mode;
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
-- Kept by the statements that attach and detach, and read where a turn is claimed: a thread without
-- attachments costs its turns nothing.
alter table threads add column attachment_count integer not null default 0;

create table stored_files (
    tenant_id uuid not null,
    sha256 bytea not null check (octet_length(sha256) = 32),
    -- A name is used once: whatever is collected under it never comes back.
    object_key text not null unique,
    size_bytes bigint not null,
    stored_at timestamptz not null default now(),
    -- who can read text from it; null: nobody
    reader text check (reader in ('text', 'html', 'pdf', 'docx')),
    ingestion_status ingestion_status not null default 'none',
    ingestion_attempt integer not null default 0,
    -- pending: not to be tried before; processing: lost when not over by then
    ingestion_due_at timestamptz,
    ingestion_reason text,
    ingestion_changed_at timestamptz not null default now(),
    extracted_text text,
    is_cut boolean not null default false,
    primary key (tenant_id, sha256),
    check ((ingestion_due_at is not null) = (ingestion_status in ('pending', 'processing'))),
    check ((extracted_text is not null) = (ingestion_status = 'completed'))
);
create index stored_files_waiting on stored_files (tenant_id, ingestion_due_at)
where ingestion_status in ('pending', 'processing');

create table artifacts (
    id uuid primary key,
    tenant_id uuid not null,
    action_run_id uuid,
    kind text not null check (kind in ('json', 'text', 'file')),
    title text,
    original_filename text,
    mime_type text not null,
    size_bytes bigint not null,
    sha256 bytea,
    inline_text text,
    created_by uuid,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    foreign key (tenant_id, sha256) references stored_files (tenant_id, sha256),
    check ((kind = 'file') = (sha256 is not null)),
    check ((kind = 'file') = (inline_text is null))
);
create index artifacts_by_time on artifacts (tenant_id, created_at desc, id desc);
create index artifacts_by_action_run on artifacts (tenant_id, action_run_id, created_at desc, id desc)
where action_run_id is not null;

create table attachments (
    id uuid primary key,
    tenant_id uuid not null,
    thread_id uuid not null,
    artifact_id uuid not null references artifacts (id),
    message_id uuid,
    created_by uuid,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    deleted_at timestamptz
);
create unique index attachments_once on attachments
(thread_id, artifact_id, coalesce(message_id, '00000000-0000-0000-0000-000000000000'))
where deleted_at is null;
create index attachments_by_thread on attachments (thread_id, created_at, id)
where deleted_at is null;

do $$
declare
    name text;
begin
    foreach name in array array['stored_files', 'artifacts', 'attachments'] loop
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

-- What the tenant statements do, and nothing more. What was extracted is written by the engine.
grant select on stored_files, artifacts, attachments to turnkeep_tenant;
grant insert (tenant_id, sha256, object_key, size_bytes, reader) on stored_files to turnkeep_tenant;
grant update (
    stored_at, ingestion_status, ingestion_due_at, ingestion_changed_at
) on stored_files to turnkeep_tenant;
grant insert (
    id, tenant_id, action_run_id, kind, title, original_filename, mime_type, size_bytes, sha256,
    inline_text, created_by
) on artifacts to turnkeep_tenant;
grant insert (
    id, tenant_id, thread_id, artifact_id, message_id, created_by
) on attachments to turnkeep_tenant;
grant update (updated_at, deleted_at) on attachments to turnkeep_tenant;
grant update (attachment_count) on threads to turnkeep_tenant;

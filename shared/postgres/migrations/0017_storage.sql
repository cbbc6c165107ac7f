-- What a tenant stores is counted, so that it can be bounded, and artifacts can be deleted. A deleted
-- one is hidden at once; an hour later it is purged, with what hangs on it, and counted no more.

create table storage_use (
    tenant_id uuid primary key,
    artifact_count bigint not null default 0,
    -- Of all artifacts, also of those that have the same content, which is stored once.
    size_bytes bigint not null default 0
);
alter table storage_use enable row level security;
create policy all_rows on storage_use to turnkeep_engine using (true);
grant select, insert, update, delete on storage_use to turnkeep_engine;
create policy own_rows on storage_use to turnkeep_tenant using ((
    tenant_id = (select nullif(current_setting('app.tenant', true), '')::uuid)
) is true);
grant select on storage_use to turnkeep_tenant;
grant insert (tenant_id, artifact_count, size_bytes) on storage_use to turnkeep_tenant;
grant update (artifact_count, size_bytes) on storage_use to turnkeep_tenant;

-- As in 0004: short attempts, so that nobody waits long behind this one for the table.
do $$
begin
    for attempt in 1..60 loop
        begin
            set local lock_timeout = '200ms';
            lock table artifacts, attachments in access exclusive mode;
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
alter table artifacts add column deleted_at timestamptz;
grant update (updated_at, deleted_at) on artifacts to turnkeep_tenant;
create index artifacts_deleted on artifacts (deleted_at) where deleted_at is not null;
create index artifacts_by_content on artifacts (tenant_id, sha256) where sha256 is not null;
create index attachments_by_artifact on attachments (artifact_id);

insert into storage_use (tenant_id, artifact_count, size_bytes)
select a.tenant_id, count(*), sum(a.size_bytes)
from artifacts a
group by a.tenant_id;

-- In a trigger because four statements make and purge artifacts, those of an older release among them
-- while processes are exchanged: one that is not counted would be counted down all the same.
create function count_storage() returns trigger
language plpgsql as $$
begin
    if tg_op = 'INSERT' then
        insert into storage_use as u (tenant_id, artifact_count, size_bytes)
        select c.tenant_id, count(*), sum(c.size_bytes)
        from changed c
        group by c.tenant_id
        on conflict (tenant_id) do update
        set artifact_count = u.artifact_count + excluded.artifact_count,
            size_bytes = u.size_bytes + excluded.size_bytes;
    else
        update storage_use u
        set artifact_count = u.artifact_count - gone.artifact_count,
            size_bytes = u.size_bytes - gone.size_bytes
        from (
            select c.tenant_id, count(*) as artifact_count, sum(c.size_bytes) as size_bytes
            from changed c
            group by c.tenant_id
        ) gone
        where u.tenant_id = gone.tenant_id;
    end if;
    return null;
end
$$;
create trigger artifacts_count_made after insert on artifacts
referencing new table as changed
for each statement execute function count_storage();
create trigger artifacts_count_purged after delete on artifacts
referencing old table as changed
for each statement execute function count_storage();

-- What is hidden is no longer one of those that a tenant sees.
create or replace function count_artifact() returns trigger
language plpgsql as $$
begin
    if tg_op = 'INSERT' then
        if not new.is_private then
            insert into artifact_counts as c (tenant_id, kind, total)
            values (new.tenant_id, new.kind, 1)
            on conflict (tenant_id, kind) do update set total = c.total + 1;
        end if;
    elsif not old.is_private and old.deleted_at is null then
        update artifact_counts c
        set total = c.total - 1
        where c.tenant_id = old.tenant_id and c.kind = old.kind;
    end if;
    return null;
end
$$;
create trigger artifacts_count_hidden after update of deleted_at on artifacts
for each row when (old.deleted_at is null and new.deleted_at is not null)
execute function count_artifact();

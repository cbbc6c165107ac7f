-- Who attaches a file anew has it tried again that was given up for no fault of its own.
grant update (ingestion_attempt, ingestion_reason) on stored_files to turnkeep_tenant;

-- How many artifacts a tenant has of each kind: lists tell it on every page. Kept by a trigger, because
-- several statements make artifacts, and so do processes of an older release while this one begins.
create table artifact_counts (
    tenant_id uuid not null,
    kind text not null,
    total bigint not null,
    primary key (tenant_id, kind)
);

create function count_artifact() returns trigger
language plpgsql as $$
begin
    if tg_op = 'INSERT' then
        insert into artifact_counts as c (tenant_id, kind, total)
        values (new.tenant_id, new.kind, 1)
        on conflict (tenant_id, kind) do update set total = c.total + 1;
    else
        update artifact_counts c
        set total = c.total - 1
        where c.tenant_id = old.tenant_id and c.kind = old.kind;
    end if;
    return null;
end
$$;

alter table artifact_counts enable row level security;
create policy all_rows on artifact_counts to turnkeep_engine using (true);
create policy own_rows on artifact_counts to turnkeep_tenant using (
    (tenant_id = (select nullif(current_setting('app.tenant', true), '')::uuid)) is true
);
grant select, insert, update, delete on artifact_counts to turnkeep_engine;
grant select on artifact_counts to turnkeep_tenant;
grant insert (tenant_id, kind, total) on artifact_counts to turnkeep_tenant;
grant update (total) on artifact_counts to turnkeep_tenant;

-- Who makes an artifact waits for the count of what there is; whoever reads does not.
lock table artifacts in share row exclusive mode;
create trigger artifacts_count after insert or delete on artifacts
for each row execute function count_artifact();
insert into artifact_counts (tenant_id, kind, total)
select a.tenant_id, a.kind, count(*)
from artifacts a
group by a.tenant_id, a.kind;

create index artifacts_by_kind on artifacts (tenant_id, kind, created_at desc, id desc);

-- A file that came with a message is as private as the message: its artifact is its creator's alone.
-- What was uploaded or created as an artifact stays the tenant's.

-- As in 0004: short attempts, so that nobody waits long behind this one for the table.
do $$
begin
    for attempt in 1..60 loop
        begin
            set local lock_timeout = '200ms';
            lock table artifacts in access exclusive mode;
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
alter table artifacts add column is_private boolean not null default false;

-- Files of messages are known by their time: they were attached in the transaction that made them.
update artifacts a
set is_private = true
from attachments at
where at.artifact_id = a.id and at.message_id is not null and a.kind = 'file'
    and at.created_at = a.created_at and at.created_by = a.created_by;

alter policy own_rows on artifacts using ((
    tenant_id = (select nullif(current_setting('app.tenant', true), '')::uuid)
    and (
        not is_private
        or created_by = (select nullif(current_setting('app.user', true), '')::uuid)
    )
) is true);

-- Counted for all users of the tenant is what all of them see. Of the others each user has few.
create or replace function count_artifact() returns trigger
language plpgsql as $$
begin
    if tg_op = 'INSERT' then
        if not new.is_private then
            insert into artifact_counts as c (tenant_id, kind, total)
            values (new.tenant_id, new.kind, 1)
            on conflict (tenant_id, kind) do update set total = c.total + 1;
        end if;
    elsif not old.is_private then
        update artifact_counts c
        set total = c.total - 1
        where c.tenant_id = old.tenant_id and c.kind = old.kind;
    end if;
    return null;
end
$$;
update artifact_counts c
set total = (
    select count(*)
    from artifacts a
    where a.tenant_id = c.tenant_id and a.kind = c.kind and not a.is_private
);
create index artifacts_private on artifacts (tenant_id, created_by, kind) where is_private;

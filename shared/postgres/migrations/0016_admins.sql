-- Administrators of a tenant: who may change what runs for all of its users.

-- As in 0004: short attempts, so that nobody waits long behind this one for the table.
do $$
begin
    for attempt in 1..60 loop
        begin
            set local lock_timeout = '200ms';
            lock table users in access exclusive mode;
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
alter table users add column is_admin boolean not null default false;
grant select (is_admin) on users to turnkeep_tenant;

-- The first of each tenant whom an operator has made: whom a provider vouches for has a subject.
update users u
set is_admin = true
where u.id in (
    select distinct on (f.tenant_id) f.id
    from users f
    where f.subject is null
    order by f.tenant_id, f.created_at, f.id
);

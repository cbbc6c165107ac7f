-- The second lock of every tenant: what serves one principal runs as the role turnkeep_tenant, and
-- that role sees the rows of app.tenant only, set for one transaction. What works for many tenants at
-- once runs as the login itself: the owner of the tables, whom no policy holds, or a member of
-- turnkeep_engine, whose policy shows all. Why so, and what it costs: docs/decisions, "row-level
-- security"

-- Roles belong to the cluster: another database may have made them, or make them at this moment. Who
-- could write turns so far goes on as a member of both.
do $$
declare
    admin constant text := 'an administrator of this Postgres must run once: ';
    wanted constant text := case
        when current_setting('server_version_num')::integer >= 160000 then 'set' else 'member'
    end;
    remedy text;
    role_name text;
    login text;
begin
    foreach role_name in array array['turnkeep_tenant', 'turnkeep_engine'] loop
        if not exists (select from pg_roles where rolname = role_name) then
            remedy := format(
                'create role turnkeep_tenant nologin; create role turnkeep_engine nologin;'
                ' grant turnkeep_tenant, turnkeep_engine to %I', session_user
            );
            begin
                execute format('create role %I nologin', role_name);
            exception
                when duplicate_object or unique_violation then
                    null;
            end;
        end if;
    end loop;
    for login in
        select session_user
        union
        select r.rolname
        from pg_class c
        cross join aclexplode(c.relacl) granted
        join pg_roles r on r.oid = granted.grantee
        where c.oid = 'turns'::regclass and granted.privilege_type = 'UPDATE'
            and granted.grantee <> c.relowner
    loop
        if not pg_has_role(login, 'turnkeep_tenant', wanted)
            or not pg_has_role(login, 'turnkeep_engine', 'usage')
        then
            remedy := coalesce(
                remedy, format('grant turnkeep_tenant, turnkeep_engine to %I', login)
            );
            execute format('grant turnkeep_tenant, turnkeep_engine to %I', login);
        end if;
    end loop;
    remedy := 'alter role turnkeep_tenant nologin nosuperuser nobypassrls';
    if (select rolsuper or rolbypassrls from pg_roles where rolname = 'turnkeep_tenant') then
        raise insufficient_privilege;
    end if;
    remedy := 'revoke turnkeep_engine from turnkeep_tenant';
    if pg_has_role('turnkeep_tenant', 'turnkeep_engine', 'member') then
        raise insufficient_privilege;
    end if;
exception
    when insufficient_privilege then
        raise insufficient_privilege using message = admin || remedy;
end
$$;

-- First what only keeps vacuums away (one under way is cancelled after a second), then what keeps
-- everybody away: of all tables at once, or of none and again. Who waited for the second table while
-- he held the first would keep a live system from both; no attempt here is long enough for Postgres
-- to suspect a deadlock, or for a caller to notice.
lock table
    tenants, users, api_keys, threads, turns, concurrency_limits, idempotency_keys, messages, usage,
    outbox
in share update exclusive mode;

do $$
begin
    for attempt in 1..60 loop
        begin
            set local lock_timeout = '200ms';
            lock table
                tenants, users, api_keys, threads, turns, concurrency_limits, idempotency_keys,
                messages, usage, outbox
            in access exclusive mode;
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

-- `(…) is true`: no index can serve it, so it never tempts a plan away from the key. The selects are
-- evaluated once per statement. Nothing set: null, and no row is that.
do $$
declare
    name text;
begin
    foreach name in array array[
        'tenants', 'users', 'api_keys', 'threads', 'turns', 'concurrency_limits',
        'idempotency_keys', 'messages', 'usage', 'outbox'
    ] loop
        execute format('alter table %I enable row level security', name);
        execute format('create policy all_rows on %I to turnkeep_engine using (true)', name);
        execute format('grant select, insert, update, delete on %I to turnkeep_engine', name);
        execute format(
            'create policy own_rows on %I to turnkeep_tenant using (('
            '%I = (select nullif(current_setting(''app.tenant'', true), '''')::uuid)%s'
            ') is true)',
            name,
            case name when 'tenants' then 'id' else 'tenant_id' end,
            -- A thread is its user's. Turns and messages are read through their thread, but the line
            -- of a concurrency key is the tenant's: who waits in it may be any of its users.
            case name
                when 'threads' then
                    ' and user_id = (select nullif(current_setting(''app.user'', true), '''')::uuid)'
                else ''
            end
        );
    end loop;
end
$$;

-- What the tenant statements of sql/*.sql do, and nothing more: no delete, no keys, no accounts.
do $$
begin
    execute format(
        'grant usage on schema %I to turnkeep_engine, turnkeep_tenant', current_schema()
    );
end
$$;
grant select on threads, turns, messages to turnkeep_tenant;
grant select (tenant_id, scope, key, fingerprint, turn_id) on idempotency_keys to turnkeep_tenant;
grant select (id, tenant_id, revoked_at, expires_at) on api_keys to turnkeep_tenant;
grant select (turn_id) on usage to turnkeep_tenant;
grant insert (id, tenant_id, user_id, title, system_prompt, metadata) on threads to turnkeep_tenant;
grant insert (
    id, tenant_id, thread_id, turn_id, turn_seq, role, content, format, raw_data
) on messages to turnkeep_tenant;
grant insert (
    turn_id, tenant_id, model_id, input_tokens, output_tokens, cached_input_tokens, total_cost
) on usage to turnkeep_tenant;
grant update (
    title, system_prompt, metadata, last_message_at, last_message_preview, updated_at, deleted_at
) on threads to turnkeep_tenant;
grant update (
    status, attempt, slot, worker_id, lease_until, output_message_id, usage, last_seq,
    cancel_requested_at, ended_at, updated_at
) on turns to turnkeep_tenant;
grant update (content, raw_data, updated_at) on messages to turnkeep_tenant;

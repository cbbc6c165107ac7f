-- Feedback on answers, and turns that answer a message anew.

-- One row per user and target; a user who changes their mind changes the row.
create table feedback (
    id uuid primary key,
    tenant_id uuid not null references tenants (id),
    user_id uuid not null references users (id),
    thread_id uuid not null,
    turn_id uuid,
    message_id uuid,
    rating text not null check (rating in ('positive', 'negative')),
    comment text check (char_length(comment) <= 4000),
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);
-- Nothing stands for "the thread" and "the turn": nulls would never be equal.
create unique index feedback_by_target on feedback (
    thread_id, user_id,
    (coalesce(message_id, '00000000-0000-0000-0000-000000000000')),
    (coalesce(turn_id, '00000000-0000-0000-0000-000000000000'))
);
create index feedback_by_user on feedback (tenant_id, user_id, created_at desc, id desc);

-- A turn that regenerates: whose place it takes, and the messages it hides.
alter table turns add column replaced_turn_id uuid;
create table replaced_messages (
    turn_id uuid not null,
    message_id uuid not null,
    tenant_id uuid not null,
    primary key (turn_id, message_id)
);

-- A regenerating turn hides what it replaces from its acceptance on. It keeps the place when it
-- completes, or was stopped after it said something; any other end leaves the thread as it was. In
-- a trigger because six statements end turns, and each of them must do this in its own commit.
create function settle_replacement() returns trigger
language plpgsql as $$
declare
    stands constant boolean := new.ended_at is null
        or new.status = 'completed'
        or (new.status = 'cancelled' and new.output_message_id is not null);
begin
    update messages m
    set superseded_at = case when stands then now() end
    from replaced_messages r
    where r.turn_id = new.id and m.id = r.message_id and (m.superseded_at is null) = stands;
    update messages m
    set turn_id = case when stands then new.id else t.id end,
        turn_seq = case when stands then new.accept_seq else t.accept_seq end
    from turns t
    where t.id = new.replaced_turn_id
        and m.id = new.input_message_id
        and m.turn_id in (new.id, t.id)
        and (m.turn_id = new.id) <> stands;
    if not stands then
        update messages m
        set superseded_at = now()
        where m.thread_id = new.thread_id
            and m.turn_seq = new.accept_seq
            and m.superseded_at is null;
        update threads th
        set last_message_preview = (
                select nullif(case when length(said) > 140 then left(said, 139) || '…' else said end, '')
                from (
                    select btrim(regexp_replace(left(m.content, 2800), '\s+', ' ', 'g')) as said
                    from messages m
                    where m.thread_id = new.thread_id
                        and m.superseded_at is null
                        and m.role in ('user', 'assistant')
                        and m.content <> ''
                    order by m.seq desc
                    limit 1
                ) newest
            ),
            updated_at = now()
        where th.id = new.thread_id;
    end if;
    return null;
end
$$;

create trigger turns_settle_replacement after update of status, output_message_id on turns
for each row
when (
    new.replaced_turn_id is not null
    and new.ended_at is not null
    and (old.status <> new.status or old.output_message_id is distinct from new.output_message_id)
)
execute function settle_replacement();

alter table feedback enable row level security;
create policy all_rows on feedback to turnkeep_engine using (true);
create policy own_rows on feedback to turnkeep_tenant using (
    (
        tenant_id = (select nullif(current_setting('app.tenant', true), '')::uuid)
        and user_id = (select nullif(current_setting('app.user', true), '')::uuid)
    ) is true
);
alter table replaced_messages enable row level security;
create policy all_rows on replaced_messages to turnkeep_engine using (true);
create policy own_rows on replaced_messages to turnkeep_tenant using (
    (tenant_id = (select nullif(current_setting('app.tenant', true), '')::uuid)) is true
);

grant select, insert, update, delete on feedback, replaced_messages to turnkeep_engine;
grant select on feedback, replaced_messages to turnkeep_tenant;
grant insert (
    id, tenant_id, user_id, thread_id, turn_id, message_id, rating, comment
) on feedback to turnkeep_tenant;
grant update (rating, comment, updated_at) on feedback to turnkeep_tenant;
-- Who cancels a turn that regenerates does what the trigger does.
grant update (superseded_at, turn_id, turn_seq) on messages to turnkeep_tenant;

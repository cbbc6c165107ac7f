-- Drops foreign keys of the tables that every turn writes: a turn made twelve look-ups that could
-- not fail, about a sixth of all that Postgres did for it. What keeps each promise instead:
--
-- turns.thread_id, tenant_id, user_id      accept_turns inserts only what joins a thread row that it
--   has locked, by thread, tenant and user; the thread's own keys, which stay, hold tenant and user.
-- idempotency_keys.tenant_id               the same join.
-- messages.thread_id, tenant_id, turn_id   every statement that writes a message (accept_turns,
-- usage.turn_id, tenant_id                 end_turns, force_cancel, add_partial_text) takes the three
--   from the row of `turns` that it writes in the same statement.
--
-- Nothing deletes tenants, users, threads or turns: a thread is hidden by `deleted_at`. Whoever adds
-- such a deletion deletes what hangs on them too.

alter table turns
drop constraint turns_tenant_id_fkey,
drop constraint turns_user_id_fkey,
drop constraint turns_thread_id_fkey;

alter table idempotency_keys
drop constraint idempotency_keys_tenant_id_fkey;

alter table messages
drop constraint messages_tenant_id_fkey,
drop constraint messages_thread_id_fkey,
drop constraint messages_turn_id_fkey;

alter table usage
drop constraint usage_tenant_id_fkey,
drop constraint usage_turn_id_fkey;

-- With what a credential ends: a token that was made with an API key with that key, and what was opened
-- with a provider's token when its subject is somebody else's.

alter table api_keys
    add column parent_id uuid references api_keys (id) on delete cascade;
-- For the reference: sessions are deleted all the time, and each would look for its children.
create index api_keys_by_parent on api_keys (parent_id) where parent_id is not null;
grant select (parent_id), insert (parent_id) on api_keys to turnkeep_tenant;

-- The credential that a user's provider vouches for, one of each user and subject. Written so that it
-- is immutable, whatever the text holds, and needs no MD5.
alter table users
    add column subject_id uuid generated always as (
        encode(
            substr(sha256(decode(id::text || replace(subject, '\', '\\'), 'escape')), 1, 16), 'hex'
        )::uuid
    ) stored;
create unique index users_by_subject_id on users (subject_id) where subject_id is not null;

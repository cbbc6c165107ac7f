-- Brings one concurrency key's line up to date in one step: forget what is over, note what runs,
-- add what waits, then let heads take free slots. A head that takes a slot becomes ready under its
-- tenant's virtual start time, and an idle worker is handed it. Running it twice changes nothing.
-- Postgres decides all of this again at the claim; here is only who is handed out, in which order.
--
-- KEYS: line busy ready clock tags
-- ARGV: tenant max_running over running waiting reset ttl_s
--   over     ids that hold no slot and wait no more, separated by blanks
--   running  ids that hold a slot
--   waiting  accept_seq:id pairs, separated by blanks
--   reset    '1' when Postgres says that `running` is all that holds a slot and the waiting one could
--            run: unless it is ready already, who held slots before is forgotten
-- Returns the number of turns made ready.
if reset == '1' then
  for _, id in string.gmatch(waiting, '(%d+):(%S+)') do
    if redis.call('ZSCORE', ready, id) then
      return 0
    end
  end
  redis.call('DEL', busy)
end
for id in string.gmatch(over, '%S+') do
  redis.call('SREM', busy, id)
  redis.call('ZREM', line, id)
  redis.call('ZREM', ready, id)
end
for id in string.gmatch(running, '%S+') do
  redis.call('SADD', busy, id)
  redis.call('ZREM', line, id)
  redis.call('ZREM', ready, id)
end
for seq, id in string.gmatch(waiting, '(%d+):(%S+)') do
  if redis.call('SISMEMBER', busy, id) == 0 then
    redis.call('ZADD', line, seq, id)
  end
end

local free = tonumber(max_running) - redis.call('SCARD', busy)
local promoted = 0
while promoted < free do
  local head = redis.call('ZPOPMIN', line)
  if not head[1] then
    break
  end
  -- Start-time fair queueing: a tenant's next turn starts where its last one finished.
  local now = tonumber(redis.call('GET', clock) or '0')
  local start = math.max(now, tonumber(redis.call('HGET', tags, tenant) or '0'))
  redis.call('HSET', tags, tenant, start + 1)
  redis.call('SADD', busy, head[1])
  redis.call('ZADD', ready, start, head[1])
  promoted = promoted + 1
end
if promoted > 0 then
  redis.call('EXPIRE', ready, ttl_s)
  redis.call('EXPIRE', tags, ttl_s)
end
redis.call('EXPIRE', line, ttl_s)
redis.call('EXPIRE', busy, ttl_s)
return promoted

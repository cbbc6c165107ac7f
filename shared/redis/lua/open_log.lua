-- Opens a turn's log for an attempt and appends its first events. The caller has read the
-- generation first and asked Postgres about the attempt after that; this order is what makes a
-- lost or rolled-back Redis harmless. A retry of the same call answers DUP.
--
-- KEYS: generation meta log
-- ARGV: attempt expected count payload final channel turn ttl_s
--   payload  `count` encoded events, joined by newlines
--   final    '1' when the last of them is turn.ended
-- Returns {word, last seq}.
local present = redis.call('GET', generation)
if not present or present ~= expected then
  return {'STALEGEN', 0}
end
local known = redis.call('HMGET', meta, 'attempt', 'closed', 'generation', 'last')
local current = tonumber(known[1] or '0')
local same = known[3] == present
if same then
  if current > tonumber(attempt) then
    return {'FENCED', current}
  end
  if current == tonumber(attempt) then
    return {'DUP', tonumber(known[4])}
  end
  if known[2] == '1' then
    return {'CLOSED', tonumber(known[4])}
  end
else
  -- From before a loss or a rollback: nothing of it is valid.
  redis.call('DEL', log)
end
redis.call('XADD', log, attempt .. '-' .. count, 'e', payload)
redis.call('HSET', meta, 'attempt', attempt, 'closed', final, 'generation', present,
  'last', count, 'bytes', #payload)
redis.call('EXPIRE', meta, ttl_s)
redis.call('EXPIRE', log, ttl_s)
redis.call('PUBLISH', channel, turn .. ' ' .. attempt .. ' 1 ' .. count .. '\n' .. payload)
return {'OK', tonumber(count)}

-- Appends events to an open log and tells its readers, in one step. Refuses whatever does not come
-- from the attempt that opened the log under the present generation. A retry answers DUP.
--
-- KEYS: generation meta log
-- ARGV: attempt first count payload final max_bytes channel turn ttl_s
--   payload  `count` encoded events from seq `first`, joined by newlines
--   final    '1' when the last of them is turn.ended: the log closes
--   ttl_s    kept so long from now on, set when the log closes
-- Returns {word, last seq}.
local known = redis.call('HMGET', meta, 'attempt', 'closed', 'generation', 'last', 'bytes')
if not known[1] or redis.call('GET', generation) ~= known[3] then
  return {'NOSTATE', 0}
end
if tonumber(known[1]) ~= tonumber(attempt) then
  return {'FENCED', tonumber(known[1])}
end
local last = tonumber(known[4])
local ends = tonumber(first) + tonumber(count) - 1
if ends <= last then
  return {'DUP', last}
end
if known[2] == '1' then
  return {'CLOSED', last}
end
if tonumber(first) ~= last + 1 then
  return {'GAP', last}
end
local bytes = tonumber(known[5]) + #payload
if bytes > tonumber(max_bytes) and final == '0' then
  return {'FULL', last}
end
redis.call('XADD', log, attempt .. '-' .. ends, 'e', payload)
redis.call('HSET', meta, 'last', ends, 'bytes', bytes, 'closed', final)
if final == '1' then
  redis.call('EXPIRE', meta, ttl_s)
  redis.call('EXPIRE', log, ttl_s)
end
redis.call('PUBLISH', channel, turn .. ' ' .. attempt .. ' ' .. first .. ' ' .. count .. '\n' .. payload)
return {'OK', ends}

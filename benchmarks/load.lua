-- What wrk does with an ask (benchmarks/answers.py): builds each request, checks each answer,
-- and prints one line of JSON at the end. wrk hands over the file that names the ask, the file of
-- the ids, and a prefix that makes the names of this run its own.

local threads = {}

function setup(thread)
  table.insert(threads, thread)
end

function init(args)
  ask = dofile(args[1])
  prefix = args[3]
  ids = {}
  if args[2] ~= "-" then
    for line in io.lines(args[2]) do ids[#ids + 1] = line end
  end
  number, answered, faults, sample = 0, 0, {}, ""
  fault_count, fault_text = 0, ""
end

local function build()
  local path, body = ask.path, ask.body
  if #ids > 0 then path = path .. ids[number % #ids + 1] .. ask.path_tail end
  if ask.body_tail ~= "" then body = body .. prefix .. "-" .. number .. ask.body_tail end
  local head = ask.method .. " " .. path .. " HTTP/1.1\r\n" .. ask.head
  if body ~= "" then head = head .. "content-length: " .. #body .. "\r\n" end
  return head .. "\r\n" .. body
end

local constant

function request()
  if #ids == 0 and ask.body_tail == "" then
    constant = constant or build()
    return constant
  end
  number = number + 1
  return build()
end

local find = string.find

local function count(body, text)
  local found, _, last = 0, find(body, text, 1, true)
  while last do
    found = found + 1
    _, last = find(body, text, last + 1, true)
  end
  return found
end

local function fault_of(status, body)
  if status ~= ask.status then return "status " .. status end
  local place, marker, deltas = 1, ask.marker, ask.deltas
  for i = 1, #deltas do
    local _, last = find(body, marker, place, true)
    if not last then return "deltas missing" end
    place = last + 1
    if find(body, deltas[i], place, true) ~= place then
      return count(body, marker) < #deltas and "deltas missing" or "deltas out of order"
    end
  end
  if #deltas > 0 and find(body, marker, place, true) then return "deltas repeated" end
  if ask["end"] ~= "" and not find(body, ask["end"], place, true) then return "no end" end
  return nil
end

function response(status, headers, body)
  answered = answered + 1
  local fault = fault_of(status, body)
  if fault then
    fault_count = fault_count + 1
    if fault_text == "" then fault_text = fault end
  end
end

function done(summary, latency, requests)
  local bad, text, seen = 0, "", 0
  for _, thread in ipairs(threads) do
    bad = bad + thread:get("fault_count")
    seen = seen + thread:get("answered")
    if text == "" then text = thread:get("fault_text") end
  end
  local errors = summary.errors
  io.write(string.format(
    '\nRESULT {"done": %d, "took_us": %d, "p50_us": %d, "p99_us": %d, "bad": %d, "fault": "%s",'
      .. ' "broken": %d}\n',
    seen, summary.duration, latency:percentile(50), latency:percentile(99), bad, text,
    errors.connect + errors.read + errors.write + errors.timeout))
end

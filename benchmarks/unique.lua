-- No two requests have the same header section: what hypoll remembers of sections never helps.
local count = 0

function request()
  count = count + 1
  wrk.headers["X-Request-Id"] = count
  return wrk.format()
end

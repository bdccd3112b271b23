# For scripts that have a `fail`: runs a command, and shows only of one that fails what it said last.
quietly() {
  local log; log=$(mktemp)
  if ! "$@" >"$log" 2>&1; then
    tail -n 40 "$log" >&2
    fail "failed: $* (all of it in $log)"
  fi
  rm -f "$log"
}

"""Jobs, arrays and sweeps. Only the pure parts are here yet; `docs/design/jobs.md` is the plan."""

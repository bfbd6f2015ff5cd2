"""Places: where jobs run, here, on a launchpad or at workers reached by ssh; submission, checks, recovery."""

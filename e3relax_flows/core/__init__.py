"""Settings, errors, ids and run information; imports nothing of ours."""

"""Run flows: on this machine, through FireWorks, through jobflow-remote."""

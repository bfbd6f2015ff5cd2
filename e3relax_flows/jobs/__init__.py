"""jobflow jobs: predict, dispatch, outcome."""

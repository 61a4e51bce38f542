"""A report of one run of tests: collected while it runs, then drawn as one page that needs nothing else."""

"""The steps: Celery tasks that advance one job each."""

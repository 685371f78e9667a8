"""From a task's inputs and ``custom`` to a job request; imports no Flyte SDK."""

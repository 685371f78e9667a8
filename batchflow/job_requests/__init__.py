"""From a task's inputs and ``custom`` to a job in the queue; imports no Flyte SDK."""

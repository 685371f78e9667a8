"""The ``batchflow`` command. What a command needs is imported when it is used."""

from batchflow.cli.group import LazyCommand, LazyGroup

#: Name -> where it is, what pip has to install for it, and its line in the help.
_COMMANDS = {
    "run": LazyCommand("batchflow.cli.run:run", "local", "Run a JSONL file of requests."),
    "status": LazyCommand("batchflow.cli.job_commands:status", "task", "Show all about a job."),
    "list": LazyCommand(
        "batchflow.cli.job_commands:list_jobs", "task", "List jobs, filtered, newest first."
    ),
    "watch": LazyCommand("batchflow.cli.watch:watch", "task", "Watch the fleet as it changes."),
    "cancel": LazyCommand(
        "batchflow.cli.job_commands:cancel", "task", "Cancel a job, at OpenAI too."
    ),
    "webhooks": LazyCommand(
        "batchflow.cli.webhook_commands:webhooks", "workers", "Let OpenAI tell when batches end."
    ),
    "doctor": LazyCommand("batchflow.cli.doctor:doctor", "workers", "Check that all is well."),
    "up": LazyCommand("batchflow.cli.up:up", "local", "Run everything on this machine."),
    "gateway": LazyCommand(
        "batchflow.cli.gateway:gateway", "gateway", "Run the webhook receiver and status page."
    ),
    "simulate": LazyCommand(
        "batchflow.simulator.command:simulate", "simulator", "Run an emulator of OpenAI's APIs."
    ),
}

main = LazyGroup(
    name="batchflow",
    lazy_commands=_COMMANDS,
    help="""OpenAI batches from Flyte at scale.

    Exit codes: 0 done, 1 the job failed or something is wrong, 2 wrong usage or input.
    """,
)

__all__ = ["main"]

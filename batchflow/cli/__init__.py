"""The ``batchflow`` command, whose subcommands are imported on first use."""

import click

from batchflow.cli.command_group import LazyCommand, LazyGroup

#: Name -> where it is defined, the extra that installs what it needs, and its line in the help.
_COMMANDS = {
    "run": LazyCommand("batchflow.cli.run:run", "local", "Run a JSONL file of requests."),
    "status": LazyCommand("batchflow.cli.job_commands:status", "task", "Show a job in detail."),
    "list": LazyCommand("batchflow.cli.job_commands:list_jobs", "task", "List jobs, newest first."),
    "watch": LazyCommand("batchflow.cli.watch:watch", "task", "Watch jobs as they change."),
    "cancel": LazyCommand(
        "batchflow.cli.job_commands:cancel", "task", "Cancel a job and its batch at OpenAI."
    ),
    "webhooks": LazyCommand(
        "batchflow.cli.webhook_commands:webhooks", "workers", "Manage webhook endpoints at OpenAI."
    ),
    "doctor": LazyCommand(
        "batchflow.cli.doctor:doctor", "workers", "Check the installation and suggest fixes."
    ),
    "up": LazyCommand("batchflow.cli.up:up", "local", "Run all processes on this machine."),
    "gateway": LazyCommand(
        "batchflow.cli.gateway_command:gateway",
        "gateway",
        "Run the webhook receiver and status page.",
    ),
    "simulate": LazyCommand(
        "batchflow.simulator.simulate_command:simulate",
        "simulator",
        "Run an emulator of OpenAI's APIs.",
    ),
}


@click.group("batchflow", cls=LazyGroup, lazy_commands=_COMMANDS)
@click.version_option(
    package_name="flyte-batchflow", prog_name="batchflow", message="%(prog)s %(version)s"
)
def main() -> None:
    """Run OpenAI batches from Flyte at scale.

    Exit codes: 0 for success, 1 if a job failed or a check found a problem, 2 for invalid usage,
    input or settings, 130 after Ctrl-C.
    """


__all__ = ["main"]

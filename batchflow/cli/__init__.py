"""The ``batchflow`` command."""

import click


@click.group()
def main() -> None:
    """OpenAI batches from Flyte at scale."""


from batchflow.simulator.command import simulate  # noqa: E402

main.add_command(simulate)

"""Entry point of ``python -m batchflow.cli``."""

from batchflow.cli import main

main()

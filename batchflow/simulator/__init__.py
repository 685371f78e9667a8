"""A local stand-in for OpenAI's Files, Batch and webhook APIs, to test workflows without paying."""

from batchflow.simulator.api.app import create_app
from batchflow.simulator.config import SimulatorConfig
from batchflow.simulator.faults.outages import Outage
from batchflow.simulator.server import serve

__all__ = ["Outage", "SimulatorConfig", "create_app", "serve"]

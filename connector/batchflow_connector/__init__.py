"""Flyte connectors for OpenAI batches: ``pyflyte serve connector --modules batchflow_connector``.

Importing this registers them, over those of Flyte's own OpenAI plugin if that is installed.
"""

from batchflow_connector.connectors import register

register()

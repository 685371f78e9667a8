"""Flyte connectors for OpenAI batches: ``pyflyte serve connector --modules batchflow_connector``.

Importing this package registers them in place of those of Flyte's OpenAI plugin.
"""

from batchflow_connector.connectors import register

register()

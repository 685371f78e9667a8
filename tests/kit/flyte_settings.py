"""FlytePropeller's configuration in the README."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

_README = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
_YAML = re.search(r"```yaml\n(tasks:\n.*?)```", _README, re.DOTALL)
assert _YAML, "README.md has no configuration for FlytePropeller"
_PLUGIN = yaml.safe_load(_YAML[1])["plugins"]["connector-service"]
_CONNECTOR = _PLUGIN["connectors"]["batchflow"]

#: gRPC's service configuration, with which Flyte waits for a connector that is down.
SERVICE_CONFIG: Final[Mapping[str, Any]] = json.loads(_CONNECTOR["defaultServiceConfig"])
#: The deadline of a call, in seconds.
DEADLINE_S: Final = float(_CONNECTOR["defaultTimeout"].removesuffix("s"))
#: One more failed ``GetTask`` than this is the last one.
MAX_SYSTEM_FAILURES: Final = int(_PLUGIN["webApi"]["caching"]["maxSystemFailures"])

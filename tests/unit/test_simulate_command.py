from pathlib import Path

import click

from batchflow.simulator.config import SimulatorConfig
from batchflow.simulator.simulate_command import simulate

DOCUMENT = Path(__file__).parents[2] / "docs" / "simulator.md"


def test_every_setting_has_an_option_with_its_default() -> None:
    options = {option.name: option for option in simulate.params}
    assert set(SimulatorConfig.model_fields) == set(options) - {"host", "port", "log_level"}
    for name, setting in SimulatorConfig.model_fields.items():
        if not isinstance(setting.default, tuple):
            assert options[name].default == setting.default, name


def test_every_option_is_documented() -> None:
    rows = [row for row in DOCUMENT.read_text().splitlines() if row.startswith("| `--")]
    for option in simulate.params:
        assert isinstance(option, click.Option)
        assert any(f"`{option.opts[0]}`" in row for row in rows), option.name

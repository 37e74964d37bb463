"""Write the alert rules and the dashboard beside this file: `python deploy/monitoring/generate.py`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import yaml

from alert_rules import rules
from dashboard import dashboard

HERE: Final = Path(__file__).parent
HEAD: Final = "# Written by generate.py from alert_rules.py: change that one.\n"


def files() -> dict[str, str]:
    """What each generated file holds."""
    return {
        "alerts.yml": HEAD + yaml.safe_dump(rules(), sort_keys=False, allow_unicode=True, width=120),
        "dashboard.json": json.dumps(dashboard(), indent=1, ensure_ascii=False) + "\n",
    }


if __name__ == "__main__":
    for name, text in files().items():
        (HERE / name).write_text(text, encoding="utf-8")

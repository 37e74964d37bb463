"""Which family computes which task behind which kind of prompt: the cells the table test runs, and the page of them.

`python tests/family_table.py` writes `adapters/BACKBONES.md`; a test compares the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import NamedTuple

from prefixrack_adapters.families import FAMILIES
from prefixrack_adapters.tasks import TASKS
from tiny import DECODERS

PAGE = Path(__file__).parents[1] / "adapters" / "BACKBONES.md"
PROMPT_KINDS = ("deep prefix", "soft prompt", "soft prompt, words embedded twice", "none")
MODELS: Mapping[str, str] = {
    "albert": "ALBERT",
    "bert": "BERT, MiniLM and other BERT-shaped encoders",
    "deberta": "DeBERTa",
    "deberta-v2": "DeBERTa v2 and v3",
    "distilbert": "DistilBERT",
    "electra": "ELECTRA",
    "glm": "GLM-4 (9B)",
    "glm-2021": "GLM (2021): 2B, 10B and others of SwissArmyTransformer",
    "glm4": "GLM-4 (0414)",
    "gpt2": "GPT-2",
    "llama": "Llama",
    "modernbert": "ModernBERT",
    "qwen2": "Qwen 2 and 2.5",
    "qwen3": "Qwen 3",
    "roberta": "RoBERTa",
    "xlm-roberta": "XLM-R",
}


class Cell(NamedTuple):
    """`reason` says why a combination is not run; None where it is."""

    family: str
    task: str
    prompt_kind: str
    reason: str | None


def cells() -> list[Cell]:
    return [Cell(*names, reason(*names)) for names in product(sorted(FAMILIES), TASKS, PROMPT_KINDS)]


def reason(family: str, task: str, prompt_kind: str) -> str | None:
    """The one place where a combination may be left out."""
    return None


def page() -> str:
    head = ["family (`model_type`)", "models", "answers from", *TASKS]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *map(_line, sorted(FAMILIES))]
    return INTRODUCTION + "\n".join([*lines, "", *_left_out()]) + "\n"


INTRODUCTION = f"""# Backbones

Written by `python tests/family_table.py` from the list that the tests run: in each cell of the table, the kinds of
prompts that were computed in one pack with rows of the other kinds, alike to the row alone. The kinds are
{", ".join(f"*{kind}*" for kind in PROMPT_KINDS[:-1])} and *{PROMPT_KINDS[-1]}* (the bare backbone with a head).
*all* stands for all {len(PROMPT_KINDS)}. "Answers from" is the token whose state a classification reads by default in
the tests; the manifest's `head.gather` decides it for an adapter.

"""


def _line(family: str) -> str:
    where = "last token" if family in DECODERS else "first token"
    return f"| `{family}` | {MODELS[family]} | {where} | {' | '.join(_cell(family, task) for task in TASKS)} |"


def _cell(family: str, task: str) -> str:
    run = [kind for kind in PROMPT_KINDS if reason(family, task, kind) is None]
    return "all" if len(run) == len(PROMPT_KINDS) else ", ".join(run) or "–"


def _left_out() -> list[str]:
    left_out = [cell for cell in cells() if cell.reason is not None]
    if not left_out:
        return ["No combination is left out. A backbone of another family is refused at start with the list of these."]
    return [f"- `{cell.family}`, {cell.task}, {cell.prompt_kind}: {cell.reason}" for cell in left_out]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

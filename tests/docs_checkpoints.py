"""What the documentation imports: adapters of other tools on tiny backbones, named as the pages name them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from adapterhub_files import AdapterHubFiles
from checkpoints import write_checkpoint
from sat_checkpoint import SatCheckpoint, trained
from tiny import write_backbone


def write_peft_adapter(folder: Path, backbone: Path) -> None:
    """What PEFT's `save_pretrained` writes after a prefix was trained; here it was drawn."""
    import torch
    from peft import PrefixTuningConfig, TaskType, get_peft_model
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(1)
    model = AutoModelForSequenceClassification.from_pretrained(backbone, num_labels=2)
    get_peft_model(model, PrefixTuningConfig(task_type=TaskType.SEQ_CLS, num_virtual_tokens=4)).save_pretrained(
        str(folder)
    )


def write_sources(folder: Path, _backbone: Path) -> None:
    """Those of adapters/README.md, and the backbones that it names."""
    bert = write_backbone(folder / "bert-base-uncased", "bert")
    roberta = write_backbone(folder / "roberta-large", "roberta")
    write_checkpoint(folder / "runs" / "boolq" / "checkpoint-1000", roberta, "RobertaPrefixForSequenceClassification")
    write_peft_adapter(folder / "my-peft-adapter", bert)
    AdapterHubFiles(bert, folder / "my-adapter").write()
    checkpoint = SatCheckpoint(folder / "glm-folder", folder / "runs" / "glm")
    checkpoint.write(checkpoint.frozen() | trained())


WRITERS: Mapping[str, Callable[[Path, Path], None]] = {
    "docs/importing.md": lambda folder, backbone: write_peft_adapter(folder / "their-adapter", backbone),
    "adapters/README.md": write_sources,
}


def write(page: str, folder: Path, backbone: Path) -> None:
    """What that page imports, if it imports anything."""
    if page in WRITERS:
        WRITERS[page](folder, backbone)

"""Adapters as AdapterHub saves them, made by hand on tiny backbones."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from prefixrack_adapters.importers.run import Report, run_import
from prefixrack_adapters.spec import BackboneSpec

State = dict[str, Tensor]
PREFIX_LEN, BOTTLENECK = 3, 6
POOL = "prefix_tuning.prefix_tunings.some.name.self_prefix."


class AdapterHubFiles:
    """An adapter and its head as AdapterHub saves them, on a tiny backbone, and a place to import them to."""

    def __init__(self, backbone: Path, folder: Path, num_modules: int | None = None) -> None:
        self.backbone, self.spec = backbone, BackboneSpec.load(backbone)
        self.folder, self.out = folder, folder.parent / "bundle"
        self.num_modules = num_modules or self.spec.num_layers
        self.generator = torch.Generator().manual_seed(0)
        self.folder.mkdir()
        self.state: State = {}
        self.head: State = {}
        self.config: dict[str, Any] = {"architecture": "prefix_tuning", "flat": True, "prefix_length": PREFIX_LEN}
        self.document: dict[str, Any] = {
            "config": self.config,
            "hidden_size": self.spec.hidden_size,
            "model_name": "some/base",
            "model_type": self.spec.architecture,
            "version": "adapters.1.3.0",
        }
        self.head_document: dict[str, Any] = {"model_class": "BertAdapterModel", "name": "some.name"}
        self.add_flat()
        self.add_head("classification", 3, layers=2)

    def random(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator)

    def add_flat(self, left_out: Sequence[int] = ()) -> None:
        """As saved: once for the pool, and again below every layer that has a prefix."""
        self.config["leave_out"] = list(left_out)
        self.kept = [module for module in range(self.num_modules) if module not in left_out]
        width = 2 * len(self.kept) * self.spec.num_kv_heads * self.spec.head_dim
        self.add_everywhere({"control_trans": self.random(PREFIX_LEN * width)})

    def add_everywhere(self, tensors: State) -> None:
        self.tensors = tensors
        pools = [POOL, *(f"encoder.layer.{module}.attention.self.{POOL}" for module in self.kept)]
        pools[1:] = [pool.replace("prefix_tuning.", "prefix_tuning.pool.", 1) for pool in pools[1:]]
        self.state = {f"bert.{pool}{name}": values for pool in pools for name, values in tensors.items()}

    def add_reparameterized(self, non_linearity: str = "tanh") -> None:
        self.config |= {"flat": False, "non_linearity": non_linearity}
        width = 2 * len(self.kept) * self.spec.num_kv_heads * self.spec.head_dim
        shapes = {
            "wte.weight": (PREFIX_LEN, self.spec.hidden_size),
            "control_trans.0.weight": (BOTTLENECK, self.spec.hidden_size),
            "control_trans.0.bias": (BOTTLENECK,),
            "control_trans.2.weight": (width, BOTTLENECK),
            "control_trans.2.bias": (width,),
        }
        self.add_everywhere({name: self.random(*shape) for name, shape in shapes.items()})

    def add_gates(self, num_outputs: int) -> None:
        self.config |= {"use_gating": True, "shared_gating": num_outputs == 1}
        for module in self.kept:
            name = f"bert.encoder.layer.{module}.attention.self.prefix_tuning.prefix_gates.some.name"
            self.state[f"{name}.weight"] = self.random(num_outputs, self.spec.hidden_size)
            self.state[f"{name}.bias"] = self.random(num_outputs)

    def gates(self) -> list[tuple[Tensor, Tensor]]:
        values = [values for name, values in self.state.items() if "prefix_gates" in name]
        return list(zip(values[::2], values[1::2], strict=True))

    def add_head(self, kind: str, num_outputs: int, layers: int = 1, **options: Any) -> None:
        """Each layer stands behind a dropout, and all but the last before an activation: their names count those."""
        width = self.spec.hidden_size
        places = [1 + 3 * index for index in range(layers)]
        self.head = {}
        for index, place in enumerate(places):
            outputs = num_outputs if index == layers - 1 else width
            self.head[f"heads.some.name.{place}.weight"] = self.random(outputs, width)
            self.head[f"heads.some.name.{place}.bias"] = self.random(outputs)
        names = {"O": 0, "B-x": 1, "I-x": 2} if kind == "tagging" else {"b": 1, "a": 0, "c": 2}
        label2id = {label: index for label, index in names.items() if index < num_outputs}
        usual = {"head_type": kind, "layers": layers, "activation_function": "tanh", "label2id": label2id}
        self.head_document["config"] = usual | {"use_pooler": False} | options

    def read(self, safetensors: bool = False, **options: Any) -> Report:
        self.write(safetensors)
        return run_import("adapterhub", self.folder, str(self.backbone), self.out, **options)

    def write(self, safetensors: bool = False) -> None:
        (self.folder / "adapter_config.json").write_text(json.dumps(self.document))
        (self.folder / "head_config.json").write_text(json.dumps(self.head_document))
        if safetensors:
            save_file(
                {name: values.clone() for name, values in self.state.items()}, self.folder / "adapter.safetensors"
            )
            save_file(self.head, self.folder / "model_head.safetensors")
        else:
            torch.save(self.state, self.folder / "pytorch_adapter.bin")
            torch.save(self.head, self.folder / "pytorch_model_head.bin")

    def expected_prefix(self, flat: Tensor) -> Tensor:
        """[layers with a prefix, 2, P, H, D], value by value, of the tool's flat tensor."""
        heads, width = self.spec.num_kv_heads, self.spec.head_dim
        values = iter(flat.reshape(-1).tolist())
        prefix = torch.zeros(len(self.kept), 2, PREFIX_LEN, heads, width)
        for vector in range(PREFIX_LEN):
            for layer in range(len(self.kept)):
                for part in range(2):
                    for head in range(heads):
                        prefix[layer, part, vector, head] = torch.tensor([next(values) for _ in range(width)])
        return prefix

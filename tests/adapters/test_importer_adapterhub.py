"""AdapterHub's prefixes become bundles that give the tool's logits: files made by hand, a slow forward pass beside."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from adapterhub_files import BOTTLENECK, PREFIX_LEN, AdapterHubFiles
from by_hand import ByHand
from prefixrack.errors import BackboneMismatch, Fault, InvalidRequest, MalformedBundle, TensorMismatch
from prefixrack_adapters.adapter import Adapter
from prefixrack_adapters.backbone import Backbone
from prefixrack_adapters.importers.base import Arrays
from prefixrack_adapters.importers.run import Report, run_import
from prefixrack_adapters.manifest import Manifest
from reference import ReferenceModel, _attention
from tiny import make_manifest, random_arrays, write_backbone

CLOSE: dict[str, Any] = {"atol": 1e-4, "rtol": 0}
IDS = ([2, 7, 8, 9, 3], [2, 3], [2, 11, 12, 13, 14, 15, 16, 17, 18, 3])
BackboneOf = Callable[[str], Path]


@pytest.fixture(scope="module")
def backbone_of(tmp_path_factory: pytest.TempPathFactory) -> BackboneOf:
    root = tmp_path_factory.mktemp("backbones")
    layers = {"bert": {"num_hidden_layers": 4}, "albert": {"num_hidden_layers": 4, "embedding_size": 32}}
    return cache(lambda family: write_backbone(root / family, family, **layers.get(family, {})))


@pytest.fixture
def files(backbone_of: BackboneOf, tmp_path: Path) -> AdapterHubFiles:
    return AdapterHubFiles(backbone_of("bert"), tmp_path / "some-adapter")


def bundle_prefix(files: AdapterHubFiles) -> Tensor:
    return load_file(files.out / "adapter.safetensors")["prefix"]


def layers_of(report: Report) -> list[int] | None:
    prefix = report.manifest.prefix
    assert prefix.kind == "deep"
    return prefix.layers


def refusal(files: AdapterHubFiles, fault: type[Fault], **options: Any) -> str:
    with pytest.raises(fault) as caught:
        files.read(**options)
    assert not files.out.exists()
    return caught.value.detail


def slow_states(
    model: ReferenceModel,
    ids: list[int],
    prefix: Sequence[Tensor | None],
    gates: Sequence[tuple[Tensor, Tensor] | None],
) -> Tensor:
    """[S, hidden_size]: positions from 0; `prefix[l]` [2, P, H, D] scaled by the mean sigmoid of the layer's input."""
    with torch.no_grad():
        states = model.model.embeddings(input_ids=torch.tensor([ids]), position_ids=torch.arange(len(ids))[None])
        for layer, of_layer, gate in zip(model.layers, prefix, gates, strict=True):
            shown = of_layer
            if of_layer is not None and gate is not None:
                opened = [torch.sigmoid(F.linear(state, *gate)) for state in states[0]]
                mean = torch.stack(opened).mean(dim=0)
                shown = torch.stack((of_layer[0] * mean[0], of_layer[1] * mean[-1]))
            attended = layer.attention.output(_attention(layer.attention.self, states, shown), states)
            states = layer.output(layer.intermediate(attended), attended)
    result: Tensor = states[0]
    return result


def check(files: AdapterHubFiles, head: Callable[[Tensor], Tensor], prefix: Tensor) -> None:
    """The bundle's logits, alone and among rows of another adapter, against the slow forward pass."""
    model, backbone = ReferenceModel(files.backbone), Backbone.load(files.backbone, device="cpu")
    adapter = Adapter.load(files.out)
    gates: list[tuple[Tensor, Tensor] | None] = [None] * files.spec.num_layers
    by_layer: list[Tensor | None] = [None] * files.spec.num_layers
    for layer, of_layer in zip(files.kept, prefix, strict=True):
        by_layer[layer] = of_layer
    for layer, gate in zip(files.kept, files.gates(), strict=False):
        gates[layer] = gate
    manifest = make_manifest(files.spec, prefix_len=5)
    arrays = random_arrays(manifest, files.spec.hidden_size)
    other = Adapter.from_arrays(manifest, arrays, device="cpu", dtype=torch.float32)
    rows = [(one, {"input_ids": ids}) for ids in IDS for one in (adapter, other, adapter)]
    mixed = backbone.logits(rows)
    for index, ids in enumerate(IDS):
        expected = head(slow_states(model, ids, by_layer, gates)).numpy()
        bare = head(slow_states(model, ids, [None] * len(by_layer), gates)).numpy()
        assert np.abs(expected - bare).max() > 1e-2
        for logits in (mixed[3 * index], mixed[3 * index + 2], backbone.logits([rows[3 * index]])[0]):
            np.testing.assert_allclose(logits, expected, **CLOSE)


def two_layers(files: AdapterHubFiles) -> Callable[[Tensor], Tensor]:
    first, second = ([files.head[f"heads.some.name.{place}.{part}"] for part in ("weight", "bias")] for place in (1, 4))
    return lambda states: F.linear(torch.tanh(F.linear(states[0], *first)), *second)


def test_flat_prefixes(files: AdapterHubFiles) -> None:
    report = files.read()
    assert report.manifest.labels == ["a", "b", "c"]  # by index, whatever the order in the file
    assert report.manifest.prefix.positions == "unmoved"
    prefix = files.expected_prefix(files.tensors["control_trans"])
    assert torch.equal(bundle_prefix(files), prefix)
    check(files, two_layers(files), prefix)


@pytest.mark.parametrize(
    ("non_linearity", "function"),
    [("tanh", torch.tanh), ("relu", F.relu), ("swish", F.silu), ("leakyrelu", F.leaky_relu)],
)
def test_reparameterizations_are_folded(
    files: AdapterHubFiles, non_linearity: str, function: Callable[[Tensor], Tensor]
) -> None:
    files.add_reparameterized(non_linearity)
    report = files.read()
    parts = files.tensors
    hidden = function(F.linear(parts["wte.weight"], parts["control_trans.0.weight"], parts["control_trans.0.bias"]))
    flat = F.linear(hidden, parts["control_trans.2.weight"], parts["control_trans.2.bias"])
    torch.testing.assert_close(bundle_prefix(files), files.expected_prefix(flat), atol=1e-5, rtol=1e-5)
    assert "folded" in report.read["prompt"]


def test_an_ejected_adapter_is_told_by_its_tensors(files: AdapterHubFiles) -> None:
    plain = files.read().digest
    files.config |= {"flat": False, "bottleneck_size": BOTTLENECK, "non_linearity": "tanh"}
    report = files.read()
    assert "folded" not in report.read["prompt"]
    assert report.digest != plain  # its settings name a non-linearity; the tensors are the same
    assert torch.equal(bundle_prefix(files), files.expected_prefix(files.tensors["control_trans"]))


def test_safetensors_are_read_alike(files: AdapterHubFiles) -> None:
    plain = files.read().digest
    shutil.rmtree(files.folder)
    files.folder.mkdir()
    assert files.read(safetensors=True).digest == plain


def test_layers_left_out(files: AdapterHubFiles) -> None:
    files.add_flat(left_out=[0, 2])
    assert layers_of(files.read()) == [1, 3]
    prefix = files.expected_prefix(files.tensors["control_trans"])
    assert torch.equal(bundle_prefix(files), prefix)
    check(files, two_layers(files), prefix)


@pytest.mark.parametrize("left_out", [[], [1]])
@pytest.mark.parametrize("num_outputs", [1, 2])
def test_gates(files: AdapterHubFiles, num_outputs: int, left_out: list[int]) -> None:
    files.add_flat(left_out)
    files.add_gates(num_outputs)
    manifest = files.read().manifest
    assert manifest.prefix.kind == "deep"
    assert manifest.prefix.gates == ("shared" if num_outputs == 1 else "separate")
    check(files, two_layers(files), files.expected_prefix(files.tensors["control_trans"]))


def test_gates_follow_the_layers_that_share_a_module(backbone_of: BackboneOf, tmp_path: Path) -> None:
    """ALBERT with 2 modules for 4 layers: the tool counts modules, and gives each layer its module's prefix."""
    files = AdapterHubFiles(backbone_of("albert"), tmp_path / "some-adapter", num_modules=2)
    files.add_flat(left_out=[0])
    files.state = {name.replace("bert.", "albert.", 1): values for name, values in files.state.items()}
    assert layers_of(files.read()) == [2, 3]
    (prefix,) = files.expected_prefix(files.tensors["control_trans"])
    assert torch.equal(bundle_prefix(files), torch.stack((prefix, prefix)))
    slow, backbone, head = ByHand(files.backbone), Backbone.load(files.backbone, device="cpu"), two_layers(files)
    by_head = prefix.transpose(1, 2)
    for ids in IDS:
        (logits,) = backbone.logits([(Adapter.load(files.out), {"input_ids": ids})])
        expected = head(slow.states(slow.words(ids), 0, [None, None, by_head, by_head]))
        np.testing.assert_allclose(logits, expected.numpy(), **CLOSE)


@pytest.mark.parametrize(
    ("kind", "options", "task", "gather"),
    [
        ("tagging", {"num_outputs": 3, "layers": 2}, "token-classification", "every_token"),
        ("question_answering", {"num_outputs": 2}, "question-answering", "every_token"),
        ("multiple_choice", {"num_outputs": 1, "layers": 2}, "multiple-choice", "first_token"),
        ("classification", {"num_outputs": 3, "layers": 1}, "text-classification", "first_token"),
    ],
)
def test_heads(files: AdapterHubFiles, kind: str, options: dict[str, Any], task: str, gather: str) -> None:
    files.add_head(kind, **options)
    manifest = files.read().manifest
    assert (manifest.task, manifest.head.gather) == (task, gather)
    assert [layer.activation for layer in manifest.head.layers] == ["tanh", None][-options.get("layers", 1) :]
    stored = load_file(files.out / "adapter.safetensors")
    last = len(manifest.head.layers) - 1
    assert torch.equal(stored[f"head.{last}.weight"], files.head[f"heads.some.name.{1 + 3 * last}.weight"])


def test_several_labels_at_once(files: AdapterHubFiles) -> None:
    files.add_head("multilabel_classification", 2, layers=3, activation_function="gelu")
    manifest = files.read().manifest
    assert manifest.decoding.problem == "multi_label"
    assert [layer.activation for layer in manifest.head.layers] == ["gelu", "gelu", None]


def test_one_output_is_a_regression(files: AdapterHubFiles) -> None:
    files.add_head("classification", 1)
    manifest = files.read().manifest
    assert (manifest.labels, manifest.decoding.problem) == ([], "regression")


def test_a_pooler_comes_from_the_base(files: AdapterHubFiles) -> None:
    files.add_head("classification", 3, use_pooler=True)
    files.read()
    base = load_file(files.backbone / "model.safetensors")
    pooler = base["pooler.dense.weight"], base["pooler.dense.bias"]
    output = [files.head[f"heads.some.name.1.{part}"] for part in ("weight", "bias")]
    prefix = files.expected_prefix(files.tensors["control_trans"])
    check(files, lambda states: F.linear(torch.tanh(F.linear(states[0], *pooler)), *output), prefix)


@pytest.mark.parametrize("task", ["SequenceClassification", "TokenClassification", "QuestionAnswering"])
def test_heads_of_stock_classes(files: AdapterHubFiles, task: str) -> None:
    """Their config is null; layers follow from the class. Labels that nobody named are asked for."""
    is_answer = task == "QuestionAnswering"
    name = "qa_outputs" if is_answer else "classifier"
    width = files.spec.hidden_size
    files.head = {f"{name}.weight": files.random(2 + (not is_answer), width)}
    files.head[f"{name}.bias"] = files.random(len(files.head[f"{name}.weight"]))
    files.head_document = {"config": None, "model_class": f"BertFor{task}", "num_labels": 3}
    files.head_document["label2id"] = {f"LABEL_{index}": index for index in range(3)}
    if not is_answer:
        assert "--labels" in refusal(files, InvalidRequest)
    manifest = files.read(labels=None if is_answer else ["O", "B-x", "I-x"]).manifest
    activations = [layer.activation for layer in manifest.head.layers]
    assert activations == (["tanh", None] if task == "SequenceClassification" else [None])
    stored = load_file(files.out / "adapter.safetensors")
    assert torch.equal(stored[f"head.{len(manifest.head.layers) - 1}.weight"], files.head[f"{name}.weight"])


def test_without_a_head_it_embeds_if_told_so(files: AdapterHubFiles) -> None:
    files.read()
    shutil.rmtree(files.out)
    for path in files.folder.glob("*head*"):
        path.unlink()
    with pytest.raises(MalformedBundle, match="text-embedding"):
        run_import("adapterhub", files.folder, str(files.backbone), files.out)
    report = run_import("adapterhub", files.folder, str(files.backbone), files.out, task="text-embedding")
    assert report.manifest.head.layers == []
    assert any("pooled" in note for note in report.assumed)


@pytest.mark.parametrize(
    ("config", "word"),
    [
        ({"architecture": "union", "configs": [{"architecture": "prefix_tuning"}, {"architecture": "lora"}]}, "lora"),
        ({"architecture": "bottleneck"}, "bottleneck"),
        ({"architecture": "prompt_tuning"}, "prompt_tuning"),
        ("pfeiffer", "pfeiffer"),
        (None, "None"),
    ],
)
def test_other_methods_are_refused_by_name(files: AdapterHubFiles, config: Any, word: str) -> None:
    files.document["config"] = config
    assert word in refusal(files, InvalidRequest)


@pytest.mark.parametrize(("name", "value"), [("model_type", "roberta"), ("hidden_size", 64)])
def test_another_model_is_refused(files: AdapterHubFiles, name: str, value: Any) -> None:
    files.document[name] = value
    detail = refusal(files, BackboneMismatch)
    assert str(value) in detail
    assert "some/base" in detail


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"kind": "masked_lm", "num_outputs": 3}, "masked_lm"),
        ({"kind": "classification", "num_outputs": 3, "layers": 2, "activation_function": "gelu_new"}, "gelu_new"),
    ],
)
def test_other_heads_are_refused_by_name(files: AdapterHubFiles, options: dict[str, Any], word: str) -> None:
    files.add_head(**options)
    assert word in refusal(files, InvalidRequest)


def test_a_stock_class_without_a_task_is_refused(files: AdapterHubFiles) -> None:
    files.head_document = {"config": None, "model_class": "BertForMaskedLM"}
    assert "BertForMaskedLM" in refusal(files, InvalidRequest)
    files.head_document["config"] = "classification"
    assert "null" in refusal(files, MalformedBundle)


def test_a_pooler_where_the_base_has_none_is_refused(backbone_of: BackboneOf, tmp_path: Path) -> None:
    files = AdapterHubFiles(backbone_of("distilbert"), tmp_path / "some-adapter")
    files.add_head("classification", 3, use_pooler=True)
    assert "use_pooler" in refusal(files, InvalidRequest)


def test_random_biases_that_are_not_saved_are_refused(backbone_of: BackboneOf, tmp_path: Path) -> None:
    files = AdapterHubFiles(backbone_of("deberta"), tmp_path / "some-adapter")
    files.head_document = {"config": None, "model_class": "DebertaForTokenClassification"}
    assert "DebertaAdapterModel" in refusal(files, InvalidRequest)


def test_options_that_say_otherwise_are_refused(files: AdapterHubFiles) -> None:
    assert "text-classification" in refusal(files, InvalidRequest, task="question-answering")
    assert "--tower" in refusal(files, InvalidRequest, tower="question")
    assert "2 labels" in refusal(files, InvalidRequest, labels=["a", "b"])


def test_copies_that_differ_are_refused(files: AdapterHubFiles) -> None:
    name = next(name for name in files.state if ".pool." in name)
    files.state[name] = files.state[name] + 1
    assert "differ" in refusal(files, TensorMismatch)


def test_attention_to_an_encoder_is_refused(files: AdapterHubFiles) -> None:
    state = files.state
    files.state = state | {
        name.replace("self_prefix", "cross_prefix"): values for name, values in state.items() if ".layer" not in name
    }
    assert "cross_prefix" in refusal(files, InvalidRequest)


def test_tensors_of_another_method_are_refused(files: AdapterHubFiles) -> None:
    files.state["bert.encoder.layer.0.output.adapters.some.name.adapter_up.weight"] = torch.zeros(2, 2)
    assert "adapter_up" in refusal(files, TensorMismatch)
    files.state = {}
    assert "no prefix" in refusal(files, TensorMismatch)


@pytest.mark.parametrize("fields", [{"prefix_length": PREFIX_LEN + 1}, {"leave_out": [0]}])
def test_a_prefix_that_does_not_fit_its_config_is_refused(files: AdapterHubFiles, fields: dict[str, Any]) -> None:
    files.config |= fields
    assert "--backbone" in refusal(files, TensorMismatch)
    files.add_flat()
    files.add_reparameterized()
    files.config |= fields
    assert refusal(files, TensorMismatch)


def test_missing_parts_are_named(files: AdapterHubFiles) -> None:
    files.add_reparameterized()
    files.state = {name: values for name, values in files.state.items() if not name.endswith("control_trans.2.bias")}
    assert "control_trans.2.bias" in refusal(files, TensorMismatch)
    files.add_flat()
    files.add_gates(1)
    files.state = {name: values for name, values in files.state.items() if "layer.1" not in name}
    assert "gates of 3 layers" in refusal(files, TensorMismatch)
    files.add_flat()
    files.config["use_gating"] = False
    files.head_document["config"]["layers"] = 3
    assert "3 layers" in refusal(files, TensorMismatch)


def test_an_unknown_non_linearity_is_refused(files: AdapterHubFiles) -> None:
    files.add_reparameterized("no-such-function")
    assert "no-such-function" in refusal(files, MalformedBundle)


@pytest.mark.parametrize("name", ["adapter_config.json", "head_config.json"])
def test_broken_configs_are_refused(files: AdapterHubFiles, name: str) -> None:
    files.read()
    shutil.rmtree(files.out)
    for content, word in (("{", "not JSON"), ("[]", "list")):
        (files.folder / name).write_text(content)
        with pytest.raises(MalformedBundle, match=word):
            run_import("adapterhub", files.folder, str(files.backbone), files.out)
    (files.folder / name).unlink()
    with pytest.raises(MalformedBundle, match=name.replace(".", r"\.")):
        run_import("adapterhub", files.folder, str(files.backbone), files.out)


def test_broken_pickles_are_refused(files: AdapterHubFiles) -> None:
    files.read()
    shutil.rmtree(files.out)
    for name in ("pytorch_adapter.bin", "pytorch_model_head.bin"):
        content = (files.folder / name).read_bytes()
        (files.folder / name).write_bytes(content[:40])
        with pytest.raises(MalformedBundle, match="not a file of plain tensors"):
            run_import("adapterhub", files.folder, str(files.backbone), files.out)
        (files.folder / name).write_bytes(content)
    (files.folder / "pytorch_adapter.bin").unlink()
    with pytest.raises(MalformedBundle, match=r"pytorch_adapter\.bin"):
        run_import("adapterhub", files.folder, str(files.backbone), files.out)


PROJECTIONS = ("value", "value_proj", "v_lin", "v_proj", "c_attn", "in_proj")  # what makes values, by family
GATED_FAMILIES = ("albert", "bert", "deberta", "deberta-v2", "distilbert", "electra", "gpt2", "llama", "roberta")


@pytest.mark.parametrize("family", GATED_FAMILIES)
def test_gates_read_what_enters_attention(family: str, backbone_of: BackboneOf) -> None:
    """A prefix scaled by hand, by what each layer's projection was given, makes the same row as the gated one."""
    backbone = Backbone.load(backbone_of(family), device="cpu")
    plain = make_manifest(backbone.spec, prefix_len=4)
    gated = plain.model_copy(update={"prefix": plain.prefix.model_copy(update={"gates": "separate"})})
    arrays = random_arrays(gated, backbone.spec.hidden_size)
    given: list[Tensor] = []
    for name, module in backbone.model.named_modules():
        if name.rpartition(".")[2] in PROJECTIONS:
            module.register_forward_pre_hook(lambda _, args: given.append(args[0].reshape(-1, args[0].shape[-1])))
    for ids in IDS:
        given.clear()
        logits = run_alone(backbone, gated, arrays, ids)
        weights = zip(given, arrays["gates.weight"], arrays["gates.bias"], strict=True)
        scales = [
            (1 / (1 + np.exp(-(states.numpy() @ weight.T + bias)))).mean(axis=0) for states, weight, bias in weights
        ]
        shown = arrays["prefix"] * np.array(scales)[:, :, None, None, None]
        head = {name: values for name, values in arrays.items() if name.startswith("head")}
        np.testing.assert_allclose(logits, run_alone(backbone, plain, head | {"prefix": shown}, ids), **CLOSE)
        assert np.abs(logits - run_alone(backbone, plain, head | {"prefix": arrays["prefix"]}, ids)).max() > 1e-2


def run_alone(backbone: Backbone, manifest: Manifest, arrays: Arrays, ids: list[int]) -> Any:
    adapter = Adapter.from_arrays(manifest, arrays, device="cpu", dtype=torch.float32)
    return backbone.logits([(adapter, {"input_ids": ids})])[0]

"""P-Tuning v2 checkpoints become bundles that give the original model's logits, and faulty ones say what is wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModel

from checkpoints import (
    HIDDEN,
    LAYERS,
    CallsCode,
    State,
    frozen_tensors,
    trained_tensors,
    without_pooler,
    write_checkpoint,
    write_two_towers,
)
from pair_by_pair import PairByPair, write_deberta
from prefixrack.errors import (
    BackboneMismatch,
    Fault,
    InvalidRequest,
    LabelMismatch,
    MalformedBundle,
    NonfiniteTensor,
    TensorMismatch,
)
from prefixrack_adapters.adapter import Adapter
from prefixrack_adapters.backbone import Backbone
from prefixrack_adapters.importers.base import Source, name_of
from prefixrack_adapters.importers.run import run_import
from prefixrack_adapters.importers.thudm import read
from prefixrack_adapters.manifest import DenseLayer, Manifest
from prefixrack_adapters.rows import Row
from prefixrack_adapters.spec import BackboneSpec
from reference import ReferenceModel
from tiny import MAX_POSITIONS, write_backbone

IDS = [2, 9, 12, 31, 7, 3]
SEGMENTS = [0, 0, 0, 1, 1, 1]
PARTS = ("weight", "bias")
BackboneOf = Callable[[str], Path]


@pytest.fixture(scope="module")
def backbone_of(tmp_path_factory: pytest.TempPathFactory) -> BackboneOf:
    root = tmp_path_factory.mktemp("backbones")

    def write(family: str) -> Path:
        return root / family if (root / family).is_dir() else write_backbone(root / family, family)

    return write


def import_one(source: Path, backbone: Path, **options: Any) -> tuple[Adapter, Manifest]:
    out = source.parent / f"{source.name}-bundle"
    report = run_import("thudm", source, str(backbone), out, **options)
    return Adapter.load(out), report.manifest


def original_prefix(own: State) -> Tensor:
    """[L, 2, P, H, D] by the original code's own steps: embedding, MLP, view, permute, split."""
    flat = own["prefix_encoder.embedding.weight"]
    if "prefix_encoder.trans.0.weight" in own:
        trans = nn.Sequential(nn.Linear(HIDDEN, 7), nn.Tanh(), nn.Linear(7, 2 * LAYERS * HIDDEN))
        trans.load_state_dict(
            {name[len("prefix_encoder.trans.") :]: one for name, one in own.items() if "trans" in name}
        )
        flat = trans(flat).detach()
    past = flat.view(1, len(flat), 2 * LAYERS, 4, HIDDEN // 4).permute(2, 0, 3, 1, 4).split(2)
    return torch.stack([layer[:, 0].transpose(1, 2) for layer in past])


def pooled(state: Tensor, frozen: State) -> Tensor:
    weight, bias = (next(one for name, one in frozen.items() if f"pooler.dense.{part}" in name) for part in PARTS)
    return torch.tanh(F.linear(state, weight, bias))


@pytest.mark.parametrize("projection", [0, 7], ids=["plain", "reparameterized"])
@pytest.mark.parametrize("as_safetensors", [False, True], ids=["bin", "safetensors"])
def test_classification_gives_the_original_models_logits(
    backbone_of: BackboneOf, tmp_path: Path, projection: int, as_safetensors: bool
) -> None:
    folder = backbone_of("bert")
    options: Any = {"projection": projection, "as_safetensors": as_safetensors}
    own = write_checkpoint(tmp_path / "run", folder, **options)
    adapter, manifest = import_one(tmp_path / "run", folder)
    assert (manifest.task, manifest.labels, manifest.name) == ("text-classification", ["no", "yes"], "run")

    states = ReferenceModel(folder).hidden_states(IDS, SEGMENTS, 5, original_prefix(own))
    vector = pooled(states[0], frozen_tensors(folder, "BertPrefixForSequenceClassification"))
    wanted = F.linear(vector, own["classifier.weight"], own["classifier.bias"])
    rows = [(adapter, {"input_ids": IDS, "token_type_ids": SEGMENTS})]
    (got,) = Backbone.load(folder, device="cpu").logits(rows)
    np.testing.assert_allclose(got, wanted.numpy(), atol=1e-4)
    assert not (tmp_path / "run" / "opened").exists()


@pytest.mark.parametrize(
    "architecture", ["RobertaPrefixForTokenClassification", "RobertaPrefixModelForQuestionAnswering"]
)
def test_every_token_heads_read_the_states_themselves(
    backbone_of: BackboneOf, tmp_path: Path, architecture: str
) -> None:
    folder = backbone_of("roberta")
    tags = {"id2label": {"0": "O", "1": "B-PER"}}
    own = write_checkpoint(tmp_path / "run", folder, architecture, config=tags)
    adapter, manifest = import_one(tmp_path / "run", folder)
    assert manifest.head.gather == "every_token"
    assert manifest.head.layers == [DenseLayer(num_outputs=2)]

    states = ReferenceModel(folder).hidden_states(IDS, [0] * 6, 2 + 5, original_prefix(own))
    head = "qa_outputs" if "Question" in architecture else "classifier"
    (got,) = Backbone.load(folder, device="cpu").logits([(adapter, {"input_ids": IDS})])
    np.testing.assert_allclose(got, F.linear(states, own[f"{head}.weight"], own[f"{head}.bias"]).numpy(), atol=1e-4)


@torch.no_grad()
def embedded_twice(folder: Path, prompt: Tensor, first: int) -> Tensor:
    """[prompt_len + S, hidden_size], by the stock model: embeddings of IDS behind the prompt, embedded once more."""
    model = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    words = model.embeddings(torch.tensor([IDS]), position_ids=torch.arange(first, first + len(IDS))[None])
    states: Tensor = model(inputs_embeds=torch.cat((prompt[None], words), dim=1)).last_hidden_state[0]
    return states


@pytest.mark.parametrize(("family", "first"), [("bert", 0), ("roberta", 2)])
@pytest.mark.parametrize("task", ["SequenceClassification", "MultipleChoice"])
def test_prompts_are_embedded_twice(
    backbone_of: BackboneOf, tmp_path: Path, family: str, first: int, task: str
) -> None:
    folder = backbone_of(family)
    architecture = f"{family.title()}PromptFor{task}"
    num_outputs = 1 if task == "MultipleChoice" else 2
    own = write_checkpoint(tmp_path / "run", folder, architecture, num_outputs=num_outputs)
    adapter, manifest = import_one(tmp_path / "run", folder)
    assert manifest.prefix.kind == "soft"
    assert manifest.task == ("multiple-choice" if num_outputs == 1 else "text-classification")

    states = embedded_twice(folder, own["prefix_encoder.weight"], first)
    vector = pooled(states[0 if num_outputs == 1 else 5], frozen_tensors(folder, architecture))
    wanted = F.linear(vector, own["classifier.weight"], own["classifier.bias"])
    (got,) = Backbone.load(folder, device="cpu").logits([(adapter, {"input_ids": IDS})])
    np.testing.assert_allclose(got, wanted.numpy(), atol=1e-4)


def test_the_pooler_that_a_base_lacks_travels_in_the_adapter(backbone_of: BackboneOf, tmp_path: Path) -> None:
    whole = backbone_of("roberta")
    bare = without_pooler(whole, tmp_path / "bare")
    write_checkpoint(tmp_path / "run", whole, "RobertaPrefixForSequenceClassification")
    report = run_import("thudm", tmp_path / "run", str(bare), tmp_path / "out")
    assert report.read["carried from the checkpoint"] == "pooler.dense.bias, pooler.dense.weight"
    stored = load_file(tmp_path / "out" / "adapter.safetensors")
    torch.testing.assert_close(stored["head.0.weight"], load_file(whole / "model.safetensors")["pooler.dense.weight"])
    assert report.manifest.head.layers[0].activation == "tanh"


def test_a_pooler_that_nobody_has_is_asked_for(backbone_of: BackboneOf, tmp_path: Path) -> None:
    bare = without_pooler(backbone_of("roberta"), tmp_path / "bare")
    write_checkpoint(tmp_path / "run", bare, "RobertaPrefixForSequenceClassification")
    with pytest.raises(TensorMismatch, match=r"neither .*run nor the backbone has pooler\.dense"):
        import_one(tmp_path / "run", bare)


@pytest.mark.parametrize("task", ["SequenceClassification", "MultipleChoice"])
def test_debertas_pooler_was_trained(backbone_of: BackboneOf, tmp_path: Path, task: str) -> None:
    folder = backbone_of("deberta")
    own = write_checkpoint(
        tmp_path / "run", folder, f"DebertaPrefixFor{task}", num_outputs=2 if task.startswith("S") else 1
    )
    adapter, manifest = import_one(tmp_path / "run", folder)
    assert [layer.activation for layer in manifest.head.layers] == ["gelu", None]
    torch.testing.assert_close(adapter.head.layers[0].weight, own["pooler.dense.weight"])
    torch.testing.assert_close(adapter.head.layers[1].weight, own["classifier.weight"])


def test_deberta_v2_token_classification(backbone_of: BackboneOf, tmp_path: Path) -> None:
    folder = backbone_of("deberta-v2")
    tags = {"id2label": {"0": "O", "1": "S-PER"}}
    own = write_checkpoint(tmp_path / "run", folder, "DebertaV2PrefixForTokenClassification", config=tags)
    adapter, manifest = import_one(tmp_path / "run", folder)
    assert manifest.decoding.tagging == "bioes"
    torch.testing.assert_close(adapter.head.layers[0].weight, own["classifier.weight"])


DEBERTA_CASES = [
    ("v1", "DebertaPrefixForSequenceClassification", 0),
    ("v1-absolute-segments", "DebertaPrefixForMultipleChoice", 7),
    ("v1-one-term", "DebertaPrefixForTokenClassification", 0),
    ("v1-narrow-words", "DebertaPrefixModelForQuestionAnswering", 7),
    ("v2-convolution", "DebertaV2PrefixForTokenClassification", 0),
    ("v3", "DebertaV2PrefixForTokenClassification", 7),
]


@pytest.mark.parametrize(("variant", "architecture", "projection"), DEBERTA_CASES)
@torch.no_grad()
def test_deberta_gives_the_original_models_logits(
    tmp_path: Path, variant: str, architecture: str, projection: int
) -> None:
    """Token by token, on the stock weights: a prefix has no relative positions, and moves absolute ones only."""
    folder = write_deberta(tmp_path / "backbone", variant)
    num_outputs = 1 if architecture.endswith("Choice") else 2
    options: Any = {
        "projection": projection,
        "num_outputs": num_outputs,
        "config": {"id2label": {"0": "O", "1": "B-x"}},
    }
    own = write_checkpoint(tmp_path / "run", folder, architecture, **options)
    adapter, _ = import_one(tmp_path / "run", folder)
    backbone = Backbone.load(folder, device="cpu")
    segments = SEGMENTS if backbone.spec.num_segments else [0] * len(IDS)
    prefix = original_prefix(own).transpose(2, 3)
    states = PairByPair(folder).states(Row(tuple(IDS), tuple(segments), 5), prefix)
    if "pooler.dense.weight" in own:
        states = F.gelu(F.linear(states[0], own["pooler.dense.weight"], own["pooler.dense.bias"]))
    head = "qa_outputs" if "Question" in architecture else "classifier"
    wanted = F.linear(states, own[f"{head}.weight"], own[f"{head}.bias"])
    (got,) = backbone.logits([(adapter, {"input_ids": IDS, "token_type_ids": SEGMENTS})])
    np.testing.assert_allclose(got, wanted.numpy(), atol=1e-4)


def test_one_output_is_a_regression_and_needs_no_labels(backbone_of: BackboneOf, tmp_path: Path) -> None:
    unnamed = {"id2label": {"0": "LABEL_0"}}
    write_checkpoint(tmp_path / "run", backbone_of("bert"), num_outputs=1, config=unnamed)
    _, manifest = import_one(tmp_path / "run", backbone_of("bert"))
    assert (manifest.labels, manifest.decoding.problem) == ([], "regression")


def test_one_output_of_a_multiple_choice_model_is_none(backbone_of: BackboneOf, tmp_path: Path) -> None:
    """COPA's config says num_labels = 1."""
    config = {"id2label": {"0": "LABEL_0"}, "finetuning_task": "copa"}
    architecture = "BertPrefixForMultipleChoice"
    write_checkpoint(tmp_path / "run", backbone_of("bert"), architecture, num_outputs=1, config=config)
    _, manifest = import_one(tmp_path / "run", backbone_of("bert"))
    assert (manifest.task, manifest.decoding.problem) == ("multiple-choice", "single_label")
    assert manifest.input_format == "copa"


def test_question_answering_decodes_as_the_original_does(backbone_of: BackboneOf, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "run", backbone_of("bert"), "BertPrefixForQuestionAnswering")
    _, manifest = import_one(tmp_path / "run", backbone_of("bert"), no_answer=True)
    room = MAX_POSITIONS - 5
    assert (manifest.tokenization.max_len, manifest.tokenization.stride) == (room, room // 2)
    _, other = import_one(tmp_path / "run", backbone_of("bert"), max_len=64, stride=20)
    assert (other.tokenization.max_len, other.tokenization.stride) == (64, 20)
    decoding = manifest.decoding
    assert (decoding.n_best, decoding.max_answer_len, decoding.no_answer) == (20, 30, True)


@pytest.mark.parametrize(
    ("finetuning_task", "num_outputs", "input_format"),
    [("cb", 3, "cb"), ("wic", 2, "wic"), ("copa", 2, "plain"), ("my-own", 2, "plain"), ("cb", 1, "plain")],
)
def test_the_input_form_follows_the_data_set(
    backbone_of: BackboneOf, tmp_path: Path, finetuning_task: str, num_outputs: int, input_format: str
) -> None:
    config = {"finetuning_task": finetuning_task, "id2label": {str(index): f"name{index}" for index in range(3)}}
    write_checkpoint(tmp_path / "run", backbone_of("bert"), num_outputs=num_outputs, config=config)
    _, manifest = import_one(tmp_path / "run", backbone_of("bert"))
    assert manifest.input_format == input_format


def test_a_sharded_checkpoint_is_read_whole(backbone_of: BackboneOf, tmp_path: Path) -> None:
    folder, run = backbone_of("bert"), tmp_path / "run"
    write_checkpoint(run, folder, as_safetensors=True)
    wanted, _ = import_one(run, folder)
    state = load_file(run / "model.safetensors")
    (run / "model.safetensors").unlink()
    weight_map = {name: f"model-{index % 2}.safetensors" for index, name in enumerate(state)}
    for shard in ("model-0.safetensors", "model-1.safetensors"):
        save_file({name: one for name, one in state.items() if weight_map[name] == shard}, run / shard)
    (run / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    got, _ = import_one(run, folder)
    assert got.digest == wanted.digest
    (run / "model-1.safetensors").unlink()
    with pytest.raises(MalformedBundle, match=r"lacks model-1\.safetensors"):
        import_one(run, folder)


def test_trained_tensors_alone_are_enough_but_not_compared(backbone_of: BackboneOf, tmp_path: Path) -> None:
    folder, run = backbone_of("bert"), tmp_path / "run"
    own = write_checkpoint(run, folder)
    (run / "pytorch_model.bin").unlink()
    save_file(own, run / "trained.safetensors")
    report = run_import("thudm", run, str(folder), tmp_path / "out")
    assert "the source holds no frozen weights, so the backbone could not be compared" in report.assumed


def test_old_layer_norm_names_are_the_same_tensors(backbone_of: BackboneOf, tmp_path: Path) -> None:
    folder, run = backbone_of("bert"), tmp_path / "run"
    write_checkpoint(run, folder)
    state = torch.load(run / "pytorch_model.bin", weights_only=True)
    old = {name.replace("LayerNorm.weight", "LayerNorm.gamma"): one for name, one in state.items()}
    torch.save(old, run / "pytorch_model.bin")
    report = run_import("thudm", run, str(folder), tmp_path / "out")
    assert int(report.read["frozen tensors compared"]) == len(load_file(folder / "model.safetensors"))


@pytest.mark.parametrize(
    "name",
    [
        "bert.embeddings.word_embeddings.weight",
        "bert.encoder.layer.1.output.LayerNorm.bias",
        "bert.pooler.dense.bias",
    ],
)
def test_a_frozen_tensor_that_differs_is_named(backbone_of: BackboneOf, tmp_path: Path, name: str) -> None:
    folder = backbone_of("bert")
    changed = frozen_tensors(folder, "BertPrefixForSequenceClassification")[name].clone()
    changed.view(-1)[3] += 0.01
    write_checkpoint(tmp_path / "run", folder, changes={name: changed})
    with pytest.raises(BackboneMismatch, match=rf"'{name}' .* differs from the backbone's by up to 0\.01"):
        import_one(tmp_path / "run", folder)
    assert not (tmp_path / "run-bundle").exists()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_backbone_kept_in_half_precision_is_still_the_same(
    backbone_of: BackboneOf, tmp_path: Path, dtype: str
) -> None:
    """Training held its values in float32; a value that is no rounding of them is another backbone's."""
    half = Path(shutil.copytree(backbone_of("bert"), tmp_path / "half"))
    base = load_file(half / "model.safetensors")
    rounded = {name: one.to(getattr(torch, dtype)) for name, one in base.items()}
    save_file(rounded, half / "model.safetensors", metadata={"format": "pt"})
    write_checkpoint(tmp_path / "run", backbone_of("bert"))
    report = run_import("thudm", tmp_path / "run", str(half), tmp_path / "out")
    assert int(report.read["frozen tensors compared"]) == len(base)
    name = "encoder.layer.0.output.dense.weight"
    rounded[name][3, 4] = rounded[name][3, 4] * 1.02
    save_file(rounded, half / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BackboneMismatch, match=name):
        run_import("thudm", tmp_path / "run", str(half), tmp_path / "out")


def test_a_second_copy_of_the_embeddings_is_compared_too(backbone_of: BackboneOf, tmp_path: Path) -> None:
    name = "embeddings.token_type_embeddings.weight"
    changes = {name: torch.zeros(2, HIDDEN)}
    architecture = "BertPromptForSequenceClassification"
    write_checkpoint(tmp_path / "run", backbone_of("bert"), architecture, changes=changes)
    with pytest.raises(BackboneMismatch, match=rf"'{name}'"):
        import_one(tmp_path / "run", backbone_of("bert"))


def test_another_backbone_is_refused(backbone_of: BackboneOf, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "run", backbone_of("bert"))
    other = write_backbone(tmp_path / "other", "bert", seed=1)
    with pytest.raises(BackboneMismatch, match=r"the frozen tensor 'bert\.embeddings\..* differs"):
        import_one(tmp_path / "run", other)
    wider = write_backbone(tmp_path / "wider", "bert", hidden_size=40)
    with pytest.raises(BackboneMismatch, match=r"has shape \[.*\], the backbone's has \[.*40\]"):
        import_one(tmp_path / "run", wider)
    shallower = write_backbone(tmp_path / "shallower", "bert", num_hidden_layers=1)
    base = load_file(backbone_of("bert") / "model.safetensors")
    kept = {name: one for name, one in base.items() if "layer.1." not in name}
    save_file(kept, shallower / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BackboneMismatch, match=r"a tensor 'bert\.encoder\.layer\.1\..* lacks"):
        import_one(tmp_path / "run", shallower)
    with pytest.raises(BackboneMismatch, match=r"is a 'bert' model, the backbone .* is 'roberta'"):
        import_one(tmp_path / "run", backbone_of("roberta"))


@pytest.mark.parametrize(
    ("options", "config", "fault", "message"),
    [
        (
            {},
            {"id2label": {"0": "LABEL_0", "1": "LABEL_1"}},
            InvalidRequest,
            r"2 outputs .* give --labels with 2 names",
        ),
        ({}, {"id2label": None}, InvalidRequest, "give --labels"),
        ({"labels": ["a"]}, {}, InvalidRequest, r"--labels names 1 labels \(a\), the head has 2 outputs"),
        ({"labels": ["a", "a"]}, {}, LabelMismatch, "stands twice"),
        ({"task": "question-answering"}, {}, InvalidRequest, "--task is 'question-answering', but"),
        ({}, {"architectures": ["BertModel"]}, InvalidRequest, "give --task, one of text-classification, "),
        ({"task": "text-embedding"}, {"architectures": None}, InvalidRequest, "--task is 'text-embedding'; "),
        ({"tower": "context"}, {}, InvalidRequest, "holds one model: leave the option out"),
        ({"max_len": 188}, {}, InvalidRequest, "--max-len is 188; .* room for 187 tokens"),
        ({"name": "Not A Name"}, {}, InvalidRequest, "`name`: .*; seen 'Not A Name'"),
        ({"input_format": "copa"}, {}, InvalidRequest, "input_format is 'copa'"),
        ({}, {"pre_seq_len": 8}, TensorMismatch, "pre_seq_len 8, the prefix has 5 vectors"),
    ],
)
def test_what_the_source_does_not_say_is_asked_for(
    backbone_of: BackboneOf,
    tmp_path: Path,
    options: dict[str, Any],
    config: dict[str, Any],
    fault: type[Fault],
    message: str,
) -> None:
    write_checkpoint(tmp_path / "run", backbone_of("bert"), config=config)
    with pytest.raises(fault, match=message):
        import_one(tmp_path / "run", backbone_of("bert"), **options)


def test_labels_that_are_not_needed_are_refused(backbone_of: BackboneOf, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "run", backbone_of("bert"), "BertPrefixForQuestionAnswering")
    with pytest.raises(InvalidRequest, match="this is no classifier"):
        import_one(tmp_path / "run", backbone_of("bert"), labels=["start", "end"])


def test_a_task_given_by_hand_and_names_given_by_hand(backbone_of: BackboneOf, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "run", backbone_of("bert"), config={"architectures": None, "id2label": None})
    _, manifest = import_one(
        tmp_path / "run", backbone_of("bert"), task="text-classification", labels=["b", "a"], max_len=64
    )
    assert (manifest.labels, manifest.tokenization.max_len) == (["b", "a"], 64)


def cut_off(run: Path) -> None:
    content = (run / "pytorch_model.bin").read_bytes()
    (run / "pytorch_model.bin").write_bytes(content[: len(content) // 2])


def make_hostile(run: Path) -> None:
    torch.save({"classifier.weight": CallsCode(run / "opened")}, run / "pytorch_model.bin")


def make_old_hostile(run: Path) -> None:
    state = {"classifier.weight": CallsCode(run / "opened")}
    torch.save(state, run / "pytorch_model.bin", _use_new_zipfile_serialization=False)


def make_list(run: Path) -> None:
    torch.save([1, 2], run / "pytorch_model.bin")


def fine_tuned(run: Path) -> None:
    state = torch.load(run / "pytorch_model.bin", weights_only=True)
    torch.save({name: one for name, one in state.items() if "prefix" not in name}, run / "pytorch_model.bin")


def without_head(run: Path) -> None:
    state = torch.load(run / "pytorch_model.bin", weights_only=True)
    torch.save({name: one for name, one in state.items() if "classifier" not in name}, run / "pytorch_model.bin")


def bad_safetensors(run: Path) -> None:
    (run / "model.safetensors").write_bytes(b"not safetensors")


@pytest.mark.parametrize(
    ("spoil", "fault", "message"),
    [
        (cut_off, MalformedBundle, r"pytorch_model\.bin is not a file of plain tensors"),
        (make_hostile, MalformedBundle, "Pickles that call code are never opened"),
        (make_old_hostile, MalformedBundle, "Pickles that call code are never opened"),
        (make_list, MalformedBundle, "is of type list; a mapping from names to tensors is needed"),
        (fine_tuned, MalformedBundle, "has no `prefix_encoder` tensors: only models trained with --prefix or --prompt"),
        (without_head, TensorMismatch, r"no tensor 'classifier\.weight'"),
        (bad_safetensors, MalformedBundle, r"model\.safetensors is not a sound safetensors file"),
        (lambda run: (run / "pytorch_model.bin").unlink(), MalformedBundle, r"holds none of model\.safetensors, "),
        (lambda run: (run / "config.json").unlink(), MalformedBundle, r"has no config\.json"),
        (lambda run: (run / "config.json").write_text("{"), MalformedBundle, r"config\.json is not JSON"),
        (lambda run: (run / "config.json").write_text("[]"), MalformedBundle, "holds a list, an object is needed"),
        (shutil.rmtree, MalformedBundle, "does not exist"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_spoilt_checkpoint_says_what_is_wrong(
    backbone_of: BackboneOf, tmp_path: Path, spoil: Callable[[Path], Any], fault: type[Fault], message: str
) -> None:
    run = tmp_path / "run"
    write_checkpoint(run, backbone_of("bert"))
    spoil(run)
    with pytest.raises(fault, match=message):
        import_one(run, backbone_of("bert"))
    assert not (run / "opened").exists()


def test_the_prefix_of_another_shape_is_refused(backbone_of: BackboneOf, tmp_path: Path) -> None:
    own = trained_tensors("BertPrefixForSequenceClassification")
    folder = write_backbone(tmp_path / "deeper", "bert", num_hidden_layers=3)
    changes = {"prefix_encoder.embedding.weight": own["prefix_encoder.embedding.weight"][:, :-1]}
    write_checkpoint(tmp_path / "run", folder, changes=changes)
    with pytest.raises(TensorMismatch, match=r"shape \[5, 127\]; \[prefix_len, 192\] is needed for 3 layers"):
        import_one(tmp_path / "run", folder)


def test_a_prefix_that_leaves_no_room_is_refused(backbone_of: BackboneOf, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "run", backbone_of("bert"), prefix_len=MAX_POSITIONS - 3)
    with pytest.raises(TensorMismatch, match="leaves 3 of the backbone's 192 positions"):
        import_one(tmp_path / "run", backbone_of("bert"))


def test_tensors_that_are_not_finite_leave_an_earlier_bundle_alone(backbone_of: BackboneOf, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "run", backbone_of("bert"))
    before, _ = import_one(tmp_path / "run", backbone_of("bert"))
    changes = {"classifier.bias": torch.tensor([0.0, torch.nan])}
    write_checkpoint(tmp_path / "run", backbone_of("bert"), changes=changes)
    with pytest.raises(NonfiniteTensor, match=r"'head\.1\.bias'"):
        import_one(tmp_path / "run", backbone_of("bert"))
    assert Adapter.load(tmp_path / "run-bundle").digest == before.digest
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "run-bundle"]


def test_prompts_on_every_token_are_unknown_to_the_tool(backbone_of: BackboneOf, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "run", backbone_of("bert"), "BertPromptForTokenClassification")
    with pytest.raises(MalformedBundle, match="has --prompt for text-classification, multiple-choice only"):
        import_one(tmp_path / "run", backbone_of("bert"), labels=["O", "B-PER"])


@pytest.mark.parametrize(("tower", "module"), [(None, "question_model"), ("context", "ctx_model")])
def test_one_tower_of_a_retrieval_file(backbone_of: BackboneOf, tmp_path: Path, tower: str | None, module: str) -> None:
    folder = backbone_of("bert")
    towers = write_two_towers(tmp_path / "dpr_biencoder.3")
    adapter, manifest = import_one(tmp_path / "dpr_biencoder.3", folder, tower=tower)
    assert (manifest.task, manifest.head.layers, manifest.tokenization.segments) == ("text-embedding", [], False)
    own = {"prefix_encoder.embedding.weight": towers[f"{module}.prefix_encoder.embedding.weight"]}
    states = ReferenceModel(folder).hidden_states(IDS, [0] * 6, 0, original_prefix(own))
    rows = [(adapter, {"input_ids": IDS, "token_type_ids": SEGMENTS})]
    (got,) = Backbone.load(folder, device="cpu").logits(rows)
    np.testing.assert_allclose(got, states[0].numpy(), atol=1e-4)


@pytest.mark.parametrize(("tower", "module"), [("question", "question_model"), ("context", "ctx_model")])
def test_retrieval_with_a_prompt(backbone_of: BackboneOf, tmp_path: Path, tower: str, module: str) -> None:
    folder = backbone_of("bert")
    towers = write_two_towers(tmp_path / "dpr_biencoder.3", is_prompt=True)
    adapter, manifest = import_one(tmp_path / "dpr_biencoder.3", folder, tower=tower)
    assert (manifest.task, manifest.prefix.kind, manifest.provenance.method) == ("text-embedding", "soft", "pt")
    states = embedded_twice(folder, towers[f"{module}.prefix_encoder.weight"], 0)
    (got,) = Backbone.load(folder, device="cpu").logits([(adapter, {"input_ids": IDS, "token_type_ids": SEGMENTS})])
    np.testing.assert_allclose(got, states[3].numpy(), atol=1e-4)


@pytest.mark.parametrize(
    ("names", "last"),
    [(("9", "10"), "10"), (("1.200", "1", "1.1000"), "1"), (("1", "2.900", "2.1000"), "2.1000"), (("3", "4.bak"), "3")],
)
def test_a_folder_of_retrieval_files_means_the_last_one(
    backbone_of: BackboneOf, tmp_path: Path, names: tuple[str, ...], last: str
) -> None:
    """The step stands behind the epoch where a file was written before its epoch was over."""
    (tmp_path / "run").mkdir()
    for name in names:
        write_two_towers(tmp_path / "run" / f"dpr_biencoder.{name}")
    _, manifest = import_one(tmp_path / "run", backbone_of("bert"))
    assert manifest.provenance.settings["file"] == f"dpr_biencoder.{last}"


@pytest.mark.parametrize(
    ("state", "options", "message"),
    [
        ({"model_dict": {}}, {}, r"no tensor question_model\.prefix_encoder\.\*; it has no tensors"),
        ({"model_dict": 3}, {}, "is of type int; a mapping from names to tensors is needed"),
        ({}, {"task": "text-classification"}, "holds two towers for 'text-embedding'"),
        ({}, {"labels": ["a"]}, "text-embedding has no labels"),
        ({}, {"tower": "left"}, "--tower is 'left'; question, context are allowed"),
    ],
)
def test_faulty_retrieval_files(
    backbone_of: BackboneOf, tmp_path: Path, state: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    write_two_towers(tmp_path / "dpr_biencoder.3", **state)
    with pytest.raises(Fault, match=message):
        import_one(tmp_path / "dpr_biencoder.3", backbone_of("bert"), **options)


def test_a_file_that_is_no_retrieval_file(backbone_of: BackboneOf, tmp_path: Path) -> None:
    torch.save({"classifier.weight": torch.zeros(2)}, tmp_path / "some.bin")
    with pytest.raises(MalformedBundle, match=r"has no `model_dict`, it holds \['classifier\.weight'\]"):
        import_one(tmp_path / "some.bin", backbone_of("bert"))


def test_a_whole_tower_is_compared_with_the_backbone(backbone_of: BackboneOf, tmp_path: Path) -> None:
    folder = backbone_of("bert")
    towers = write_two_towers(tmp_path / "first")
    frozen = {f"question_model.{name}": one for name, one in load_file(folder / "model.safetensors").items()}
    write_two_towers(tmp_path / "dpr_biencoder.1", model_dict=towers | frozen)
    report = run_import("thudm", tmp_path / "dpr_biencoder.1", str(folder), tmp_path / "out")
    assert int(report.read["frozen tensors compared"]) == len(frozen)
    name = "question_model.encoder.layer.0.output.dense.bias"
    write_two_towers(tmp_path / "dpr_biencoder.2", model_dict=towers | frozen | {name: frozen[name] + 1})
    with pytest.raises(BackboneMismatch, match=r"'encoder\.layer\.0\.output\.dense\.bias'"):
        import_one(tmp_path / "dpr_biencoder.2", folder)


def test_frozen_weights_are_streamed(backbone_of: BackboneOf, tmp_path: Path) -> None:
    """What `read` hands back holds the trained tensors and nothing of the backbone."""
    folder = backbone_of("bert")
    own = write_checkpoint(tmp_path / "run", folder)
    imported = read(Source(tmp_path / "run", BackboneSpec.load(folder), folder))
    pooler = HIDDEN * HIDDEN + HIDDEN
    assert sum(one.size for one in imported.arrays.values()) == sum(one.numel() for one in own.values()) + pooler


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/runs/COPA bert/checkpoint-18", "copa-bert"),
        ("/runs/copa/adapter", "copa"),
        ("/runs/dpr_biencoder.3", "dpr_biencoder.3"),
        ("/", "imported"),
        ("/___", "imported"),
    ],
)
def test_names_come_from_the_path(path: str, name: str) -> None:
    assert name_of(Path(path)) == name

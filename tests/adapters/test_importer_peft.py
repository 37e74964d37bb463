"""PEFT's adapters become bundles that give PEFT's own logits: computed by PEFT in this run, on tiny random models."""

from __future__ import annotations

import json
import pickle
import shutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from prefixrack.errors import BackboneMismatch, Fault, InvalidRequest, LabelMismatch, MalformedBundle, TensorMismatch
from prefixrack_adapters.adapter import Adapter
from prefixrack_adapters.backbone import Backbone
from prefixrack_adapters.families import FAMILIES
from prefixrack_adapters.importers.run import Report, run_import
from prefixrack_adapters.spec import BackboneSpec
from tiny import write_backbone

Logits = NDArray[np.float32]
State = dict[str, Tensor]
NUM_VECTORS = 5
LABELS = ["O", "B-x", "I-x"]
CLOSE: dict[str, Any] = {"atol": 1e-4, "rtol": 0}
# no windows: to PEFT a prefix is a part of the row, which layers with a window lose sight of
BACKBONES: dict[str, dict[str, Any]] = {"qwen2": {"use_sliding_window": False}, "qwen3": {"use_sliding_window": False}}
METHODS = ("PREFIX_TUNING", "PROMPT_TUNING", "P_TUNING")
MODELS = {
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
}
WITHOUT_CACHE = ("albert", "deberta", "deberta-v2", "distilbert", "modernbert")
# one token, and tokens for padding (0 or 1 by family) as words of a text are rows like others
IDS = ([2, 7, 8, 9, 3], [2, 3], [9], [2, 11, 1, 0, 13, 1, 1, 17, 0, 19, 20, 3], [2, *range(5, 40), 3])


@dataclass(frozen=True)
class Trained:
    """What PEFT wrote, what the importer made of it, and PEFT's logits of each of IDS, run alone."""

    folder: Path
    report: Report
    adapter: Adapter
    expected: list[Logits]


@dataclass(frozen=True)
class Cell:
    family: str
    task_type: str
    method: str

    @property
    def reason(self) -> str | None:
        """Why there is nothing to compare with, None where there is."""
        if self.family == "glm-2021":
            return "transformers, and so PEFT, has no GLM of 2021"
        if self.method == "PREFIX_TUNING" and self.family in WITHOUT_CACHE:
            return f"PEFT has no prefix tuning for {self.family}: the stock model takes no past keys"
        if self.task_type == "QUESTION_ANS" and self.family in ("glm", "glm4"):
            return f"transformers has no question answering model of {self.family}"
        return None


CELLS = [Cell(family, task, method) for family in sorted(FAMILIES) for task in MODELS for method in METHODS]
TrainedOf = Callable[[Cell], Trained]
BackboneOf = Callable[[str], Backbone]


def segments_of(spec: BackboneSpec, ids: list[int]) -> list[int]:
    """The second half of a row is its second part, where the family knows of parts."""
    return [0] * (len(ids) // 2) + [int(spec.num_segments > 1)] * (len(ids) - len(ids) // 2)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("peft")


@pytest.fixture(scope="module")
def backbone_of(root: Path) -> BackboneOf:
    def load(family: str) -> Backbone:
        return Backbone.load(backbone_folder(root, family), device="cpu")

    return cache(load)


def backbone_folder(root: Path, family: str) -> Path:
    folder = root / "backbones" / family
    return folder if folder.is_dir() else write_backbone(folder, family, **BACKBONES.get(family, {}))


@pytest.fixture(scope="module")
def trained_of(root: Path) -> TrainedOf:
    """Each adapter once, however many tests ask for it."""
    return cache(lambda cell: train(root, cell))


def train(root: Path, cell: Cell, **options: Any) -> Trained:
    """An adapter with random weights: what matters is that PEFT computes with them, not how they came about."""
    peft = pytest.importorskip("peft", reason="PEFT, which computes what is expected, is not installed")
    backbone = backbone_folder(root, cell.family)
    folder = root / "-".join((cell.family, cell.task_type, cell.method, *map(str, options)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT's own: it calls what transformers is going to drop
        expected = train_with_peft(peft, cell, backbone, folder / "adapter", options)
    labels = None if cell.task_type == "QUESTION_ANS" else LABELS
    report = run_import("peft", folder / "adapter", str(backbone), folder / "bundle", labels=labels)
    return Trained(folder / "adapter", report, Adapter.load(folder / "bundle"), expected)


def train_with_peft(peft: Any, cell: Cell, backbone: Path, folder: Path, options: Mapping[str, Any]) -> list[Logits]:
    spec = BackboneSpec.load(backbone)
    torch.manual_seed(len(cell.family) + METHODS.index(cell.method))
    num_outputs = 2 if cell.task_type == "QUESTION_ANS" else len(LABELS)
    auto_class = getattr(transformers, MODELS[cell.task_type])
    stock = auto_class.from_pretrained(backbone, num_labels=num_outputs, attn_implementation="eager")
    model = peft.get_peft_model(stock, peft_config(peft, cell, spec, options)).eval()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.data = torch.randn_like(parameter) * (0.5 if name.startswith("prompt_encoder") else 0.3)
    model.save_pretrained(folder)
    return [peft_logits(model, cell, spec, ids) for ids in IDS]


def peft_config(peft: Any, cell: Cell, spec: BackboneSpec, options: Mapping[str, Any]) -> Any:
    """PEFT guesses the shapes from configs; for some families it cannot, or guesses wrongly (narrow embeddings)."""
    fields: dict[str, Any] = {"task_type": cell.task_type, "num_virtual_tokens": NUM_VECTORS, **options}
    if cell.family.startswith("deberta") and cell.task_type == "SEQ_CLS":
        fields["modules_to_save"] = ["pooler"]  # else it stays as it was drawn, and is lost
    if cell.family == "modernbert":
        fields["modules_to_save"] = ["head", "classifier"]  # likewise
    if cell.family == "distilbert":
        fields |= {"num_layers": spec.num_layers, "num_attention_heads": spec.num_kv_heads}
    if cell.method == "PREFIX_TUNING":
        return peft.PrefixTuningConfig(**fields)
    fields["token_dim"] = spec.embedding_size
    if cell.method == "PROMPT_TUNING":
        return peft.PromptTuningConfig(**fields)
    return peft.PromptEncoderConfig(encoder_hidden_size=16, **fields)


@torch.no_grad()
def peft_logits(model: Any, cell: Cell, spec: BackboneSpec, ids: list[int]) -> Logits:
    """Of one row alone. Of prompt and tokens together, the rows that mean tokens: the last ones for token classes;
    for answers, which are trained with indices that do not count the prompt, the first ones."""
    fields = {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.long)}
    if spec.num_segments > 1:
        fields["token_type_ids"] = torch.tensor([segments_of(spec, ids)])
    output = model(**fields)
    if cell.task_type == "QUESTION_ANS":
        answer = torch.stack((output.start_logits[0], output.end_logits[0]), dim=1)[: len(ids)]
    elif cell.task_type == "TOKEN_CLS":
        answer = output.logits[0][-len(ids) :]
    else:
        answer = output.logits[0]
    logits: Logits = answer.numpy()
    return logits


def fields_of(spec: BackboneSpec, ids: list[int]) -> dict[str, Any]:
    return {"input_ids": ids, "token_type_ids": segments_of(spec, ids)}


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: f"{cell.family}-{cell.task_type}-{cell.method}")
def test_logits_are_those_of_peft(cell: Cell, trained_of: TrainedOf, backbone_of: BackboneOf) -> None:
    if cell.reason is not None:
        pytest.skip(cell.reason)
    trained, backbone = trained_of(cell), backbone_of(cell.family)
    assert np.ptp(np.concatenate([logits.ravel() for logits in trained.expected])) > 0.1
    for ids, expected in zip(IDS, trained.expected, strict=True):
        (logits,) = backbone.logits([(trained.adapter, fields_of(backbone.spec, ids))])
        np.testing.assert_allclose(logits, expected, **CLOSE)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_pack_of_all_kinds_gives_the_same(family: str, trained_of: TrainedOf, backbone_of: BackboneOf) -> None:
    cells = [cell for cell in CELLS if cell.family == family and cell.reason is None]
    if not cells:
        pytest.skip(str(Cell(family, "SEQ_CLS", "PROMPT_TUNING").reason))
    backbone, rows, expected = backbone_of(family), [], []
    for index, ids in enumerate(IDS):  # neighbours of the same row differ in adapter, task and kind of prompt
        for trained in map(trained_of, cells):
            rows.append((trained.adapter, fields_of(backbone.spec, ids)))
            expected.append(trained.expected[index])
    for logits, wanted in zip(backbone.logits(rows), expected, strict=True):
        np.testing.assert_allclose(logits, wanted, **CLOSE)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("PREFIX_TUNING", {"prefix_projection": True, "encoder_hidden_size": 12}),
        ("PREFIX_TUNING", {"num_virtual_tokens": 1}),
        ("PROMPT_TUNING", {"num_virtual_tokens": 1}),
        ("P_TUNING", {"encoder_reparameterization_type": "LSTM", "encoder_num_layers": 1}),
        ("P_TUNING", {"encoder_reparameterization_type": "LSTM", "encoder_num_layers": 3, "num_virtual_tokens": 2}),
    ],
)
def test_reparameterizations_come_folded(
    method: str, options: dict[str, Any], root: Path, backbone_of: BackboneOf
) -> None:
    trained, backbone = train(root, Cell("bert", "SEQ_CLS", method), **options), backbone_of("bert")
    for ids, expected in zip(IDS, trained.expected, strict=True):
        (logits,) = backbone.logits([(trained.adapter, fields_of(backbone.spec, ids))])
        np.testing.assert_allclose(logits, expected, **CLOSE)


@pytest.mark.parametrize("family", ["bert", "roberta", "electra", "gpt2", "llama", "qwen3"])
def test_features_are_those_of_peft(family: str, root: Path, backbone_of: BackboneOf, tmp_path: Path) -> None:
    """The state of the first token, of decoders the last; segments are lost on the way to such models."""
    peft = pytest.importorskip("peft", reason="PEFT, which computes what is expected, is not installed")
    folder, backbone = backbone_folder(root, family), backbone_of(family)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        config = peft.PrefixTuningConfig(task_type="FEATURE_EXTRACTION", num_virtual_tokens=NUM_VECTORS)
        stock = transformers.AutoModel.from_pretrained(folder, attn_implementation="eager")
        model = peft.get_peft_model(stock, config).eval()
        for parameter in (one for one in model.parameters() if one.requires_grad):
            parameter.data = torch.randn_like(parameter)
        model.save_pretrained(tmp_path / "adapter")
        fields = {"input_ids": torch.tensor([IDS[0]]), "attention_mask": torch.ones(1, len(IDS[0]))}
        with torch.no_grad():
            states = model(**fields).last_hidden_state[0]
    run_import("peft", tmp_path / "adapter", str(folder), tmp_path / "bundle")
    (vector,) = backbone.logits([(Adapter.load(tmp_path / "bundle"), fields_of(backbone.spec, IDS[0]))])
    np.testing.assert_allclose(vector, states[-1 if backbone.spec.is_causal else 0].numpy(), **CLOSE)


def test_a_pooler_that_was_trained_along_is_taken(root: Path, backbone_of: BackboneOf) -> None:
    """In place of the base's, which is another one by then."""
    trained = train(root, Cell("bert", "SEQ_CLS", "PREFIX_TUNING"), modules_to_save=["pooler"])
    backbone = backbone_of("bert")
    for ids, expected in zip(IDS, trained.expected, strict=True):
        (logits,) = backbone.logits([(trained.adapter, fields_of(backbone.spec, ids))])
        np.testing.assert_allclose(logits, expected, **CLOSE)


def test_the_manifest_says_what_was_read(trained_of: TrainedOf) -> None:
    report = trained_of(Cell("bert", "QUESTION_ANS", "PREFIX_TUNING")).report
    assert report.manifest.tokenization.segments is False  # PEFT hands none on to models of question answering
    assert report.manifest.provenance.method == "PREFIX_TUNING"
    assert report.manifest.prefix.positions == "after_prefix"
    assert "5 vectors" in report.read["prompt"]
    assert any("--no-answer" in note for note in report.assumed)
    classifier = trained_of(Cell("bert", "SEQ_CLS", "PROMPT_TUNING")).report.manifest
    assert classifier.tokenization.segments is True
    assert classifier.head.gather == "first_position"
    assert [layer.activation for layer in classifier.head.layers] == ["tanh", None]


# What follows needs files only, made by hand in the form that PEFT writes.


class Files:
    """An adapter for sequence classification on a tiny BERT, as PEFT writes it, and a place to import it to."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.backbone = backbone_folder(root, "bert")
        self.spec = BackboneSpec.load(self.backbone)
        self.folder, self.out = folder / "some-adapter", folder / "bundle"
        self.folder.mkdir()
        generator = torch.Generator().manual_seed(0)
        width = 2 * self.spec.num_layers * self.spec.hidden_size
        self.state: State = {
            "prompt_embeddings": torch.randn(3, width, generator=generator),
            "base_model.classifier.weight": torch.randn(2, self.spec.hidden_size, generator=generator),
            "base_model.classifier.bias": torch.randn(2, generator=generator),
        }
        self.config: dict[str, Any] = {
            "base_model_name_or_path": "some/base",
            "num_attention_heads": self.spec.num_kv_heads,
            "num_layers": self.spec.num_layers,
            "num_transformer_submodules": 1,
            "num_virtual_tokens": 3,
            "peft_type": "PREFIX_TUNING",
            "prefix_projection": False,
            "task_type": "SEQ_CLS",
            "token_dim": self.spec.hidden_size,
        }

    def read(self, name: str = "adapter_model.safetensors", **options: Any) -> Report:
        (self.folder / "adapter_config.json").write_text(json.dumps(self.config))
        path = self.folder / name
        if path.suffix == ".bin":
            torch.save(self.state, path)
        else:
            save_file({key: values.contiguous() for key, values in self.state.items()}, path)
        return run_import("peft", self.folder, str(self.backbone), self.out, **({"labels": ["no", "yes"]} | options))


@pytest.fixture
def files(root: Path, tmp_path: Path) -> Files:
    return Files(root, tmp_path)


def refusal(files: Files, fault: type[Fault], **options: Any) -> str:
    with pytest.raises(fault) as caught:
        files.read(**options)
    assert not files.out.exists()
    return caught.value.detail


WRAPPERS = ("base_model.classifier", "base_model.model.classifier", "classifier", "classifier.modules_to_save.default")


@pytest.mark.parametrize("file", ["adapter_model.bin", "adapter_model.safetensors"])
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_names_of_all_versions_mean_the_same(files: Files, file: str, wrapper: str) -> None:
    plain = files.read().digest
    shutil.rmtree(files.folder)
    files.folder.mkdir()
    files.state = {name.replace("base_model.classifier", wrapper): values for name, values in files.state.items()}
    assert files.read(file).digest == plain


def test_a_short_config_is_enough(files: Files) -> None:
    """Version 0.4.0 says neither which version it is nor what was trained beside the prompt."""
    files.config = {name: files.config[name] for name in ("peft_type", "task_type", "num_virtual_tokens")}
    report = files.read("adapter_model.bin")
    assert report.manifest.provenance.tool_version == "unknown"
    assert report.read["trained on"] == "not said"


def test_copies_beside_the_head_change_nothing(files: Files) -> None:
    plain = files.read().digest
    for part in ("weight", "bias"):
        values = files.state[f"base_model.classifier.{part}"]
        files.state[f"base_model.classifier.modules_to_save.default.{part}"] = values.clone()
        files.state[f"base_model.classifier.original_module.{part}"] = torch.zeros_like(values)
    assert files.read().digest == plain


def test_what_computed_the_prompt_is_left_alone(files: Files) -> None:
    """Saved where a module to save is named alike: "head" and the encoder's "mlp_head"."""
    plain = files.read().digest
    files.state["prompt_encoder.default.mlp_head.0.weight"] = torch.ones(2, 2)
    assert files.read().digest == plain


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_modernberts_head_normalises(root: Path, pooling: str, has_bias: bool) -> None:
    """Its scale and shift end in the classifier's weights; a mean is one over prompt and tokens."""
    options: dict[str, Any] = {
        "classifier_pooling": pooling,
        "norm_bias": has_bias,
        "classifier_bias": has_bias,
        "norm_eps": 0.1,
    }
    folder = root / f"modernbert-{pooling}-{has_bias}"
    write_backbone(folder / "backbones" / "modernbert", "modernbert", **options)
    trained = train(folder, Cell("modernbert", "SEQ_CLS", "PROMPT_TUNING"))
    assert trained.report.manifest.head.gather == ("mean_positions" if pooling == "mean" else "first_position")
    backbone = Backbone.load(folder / "backbones" / "modernbert", device="cpu")
    for ids, expected in zip(IDS, trained.expected, strict=True):
        (logits,) = backbone.logits([(trained.adapter, fields_of(backbone.spec, ids))])
        np.testing.assert_allclose(logits, expected, **CLOSE)


def test_copies_that_differ_are_refused(files: Files) -> None:
    bias = files.state["base_model.classifier.bias"]
    files.state["base_model.classifier.modules_to_save.default.bias"] = bias + 1
    assert "classifier.bias" in refusal(files, TensorMismatch)


def test_the_pooler_travels_from_the_base(files: Files) -> None:
    files.read()
    bundle = load_file(files.out / "adapter.safetensors")
    base = load_file(files.backbone / "model.safetensors")
    assert torch.equal(bundle["head.0.weight"], base["pooler.dense.weight"])


def test_a_pooler_that_nobody_has_is_asked_for(files: Files, tmp_path: Path) -> None:
    bare = shutil.copytree(files.backbone, tmp_path / "bare")
    base = load_file(bare / "model.safetensors")
    kept = {name: values for name, values in base.items() if not name.startswith("pooler.")}
    save_file(kept, bare / "model.safetensors", {"format": "pt"})
    files.backbone = bare
    assert "pooler.dense.weight" in refusal(files, TensorMismatch)


def test_labels_are_asked_for(files: Files) -> None:
    assert "--labels" in refusal(files, InvalidRequest, labels=None)
    assert "3 labels" in refusal(files, InvalidRequest, labels=["a", "b", "c"])


def test_one_output_is_a_regression(files: Files) -> None:
    files.state["base_model.classifier.weight"] = files.state["base_model.classifier.weight"][:1]
    files.state["base_model.classifier.bias"] = files.state["base_model.classifier.bias"][:1]
    manifest = files.read(labels=None).manifest
    assert (manifest.labels, manifest.decoding.problem) == ([], "regression")
    shutil.rmtree(files.out)
    assert "regression" in refusal(files, InvalidRequest)


@pytest.mark.parametrize("method", ["LORA", "MULTITASK_PROMPT_TUNING", "CPT", None])
def test_other_methods_are_refused_by_name(files: Files, method: str | None) -> None:
    files.config["peft_type"] = method
    assert repr(method) in refusal(files, InvalidRequest)


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"task_type": "SEQ_2_SEQ_LM"}, "encoder-decoder"),
        ({"num_transformer_submodules": 2}, "encoder-decoder"),
        ({"task_type": "CAUSAL_LM"}, "CAUSAL_LM"),
        ({"task_type": "SOMETHING"}, "SOMETHING"),
        ({"task_type": None}, "--task"),
    ],
)
def test_other_tasks_are_refused_by_name(files: Files, fields: dict[str, Any], word: str) -> None:
    files.config |= fields
    assert word in refusal(files, InvalidRequest)


def test_a_task_that_is_not_told_is_taken_from_the_caller(files: Files) -> None:
    files.config["task_type"] = None
    assert files.read(task="text-classification").manifest.task == "text-classification"
    files.config["task_type"] = "SEQ_CLS"
    shutil.rmtree(files.out)
    assert "text-classification" in refusal(files, InvalidRequest, task="token-classification")
    assert "--tower" in refusal(files, InvalidRequest, tower="question")


@pytest.mark.parametrize("field", ["num_layers", "num_attention_heads", "token_dim"])
def test_shapes_of_another_backbone_are_refused(files: Files, field: str) -> None:
    files.config[field] *= 2
    detail = refusal(files, BackboneMismatch)
    assert field in detail
    assert "some/base" in detail


def test_a_prefix_that_does_not_fit_is_refused(files: Files) -> None:
    for name in ("num_layers", "num_attention_heads", "token_dim"):
        del files.config[name]
    files.state["prompt_embeddings"] = files.state["prompt_embeddings"][:, :-8]
    assert "--backbone" in refusal(files, TensorMismatch)


def test_a_prompt_that_does_not_fit_is_refused(files: Files) -> None:
    files.config |= {"peft_type": "PROMPT_TUNING", "token_dim": None}
    files.state["prompt_embeddings"] = torch.zeros(3, 16)
    assert "word vectors" in refusal(files, TensorMismatch)


def test_another_number_of_vectors_is_refused(files: Files) -> None:
    files.config["num_virtual_tokens"] = 4
    assert "num_virtual_tokens 4" in refusal(files, TensorMismatch)


@pytest.mark.parametrize("name", ["prompt_embeddings", "base_model.classifier.weight"])
def test_a_missing_tensor_is_named(files: Files, name: str) -> None:
    del files.state[name]
    assert name.removeprefix("base_model.") in refusal(files, TensorMismatch)


def test_a_backbone_that_was_trained_along_is_refused(files: Files) -> None:
    words = load_file(files.backbone / "model.safetensors")["embeddings.word_embeddings.weight"]
    files.state["base_model.bert.embeddings.word_embeddings.weight"] = words.clone()
    assert files.read().read["frozen tensors compared"] == "1"
    shutil.rmtree(files.out)
    files.state["base_model.bert.embeddings.word_embeddings.weight"] = words + 1
    assert "word_embeddings" in refusal(files, BackboneMismatch)
    files.state["base_model.bert.embeddings.word_embeddings.weight"] = words[:-1]
    assert "word_embeddings" in refusal(files, BackboneMismatch)
    del files.state["base_model.bert.embeddings.word_embeddings.weight"]
    files.state["base_model.bert.encoder.layer.0.lora_A.weight"] = torch.zeros(2, 2)
    assert "lora_A" in refusal(files, BackboneMismatch)


def test_features_become_an_embedding(files: Files) -> None:
    files.config["task_type"] = "FEATURE_EXTRACTION"
    files.state = {"prompt_embeddings": files.state["prompt_embeddings"]}
    report = files.read(labels=None)
    assert (report.manifest.task, report.manifest.head.gather) == ("text-embedding", "first_token")
    assert report.manifest.tokenization.segments is False  # PEFT hands none on to these models either
    assert any("pooled" in note for note in report.assumed)
    shutil.rmtree(files.out)
    files.config |= {"peft_type": "PROMPT_TUNING", "token_dim": None}
    files.state = {"prompt_embeddings": torch.zeros(3, files.spec.embedding_size)}
    assert "PROMPT_TUNING" in refusal(files, InvalidRequest, labels=None)


def test_a_broken_config_is_refused(files: Files) -> None:
    files.read()
    shutil.rmtree(files.out)
    for content, word in (("{", "not JSON"), ("[]", "list")):
        (files.folder / "adapter_config.json").write_text(content)
        with pytest.raises(MalformedBundle, match=word):
            run_import("peft", files.folder, str(files.backbone), files.out)
    (files.folder / "adapter_config.json").unlink()
    with pytest.raises(MalformedBundle, match=r"adapter_config\.json"):
        run_import("peft", files.folder, str(files.backbone), files.out)


class CallsCode:
    """A pickle of it would run `warnings.warn` in whoever opens it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return warnings.warn, ("opened",)


@pytest.mark.parametrize("content", [pickle.dumps(CallsCode()), b"\x80\x02}q\x00", b""])
def test_pickles_that_are_no_tensors_are_refused(files: Files, content: bytes) -> None:
    files.read()
    shutil.rmtree(files.out)
    (files.folder / "adapter_model.safetensors").unlink()
    with pytest.raises(MalformedBundle, match=r"adapter_model\.bin"):
        run_import("peft", files.folder, str(files.backbone), files.out)
    (files.folder / "adapter_model.bin").write_bytes(content)
    with pytest.raises(MalformedBundle, match="not a file of plain tensors"):
        run_import("peft", files.folder, str(files.backbone), files.out, labels=["no", "yes"])


def test_a_label_that_is_no_tag_is_refused(files: Files) -> None:
    files.config["task_type"] = "TOKEN_CLS"
    assert "tag" in refusal(files, LabelMismatch)


def test_windows_bound_the_rows(root: Path, tmp_path: Path) -> None:
    """PEFT's prefix counts as a part of the row, so rows that reach beyond a layer's window would lose sight of it."""
    folder = write_backbone(tmp_path / "windows", "qwen2", sliding_window=16)
    trained = tmp_path / "adapter"
    trained.mkdir()
    spec = BackboneSpec.load(folder)
    width = 2 * spec.num_layers * spec.num_kv_heads * spec.head_dim
    state = {"prompt_embeddings": torch.randn(5, width), "base_model.score.weight": torch.randn(2, spec.hidden_size)}
    save_file(state, trained / "adapter_model.safetensors")
    (trained / "adapter_config.json").write_text('{"peft_type": "PREFIX_TUNING", "task_type": "SEQ_CLS"}')
    report = run_import("peft", trained, str(folder), tmp_path / "out", labels=["no", "yes"])
    assert report.manifest.tokenization.max_len == 11
    with pytest.raises(InvalidRequest, match="--max-len of at most 11"):
        run_import("peft", trained, str(folder), tmp_path / "out", labels=["no", "yes"], max_len=12)

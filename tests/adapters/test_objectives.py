"""Objectives: a batch's loss is what torch gives row by row, and the same however the batch is cut into packs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from prefixrack_adapters.backbone import Backbone
from prefixrack_adapters.packing import Prompt
from prefixrack_adapters.training.data import Example, GoldAnswers, read_examples
from prefixrack_adapters.training.model import PromptModel
from prefixrack_adapters.training.objectives import Item
from prefixrack_adapters.training.prefix_encoder import PromptEncoder
from prefixrack_adapters.training.settings import TrainSettings
from synthetic import (
    MakeSettings,
    Record,
    alike,
    answer,
    choice,
    gap,
    judged,
    long_answer,
    number,
    partners,
    pronoun,
    roles,
    settings_of,
    several,
    single,
    tags,
)
from tiny import vocabulary, write_backbone
from training_parts import loss_and_gradients, model_of

# Task, data and what else a divisible run is asked for.
DIVISIBLE: list[tuple[str, Record, dict[str, Any]]] = [
    ("text-classification", single, {}),
    ("text-classification", several, {}),
    ("text-classification", number, {}),
    ("text-classification", pronoun, {"input_format": "wsc"}),
    ("text-classification", judged, {"input_format": "multirc"}),
    ("text-classification", gap, {"input_format": "record"}),
    ("text-classification", single, {"method": "prompt-tuning"}),
    ("text-classification", single, {"head": "pooler", "pooling": "last_token", "reparameterization": "mlp"}),
    ("text-classification", single, {"pooling": "mean_tokens"}),
    ("token-classification", tags, {}),
    ("token-classification", tags, {"max_len": 8, "stride": 2}),
    ("token-classification", roles, {"input_format": "srl"}),
    ("question-answering", answer, {}),
    ("question-answering", long_answer, {"max_len": 14, "stride": 2}),
    ("multiple-choice", choice, {}),
]
NAMES = [f"{task}-{record.__name__}-{'-'.join(map(str, options.values()))}" for task, record, options in DIVISIBLE]


def states_of(model: PromptModel, item: Item) -> list[Tensor]:
    """Hidden states of each row of an item's own tokens, [row_len, hidden_size], each in a pass of its own."""
    states = []
    for row in item.rows:
        if isinstance(model.encoder, PromptEncoder):
            prompt = Prompt(model.encoder.vectors, "once")
            states.append(model.backbone.hidden_states([row], [None], [prompt])[len(prompt.vectors) :])
        else:
            assert model.encoder is not None
            states.append(model.backbone.hidden_states([row], [model.encoder()]))
    return states


def logits_of(model: PromptModel, states: Tensor, part: int = 0) -> Tensor:
    layers: Any = list(model.heads[part])  # type: ignore[call-overload]
    for layer, spec in zip(layers, model.parts[part].manifest.head.layers, strict=True):
        states = layer(states)
        if spec.activation == "tanh":
            states = torch.tanh(states)
    return states


def pooled(model: PromptModel, states: Tensor, part: int = 0) -> Tensor:
    match model.parts[part].manifest.head.gather:
        case "last_token":
            return states[-1]
        case "mean_tokens":
            return states.mean(dim=0)
    return states[0]


def terms_of(model: PromptModel, item: Item) -> list[Tensor]:
    """The loss of an item, term by term: a batch's loss is the mean of all of its items' terms."""
    manifest = model.parts[item.part].manifest
    states = states_of(model, item)
    if manifest.task == "token-classification":
        logits = [logits_of(model, of_row, item.part) for of_row in states]
        return [F.cross_entropy(logits[row][index], torch.tensor(label)) for row, index, label in item.target]
    if manifest.task == "question-answering":
        starts, ends = logits_of(model, states[0], item.part).unbind(dim=1)
        start, end = item.target
        return [(F.cross_entropy(starts, torch.tensor(start)) + F.cross_entropy(ends, torch.tensor(end))) / 2]
    outputs = torch.stack([logits_of(model, pooled(model, one, item.part), item.part) for one in states])
    if manifest.task == "multiple-choice":
        return [F.cross_entropy(outputs[:, 0], torch.tensor(item.target))]
    (only,) = outputs
    match manifest.decoding.problem:
        case "regression":
            return [(only[0] - item.target[0]) ** 2]
        case "multi_label":
            return [F.binary_cross_entropy_with_logits(only, torch.tensor(item.target))]
    return [F.cross_entropy(only, torch.tensor(item.target))]


def mean_term(model: PromptModel, items: Sequence[Item]) -> Tensor:
    return torch.stack([term for item in items for term in terms_of(model, item)]).mean()


@pytest.mark.parametrize(("task", "record", "options"), DIVISIBLE, ids=NAMES)
def test_a_batch_costs_what_its_rows_cost_one_by_one_in_however_many_packs(
    make_settings: MakeSettings, backbone: Backbone, task: str, record: Record, options: dict[str, Any]
) -> None:
    model, (items,) = model_of(backbone, [make_settings(task, record, **options)])
    batch = items[:9]
    expected = mean_term(model, batch)
    loss, gradients = loss_and_gradients(model, batch, max_tokens=10_000)
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    model.zero_grad()
    expected.backward()
    for name, part in model.named_parameters():
        torch.testing.assert_close(gradients[name], part.grad, rtol=1e-4, atol=1e-6)
    for max_tokens in (1, 40):
        cut, cut_gradients = loss_and_gradients(model, batch, max_tokens)
        assert cut == pytest.approx(loss, abs=1e-6, rel=1e-5)
        assert cut_gradients.keys() == gradients.keys()
        for name, gradient in gradients.items():
            torch.testing.assert_close(cut_gradients[name], gradient, rtol=1e-4, atol=1e-6)


def test_windows_are_really_cut_in_the_cases_above(make_settings: MakeSettings, backbone: Backbone) -> None:
    _, (words,) = model_of(backbone, [make_settings("token-classification", tags, max_len=8, stride=2)])
    assert max(len(item.rows) for item in words) > 1
    _, (answers,) = model_of(backbone, [make_settings("question-answering", long_answer, max_len=14, stride=2)])
    assert len(answers) > 160
    assert {item.target == (0, 0) for item in answers} == {True, False}


@pytest.mark.parametrize("family", ["roberta", "gpt2", "llama", "distilbert"])
def test_other_families_cost_the_same(tmp_path: Path, family: str) -> None:
    folder = write_backbone(tmp_path / family, family)
    for method in ("p-tuning-v2", "prompt-tuning"):
        settings = settings_of(tmp_path, folder, method=method)
        model, (items,) = model_of(Backbone.load(folder, "cpu"), [settings])
        gather = model.parts[0].manifest.head.gather
        assert gather == ("last_token" if family in ("gpt2", "llama") else "first_token")
        loss, _ = loss_and_gradients(model, items[:6], 10_000)
        assert loss == pytest.approx(mean_term(model, items[:6]).item(), rel=1e-5)


def test_data_sets_count_by_their_items_in_a_batch_of_several(
    backbone: Backbone, backbone_folder: Path, tmp_path: Path
) -> None:
    sets = [
        settings_of(tmp_path / "a", backbone_folder, "token-classification", tags, name="a"),
        settings_of(tmp_path / "b", backbone_folder, "text-classification", single, name="b"),
        settings_of(tmp_path / "c", backbone_folder, "question-answering", answer, name="c"),
    ]
    model, (words, texts, answers) = model_of(backbone, sets)
    batch = [*answers[:2], *words[:3], *texts[:4]]
    parts = [(2, answers), (3, words), (4, texts)]
    expected = sum(count / 9 * mean_term(model, own[:count]).item() for count, own in parts)
    loss, gradients = loss_and_gradients(model, batch, 10_000)
    assert loss == pytest.approx(expected, rel=1e-5)
    for max_tokens in (1, 30, 60):
        cut, cut_gradients = loss_and_gradients(model, batch, max_tokens)
        assert cut == pytest.approx(loss, rel=1e-6)
        for name, gradient in gradients.items():
            torch.testing.assert_close(cut_gradients[name], gradient, rtol=1e-4, atol=1e-6)


def test_a_data_set_that_a_batch_lacks_gets_no_gradient(
    backbone: Backbone, backbone_folder: Path, tmp_path: Path
) -> None:
    sets = [settings_of(tmp_path / name, backbone_folder, name=name) for name in ("a", "b")]
    model, (_, second) = model_of(backbone, sets)
    _, gradients = loss_and_gradients(model, second[:4], 10_000)
    assert {name.split(".")[1] for name in gradients if name.startswith("heads")} == {"1"}


@pytest.mark.parametrize("record", [alike, partners])
def test_embeddings_cannot_be_divided_and_neither_can_a_batch_with_some(
    backbone: Backbone, backbone_folder: Path, tmp_path: Path, record: Record
) -> None:
    vectors = settings_of(tmp_path / "a", backbone_folder, "text-embedding", record, name="a")
    texts = settings_of(tmp_path / "b", backbone_folder, name="b")
    assert not model_of(backbone, [vectors])[0].is_divisible
    assert not model_of(backbone, [texts, vectors])[0].is_divisible
    assert model_of(backbone, [texts, texts])[0].is_divisible


def targets_of(settings: TrainSettings, backbone: Backbone) -> list[tuple[Example, Item]]:
    """Examples with their items, where each makes one."""
    _, (items,) = model_of(backbone, [settings])
    examples = read_examples(settings.train_file, settings.task, settings.columns, settings.input_format)
    return list(zip(examples, items, strict=True))


def test_answers_are_where_their_words_are(make_settings: MakeSettings, backbone: Backbone) -> None:
    word_of = {index: word for word, index in vocabulary().items()}
    for example, item in targets_of(make_settings("question-answering", answer), backbone):
        (row,) = item.rows
        start, end = item.target
        assert isinstance(example.target, GoldAnswers)
        assert [word_of[token] for token in row.token_ids[start : end + 1]] == [example.target.texts[0]]


def test_tags_are_where_their_words_are(make_settings: MakeSettings, backbone: Backbone) -> None:
    ids = vocabulary()
    settings = make_settings("token-classification", tags)
    model, _ = model_of(backbone, [settings])
    labels = model.parts[0].manifest.labels
    for example, item in targets_of(settings, backbone):
        found = [(item.rows[row].token_ids[index], labels[label]) for row, index, label in item.target]
        words = [ids[word] for word in example.input["tokens"]]
        assert found == list(zip(words, example.target, strict=True))  # type: ignore[arg-type]

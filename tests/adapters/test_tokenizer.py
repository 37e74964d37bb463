from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from prefixrack.errors import UnsupportedBackbone
from prefixrack_adapters.spec import BackboneSpec
from prefixrack_adapters.tokenizer import TOKENIZER_FILE, BackboneTokenizer
from tiny import TEXT, vocabulary, write_backbone, write_tokenizer

CLS, SEP = vocabulary()["[CLS]"], vocabulary()["[SEP]"]


@pytest.fixture
def tokenizer(tmp_path: Path) -> BackboneTokenizer:
    write_tokenizer(tmp_path)
    return BackboneTokenizer.load(tmp_path)


def test_truncation_and_padding_baked_into_the_file_are_off(tokenizer: BackboneTokenizer, tmp_path: Path) -> None:
    stored = json.loads((tmp_path / TOKENIZER_FILE).read_text())
    assert stored["truncation"]["max_length"] == 16
    assert stored["padding"] is not None
    (tokens,) = tokenizer.encode_texts(["cat " * 300])
    assert len(tokens) == 300
    (words,) = tokenizer.encode_words([["cat"] * 300])
    assert len(words) == 300
    assert [len(one) for one in tokenizer.encode_texts(["cat", "the cat sat"])] == [1, 3]


def test_offsets_are_codepoints_and_words_are_counted(tokenizer: BackboneTokenizer) -> None:
    text = "cat \U0001f44d東京 sat"
    (tokens,) = tokenizer.encode_texts([text])
    assert [text[start:end] for start, end in tokens.offsets] == ["cat", "\U0001f44d", "東", "京", "sat"]
    (words,) = tokenizer.encode_words([["cat", "catx", "\0", "sat"]])
    assert words.words == [0, 1, 1, 3]


def test_no_texts_give_no_tokens(tokenizer: BackboneTokenizer) -> None:
    assert tokenizer.encode_texts([]) == []
    assert tokenizer.encode_words([]) == []


def test_threads_share_one_tokenizer(tokenizer: BackboneTokenizer) -> None:
    texts = ["cat sat on the mat " * (1 + index % 17) for index in range(200)]
    alone = [tokenizer.encode_texts([text])[0].ids for text in texts]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda text: tokenizer.encode_texts([text])[0].ids, texts))
    assert together == alone


def test_layout_with_a_single_separator(tokenizer: BackboneTokenizer) -> None:
    layout = tokenizer.layout
    assert (layout.start, layout.middle, layout.end, layout.single_end) == ((CLS,), (SEP,), (SEP,), (SEP,))
    assert layout.second_segment == 1


def test_layout_with_a_double_separator(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, double_separator=True)
    layout = BackboneTokenizer.load(tmp_path).layout
    assert (layout.start, layout.middle, layout.end, layout.single_end) == ((CLS,), (SEP, SEP), (SEP,), (SEP,))
    assert layout.second_segment == 0


def test_layout_does_not_depend_on_how_many_tokens_the_probe_has(tmp_path: Path) -> None:
    tokenizer = Tokenizer(models.Unigram([("<unk>", 0.0), ("▁", -1.0), ("a", -1.0), ("</s>", 0.0)], unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 3)]
    )
    assert len(tokenizer.encode("a").ids) == 3
    tokenizer.save(str(tmp_path / TOKENIZER_FILE))
    layout = BackboneTokenizer.load(tmp_path).layout
    assert (layout.start, layout.middle, layout.end, layout.single_end) == ((), (3,), (3,), (3,))


def test_byte_level_words_get_the_space_they_were_trained_with(tmp_path: Path) -> None:
    vocab = {"<unk>": 0, "a": 1, "Ġ": 2, "Ġa": 3}
    tokenizer = Tokenizer(models.BPE(vocab, [("Ġ", "a")], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.save(str(tmp_path / TOKENIZER_FILE))
    loaded = BackboneTokenizer.load(tmp_path)
    assert loaded.encode_texts(["a a"])[0].ids == [1, 3]
    assert loaded.encode_words([["a", "a"]])[0].ids == [3, 3]


def without_tokenizer_file(folder: Path, family: str) -> Path:
    """A backbone as published before there were tokenizer.json files: what follows is put beside its config."""
    write_backbone(folder, family)
    for name in (TOKENIZER_FILE, "special_tokens_map.json"):
        (folder / name).unlink()
    return folder


def test_a_list_of_word_pieces_makes_the_same_tokenizer(tmp_path: Path) -> None:
    folder = without_tokenizer_file(tmp_path / "old", "bert")
    (folder / "vocab.txt").write_text("\n".join(vocabulary()))
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    write_tokenizer(tmp_path)
    converted, given = BackboneTokenizer.load(folder), BackboneTokenizer.load(tmp_path)
    texts = ["The Cat sat on 東京, [SEP] é", "x1y2"]
    assert converted.encode_texts(texts) == given.encode_texts(texts)
    assert converted.encode_words([["The", "Cats"]]) == given.encode_words([["The", "Cats"]])
    assert converted.layout == given.layout


def test_merges_of_bytes_are_converted_and_words_get_their_space(tmp_path: Path) -> None:
    """DeBERTa's files on the hub. Pairs keep the one separator that adapters were trained with."""
    folder = without_tokenizer_file(tmp_path / "old", "deberta")
    pieces = ["[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]", "a", "b", "Ġ", "Ġa", "Ġab"]
    (folder / "vocab.json").write_text(json.dumps({piece: index for index, piece in enumerate(pieces)}))
    (folder / "merges.txt").write_text("#version: 0.2\nĠ a\nĠa b\n")
    tokenizer = BackboneTokenizer.load(folder, BackboneSpec.load(folder))
    assert tokenizer.encode_ids(["ab ab"]) == [[5, 6, 9]]
    assert tokenizer.encode_words([["ab", "a"]])[0].ids == [9, 8]
    assert (tokenizer.layout.start, tokenizer.layout.middle, tokenizer.layout.end) == ((0,), (2,), (2,))


def test_a_sentencepiece_model_is_converted(tmp_path: Path) -> None:
    """DeBERTa v3's file on the hub: ids are those of the library that made it."""
    sentencepiece = import_module("sentencepiece")
    folder = without_tokenizer_file(tmp_path / "old", "deberta-v2")
    specials = {"pad": "[PAD]", "bos": "[CLS]", "eos": "[SEP]", "unk": "[UNK]"}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([TEXT, "the river runs in the rain", "ada was born in london"] * 9),
        model_prefix=str(folder / "spm"),
        vocab_size=64,
        hard_vocab_limit=False,
        minloglevel=2,
        **{f"{name}_piece": piece for name, piece in specials.items()},
        **{f"{name}_id": index for index, name in enumerate(specials)},
    )
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": false, "vocab_type": "spm"}')
    tokenizer = BackboneTokenizer.load(folder, BackboneSpec.load(folder))
    by_library = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spm.model"))
    texts = ["the river in paris", " ada  sat"]
    assert tokenizer.encode_ids(texts) == [by_library.encode(text) for text in texts]
    assert (tokenizer.layout.start, tokenizer.layout.middle, tokenizer.layout.end) == ((1,), (2,), (2,))


def test_a_vocabulary_that_cannot_be_converted_says_so(tmp_path: Path) -> None:
    folder = without_tokenizer_file(tmp_path / "old", "deberta")
    (folder / "vocab.json").write_text("{")
    with pytest.raises(UnsupportedBackbone, match=r"no tokenizer\.json, and its vocabulary cannot be converted"):
        BackboneTokenizer.load(folder)


def write_bare_tokenizer(folder: Path) -> None:
    """A tokenizer.json whose special tokens are words of the vocabulary and nothing more, as old exports have it."""
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "[SEP]": 1, "a": 2}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.save(str(folder / TOKENIZER_FILE))


@pytest.mark.parametrize("name", ["special_tokens_map.json", "tokenizer_config.json"])
@pytest.mark.parametrize("value", ["[SEP]", {"content": "[SEP]", "lstrip": False}])
def test_special_tokens_that_are_named_beside_the_tokenizer(tmp_path: Path, name: str, value: object) -> None:
    write_bare_tokenizer(tmp_path)
    assert BackboneTokenizer.load(tmp_path).encode_words([["a", "[SEP]"]])[0].ids == [2, 0, 0, 0]
    named = {"sep_token": value, "mask_token": "[NEW]", "cls_token": None, "model_max_length": 8}
    (tmp_path / name).write_text(json.dumps(named))
    loaded = BackboneTokenizer.load(tmp_path)
    assert loaded.encode_words([["a", "[SEP]"]])[0].ids == [2, 1]
    assert loaded.encode_texts(["a [SEP]"])[0].ids == [2, 1]
    assert max(loaded.encode_ids(["[NEW]"])[0]) == 0  # not in the vocabulary, so not in the backbone's word vectors


def test_a_broken_file_beside_the_tokenizer_is_named(tmp_path: Path) -> None:
    write_bare_tokenizer(tmp_path)
    (tmp_path / "special_tokens_map.json").write_text("[1]")
    with pytest.raises(UnsupportedBackbone, match=r"special_tokens_map\.json is no JSON object"):
        BackboneTokenizer.load(tmp_path)


def test_a_missing_or_broken_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedBackbone, match=r"has no tokenizer.json"):
        BackboneTokenizer.load(tmp_path)
    (tmp_path / TOKENIZER_FILE).write_text("{}")
    with pytest.raises(UnsupportedBackbone, match="cannot be read as a tokenizer"):
        BackboneTokenizer.load(tmp_path)

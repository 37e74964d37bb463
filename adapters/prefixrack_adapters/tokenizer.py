"""The backbone's tokenizer: text to ids and character offsets, never cut, never padded. Knows no tasks and no torch.

One `tokenizers.Tokenizer` per backbone, with truncation and padding switched off once at load (many published
tokenizer.json files have both baked in). Callers never pass lengths to it: threads with different settings on one
shared tokenizer corrupt each other. Cutting and pair layout are the pure functions of `layout.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Encoding, Tokenizer, pre_tokenizers

from prefixrack.errors import UnsupportedBackbone
from prefixrack_adapters.architectures import ARCHITECTURES, GLM_2021
from prefixrack_adapters.layout import PairLayout
from prefixrack_adapters.spec import BackboneSpec

TOKENIZER_FILE = "tokenizer.json"
# What older folders hold in its place (DeBERTa's on the hub, for one): transformers makes the same tokenizer of them.
SENTENCEPIECE_FILES = ("spm.model", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model")
VOCABULARY_FILES = ("vocab.txt", "vocab.json", "merges.txt", *SENTENCEPIECE_FILES)
SPECIAL_TOKEN_FILES = ("special_tokens_map.json", "tokenizer_config.json")
SPECIAL_TOKEN_FIELDS = tuple(f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))
# Up to so many texts are encoded one by one in the caller's thread. More go to the library's thread pool, for which the
# caller waits: where other threads compute on all cores, longer than the texts take.
FEW = 16


@dataclass(frozen=True, slots=True)
class Tokens:
    """One text, no special tokens. `offsets` are codepoint ranges in that text (for words: in each word);
    `words` is the index of the word that each token belongs to."""

    ids: list[int]
    offsets: list[tuple[int, int]]
    words: list[int]

    def __len__(self) -> int:
        return len(self.ids)


class BackboneTokenizer:
    """Thread-safe: nothing in it changes after load."""

    def __init__(self, text_tokenizer: Tokenizer, word_tokenizer: Tokenizer, layout: PairLayout) -> None:
        self._text_tokenizer = text_tokenizer
        self._word_tokenizer = word_tokenizer
        self.layout = layout

    @classmethod
    def load(cls, folder: Path, spec: BackboneSpec | None = None) -> BackboneTokenizer:
        """Read tokenizer.json, or what an older vocabulary makes. Raises UnsupportedBackbone where there is neither.

        With the backbone's spec, pairs are laid out as its adapters were trained, where the file says otherwise.
        """
        if spec is not None and spec.architecture == GLM_2021 and not (folder / TOKENIZER_FILE).is_file():
            return MissingTokenizer(folder)
        content = _content(folder)
        text_tokenizer = _read(content, folder)
        layout = _pair_layout(text_tokenizer)
        word_tokenizer = _word_tokenizer(content, folder)
        return cls(text_tokenizer, word_tokenizer, layout if spec is None else _as_trained(layout, spec))

    def encode_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """As `encode_texts`, ids only: without offsets the library has less to do."""
        encode = partial(self._text_tokenizer.encode_batch_fast, add_special_tokens=False)
        return [encoding.ids for encoding in _encodings(encode, texts)]

    def encode_texts(self, texts: Sequence[str]) -> list[Tokens]:
        """Tokens of each text; many in one call to the tokenizer library, which shares them out to its threads."""
        encode = partial(self._text_tokenizer.encode_batch, add_special_tokens=False)
        return [_tokens(encoding) for encoding in _encodings(encode, texts)]

    def encode_words(self, texts: Sequence[Sequence[str]]) -> list[Tokens]:
        """Tokens of texts that come split into words; a word with no visible character has no token."""
        encode = partial(self._word_tokenizer.encode_batch, is_pretokenized=True, add_special_tokens=False)
        return [_tokens(encoding) for encoding in _encodings(encode, [list(words) for words in texts])]


class MissingTokenizer(BackboneTokenizer):
    """In the place of a tokenizer that a backbone was published without: token ids work, texts fail with the reason."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def layout(self) -> PairLayout:  # type: ignore[override]
        """What every task asks for first."""
        raise UnsupportedBackbone(
            f"{self._folder} has no {TOKENIZER_FILE}, so it takes token ids only (`Backbone.logits`): convert its "
            "tokenizer and put it into the folder to serve texts"
        )


def _encodings(encode_batch: Callable[[list[Any]], list[Encoding]], texts: Sequence[Any]) -> list[Encoding]:
    if len(texts) > FEW:
        return encode_batch(list(texts))
    return [encoding for text in texts for encoding in encode_batch([text])]


def _tokens(encoding: Encoding) -> Tokens:
    return Tokens(encoding.ids, encoding.offsets, [-1 if word is None else word for word in encoding.word_ids])


def _content(folder: Path) -> str:
    """The tokenizer as JSON."""
    path = folder / TOKENIZER_FILE
    if path.is_file():
        return path.read_text(encoding="utf-8")
    if any((folder / name).is_file() for name in VOCABULARY_FILES):
        return _converted(folder)
    raise UnsupportedBackbone(
        f"{folder} has no {TOKENIZER_FILE} and no vocabulary ({', '.join(VOCABULARY_FILES)}): save the backbone's "
        "tokenizer into the folder"
    )


def _converted(folder: Path) -> str:
    """Loads torch, unlike all else here: transformers does so."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        content: str = tokenizer.backend_tokenizer.to_str()
    except Exception as error:  # transformers raises whatever reading the files raises
        reason = str(error).strip().partition("\n")[0][:200]
        raise UnsupportedBackbone(
            f"{folder} has no {TOKENIZER_FILE}, and its vocabulary cannot be converted ({reason}): save the backbone's "
            "fast tokenizer into the folder"
        ) from error
    return content


def _read(content: str, folder: Path) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_str(content)
    except Exception as error:  # the library raises bare Exception for every kind of bad file
        raise UnsupportedBackbone(f"{folder / TOKENIZER_FILE} cannot be read as a tokenizer: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    known = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    missing = [token for token in _special_tokens(folder) if token.content not in known]
    tokenizer.add_special_tokens([token for token in missing if tokenizer.token_to_id(token.content) is not None])
    return tokenizer


def _special_tokens(folder: Path) -> list[AddedToken]:
    """Special tokens that older exports name beside tokenizer.json only; transformers knows them in texts all the same.

    The original P-Tuning v2 code counts on that: it puts "[SEP]" among the words of a sentence.
    """
    found: dict[str, AddedToken] = {}
    for path in (folder / name for name in SPECIAL_TOKEN_FILES):
        settings = _json_object(path) if path.is_file() else {}
        for value in (settings[name] for name in SPECIAL_TOKEN_FIELDS if settings.get(name)):
            options = {"content": value} if isinstance(value, str) else value
            strips = {side: bool(options.get(side)) for side in ("lstrip", "rstrip")}
            found.setdefault(options["content"], AddedToken(options["content"], special=True, **strips))
    return list(found.values())


def _json_object(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (TypeError, ValueError) as error:
        raise UnsupportedBackbone(f"{path} is no JSON object ({error}): save the tokenizer again") from None


def _word_tokenizer(content: str, folder: Path) -> Tokenizer:
    """The same tokenizer for words: byte-level ones put a space before each word, as `add_prefix_space` trained."""
    tokenizer = _read(content, folder)
    kind = (json.loads(content).get("pre_tokenizer") or {}).get("type")
    if kind == "ByteLevel":
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    return tokenizer


def _pair_layout(tokenizer: Tokenizer) -> PairLayout:
    """Special tokens around one text and a pair, read off a probe instead of a table of families."""
    single, pair = tokenizer.encode("a"), tokenizer.encode("a", "a")
    sides = pair.sequence_ids
    if 0 not in sides or 1 not in sides:
        raise UnsupportedBackbone("the tokenizer gives no token for 'a' in a pair: its post-processor is not usable")
    first, second = sides.index(0), sides.index(1)
    return PairLayout(
        start=tuple(pair.ids[:first]),
        middle=tuple(pair.ids[_end(sides, 0) : second]),
        end=tuple(pair.ids[_end(sides, 1) :]),
        single_end=tuple(single.ids[_end(single.sequence_ids, 0) :]),
        second_segment=pair.type_ids[second],
    )


def _as_trained(layout: PairLayout, spec: BackboneSpec) -> PairLayout:
    """One separator where newer tokenizer files write two (DeBERTa); one segment where the backbone has no second."""
    if ARCHITECTURES[spec.architecture].has_one_separator:
        layout = replace(layout, middle=layout.middle[:1])
    return layout if spec.num_segments > 1 else replace(layout, second_segment=0)


def _end(sides: Sequence[int | None], side: int) -> int:
    """One past the last token of a side: the probe's letter may be more than one token."""
    return max(index for index, owner in enumerate(sides) if owner == side) + 1

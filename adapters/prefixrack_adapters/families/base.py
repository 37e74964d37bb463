"""What the backbone asks of a family. Knows tensors and packs; no tasks, no manifests, no adapters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from prefixrack.errors import UnsupportedBackbone
from prefixrack_adapters.attention import PackLayout


class Family(ABC):
    """One frozen model, taken apart where soft prompts go in: word vectors, embedding layer, everything behind.

    T is the number of tokens of the whole pack, its rows end to end; e the width of the word vectors. `positions` is
    [T], or [2, T] for a family with two dimensions of positions.
    """

    looks_at_longest_row: ClassVar[bool] = False

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    @classmethod
    @abstractmethod
    def load(cls, folder: Path, dtype: torch.dtype) -> Self:
        """Read the weights of a backbone folder: on the CPU, memory-mapped, with packed attention."""

    @classmethod
    def load_for_inference(cls, folder: Path, dtype: torch.dtype) -> Self:
        """As `load`, for who calls `optimise_for_inference` or `quantise` before the first pass."""
        return cls.load(folder, dtype)

    @abstractmethod
    def words(self, token_ids: Tensor) -> Tensor:
        """Word vectors [T, e] of token ids [T]."""

    @abstractmethod
    def embed(self, words: Tensor, segments: Tensor, positions: Tensor) -> Tensor:
        """What the embedding layer makes of word vectors: [T, e], positions, segments and normalisation applied."""

    @abstractmethod
    def hidden_states(self, words: Tensor, segments: Tensor, positions: Tensor, pack: PackLayout) -> Tensor:
        """The whole model from word vectors [T, e] on, embedding layer included: [T, hidden_size]."""

    def optimise_for_inference(self) -> None:  # noqa: B027 - a family that has nothing to gain stays as it is
        """Bring the weights into the form in which inference is fastest. There are no gradients afterwards."""

    def quantise(self, dtype: torch.dtype) -> None:
        """Keep the layers' weights in int8 and nothing else of them; what stays as it is, is cast to `dtype`.

        For inference on a CPU, where the model has just been loaded in the dtype of its files. Raises
        UnsupportedBackbone for families that are not computed so.
        """
        raise UnsupportedBackbone(
            f"backbones of the family {type(self).__name__} are not computed in int8: those of bert, electra, roberta "
            "and xlm-roberta are; use bfloat16 or float32"
        )

    @property
    def is_recordable(self) -> bool:
        """Whether a pass depends on nothing but its tensors' contents, so that it can be recorded and run again.

        With `looks_at_longest_row` it may depend on the longest of the pack's lengths too.
        """
        return False

    @property
    def compiles_sizes(self) -> bool:
        """Whether its kernels are compiled for each number of tokens, so that few numbers are better than all."""
        return False

    def vocabulary_logits(self, states: Tensor) -> Tensor:
        """Scores [n, vocab_size] of every word of the vocabulary for states [n, hidden_size].

        Raises UnsupportedBackbone for families that have no such output, or where it is not served.
        """
        raise UnsupportedBackbone(f"{type(self).__name__} gives no scores for words: only GLM (2021) does")

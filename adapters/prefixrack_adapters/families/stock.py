"""Stock transformers models that call the attention interface, behind one loader. Knows no rows and no adapters.

transformers is imported where a stock model is loaded: families that are loaded for inference without one are ready
in half the time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from prefixrack_adapters.attention import ATTENTION_NAME, PackLayout, note_inputs, register_packed_attention
from prefixrack_adapters.families.base import Family
from prefixrack_adapters.families.casting import cast_parameters
from prefixrack_adapters.weights import stored_dtypes

TORCH_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


class Stock(Family):
    """A stock model, called with word vectors. `options` go to its constructor."""

    options: ClassVar[dict[str, Any]] = {}

    @classmethod
    def load(cls, folder: Path, dtype: torch.dtype) -> Self:
        return cls(load_stock_model(folder, dtype, ATTENTION_NAME, **cls._options(folder)))

    @classmethod
    def _options(cls, folder: Path) -> dict[str, Any]:
        return cls.options

    def words(self, token_ids: Tensor) -> Tensor:
        vectors: Tensor = self.model.get_input_embeddings()(token_ids)  # type: ignore[operator]
        return vectors

    def _run(self, words: Tensor, positions: Tensor, pack: PackLayout, **options: Any) -> Tensor:
        output = self.model(inputs_embeds=words[None], position_ids=positions[None], pack=pack, **options)
        hidden: Tensor = output.last_hidden_state[0]
        return hidden


class Encoder(Stock):
    """Encoders like BERT: embeddings with positions, segments and a normalisation, then layers. ALBERT is one."""

    @classmethod
    def _options(cls, folder: Path) -> dict[str, Any]:
        from transformers import AutoConfig

        # Heads bring their own pooler; ELECTRA has none.
        is_electra = AutoConfig.from_pretrained(folder).model_type == "electra"
        return {} if is_electra else {"add_pooling_layer": False}

    def embed(self, words: Tensor, segments: Tensor, positions: Tensor) -> Tensor:
        embedded: Tensor = self.model.embeddings(  # type: ignore[operator]
            inputs_embeds=words[None], token_type_ids=segments[None], position_ids=positions[None]
        )
        return embedded[0]

    def hidden_states(self, words: Tensor, segments: Tensor, positions: Tensor, pack: PackLayout) -> Tensor:
        return self._run(words, positions, pack, token_type_ids=segments[None])


def load_stock_model(folder: Path, dtype: torch.dtype, attention: str, **options: Any) -> nn.Module:
    """A stock base model on the CPU, memory-mapped. The config object is its own.

    Setting the attention on a shared config would switch every model that uses it. A dtype other than the file's is
    cast afterwards: transformers would hold what it casts and all that it read at the same time.
    """
    from transformers import AutoConfig, AutoModel

    register_packed_attention()
    config = AutoConfig.from_pretrained(folder)
    with _quiet():
        model: nn.Module = AutoModel.from_pretrained(
            folder, config=config, attn_implementation=attention, dtype=stored_dtype(folder) or dtype, **options
        )
    cast_parameters(model, dtype)
    config.dtype = dtype
    for module in model.modules():
        if hasattr(module, "is_causal"):  # what calls the attention interface says so much
            module.register_forward_pre_hook(note_inputs, with_kwargs=True)
    return model


def stored_dtype(folder: Path) -> torch.dtype | None:
    """The one dtype of all weights in the files; None for a mixture, which must not pass through the narrower one."""
    dtypes = [TORCH_DTYPES.get(dtype) for dtype in stored_dtypes(folder)]
    return dtypes[0] if len(dtypes) == 1 else None


@contextmanager
def _quiet() -> Iterator[None]:
    """Unused poolers and heads in the file are expected: transformers need not warn of them, nor show a bar."""
    from transformers.utils import logging as transformers_logging

    verbosity, has_bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if has_bars:
            transformers_logging.enable_progress_bar()

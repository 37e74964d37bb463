"""BERT, ELECTRA, RoBERTa, XLM-R: layers of one form, which for inference run as few large operations."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from prefixrack_adapters.attention import AttentionCall, PackLayout
from prefixrack_adapters.families.fused_linear import Activation, FusedLinear
from prefixrack_adapters.families.stock import Encoder
from prefixrack_adapters.families.sum_norm import SumNorm
from prefixrack_adapters.file_pages import FilePages

ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}


class Bert(Encoder):
    """Until `optimise_for_inference` the stock model; afterwards its layers are `FusedLayer`s."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self._fused: list[FusedLayer] | None = None

    def optimise_for_inference(self) -> None:
        """Layer by layer, and each stock layer is let go at once: at no time are all weights there twice.

        What was read of a mapped file goes back to the system, which would count it beside its copy otherwise.
        """
        activation = ACTIVATIONS.get(self.config.hidden_act)
        if self._fused is not None or activation is None:
            return
        self._fused = []
        pages = FilePages()
        layers: nn.ModuleList = self.model.encoder.layer  # type: ignore[union-attr, assignment]
        while layers:
            self._fused.append(FusedLayer(layers[0], len(self._fused), activation))
            for parameter in layers[0].parameters():
                if parameter.is_cpu:
                    pages.give_back(parameter.data_ptr(), parameter.nbytes)
            del layers[0]

    @property
    def is_recordable(self) -> bool:
        return self._fused is not None

    @property
    def config(self) -> Any:
        return self.model.config

    def hidden_states(self, words: Tensor, segments: Tensor, positions: Tensor, pack: PackLayout) -> Tensor:
        if self._fused is None:
            return super().hidden_states(words, segments, positions, pack)
        hidden = self.embed(words, segments, positions)
        if hasattr(self.model, "embeddings_project"):  # ELECTRA's word vectors may be narrower than its layers
            hidden = self.model.embeddings_project(hidden)  # type: ignore[operator]
        for layer in self._fused:
            hidden = layer(hidden, pack)
        return hidden


class FusedLayer:
    """One layer's arithmetic, in inference: attention, then two linear layers, a sum and a normalisation after each."""

    def __init__(self, layer: Any, index: int, activation: Activation) -> None:
        attention = layer.attention.self
        self._index = index
        self._head_dim = attention.attention_head_size
        self._activation = activation
        self._inputs = FusedLinear([attention.query, attention.key, attention.value])
        self._output = SumNorm(FusedLinear([layer.attention.output.dense]), layer.attention.output.LayerNorm)
        self._up = FusedLinear([layer.intermediate.dense])
        self._down = SumNorm(FusedLinear([layer.output.dense]), layer.output.LayerNorm)

    def __call__(self, hidden: Tensor, pack: PackLayout) -> Tensor:
        """[T, hidden_size] → [T, hidden_size]."""
        hidden = self._output(self._attend(hidden, pack), hidden)
        return self._down(self._up(hidden, self._activation), hidden)

    def _attend(self, hidden: Tensor, pack: PackLayout) -> Tensor:
        if pack.has_gates:
            pack.inputs = hidden
        states = self._inputs(hidden).view(len(hidden), 3, -1, self._head_dim)
        query, key, value = (part.transpose(0, 1)[None] for part in states.unbind(1))
        call = AttentionCall(self._index, self._head_dim**-0.5)
        return pack.backend.attend(call, query, key, value, pack).flatten(2)[0]

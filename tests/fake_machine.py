"""A backbone with a clock of its own, for what is measured when a server starts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from prefixrack_adapters.backbone import PackRow
from prefixrack_adapters.rows import Row
from prefixrack_adapters.spec import BackboneSpec
from prefixrack_server.pack_runner import Logits

SPEC = BackboneSpec(
    model_id="tiny",
    architecture="bert",
    fingerprint="f" * 64,
    num_layers=2,
    num_kv_heads=2,
    head_dim=4,
    hidden_size=8,
    vocab_size=100,
    num_segments=2,
    max_positions=64,
    base_position=0,
)


@dataclass
class FakeMachine:
    """A backbone and its clock: a pack takes as long as `seconds_of` says for its tokens."""

    seconds_of: Callable[[int], float]
    is_asynchronous: bool = False
    spec: BackboneSpec = SPEC
    now: float = 0.0
    packs: list[int] = field(default_factory=list)

    def check(self, row: Row) -> None:
        """All rows will do."""

    def launch(self, pack: Sequence[PackRow]) -> FakeMachine:
        self.packs.append(sum(len(entry.row) for entry in pack))
        self.now += self.seconds_of(self.packs[-1])
        return self

    def wait(self) -> list[Logits]:
        return []

"""Rounds of the engine with less room than its adapters take: on a GPU, where there is one, copied beside the packs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from engine_rounds import EngineRounds
from equality import check_answers
from prefixrack_adapters.backbone import Backbone
from prefixrack_adapters.rows import Row
from tiny import write_backbone
from workload import Request, write_adapters

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
NUM_ADAPTERS, NUM_ROOM = 12, 4


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_adapters_that_come_and_go_give_the_answers_of_those_that_stay(dtype: str, tmp_path: Path) -> None:
    backbone = Backbone.load_for_inference(write_backbone(tmp_path / "backbone"), DEVICE, dtype)
    adapters = write_adapters(tmp_path / "adapters", backbone.spec, NUM_ADAPTERS, prefix_len=5)
    random = np.random.default_rng(0)
    requests = []
    for index in random.permutation(5 * NUM_ADAPTERS):
        length = int(random.integers(1, 30))
        ids = tuple(random.integers(5, backbone.spec.vocab_size, length).tolist())
        requests.append(Request(adapters[index % NUM_ADAPTERS], "", Row(ids, (0,) * length, 5)))
    roomy = EngineRounds(backbone, adapters, 1)
    roomy.make_resident(adapters)
    room = roomy.stats().resident_bytes * NUM_ROOM // NUM_ADAPTERS
    limits = {"resident_bytes": room, "host_bytes": 1 << 30, "max_pack_rows": 7}
    tight = EngineRounds(backbone, adapters, 1, **limits)
    try:
        check_answers(backbone, requests, roomy.logits(requests))
        for _ in range(4):
            check_answers(backbone, requests, tight.logits(requests))
        stats = tight.stats()
        assert stats.num_evictions > NUM_ADAPTERS
        assert stats.num_host_hits >= stats.num_loads - NUM_ADAPTERS
        assert stats.resident_bytes <= room
    finally:
        roomy.stop()
        tight.stop()

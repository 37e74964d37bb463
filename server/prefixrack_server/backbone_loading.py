"""Loading the backbone that is served, and making this process one that computes with it. Knows no HTTP."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch

from prefixrack_adapters.backbone import Backbone
from prefixrack_adapters.devices import INT8, fastest_dtype, resolve_device
from prefixrack_adapters.reference import BesideReference, load_reference
from prefixrack_server.allocator import keep_freed_memory
from prefixrack_server.compute_threads import chosen_threads
from prefixrack_server.config import ServerConfig, resolve
from prefixrack_server.primitive_caches import bound_primitive_caches

# Threads hand the interpreter over after this; at the default of 5 ms the event loop slows packs by a fifth.
SWITCH_INTERVAL_S = 0.001


class Loaded(NamedTuple):
    """A backbone, and the settings with what is really used in place of "auto"."""

    backbone: Backbone | BesideReference
    config: ServerConfig


def load_backbone(config: ServerConfig, folder: Path) -> Loaded:
    """Call it once, in the thread that is going to wait for requests. Raises UnsupportedBackbone."""
    keep_freed_memory()
    bound_primitive_caches()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    num_cores = torch.get_num_threads()
    torch.set_num_threads(1)  # of this thread: OpenMP threads of its own would slow the engine's
    device, dtype = resolve_device(config.backbone.device), config.backbone.dtype
    backbone = Backbone.load_for_inference(folder, device, fastest_dtype(device) if dtype == "auto" else dtype)
    in_use: Any = backbone.weights
    served = BesideReference(backbone, load_reference(folder)) if in_use == INT8 else backbone
    num_threads = config.engine.num_threads or chosen_threads(served, num_cores, time.monotonic)
    return Loaded(served, resolve(config, str(backbone.device), in_use, num_threads))

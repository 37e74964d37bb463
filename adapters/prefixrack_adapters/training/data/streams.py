"""What the `datasets` library reads: lines of text files, rows of tables. Knows no columns and no tasks.

Everything is streamed: nothing is cached between runs, and what is unpacked goes when it has been read.
"""

from __future__ import annotations

import glob
import gzip
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from prefixrack.errors import DiskFull, InvalidRequest
from prefixrack_adapters.training.staging import is_disk_full

if TYPE_CHECKING:
    from datasets import IterableDataset

HUB_TIMEOUT_S = 10.0


def text_pieces(path: Path, by: Literal["line", "document"]) -> list[str]:
    """The file's lines with their ends, or all of it as one piece; UTF-8, unpacked where the name ends in .gz.

    Raises what unpacking and decoding raise: OSError, EOFError, zlib.error, UnicodeDecodeError.
    """
    from datasets import IterableDataset

    with _untraced() as cache:
        # unpacked by hand: of packed files the library drops the encoding, and takes the machine's own
        plain = _unpacked(path, Path(cache)) if path.suffix.lower() == ".gz" else path.absolute()
        stream = IterableDataset.from_text(
            glob.escape(str(plain)), sample_by=by, keep_linebreaks=True, cache_dir=cache, encoding="utf-8-sig"
        )
        return [row["text"] for row in stream]


def _unpacked(path: Path, folder: Path) -> Path:
    with gzip.open(path) as packed, (folder / "unpacked").open("wb") as plain:
        shutil.copyfileobj(packed, plain)
        return Path(plain.name)


def parquet_rows(path: Path) -> list[dict[str, Any]]:
    """Raises InvalidRequest for a file that is no parquet."""
    from datasets import IterableDataset

    try:
        with _untraced() as cache:
            return _rows(IterableDataset.from_parquet(glob.escape(str(path.absolute())), cache_dir=cache))
    except (OSError, ValueError) as error:  # ValueError is pyarrow's root for broken files
        raise InvalidRequest(f"{path} cannot be read ({_first_line(error)}): a parquet file is needed") from None


def folder_rows(folder: Path, split: str) -> list[dict[str, Any]]:
    """One split of a folder of data files. Raises InvalidRequest."""
    return _split_rows(str(folder.absolute()), None, split, str(folder))


def hub_rows(source: str, split: str) -> list[dict[str, Any]]:
    """One split of a data set on the hub, `owner/name` or `owner/name:config`. Raises InvalidRequest."""
    name, _, config = source.partition(":")
    _check_on_hub(name, source)
    return _split_rows(name, config or None, split, source)


def _split_rows(path: str, config: str | None, split: str, source: str) -> list[dict[str, Any]]:
    from datasets import load_dataset_builder
    from datasets.packaged_modules.csv.csv import CsvConfig

    try:
        with _untraced() as cache:
            builder = load_dataset_builder(path, config, cache_dir=cache)
            if isinstance(builder.config, CsvConfig):
                builder.config.keep_default_na = False  # "NA" and "null" are words like others
            return _rows(builder.as_streaming_dataset(split=split))
    except DiskFull:
        raise
    except Exception as error:  # each kind of file and each HTTP library brings errors of its own
        raise InvalidRequest(
            f"split {split!r} of {source} cannot be read ({_first_line(error)}): name a split and a data set that the "
            "datasets library can load (owner/name:config where it has configurations), or give a file"
        ) from error


def _check_on_hub(name: str, source: str) -> None:
    """One question ahead: loading would ask again and again for half a minute where there is no network."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    try:
        HfApi().dataset_info(name, timeout=HUB_TIMEOUT_S)
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise InvalidRequest(
            f"{source} does not exist as a file or folder, and the hub has no data set {name!r} that you may read: "
            "give a path, or a hub id as owner/name"
        ) from error
    except Exception as error:  # the client lets through what its HTTP library raises, another one by version
        raise InvalidRequest(
            f"{source} does not exist as a file or folder, and the hub cannot be asked for a data set of that name "
            f"({_first_line(error)}): give the path of a file, or check the network, HF_ENDPOINT and HF_HUB_OFFLINE"
        ) from error


def _rows(stream: IterableDataset) -> list[dict[str, Any]]:
    features = stream.features
    rows: list[dict[str, Any]] = list(stream)
    return rows if features is None else [_named(row, features) for row in rows]


def _named(value: Any, feature: Any) -> Any:
    """Classes by their names, wherever they stand in a row; a class that is not given (-1 or null) is None."""
    from datasets import ClassLabel

    if isinstance(feature, ClassLabel):
        return feature.int2str(value) if isinstance(value, int) and value >= 0 else None
    if isinstance(value, dict) and isinstance(feature, Mapping):
        return {name: _named(one, feature.get(name)) for name, one in value.items()}
    inner = getattr(feature, "feature", None)
    if isinstance(value, list) and inner is not None:
        return [_named(one, inner) for one in value]
    return value


@contextmanager
def _untraced() -> Iterator[str]:
    """A cache folder for as long as a read takes, without bars of the library's own and without counting downloads.

    Raises DiskFull where the folder's disk is.
    """
    import datasets
    from datasets import config

    had_bars, counted = not datasets.are_progress_bars_disabled(), config.HF_UPDATE_DOWNLOAD_COUNTS
    datasets.disable_progress_bars()
    config.HF_UPDATE_DOWNLOAD_COUNTS = False
    try:
        with tempfile.TemporaryDirectory(prefix="prefixrack-data-") as folder:
            yield folder
    except Exception as error:
        if not is_disk_full(error):
            raise
        raise DiskFull(
            f"the disk is full: data is unpacked in {tempfile.gettempdir()}; make room there, or name another folder "
            "in the environment variable TMPDIR"
        ) from error
    finally:
        config.HF_UPDATE_DOWNLOAD_COUNTS = counted
        if had_bars:
            datasets.enable_progress_bars()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]

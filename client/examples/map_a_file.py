"""A csv of texts into a csv of answers: `python map_a_file.py in.csv out.csv`. Run again, it goes on where it ended."""

from __future__ import annotations

import sys

from prefixrack import Client


def main(source: str, target: str) -> None:
    with Client() as client:
        done = client.map_file("intent", source, target, concurrency=8, batch_size=64)
    print(f"{done.adapter}: {done.num_inputs} inputs, {done.num_failed} failed, {done.num_resumed} were there already")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])

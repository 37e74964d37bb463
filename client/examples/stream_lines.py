"""Millions of small inputs in one request: JSON Lines go up as they are made, and answers are read one by one."""

from __future__ import annotations

from collections.abc import Iterator

from prefixrack import Client
from prefixrack.lines import Line


def lines() -> Iterator[Line]:
    for number in range(1000):
        yield Line(f"transfer {number} dollars to my savings", id=f"row-{number}")


def main() -> None:
    with Client() as client:
        num_failed = sum(answer.error is not None for answer in client.predict_stream("intent", lines(), top_k=1))
    print(f"{num_failed} of 1000 failed")


if __name__ == "__main__":
    main()

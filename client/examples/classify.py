"""One text, then several: what the adapter `intent` of `make demo` takes them to be about."""

from __future__ import annotations

from prefixrack import Client
from prefixrack.types import ClassificationOutput, FailedOutput

TEXTS = ["what is my balance?", "", "wake me at seven tomorrow"]


def main() -> None:
    with Client() as client:
        best = client.classify("intent", TEXTS[0], top_k=3)
        if isinstance(best, ClassificationOutput):
            print(best.label, f"{best.score:.3f}")
        for text, output in zip(TEXTS, client.classify("intent", TEXTS), strict=True):
            if isinstance(output, FailedOutput):
                print(repr(text), "failed:", output.error.code)
            elif isinstance(output, ClassificationOutput):
                print(repr(text), output.label)


if __name__ == "__main__":
    main()

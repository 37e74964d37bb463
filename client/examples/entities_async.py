"""Names in texts of an endless source, many requests at a time and bounded memory, with the asynchronous client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from prefixrack import AsyncClient
from prefixrack.types import TokenClassificationOutput


async def texts() -> AsyncIterator[str]:
    """Stands in for a queue or a socket."""
    for place in ("Zürich", "Kyoto", "Nairobi"):
        await asyncio.sleep(0)
        yield f"Ada lives in {place}."


async def main() -> None:
    async with AsyncClient() as client:
        async for output in client.predict_many("ner", texts(), concurrency=8, batch_size=2):
            if isinstance(output, TokenClassificationOutput):
                print([(span.label, span.text) for span in output.spans])


if __name__ == "__main__":
    asyncio.run(main())

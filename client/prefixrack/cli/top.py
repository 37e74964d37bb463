"""`prefixrack top`: what a server is doing now, from its metrics. Knows scraping and a screen that is redrawn."""

from __future__ import annotations

import time
from collections import deque
from itertools import count
from typing import Annotated

import typer
from rich.live import Live

from prefixrack.cli.printing import console, show_json
from prefixrack.cli.session import JsonOption, open_client
from prefixrack.cli.top_view import Activity, draw
from prefixrack.client import Client
from prefixrack.exposition import Interval, Scrape

HISTORY = 60


def top(
    context: typer.Context,
    interval: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="One picture over one interval, then end.")] = False,
    json: JsonOption = False,
) -> None:
    """Watch a server: queue, packs, tokens per second, latencies, adapters. Ctrl-C ends it."""
    sleep = context.obj.sleep
    history: deque[float] = deque(maxlen=HISTORY)
    with open_client(context) as client:
        before = _scrape(client)
        if once or json:
            sleep(interval)
            activity = Activity.of(Interval(before, _scrape(client)), client.base_url)
            show_json(activity.as_json()) if json else console().print(draw(activity, [activity.tokens_per_s]))
            return
        out = console()
        with Live(console=out, screen=out.is_terminal, auto_refresh=False, vertical_overflow="crop") as live:
            try:
                for _ in count():
                    sleep(interval)
                    after = _scrape(client)
                    activity = Activity.of(Interval(before, after), client.base_url)
                    history.append(activity.tokens_per_s)
                    live.update(draw(activity, list(history), out.height), refresh=True)
                    before = after
            except KeyboardInterrupt:
                return


def _scrape(client: Client) -> Scrape:
    return Scrape.parse(client.metrics(), time.monotonic())

"""`prefixrack bench URL`: load on a server, and how it answers. Knows arguments and tables; `load` does the rest."""

from __future__ import annotations

import asyncio
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from prefixrack.cli.completion import adapter_refs
from prefixrack.cli.exits import ExitCode
from prefixrack.cli.printing import show_facts, show_json
from prefixrack.cli.session import JsonOption, Session
from prefixrack.lines import parse_line
from prefixrack.load import Load, LoadReport


def bench(
    context: typer.Context,
    url: Annotated[str | None, typer.Argument(help="The server; by default that of --base-url.")] = None,
    adapter: Annotated[
        list[str] | None,
        typer.Option(
            help="Ask this adapter; repeat it for several in turn. All by default.", autocompletion=adapter_refs
        ),
    ] = None,
    rate: Annotated[float | None, typer.Option(min=0.01, help="Open loop: so many requests per second.")] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Closed loop: so many callers, without --rate.")] = 8,
    duration: Annotated[float, typer.Option(min=0.1, help="Seconds.")] = 10.0,
    file: Annotated[
        Path | None, typer.Option(help="Inputs as JSON Lines, for all of the adapters; their examples by default.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the open loop's arrivals.")] = 0,
    json: JsonOption = False,
) -> None:
    """Put load on a server and measure latencies. With --rate callers come as they please, as in life."""
    session: Session = context.obj
    session = session if url is None else replace(session, base_url=url)
    inputs = None if file is None else _inputs(file)
    report = asyncio.run(_run(session, adapter or [], inputs, rate, concurrency, duration, seed))
    if json:
        show_json(asdict(report))
    else:
        _show(report)
    if not report.num_requests or report.num_failed:
        raise typer.Exit(ExitCode.FAILED)


async def _run(
    session: Session,
    adapters: list[str],
    inputs: list[Any] | None,
    rate: float | None,
    concurrency: int,
    duration_s: float,
    seed: int,
) -> LoadReport:
    async with session.open_async_client() as client:
        names = adapters or [one.name async for one in client.list_adapters()]
        if not names:
            raise typer.BadParameter("the server has no adapters: `prefixrack push FOLDER` uploads one")
        work = [(name, given) for name in names for given in inputs or [(await client.get_adapter(name)).example]]
        load = Load(client.predict, work, duration_s, seed)
        return await (load.closed_loop(concurrency) if rate is None else load.open_loop(rate))


def _inputs(file: Path) -> list[Any]:
    with file.open(encoding="utf-8", errors="surrogateescape") as lines:
        parsed = [parse_line(index, line) for index, line in enumerate(lines) if line.strip()]
    for line in parsed:
        if line.error is not None:
            raise typer.BadParameter(f"{file}: {line.error.message}")
    if not parsed:
        raise typer.BadParameter(f"{file} has no inputs")
    return [line.given for line in parsed]


def _show(report: LoadReport) -> None:
    failures = ", ".join(f"{code} {count}" for code, count in report.failures.items())
    show_facts(
        [
            ("load", f"{report.mode}, {report.seconds:.1f} s"),
            ("requests", f"{report.num_requests}, {report.num_failed} failed"),
            ("failures", failures),
            ("answered", f"{report.requests_per_s:,.1f} requests/s, {report.tokens_per_s:,.0f} tokens/s"),
            ("p50", _milliseconds(report.p50_ms)),
            ("p95", _milliseconds(report.p95_ms)),
            ("p99", _milliseconds(report.p99_ms)),
            ("max", _milliseconds(report.max_ms)),
            ("sent late, p99", _milliseconds(report.late_p99_ms)),
        ]
    )


def _milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{value:,.1f} ms"

"""Many callers while adapters come and go: no answer is lost, and none is another version's.

This is the short run; `python benchmarks/churn.py` does the same for a minute.
"""

from __future__ import annotations

from pathlib import Path

from churn_run import ChurnPlan, run_churn


async def test_every_answer_is_the_solo_answer_of_the_version_that_it_names(tmp_path: Path) -> None:
    plan = ChurnPlan()
    tally, stats = await run_churn(plan, tmp_path)
    assert tally.num_answers >= plan.min_answers
    assert tally.num_uploads == plan.num_versions
    assert tally.num_replacements > 0
    assert tally.num_deletions > 0
    assert tally.num_left > 0
    assert stats.num_evictions > 0
    assert stats.num_failed_loads == 0

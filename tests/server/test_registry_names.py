from __future__ import annotations

import pytest

from prefixrack.errors import InvalidName
from prefixrack_server.registry.names import RESERVED, Ref, check_alias, check_movable_alias, check_name, parse_ref

BAD_NAMES = [
    "", "A", "-a", ".a", "_a", "a/b", "../a", "..", "a b", "a\n", "a\0", "a:b", "é", "a" * 64, "\ud800", "a%2fb",
]  # fmt: skip


@pytest.mark.parametrize("name", ["a", "7", "intent-v2", "a.b_c-d", "0" * 63])
def test_good_names_pass(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize("name", BAD_NAMES)
def test_bad_names_are_refused(name: str) -> None:
    with pytest.raises(InvalidName, match="1 to 63"):
        check_name(name)
    with pytest.raises(InvalidName):
        parse_ref(name)


@pytest.mark.parametrize("name", sorted(RESERVED))
def test_reserved_names_are_refused(name: str) -> None:
    with pytest.raises(InvalidName, match="reserved"):
        check_name(name)


def test_a_long_name_is_not_repeated_in_full() -> None:
    with pytest.raises(InvalidName) as caught:
        check_name("A" * 100_000)
    assert len(caught.value.detail) < 300


@pytest.mark.parametrize(
    ("text", "ref"),
    [
        ("a", Ref("a")),
        ("a@production", Ref("a", alias="production")),
        ("a@latest", Ref("a", alias="latest")),
        ("a@7", Ref("a", number=7)),
        ("a@7b", Ref("a", alias="7b")),
    ],
)
def test_refs_are_read(text: str, ref: Ref) -> None:
    assert parse_ref(text) == ref


BAD_REFS = ["a@", "@a", "a@@b", "a@b@c", "a@0", "a@07", "a@1234567890", "a@\xb2", "a@\uff17", "a@B", "a@7\n"]


@pytest.mark.parametrize("ref", BAD_REFS)
def test_bad_refs_are_refused(ref: str) -> None:
    with pytest.raises(InvalidName):
        parse_ref(ref)


@pytest.mark.parametrize("alias", ["7", "007", "", "Prod", "a/b"])
def test_bad_aliases_are_refused(alias: str) -> None:
    with pytest.raises(InvalidName):
        check_alias(alias)


def test_latest_is_read_but_not_moved() -> None:
    assert check_alias("latest") == "latest"
    with pytest.raises(InvalidName, match="moves by itself"):
        check_movable_alias("latest")

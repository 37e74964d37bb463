"""The principal: who is calling, what it may do and for which tenant. Knows no database and no HTTP."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from prefixrack.types import Quotas
from prefixrack_server.registry.patterns import Patterns, is_any

UNLIMITED: Final = Quotas()


@dataclass(frozen=True, slots=True)
class Actor:
    """Who changes something, as the audit log names it: a key's id, and the request that it came with."""

    key_id: str
    request_id: str | None = None


NOBODY: Final = Actor("none")  # no key was used


@dataclass(frozen=True, slots=True)
class TokenClaims:
    """What a verified token says; `key_id` is how its subject is named, `expires_at` when it is no longer accepted."""

    key_id: str
    tenant: str
    scopes: frozenset[str]
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is calling. `weight` is the tenant's share of a busy server; a name must fit a pattern of each of
    `patterns`, those of the key and those of its tenant. `key_name` is what people call the key."""

    key_id: str
    tenant: str
    scopes: frozenset[str]
    weight: float = 1.0
    quotas: Quotas = UNLIMITED
    patterns: tuple[Patterns, ...] = ()
    key_name: str | None = None
    expires_at: str | None = None

    def may_use(self, name: str) -> bool:
        """Whether the adapter's name is one of those that the key is limited to."""
        return all(is_any(patterns, name) for patterns in self.patterns)

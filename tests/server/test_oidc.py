"""Tokens of an issuer: who they speak for, which are refused, and what happens while the issuer is away."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from prefixrack_server import oidc
from prefixrack_server.config import ConfigError, load_config

ISSUER = "https://issuer.example"
AUDIENCE = "prefixrack"


class Issuer:
    """Signs tokens, and publishes its keys over HTTP on loopback."""

    def __init__(self) -> None:
        self.keys: dict[str, Any] = {"one": rsa.generate_private_key(public_exponent=65537, key_size=2048)}
        self.published: dict[str, Any] = {}
        self.is_away = False
        self.num_fetches = 0
        self.publish("one")
        self._server = HTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/jwks"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def publish(self, *names: str) -> None:
        keys = [jwk(self.keys[name]) | {"kid": name, "use": "sig"} for name in names]
        self.published = {"keys": keys}

    def token(self, key: str = "one", algorithm: str = "RS256", kid: str | None = None, **changes: Any) -> str:
        now = int(time.time())
        claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "ann", "exp": now + 300, "tenant": "acme"} | changes
        given = {name: value for name, value in claims.items() if value is not None}
        headers = {"kid": kid or key}
        return jwt.encode({"scope": "predict adapters:read"} | given, self.keys[key], algorithm, headers=headers)

    def _handler(issuer) -> type[BaseHTTPRequestHandler]:  # noqa: N805 - the handler's own `self` is another
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.num_fetches += 1
                self.send_response(500 if issuer.is_away else 200)
                self.end_headers()
                self.wfile.write(json.dumps(issuer.published).encode())

            def log_message(self, *_: Any) -> None:
                """Tests are quiet."""

        return Handler


def jwk(key: Any) -> dict[str, Any]:
    kind: Any = RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else ECAlgorithm
    document: dict[str, Any] = kind.to_jwk(key.public_key(), as_dict=True)
    return document


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    issuer = Issuer()
    yield issuer
    issuer.close()


def settings(issuer: Issuer, **changes: Any) -> dict[str, Any]:
    return {"issuer": ISSUER, "audience": AUDIENCE, "jwks_url": issuer.url} | changes


@pytest.fixture
async def server(serving: Any, bundles: Any, issuer: Issuer) -> AsyncIterator[Any]:
    async with serving(http={"auth": "keys"}, oidc=settings(issuer)) as server:
        await prepare(server, bundles)
        yield server


async def prepare(server: Any, bundles: Any) -> None:
    server.secrets["admin"] = await server.registry.ensure_admin_key()
    await server.registry.create_tenant("acme")
    made = await server.upload(bundles("intent"), "acme:intent", **{"X-API-Key": server.secrets["admin"]})
    assert made.status_code == 201


async def ask(server: Any, token: str, url: str = "/v1/intent/predict") -> Any:
    headers = {"Authorization": f"Bearer {token}"}
    method = "POST" if url.endswith("predict") else "GET"
    return await server.client.request(method, url, json={"inputs": "hello"}, headers=headers)


async def test_a_token_speaks_for_its_tenant(server: Any, issuer: Issuer) -> None:
    assert (await ask(server, issuer.token())).status_code == 200
    assert (await ask(server, issuer.token(), "/v1/adapters")).json()["data"][0]["name"] == "intent"
    assert (await ask(server, server.secrets["admin"], "/v1/adapters")).json()["data"] == [], "keys go on beside it"
    found = (await ask(server, issuer.token(), "/v1/whoami")).json()
    assert (found["tenant"], found["authenticated_by"]) == ("acme", "token")
    assert found["expires_at"] is not None


async def test_a_token_has_the_scopes_that_it_names(server: Any, issuer: Issuer) -> None:
    for scope in ("adapters:read", ["adapters:read"], "", ["x", 3], None, {"predict": 1}):
        refused = await ask(server, issuer.token(scope=scope) if scope is not None else issuer.token(scope=0))
        assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
    for word in ("admin", "tenant:admin"):
        refused = await ask(server, issuer.token(scope=f"predict {word}"), "/admin/v1/keys")
        assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")


@pytest.mark.parametrize(
    "changes",
    [
        {"exp": 1_000_000_000},
        {"nbf": 5_000_000_000},
        {"aud": "others"},
        {"iss": "https://others.example"},
        {"exp": None},
        {"aud": None},
        {"iss": None},
        {"sub": None},
        {"tenant": None},
        {"tenant": 7},
        {"tenant": "nobody"},
        {"tenant": "../acme"},
        {"kid": "other"},
        {"exp": float("inf")},
        {"exp": "soon"},
    ],
)
async def test_tokens_that_are_refused(server: Any, issuer: Issuer, changes: dict[str, Any]) -> None:
    refused = await ask(server, issuer.token(**changes))
    assert (refused.status_code, refused.json()["code"]) == (401, "invalid_token")
    assert refused.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("exp", [253_402_300_799, 10**15, 1e300, "4102444800"])
async def test_tokens_that_end_in_no_calendar_or_say_so_as_text(server: Any, issuer: Issuer, exp: Any) -> None:
    """PyJWT takes them all."""
    assert (await ask(server, issuer.token(exp=exp))).status_code == 200


def part(document: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(document).encode()).rstrip(b"=").decode()


async def test_forged_tokens(server: Any, issuer: Issuer) -> None:
    sound = issuer.token()
    header, claims, signature = sound.split(".")
    public = (
        issuer.keys["one"]
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    issuer.keys["own"] = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    others = jwt.api_jws.PyJWS()
    others._algorithms["HS256"].prepare_key = lambda key: key  # type: ignore[method-assign]  # signs with a public key
    forged = [
        f"{part({'alg': 'none', 'kid': 'one'})}.{claims}.",
        f"{header}.{part({'iss': ISSUER, 'aud': AUDIENCE, 'sub': 'eve', 'exp': 5e9, 'tenant': 'acme'})}.{signature}",
        f"{header}.{claims}.",
        f"{header}.{claims}.AAAA",
        "a.b.c",
        "..",
        f"{part({'alg': 'RS256'})}.{claims}.{signature}",
        f"{part({'alg': 'RS256', 'kid': ['one']})}.{claims}.{signature}",
        issuer.token("own", kid="one"),
        issuer.token("one", "RS512"),
        others.encode(json.dumps({"sub": "eve"}).encode(), public, "HS256", headers={"kid": "one"}),
        sound + "x" * oidc.MAX_TOKEN_CHARS,
    ]
    for token in forged:
        refused = await ask(server, token)
        assert (refused.status_code, refused.json()["code"]) == (401, "invalid_token"), token
    assert (await ask(server, sound)).status_code == 200


async def test_keys_are_fetched_once_and_when_a_new_one_signs(
    server: Any, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        assert (await ask(server, issuer.token(jti=str(number)))).status_code == 200
    assert issuer.num_fetches == 1
    issuer.keys["two"] = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    issuer.publish("two")
    assert (await ask(server, issuer.token("two"))).status_code == 401, "a key that is unknown waits for its turn"
    assert issuer.num_fetches == 1
    server.app.state.services.verifier._keys.cooldown_duration = 0
    assert (await ask(server, issuer.token("two"))).status_code == 200
    assert issuer.num_fetches == 2
    assert (await ask(server, issuer.token("one", jti="new"))).status_code == 401, "it is withdrawn"


async def test_an_issuer_that_is_away(server: Any, issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    keys, now = server.app.state.services.verifier._keys, 1000.0
    keys._timer = lambda: now
    issuer.is_away = True
    for number in range(3):
        refused = await ask(server, issuer.token(jti=str(number)))
        assert (refused.status_code, refused.json()["code"]) == (503, "not_ready")
        assert refused.headers["retry-after"] == "5"
    assert issuer.num_fetches == 1, "one attempt, then a pause"
    assert (await ask(server, server.secrets["admin"], "/v1/adapters")).status_code == 200
    issuer.is_away = False
    now += oidc.FAILURE_PAUSE_S
    assert (await ask(server, issuer.token())).status_code == 200
    issuer.is_away = True
    await server.app.state.services.verifier.refresh()
    assert (await ask(server, issuer.token(jti="later"))).status_code == 200, "keys that are known stay"


async def test_a_remembered_token_ends_in_time(server: Any, issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    token = issuer.token()
    assert (await ask(server, token)).status_code == 200
    later = datetime.now(UTC) + timedelta(seconds=331)
    monkeypatch.setattr(server.registry._database, "_clock", lambda: later)
    refused = await ask(server, token)
    assert refused.status_code == 401
    assert "oidc:ann expired at" in refused.json()["detail"]


async def test_a_disabled_tenants_tokens_are_refused(server: Any, issuer: Issuer) -> None:
    assert (await ask(server, issuer.token())).status_code == 200
    await server.registry.change_tenant("acme", {}, is_disabled=True)
    refused = await ask(server, issuer.token())
    assert (refused.status_code, refused.json()["code"]) == (403, "tenant_disabled")


async def test_claims_are_mapped(serving: Any, bundles: Any, issuer: Issuer) -> None:
    mapping = {
        "tenant_claim": "https://example/team",
        "tenants": {"ml": "acme"},
        "scopes_claim": "realm_access.roles",
        "scopes": {"user": ["predict"], "owner": ["tenant:admin"]},
    }
    async with serving(http={"auth": "keys"}, oidc=settings(issuer, **mapping)) as server:
        await prepare(server, bundles)
        team = {"https://example/team": "ml"}
        assert (await ask(server, issuer.token(realm_access={"roles": ["user", "x"]}, **team))).status_code == 200
        refused = await ask(server, issuer.token(realm_access={"roles": ["predict"]}, **team))
        assert refused.status_code == 403, "a value without a mapping is none"
        refused = await ask(server, issuer.token(realm_access={"roles": ["user"]}, **{"https://example/team": "acme"}))
        assert refused.status_code == 401, "a value without a mapping is no tenant"
        owner = issuer.token(sub="böb " * 30, realm_access={"roles": ["owner"]}, **team)
        headers = {"Authorization": f"Bearer {owner}"}
        made = await server.client.post("/admin/v1/keys", json={"scopes": ["predict"]}, headers=headers)
        assert (made.status_code, made.json()["tenant"]) == (201, "acme")
        (line, *_), _ = await server.registry.list_audit("acme", 1)
        assert line.key_id.startswith("oidc:")
        assert len(line.key_id) == 37


async def test_other_algorithms_can_be_listed(serving: Any, bundles: Any, issuer: Issuer) -> None:
    issuer.keys["curve"] = ec.generate_private_key(ec.SECP256R1())
    issuer.publish("one", "curve")
    async with serving(http={"auth": "keys"}, oidc=settings(issuer, algorithms=["ES256"])) as server:
        await prepare(server, bundles)
        assert (await ask(server, issuer.token("curve", "ES256"))).status_code == 200
        assert (await ask(server, issuer.token("one"))).status_code == 401


async def test_without_an_issuer_a_token_is_no_key(serving: Any, issuer: Issuer) -> None:
    async with serving(http={"auth": "keys"}) as server:
        assert (await ask(server, issuer.token())).json()["code"] == "invalid_key"
    assert issuer.num_fetches == 0


@pytest.mark.parametrize(
    ("section", "seen"),
    [
        ({"issuer": ISSUER}, "audience and jwks_url"),
        ({"issuer": ISSUER, "audience": "a", "jwks_url": "http://issuer.example/jwks"}, "https://"),
        ({"issuer": ISSUER, "audience": "a", "jwks_url": "file:///etc/passwd"}, "https://"),
        ({"algorithms": ["HS256"]}, "RS256"),
        ({"algorithms": ["none"]}, "RS256"),
        ({"algorithms": []}, "at least 1"),
        ({"scopes": {"x": ["everything"]}}, "adapters:read"),
    ],
)
def test_settings_that_cannot_work(no_settings: Any, section: dict[str, Any], seen: str) -> None:
    with pytest.raises(ConfigError, match=seen):
        load_config({"oidc": section})


def test_maps_come_from_the_environment(no_settings: pytest.MonkeyPatch) -> None:
    no_settings.setenv("PREFIXRACK_OIDC__SCOPES", '{"owner": ["tenant:admin"]}')
    assert load_config({}).oidc.scopes == {"owner": ("tenant:admin",)}

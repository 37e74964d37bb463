"""The guard: which hosts the server may ask for a caller. Knows addresses; no bundles.

Whoever may name a source could otherwise have the server ask what only the server can reach: its cloud's metadata,
other services of its network, itself. So a host's every address must be a public one, at each hop of a redirect, and
the connection goes to the address that was looked at, not to what the name means a moment later.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Collection, Sequence

import httpx2

from prefixrack.errors import SourceRefused

Resolve = Callable[[str, int], Sequence[str]]
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
PORTS = {"https": 443, "http": 80}
TRANSLATED = ipaddress.ip_network("64:ff9b::/96")  # NAT64 (RFC 6052): what a network with IPv6 alone calls IPv4
# Internal, whatever Python's version says of them: protocol assignments, the host that Azure's machines have their
# secrets from, IPv4 inside IPv6 in forms that nobody needs (RFC 4291, 6to4, a network's own NAT64), site-local.
INTERNAL = tuple(
    map(
        ipaddress.ip_network,
        ("192.0.0.0/24", "168.63.129.16/32", "::/96", "2002::/16", "64:ff9b:1::/48", "fec0::/10"),
    )
)


def resolve_host(host: str, port: int) -> Sequence[str]:
    """Its addresses. Raises SourceRefused for a name that means nothing."""
    try:
        return [str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    except OSError as error:
        raise SourceRefused(f"the host {host!r} has no address ({error.strerror}): check the source") from error


class Guard:
    """`private_hosts` are names that an operator allows wherever they lead, over plain HTTP too."""

    def __init__(self, private_hosts: Collection[str] = (), resolve: Resolve = resolve_host) -> None:
        self._private_hosts = frozenset(private_hosts)
        self._resolve = resolve

    def address_of(self, url: httpx2.URL) -> str:
        """Where to connect to. Raises SourceRefused."""
        port = url.port or PORTS.get(url.scheme, 0)
        is_private = url.host in self._private_hosts
        if url.scheme != "https" and not (is_private and url.scheme == "http"):
            raise SourceRefused(
                f"{url.scheme}://{url.host} is not asked: https is, and over http hosts in sources.private_hosts"
            )
        addresses = self._resolve(url.host, port)
        for address in addresses:
            if not is_private and not _is_public(address):
                raise SourceRefused(
                    f"the host {url.host!r} has the address {address}, which is not public: an operator may name it in "
                    "sources.private_hosts"
                )
        return addresses[0]


class GuardedTransport(httpx2.BaseTransport):
    """Asks the guard before each connection, those of redirects too."""

    def __init__(self, guard: Guard, inner: httpx2.BaseTransport | None = None) -> None:
        self._guard = guard
        self._inner = inner or httpx2.HTTPTransport(retries=1)

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        host = request.url.host
        address = self._guard.address_of(request.url)
        request.extensions = {**request.extensions, "sni_hostname": host}  # certificates are of names
        request.url = request.url.copy_with(host=address)
        return self._inner.handle_request(request)

    def close(self) -> None:
        self._inner.close()


def _is_public(address: str) -> bool:
    parsed = _target(ipaddress.ip_address(address.partition("%")[0]))
    return parsed.is_global and not parsed.is_multicast and not any(parsed in network for network in INTERNAL)


def _target(address: Address) -> Address:
    """Where packets for it end: an IPv6 address may stand for one of IPv4, behind the network's translator."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    is_translated = address in TRANSLATED
    return address.ipv4_mapped or (ipaddress.IPv4Address(int(address) & 0xFFFFFFFF) if is_translated else address)

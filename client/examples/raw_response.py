"""What came over HTTP beside the value: the request id for a log line, and the server's own timings."""

from __future__ import annotations

from prefixrack import APIStatusError, Client


def main() -> None:
    with Client() as client:
        got = client.with_raw_response.predict("intent", "what is my balance?")
        print(got.request_id, got.status, got.value.adapter.digest[:12], got.value.timings_ms)
        try:
            client.predict("no-such-adapter", "hi")
        except APIStatusError as error:
            print(error.status, error.code, error.request_id)


if __name__ == "__main__":
    main()

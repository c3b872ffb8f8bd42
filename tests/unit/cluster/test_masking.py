"""Masking: what is secret by its place or its looks is gone, and everything else is as it was."""

from __future__ import annotations

import pytest

from tunefleet.cluster.masking import masked, masked_value


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3://key:canary@bucket/rows", "s3://***@bucket/rows"),
        ("see https://host/x?a=1&X-Amz-Signature=canary&b=2.", "see https://host/x?a=1&X-Amz-Signature=***&b=2."),
        ("Authorization: Bearer canary-canary", "Authorization: Bearer ***"),
        ("AWS_SECRET_ACCESS_KEY=canary rest", "AWS_SECRET_ACCESS_KEY=*** rest"),
        ("  api_key: canary", "  api_key: ***"),
        ("token hf_canarycanary123456", "token ***"),
        ("key AKIACANARYCANARY1234", "key ***"),
    ],
)
def test_a_secret_is_masked(text: str, shown: str) -> None:
    assert masked(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/rows@2026/part.jsonl",
        "model.tokenizer.pad_token: '</s>' fills the padding",
        "tokens_per_second: 5000",
        "mail me@example.com",
        "a key: value",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert masked(text) == text


def test_the_value_of_a_secret_key_goes_whole_and_others_are_looked_into() -> None:
    value = {"password": {"is": "canary"}, "list": ["https://u:canary@h", 3, None], "pad_token": "x", "secret": None}
    assert masked_value(value) == {"password": "***", "list": ["https://***@h", 3, None], "pad_token": "x", "secret": None}


@pytest.mark.parametrize("text", ["b" * 2_000_000, "secret" * 200_000, "a." * 500_000 + "://x", "?" + "key" * 300_000])
@pytest.mark.timeout(60)
def test_a_long_text_takes_no_time_that_grows_with_its_square(text: str) -> None:
    assert masked(text)

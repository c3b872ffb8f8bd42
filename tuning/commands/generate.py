"""Text from a run, a checkpoint, an export or a model folder."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping

from tunefleet.cluster.errors import SettingsError
from tunefleet.tuning.arguments import TRUST, Option, Verb, whole_number
from tunefleet.tuning.printing import print_json, print_text

VERB = Verb(
    subject="SRC",
    subject_help="a run's output, a checkpoint folder, an export or a model folder",
    options=(
        Option("--prompt", "what to answer or to continue; may be given several times; - reads one prompt from stdin", metavar="TEXT", many=True),
        Option("--max-new-tokens", "most tokens to generate for each prompt", metavar="N", type=whole_number(1), default=64),
        Option("--temperature", "0 takes the likeliest token, 1 samples as the model says", metavar="X", type=float, default=0.0),
        Option("--seed", "what samples are drawn by", metavar="N", type=whole_number(0), default=0),
        Option("--json", "print prompts and texts as JSON on stdout"),
        TRUST,
    ),
)


def run(options: argparse.Namespace, settings: Mapping[str, str]) -> int:
    """Generate, and print the texts."""
    if not options.prompt:
        raise SettingsError("--prompt: missing", want="a text to answer or to continue", fix="--prompt 'Once upon a time'")
    if options.temperature < 0:
        raise SettingsError("--temperature: below zero", got=str(options.temperature), want="0 or more", fix="--temperature 0")
    prompts = [sys.stdin.read() if prompt == "-" else prompt for prompt in options.prompt]
    from tunefleet.trainers.generation import Generator

    generator = Generator(options.subject, trust_code=options.trust_code)
    texts = generator.generate(prompts, max_new_tokens=options.max_new_tokens, temperature=options.temperature, seed=options.seed)
    if options.json:
        print_json([{"prompt": prompt, "text": text} for prompt, text in zip(prompts, texts, strict=True)])
    else:
        print_text("\n\n".join(texts))
    return 0

"""Text from a run, a checkpoint, an export or a model folder: for a prompt, for a file of prompts, or in a chat."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from tunefleet.cluster.errors import SettingsError
from tunefleet.tuning.arguments import TRUST, Option, Verb, whole_number
from tunefleet.tuning.printing import print_json, print_text, remark, results

if TYPE_CHECKING:
    from tunefleet.trainers.decoding import Drawing

VERB = Verb(
    subject="SRC",
    subject_help="a run's output, a checkpoint folder, an export, a model folder or a hub id",
    options=(
        Option("--prompt", "what to answer or to continue; may be given several times; - reads one prompt from stdin", metavar="TEXT", many=True),
        Option("--chat", "talk to it: turns from the terminal, or a line each from stdin; /help says what else can be typed"),
        Option("--system", "with --chat: what stands before the conversation", metavar="TEXT"),
        Option("--input", "prompts to answer: rows of any format that holds a question, or plain text with a prompt a line", metavar="FILE"),
        Option("--output", "with --input: the file to write, JSON lines in the order of the input; a request that was stopped goes on", metavar="FILE"),
        Option("--overwrite", "with --output: replace the file that is there"),
        Option(
            "--batch-size",
            "with --input: prompts that an actor answers at once; in bf16 its rounding may choose between two tokens that are nearly as likely, 1 does without",
            metavar="N",
            type=whole_number(1),
            default=8,
        ),
        Option(
            "--actors", "with --input: Ray actors, each with the model; 0: this process. By default one a GPU, or one for two CPUs", "N", type=whole_number(0)
        ),
        Option("--address", "with --input: a running Ray cluster, host:port; without it a local Ray is started where there is much to do", metavar="ADDR"),
        Option("--max-new-tokens", "most tokens to generate for each prompt; 256 in a chat", metavar="N", type=whole_number(1)),
        Option("--temperature", "0 takes the likeliest token, 1 samples as the model says", metavar="X", type=float, default=0.0),
        Option("--seed", "what samples are drawn by", metavar="N", type=whole_number(0), default=0),
        Option("--json", "print prompts and texts as JSON on stdout; in a chat a line for each answer"),
        TRUST,
    ),
)
OF_FILES = ("output", "overwrite", "actors", "address")


def run(options: argparse.Namespace, settings: Mapping[str, str]) -> int:
    """Generate, in the way that was asked for."""
    from tunefleet.trainers.decoding import Drawing

    check(options)
    drawing = Drawing(options.max_new_tokens or (256 if options.chat else 64), options.temperature, options.seed)
    if options.chat:
        return chat(options, drawing)
    return answer_file(options, drawing) if options.input else answer(options, drawing)


def check(options: argparse.Namespace) -> None:
    """Raises SettingsError for options that mean nothing, or nothing together."""
    given = vars(options)
    ways = [f"--{name}" for name in ("prompt", "chat", "input") if given[name]]
    if len(ways) != 1:
        fix = "--prompt 'Once upon a time', --chat, or --input prompts.jsonl --output answers.jsonl"
        raise SettingsError("generate: what to answer?", got=" and ".join(ways) or "nothing", want="one of --prompt, --chat and --input", fix=fix)
    alone = [f"--{name}" for name in OF_FILES if given[name] not in (None, False) and not options.input]
    if alone:
        raise SettingsError(f"{alone[0]}: goes with --input", got=ways[0], want="--input FILE", fix="leave it out")
    if options.system is not None and not options.chat:
        raise SettingsError("--system: goes with --chat", got=ways[0], want="--chat", fix="of files, give the rows a column system")
    if options.input and not options.output:
        raise SettingsError("--output: missing", got=f"--input {options.input}", want="a file for the answers", fix="--output answers.jsonl")
    if options.temperature < 0:
        raise SettingsError("--temperature: below zero", got=str(options.temperature), want="0 or more", fix="--temperature 0")


def answer(options: argparse.Namespace, drawing: Drawing) -> int:
    """Texts for the prompts of the command line."""
    from tunefleet.trainers.generation import Generator

    prompts = [sys.stdin.read() if prompt == "-" else prompt for prompt in options.prompt]
    generator = Generator(options.subject, trust_code=options.trust_code)
    texts = generator.generate(prompts, drawing.max_new_tokens, drawing.temperature, drawing.seed)
    if options.json:
        print_json([{"prompt": prompt, "text": text} for prompt, text in zip(prompts, texts, strict=True)])
    else:
        print_text("\n\n".join(texts))
    return 0


def chat(options: argparse.Namespace, drawing: Drawing) -> int:
    """Talk until the user has enough."""
    from tunefleet.trainers.generation import Generator
    from tunefleet.tuning.chat import HELP, Chat, converse

    generator = Generator(options.subject, trust_code=options.trust_code, chat=True)
    if generator.asker.encoder is not None and generator.asker.encoder.template.decision:
        remark("note: this model has no chat template, so a plain one is used (User: / Assistant: lines)")
    if sys.stdin.isatty():
        remark(f"{options.subject}: {HELP}; Ctrl-D leaves")
    out = results()

    def write(piece: str) -> None:
        out.write(piece)
        out.flush()

    converse(Chat(generator, drawing, remark, (lambda piece: None) if options.json else write, options.system or ""), out, as_json=options.json)
    return 0


def answer_file(options: argparse.Namespace, drawing: Drawing) -> int:
    """Answers to a file of prompts, into a file."""
    from tunefleet.cluster.progress import duration
    from tunefleet.trainers import promptfile
    from tunefleet.tuning.counter import Counter

    request = promptfile.Request(
        options.subject, options.input, options.output, drawing, options.batch_size, trust_code=options.trust_code, overwrite=options.overwrite
    )
    began = time.monotonic()
    with Counter("generating", warm=True) as counter:
        where = promptfile.Where(options.actors, options.address)
        try:
            done = promptfile.answer_file(request, where, progress=lambda rows, of: counter.show(rows, rows, of), say=counter.say)
        except KeyboardInterrupt:
            remark(f"what was answered so far is kept in {options.output}.parts: the same command goes on")
            raise
    if options.json:
        print_json(vars(done))
    else:
        cut = f", {done.cut:,} of them cut at {drawing.max_new_tokens} tokens" if done.cut else ""
        remark(f"{done.rows:,} answers in {duration(time.monotonic() - began)}{cut}: {done.output}")
    return 0

"""The data section of a run file: where rows come from, what is done to them, and where their shards live."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from tunefleet.cluster.settings import Settings

Policy = Literal["error", "drop", "keep"]
Finding = Literal["off", "warn", "drop", "error"]


class Source(Settings):
    """Rows of one format: a file, a folder, a glob, or a data set of a hub."""

    path: str = Field(
        description="file, folder or glob (also s3:// and other fsspec addresses), a folder of save_to_disk, or the id of a data set on a hub (org/name)"
    )
    kind: str = Field(
        default="auto", description="a source kind, or auto: by the name; json, jsonl, csv, tsv, parquet, arrow and plain text, also .gz, .bz2, .xz and .zst"
    )
    config: str | None = Field(default=None, description="configuration of a data set on a hub; null takes its only or default one")
    split: str = Field(default="train", description="split of a data set on a hub, or of a saved dictionary of data sets; also slices, as in train[:10%]")
    revision: str | None = Field(default=None, description="branch, tag or commit of a data set on a hub; null takes its main branch")
    format: str = Field(default="auto", description="a row format, or auto: decided by the columns, and said")
    columns: dict[str, str] = Field(default_factory=dict, description="renames columns, {wanted: present}: {prompt: question}")
    weight: float = Field(
        default=1.0, gt=0, allow_inf_nan=False, description="passes over this source an epoch: 2.0 reads each row twice, 0.5 every other epoch (see mixture)"
    )
    header: list[str] | None = Field(default=None, min_length=1, description="names of the columns of csv and tsv files that have no header line")
    separator: str = Field(default="<|endoftext|>", description="what ends a document in plain text")


class Mixture(Settings):
    """How several sources share an epoch of sum(weight x rows) examples: each in proportion to weight x rows^(1 / temperature)."""

    temperature: float | None = Field(
        default=1.0,
        gt=0,
        allow_inf_nan=False,
        description="1 goes by rows, so that weights are passes; above 1 small sources get more; null leaves rows out, so that weights are the shares",
    )


class Replay(Settings):
    """Rows of an earlier data version among the new ones, so that continued tuning forgets less."""

    store: str = Field(description="the earlier version's store, as `tunefleet data list` names it; same tokenizer, template and max_length")
    ratio: float = Field(gt=0, lt=1, description="share of the epoch's examples that come from there; the new rows keep theirs, so the epoch grows")


class Quality(Settings):
    """What happens to rows that would train the model wrongly. Every kind is counted; none is dropped silently."""

    invalid: Policy = Field(default="error", description="rows that the format cannot read: error, or drop and count (keep is drop)")
    unsupervised: Policy = Field(default="error", description="rows without one supervised token: error, drop, or keep")
    truncated: Policy = Field(default="keep", description="rows longer than max_length: error, drop, or keep their beginning")
    exact_duplicates: Finding = Field(default="warn", description="rows that are equal to an earlier one: off, warn, drop or error")
    near_duplicates: Finding = Field(default="warn", description="rows nearly equal to an earlier one (MinHash over word 5-grams, Jaccard >= 0.8)")
    duplicate_ids: Finding = Field(default="warn", description="rows of one source with the same value in a column id, that are not equal")
    contradictions: Finding = Field(default="warn", description="one prompt with several different answers")
    leakage: Finding = Field(default="error", description="training rows whose prompt also stands in the held-out rows (drop removes them from training)")
    near_leakage: Finding = Field(default="warn", description="training rows that nearly equal a held-out one (as near_duplicates)")
    roles_out_of_order: Finding = Field(default="warn", description="conversations in which the same side speaks twice, or the system late")
    empty_turns: Finding = Field(default="warn", description="turns, answers or texts without a visible character")
    label_spellings: Finding = Field(default="warn", description="one label in several spellings: Positive, positive with a space behind it")


class Cache(Settings):
    """What a node keeps of a store that lies elsewhere. Its processes share it; later epochs and runs find there what was fetched before."""

    folder: str | None = Field(default=None, description="folder on a disk of every node; null: below the system's temporary folder (TMPDIR)")
    limit: PositiveInt | None = Field(
        default=None,
        description="most bytes that it holds, beside what is in use: a window of shards and one more, or above; null: all but a tenth of the disk",
    )


class Data(Settings):
    """What a run eats."""

    train: list[Source] = Field(min_length=1, description="sources of training rows")
    mixture: Mixture = Field(default=Mixture(), description="how several sources share an epoch")
    replay: Replay | None = Field(default=None, description="rows of an earlier data version among the new ones")
    holdout: Annotated[float, Field(ge=0, lt=1)] | list[Source] = Field(
        default=0.1, description="share of train split off by a hash of the prompt, or a list of sources; 0 for none"
    )
    store: str = Field(default="shards/", description="where shards live: a folder, or s3://bucket/prefix")
    cache: Cache = Field(default=Cache(), description="what each node keeps of a remote store")
    max_length: PositiveInt = Field(default=1024, description="tokens per example; longer ones fall under quality.truncated, raw text is cut")
    batching: Literal["auto", "bucket", "pack", "pad"] = Field(
        default="auto",
        description="how examples meet in a forward: bucket (of like lengths), pack (end to end, no padding), pad (in order); auto: pack where it is faster",
    )
    chat_template: str | None = Field(
        default=None, description="a Jinja template or the path of one; null takes the tokenizer's, or a plain default (said once)"
    )
    quality: Quality = Field(default=Quality(), description="policies for rows")

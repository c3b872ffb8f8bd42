"""Versions of prepared data: list those of a store, show one, say which rows two differ in."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from tunefleet.tuning.arguments import Option, Verb
from tunefleet.tuning.printing import print_json, print_table, print_text, remark

if TYPE_CHECKING:
    from tunefleet.cluster.storage import Storage
    from tunefleet.data.versions import Listed

VERB = Verb(
    subject="list|show|diff",
    subject_help="list STORE; show STORE VERSION; diff STORE BEFORE AFTER",
    more="STORE [VERSION ...]",
    more_help="data.store of a run file, a folder or s3://; a version or a fingerprint, or the beginning of one",
    options=(Option("--json", "print JSON on stdout"),),
)
SHOWN = 10  # rows of a difference that are named in the table; --json names the first thousand
NAMED = 1000


def run(options: argparse.Namespace, settings: Mapping[str, str]) -> int:
    """Read indices and manifests; no shard is opened."""
    from tunefleet.cluster.errors import SettingsError
    from tunefleet.cluster.storage import open_storage

    wanted = {"list": 1, "show": 2, "diff": 3}
    if wanted.get(options.subject) != len(options.more):
        raise SettingsError("data: not understood", got=" ".join([options.subject, *options.more]), want=VERB.subject_help, fix="tunefleet data -h")
    store, *versions = options.more
    {"list": _list, "show": _show, "diff": _diff}[options.subject](open_storage(store), versions, options.json)
    return 0


def _list(stores: Storage, _: list[str], as_json: bool) -> None:
    from tunefleet.data.versions import listed

    known, broken = listed(stores)
    for error in broken:
        remark(f"left out: {error}")
    found = [described(one) for one in known]
    if as_json:
        print_json(found)
        return
    if not found:
        remark(f"{stores.address}: nothing was prepared there (what is wanted is data.store of a run file, the folder above the store of one preparation)")
        return
    rows = [
        (
            one["version"],
            one["store"].rpartition("/")[2],
            one["prepared"].replace("T", " ")[:16],
            f"{one['counts']['rows']:,}",
            f"{one['counts']['kept']:,}",
            f"{one['counts']['tokens']:,}",
            f"{one['bytes'] / 1e6:,.1f}",
            one["layout"],
            ", ".join(source["name"] for source in one["sources"]),
        )
        for one in found
    ]
    print_table(stores.address, ("version", "store", "prepared (UTC)", "rows", "kept", "tokens", "MB", "layout", "sources"), rows)


def _show(stores: Storage, versions: list[str], as_json: bool) -> None:
    from tunefleet.data.versions import found_version

    one = described(found_version(stores, versions[0]))
    if as_json:
        print_json(one)
        return
    facts = [(name.replace("_", " "), str(one[name])) for name in ("store", "fingerprint", "prepared", "report", "tokenizer", "chat_template", "layout")]
    facts += [("max length", f"{one['max_length']:,} tokens"), ("size", f"{one['bytes'] / 1e6:,.1f} MB")]
    print_table(f"version {one['version']}", ("what", "is"), facts)
    print_table(
        "sources", ("name", "rows", "files"), [(s["name"] + " (held out)" * s["held"], f"{s['rows']:,}", ", ".join(s["files"])) for s in one["sources"]]
    )
    print_table("rows", ("count", "number"), [(name.replace("_", " "), f"{count:,}") for name, count in one["counts"].items()])


def _diff(stores: Storage, versions: list[str], as_json: bool) -> None:
    from tunefleet.data.versions import difference, found_version, read_manifest, where

    before, after = (found_version(stores, version) for version in versions)
    rows = [read_manifest(one.store, one.index) for one in (before, after)]
    found = difference(*rows)
    added = where(after.index, rows[1], found.added[:NAMED].tolist())
    removed = where(before.index, rows[0], found.removed[:NAMED].tolist())
    counts = {"same": found.same, "added": len(found.added), "removed": len(found.removed)}
    if as_json:
        print_json({"before": before.version, "after": after.version, **counts, "added_rows": added, "removed_rows": removed})
        return
    print_table(f"{before.version} -> {after.version}", ("rows", "number"), [(name, f"{count:,}") for name, count in counts.items()])
    for sign, places, count in (("+", added, counts["added"]), ("-", removed, counts["removed"])):
        for place in places[:SHOWN]:
            print_text(f"{sign} {place}")
        if count > SHOWN:
            print_text(f"{sign} and {count - SHOWN:,} more")


def described(one: Listed) -> dict[str, Any]:
    """A version in plain values."""
    from tunefleet.data.datareport import HTML

    meta = one.index.meta
    return {
        "version": one.version,
        "fingerprint": one.fingerprint,
        "store": one.store.address,
        "prepared": datetime.fromtimestamp(one.made_s, UTC).isoformat(timespec="seconds"),
        "report": f"{one.store.address}/{HTML}",
        "sources": meta["sources"],
        "counts": one.index.counts,
        "bytes": one.bytes,
        "tokenizer": f"{meta['tokenizer']['name']} ({meta['tokenizer']['tokens']:,} tokens)",
        "chat_template": meta["chat_template"][:12],
        "layout": one.index.layout.name,
        "max_length": meta["max_length"],
    }

"""The kinds of source that rows come from: one file each, found by name. What a kind is stands in tunefleet.data.origin."""

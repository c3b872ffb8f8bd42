"""The formats of rows: one file each, found by name. What a format is stands in tunefleet.data.choice."""

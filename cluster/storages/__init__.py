"""The kinds of storage: a folder, and an S3 bucket."""

"""What `plan check --from` makes of public configs, and the key lists that exports are held against."""

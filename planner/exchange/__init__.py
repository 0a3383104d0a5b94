"""Plans in the words of other trainers: their files read, key by key, and written."""

"""Files of models and adapters: found, checked and read without running anything of theirs."""

"""Training data: files into examples, examples into token sequences, sequences into batches."""

"""From a plain text file to the samples of a run: corpus, tokenizer, packed shards, slot order."""

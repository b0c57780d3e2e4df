"""OpenAI's routes: files, batches, models and the online endpoints, with and without `/v1`."""

"""Two result files of the same requests, joined by custom_id and measured: what `nightbatch compare` runs."""

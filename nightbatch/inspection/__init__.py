"""Looking at batch files without a server: what is wrong with an input, and how far two results agree.

Pure functions over lines and columns, with thin readers around them. `validating` is what `nightbatch validate` runs,
`comparing` what `nightbatch compare` runs.
"""

"""Online first inside the engine: while an online request is present, only as many batch requests take part in a step
as its inter-token latency allows. The others keep their KV cache and wait.

`policy` and `step_model` are pure; `scheduler` puts them into vLLM; `channel` carries orders in and reports out.
"""
